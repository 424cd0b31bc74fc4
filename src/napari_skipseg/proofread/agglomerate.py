"""Merge regions by a classifier of contacts, the surest pair first; sums of merged contacts are judged again.

After each merge the contacts that moved are asked about again (as in GALA: Nunez-Iglesias et al. 2013).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.typed import Dict
from numpy.typing import NDArray
from scipy.special import expit

from napari_skipseg.proofread.classifier import ContactClassifier, Groups, Links, feature_row, features_of
from napari_skipseg.proofread.hierarchy import MergeTree, leaf_order
from napari_skipseg.proofread.state import ObjectsUnderEdit
from napari_skipseg.scores.table import compiled

SURE = 0.5
"""Groups that are different objects with a lower probability are merged."""

_NEVER = 2.0
_FORCED = -1.0


@dataclass(frozen=True, eq=False)
class ContactTable:
    """All contacts of the regions of objects under edit as they are now.

    regions: of the groups, in their order. links: contacts between places in `regions`; one for each pair. edge: a
    contact of the graph of each link, the one with the highest pass.
    """

    regions: NDArray[np.int64]
    groups: Groups
    links: Links
    edge: NDArray[np.int64]


def contact_table(objects: ObjectsUnderEdit) -> ContactTable:
    """Return the contacts between regions that belong to objects.

    Raises:
        ValueError: there is no graph of contacts.
    """
    regions, ends = objects.regions, objects.edge_ends
    edges, statistics = regions.known_graph.edges, regions.statistics
    if statistics is None:
        raise ValueError("connected components have no contacts")
    count = objects.region_count + 1
    active = objects.object_of[:count] > 0
    active &= objects.sizes[:count] > 0
    chosen = np.flatnonzero(active)
    place = np.full(count, -1)
    place[chosen] = np.arange(len(chosen))
    # of a contact, its ends, and the surface of its regions, all counted although the other region is no object
    surface = np.zeros(count)
    contacts = edges.contacts.astype(np.float64)
    for side in range(2):
        np.add.at(surface, ends[:, side], contacts)
    rows = np.flatnonzero((place[ends] >= 0).all(axis=1) & (ends[:, 0] != ends[:, 1]))
    low, high = np.sort(place[ends[rows]], axis=1).T
    order = np.lexsort((edges.where[rows], -edges.saddle[rows], high, low))
    rows, key = rows[order], (low << 32 | high)[order]
    begins = np.flatnonzero(np.diff(key, prepend=-1))
    first = rows[begins]

    def added(values: NDArray[Any]) -> NDArray[np.float64]:
        values = values[rows].astype(np.float64)
        return np.add.reduceat(values, begins, axis=0) if len(begins) else values

    links = Links(
        np.stack([key[begins] >> 32, key[begins] & 0xFFFFFFFF], axis=1),
        added(edges.contacts),
        added(edges.strength),
        edges.saddle[first].astype(np.float64),
        added(statistics.across),
        added(statistics.histogram),
    )
    known = len(regions.objects)
    inside = np.zeros(count)
    inside[:known] = statistics.inside
    peak = np.zeros(count)
    peak[1:known] = regions.known_graph.nodes.peak
    whole = regions.known_graph.nodes.size
    for part in objects.cut_from:  # a part has its share of the sums of its region
        source = part
        while source in objects.cut_from:
            source = objects.cut_from[source]
        if source < known:
            inside[part] = statistics.inside[source] * objects.sizes[part] / max(1, whole[source - 1])
            peak[part] = peak[source]
    groups = Groups(objects.sizes[chosen].astype(np.float64), inside[chosen], surface[chosen], peak[chosen])
    return ContactTable(chosen, groups, links, first)


def part_of(table: ContactTable, regions: NDArray[np.int64]) -> ContactTable:
    """Return the contacts among some regions, whose places are those in `regions`. All are in the table."""
    chosen = np.searchsorted(table.regions, regions)
    place = np.full(len(table.regions), -1)
    place[chosen] = np.arange(len(regions))
    ends = place[table.links.ends]
    rows = np.flatnonzero((ends >= 0).all(axis=1))
    links = Links(np.sort(ends[rows], axis=1), *(column[rows] for column in table.links[1:]))
    return ContactTable(regions, Groups(*(column[chosen] for column in table.groups)), links, table.edge[rows])


def with_links(table: ContactTable, rows: NDArray[np.int64]) -> ContactTable:
    """Return the table with some of its contacts."""
    ends, contacts, strength, saddle, across, histogram = table.links
    links = Links(ends[rows], contacts[rows], strength[rows], saddle[rows], across[rows], histogram[rows])
    return ContactTable(table.regions, table.groups, links, table.edge[rows])


def grouped(table: ContactTable, group: NDArray[np.int64], count: int) -> ContactTable:
    """Return the contacts of groups of places. group: of each place, 0 to count - 1; `regions` are the groups."""
    ends = np.sort(group[table.links.ends], axis=1)
    inner = ends[:, 0] == ends[:, 1]
    surface = np.bincount(group, table.groups.surface, count)
    surface -= 2 * np.bincount(ends[inner, 0], table.links.contacts[inner], count)
    peak = np.full(count, -np.inf)
    np.maximum.at(peak, group, table.groups.peak)
    size = np.bincount(group, table.groups.size, count).astype(np.float64)
    inside = np.bincount(group, table.groups.inside, count).astype(np.float64)
    groups = Groups(size, inside, surface.astype(np.float64), peak)
    rows = np.flatnonzero(~inner)
    order = np.lexsort((table.edge[rows], -table.links.saddle[rows], ends[rows, 1], ends[rows, 0]))
    rows = rows[order]
    key = ends[rows, 0] << 32 | ends[rows, 1]
    begins = np.flatnonzero(np.diff(key, prepend=-1))
    columns = [np.add.reduceat(column[rows], begins, axis=0) if len(begins) else column[rows]
               for column in table.links[1:]]  # fmt: skip
    columns[2] = table.links.saddle[rows[begins]]
    links = Links(np.stack([key[begins] >> 32, key[begins] & 0xFFFFFFFF], axis=1), *columns)
    return ContactTable(np.arange(count), groups, links, table.edge[rows[begins]])


def probabilities(table: ContactTable, classifier: ContactClassifier) -> NDArray[np.float64]:
    """Return of each contact the probability that its two groups are different objects."""
    return np.asarray(expit(features_of(table.groups, table.links) @ np.array(classifier.weights)))


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
    groups = Groups(*(column.copy() for column in table.groups))
    weights = np.array(classifier.weights)
    parent, level, children, over, used = _agglomerate(count, groups, whole, state, weights)
    order, low, high = leaf_order(count, parent[:used], children[:used])
    contact = np.where(over[:used] >= 0, edge[over[:used]] if len(edge) else -1, -1)
    return MergeTree(count, parent[:used], level[:used], children[:used], contact, order, low, high)


def cut_tree(tree: MergeTree, below: float = SURE) -> NDArray[np.int64]:
    """Return a number of the group of each leaf: leaves that merge below a level have the same."""
    top = np.arange(len(tree.parent))
    for node in range(len(tree.parent) - 1, -1, -1):
        above = tree.parent[node]
        if above >= 0 and tree.level[above] < below:
            top[node] = top[above]
    return top[: tree.count]


class _Work(NamedTuple):
    """Contacts while groups are merged: their probability, whether they are in use, and linked lists by group."""

    strength: NDArray[np.float64]
    alive: NDArray[np.bool_]
    first: NDArray[np.int64]
    degree: NDArray[np.int64]
    following: NDArray[np.int64]


@compiled
def _ask(groups: Groups, links: Links, link: int, state: NDArray[np.int8], weights: NDArray[np.float64],
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
    count: int, groups: Groups, links: Links, state: NDArray[np.int8], weights: NDArray[np.float64]
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
    groups: Groups,
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
