"""Merge regions by a classifier of contacts, the surest pair first; sums of merged contacts are judged again.

After each merge the contacts that moved are asked about again (as in GALA: Nunez-Iglesias et al. 2013).
"""

from __future__ import annotations

import heapq
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.typed import Dict
from numpy.typing import NDArray

from napari_skipseg.objects.classes import ClassProbability
from napari_skipseg.objects.contact_features import (
    ContactTable,
    GroupSums,
    Links,
    RegionSums,
    feature_row,
    table_of_contacts,
)
from napari_skipseg.objects.contact_file import ContactClassifier, read_named_classifier
from napari_skipseg.objects.contact_statistics import ContactStatistics, iter_contact_statistics
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.region_graph import RegionGraph, number_objects
from napari_skipseg.progress import Progress
from napari_skipseg.scores.table import compiled

SAME_BELOW = 0.5
"""Groups that are different objects with a lower probability are merged."""

_NEVER = 2.0
_FORCED = -1.0


def iter_objects_by_contacts(
    labels: Any, graph: RegionGraph, chosen: ClassProbability, options: ObjectOptions
) -> Generator[Progress, None, NDArray[np.uint32]]:
    """Yield while contacts are measured, slab by slab; return the number of each node's object, 0 = none.

    labels: the regions, a lazy view of shape (T, Z, Y, X); region n is the node n - 1. options: name the classifier.
    """
    is_volume = options.planes == "volume"
    statistics = yield from iter_contact_statistics(labels, chosen, graph, None, is_volume)
    return objects_by_contacts(graph, statistics, options)


def objects_by_contacts(
    graph: RegionGraph, statistics: ContactStatistics, options: ObjectOptions
) -> NDArray[np.uint32]:
    """Return the number of each node's object, 0 = none, as the classifier decides that the options name.

    All sums are of whole numbers, and regions and contacts have an order of their own, so it is the same in any blocks.

    Raises:
        FileError: the classifier cannot be read, or is a different one now.
    """
    classifier = read_named_classifier(options.contacts)
    nodes, edges = graph
    solid = np.flatnonzero(~nodes.hollow)
    size, peak = (np.concatenate([[0], column]) for column in (nodes.size, nodes.peak))
    table = table_of_contacts(
        regions=solid + 1,
        sums=RegionSums(size, statistics.inside, peak),
        ends=np.stack([edges.one, edges.other], axis=1).astype(np.int64) + 1,
        edges=edges,
        statistics=statistics,
    )
    count = len(nodes.size)
    group = np.arange(count)
    group[solid] = count + cut_tree(agglomerate(table, classifier))
    merged, places = graph.joined(group)
    return number_objects(merged, options)[places]


@dataclass(frozen=True, eq=False)
class MergeTree:
    """A binary tree over `count` regions (leaves 0 … count - 1); each merge is a node behind them.

    parent: of each node, -1 at a root. level: the strength of the contact of each merge, 0 at leaves. It never falls on
    the way up. children: (nodes, 2), -1 at leaves. contact: a contact of the graph over which the two were merged, -1
    at leaves. order, low, high: the leaves below a node are
    `order[low[node]:high[node]]`.
    """

    count: int
    parent: NDArray[np.int64]
    level: NDArray[np.float64]
    children: NDArray[np.int64]
    contact: NDArray[np.int64]
    order: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]

    def leaves(self, node: int) -> NDArray[np.int64]:
        """Return the regions below a node."""
        return self.order[self.low[node] : self.high[node]]

    def climb(self, leaf: int, level: float) -> int:
        """Return the highest node above a region with at most this level."""
        node = leaf
        while self.parent[node] >= 0 and self.level[self.parent[node]] <= level:
            node = int(self.parent[node])
        return node

    def steps(self, leaf: int) -> list[int]:
        """Return the nodes from a region up to its root."""
        nodes = [leaf]
        while self.parent[nodes[-1]] >= 0:
            nodes.append(int(self.parent[nodes[-1]]))
        return nodes


def agglomerate(
    table: ContactTable,
    classifier: ContactClassifier,
    forced: NDArray[np.int64] | None = None,
    forbidden: NDArray[np.int64] | None = None,
) -> MergeTree:
    """Return the hierarchy of merges; leaves are places in `table.regions`, levels probabilities of "different".

    forced, forbidden: pairs of places, (n, 2), that are merged first, and that are never in one group.
    """
    links = table.links
    none = np.empty((0, 2), np.int64)
    extra = [none if pairs is None else np.sort(pairs, axis=1) for pairs in (forced, forbidden)]
    count = len(table.regions)
    keys = [(ends[:, 0] << 32 | ends[:, 1]) for ends in (links.ends, *extra)]
    unique, number = np.unique(np.concatenate(keys), return_inverse=True)
    rank = number[: len(links.ends)]
    state = np.zeros(len(unique), np.int8)
    state[number[len(links.ends) : len(links.ends) + len(extra[0])]] = 1
    state[number[len(links.ends) + len(extra[0]) :]] = 2

    def spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
        found = np.zeros((len(unique), *values.shape[1:]))
        found[rank] = values
        return found

    edge = np.full(len(unique), -1)
    edge[rank] = table.edge
    ends = np.stack([unique >> 32, unique & 0xFFFFFFFF], axis=1)
    whole = Links(ends, *(spread(column) for column in links[1:]))
    groups = GroupSums(*(column.copy() for column in table.groups))
    weights = np.array(classifier.weights)
    parent, level, children, over, used = _agglomerate(count, groups, whole, state, weights)
    order, low, high = leaf_order(count, parent[:used], children[:used])
    contact = np.where(over[:used] >= 0, edge[over[:used]] if len(edge) else -1, -1)
    return MergeTree(count, parent[:used], level[:used], children[:used], contact, order, low, high)


def cut_tree(tree: MergeTree, below: float = SAME_BELOW) -> NDArray[np.int64]:
    """Return a number of the group of each leaf: leaves that merge below a level have the same."""
    top = np.arange(len(tree.parent))
    for node in range(len(tree.parent) - 1, -1, -1):
        above = tree.parent[node]
        if above >= 0 and tree.level[above] < below:
            top[node] = top[above]
    return top[: tree.count]


@compiled
def leaf_order(
    count: int, parent: NDArray[np.int64], children: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return `order`, `low` and `high` of a `MergeTree`."""
    nodes = parent.size
    size = np.zeros(nodes, np.int64)
    for node in range(nodes):
        if node < count:
            size[node] = 1
        if parent[node] >= 0:
            size[parent[node]] += size[node]
    low, high, order = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64), np.empty(count, np.int64)
    begin = 0
    for node in range(nodes - 1, -1, -1):  # parents have higher numbers than their children
        if parent[node] < 0:
            low[node] = begin
            begin += size[node]
        high[node] = low[node] + size[node]
        if node >= count:
            low[children[node, 0]] = low[node]
            low[children[node, 1]] = low[node] + size[children[node, 0]]
        else:
            order[low[node]] = node
    return order, low, high


class _Work(NamedTuple):
    """Contacts while groups are merged: their probability, whether they are in use, and linked lists by group."""

    strength: NDArray[np.float64]
    alive: NDArray[np.bool_]
    first: NDArray[np.int64]
    degree: NDArray[np.int64]
    following: NDArray[np.int64]


@compiled
def _ask(groups: GroupSums, links: Links, link: int, state: NDArray[np.int8], weights: NDArray[np.float64],
         row: NDArray[np.float64]) -> float:  # fmt: skip
    if state[link] == 2:
        return _NEVER
    if state[link] == 1:
        return _FORCED
    feature_row(groups, links, link, row)
    total = 0.0
    for place in range(weights.size):
        total += weights[place] * row[place]
    return float(1.0 / (1.0 + np.exp(-min(max(total, -50.0), 50.0))))


@compiled
def _agglomerate(
    count: int, groups: GroupSums, links: Links, state: NDArray[np.int8], weights: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], int]:
    most, edges = max(1, 2 * count), len(links.contacts)
    parent, level = np.full(most, -1), np.zeros(most)
    children, over = np.full((most, 2), -1), np.full(most, -1)
    work = _Work(
        np.empty(edges), np.ones(edges, np.bool_), np.full(count, -1), np.zeros(count, np.int64),
        np.full((edges, 2), -1),
    )  # fmt: skip
    row = np.zeros(weights.size)
    known = Dict.empty(types.int64, types.int64)
    heap = [(0.0, 0)]
    heap.pop()
    for edge in range(edges):
        work.strength[edge] = _ask(groups, links, edge, state, weights, row)
        for side in range(2):
            node = links.ends[edge, side]
            work.following[edge, side] = work.first[node]
            work.first[node] = 2 * edge + side
            work.degree[node] += 1
        known[links.ends[edge, 0] * count + links.ends[edge, 1]] = edge
        if work.strength[edge] < _NEVER:
            heap.append((work.strength[edge], edge))
    heapq.heapify(heap)
    name = np.arange(count)
    used = count
    while len(heap) > 0:
        asked, edge = heapq.heappop(heap)
        if not work.alive[edge] or work.strength[edge] != asked:
            continue
        # sizes have changed since it was asked about: what is less sure now waits until its turn
        now = _ask(groups, links, edge, state, weights, row)
        if now > asked + 1e-9:
            work.strength[edge] = now
            if now < _NEVER:
                heapq.heappush(heap, (now, edge))
            continue
        kept, gone = links.ends[edge, 0], links.ends[edge, 1]
        if work.degree[kept] < work.degree[gone]:
            kept, gone = gone, kept
        work.alive[edge] = False
        level[used] = max(now, level[name[kept]], level[name[gone]], 0.0)
        children[used, 0], children[used, 1] = min(name[kept], name[gone]), max(name[kept], name[gone])
        parent[name[kept]] = parent[name[gone]] = used
        over[used] = edge
        name[kept] = used
        used += 1
        groups.size[kept] += groups.size[gone]
        groups.inside[kept] += groups.inside[gone]
        groups.surface[kept] = max(groups.surface[kept] + groups.surface[gone] - 2 * links.contacts[edge], 0.0)
        groups.peak[kept] = max(groups.peak[kept], groups.peak[gone])
        _move(groups, links, work, known, heap, state, weights, gone, kept)
    return parent, level, children, over, used


@compiled
def _move(
    groups: GroupSums,
    links: Links,
    work: _Work,
    known: Any,
    heap: Any,
    state: NDArray[np.int8],
    weights: NDArray[np.float64],
    gone: int,
    kept: int,
) -> None:
    """Give the contacts of one group to another, and ask about them again; two contacts of a pair become one."""
    count, row = work.first.size, np.zeros(weights.size)
    link = work.first[gone]
    while link >= 0:
        moved, side = link // 2, link % 2
        link = work.following[moved, side]
        if not work.alive[moved]:
            continue
        far = links.ends[moved, 1 - side]
        key = min(kept, far) * count + max(kept, far)
        into = known[key] if key in known else -1  # noqa: SIM401  # numba gives an optional number for `get`
        if into >= 0 and work.alive[into]:
            work.alive[moved] = False
            _add(links, state, moved, into)
            asked_again = into
        else:
            links.ends[moved, side] = kept
            work.following[moved, side] = work.first[kept]
            work.first[kept] = 2 * moved + side
            work.degree[kept] += 1
            known[key] = moved
            asked_again = moved
        new = _ask(groups, links, asked_again, state, weights, row)
        if new != work.strength[asked_again]:
            work.strength[asked_again] = new
            if new < _NEVER:
                heapq.heappush(heap, (new, asked_again))
    work.first[gone] = -1


@compiled
def _add(links: Links, state: NDArray[np.int8], moved: int, into: int) -> None:
    """Add a contact to another one of the same two groups. Forbidden counts more than forced."""
    links.contacts[into] += links.contacts[moved]
    links.strength[into] += links.strength[moved]
    links.across[into] += links.across[moved]
    links.saddle[into] = max(links.saddle[into], links.saddle[moved])
    for bar in range(links.histogram.shape[1]):
        links.histogram[into, bar] += links.histogram[moved, bar]
    state[into] = max(state[into], state[moved])
