"""The hierarchy of merges of a graph: which regions join at which strength, down to one object per connected part."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numba import types
from numba.typed import Dict
from numpy.typing import NDArray

from napari_skipseg.objects.find import join_markers
from napari_skipseg.proofread.regions import Regions, contact_strengths
from napari_skipseg.scores.table import compiled


@dataclass(frozen=True, eq=False)
class MergeTree:
    """A binary tree over `count` regions (leaves 0 … count - 1); each merge is a node behind them.

    parent: of each node, -1 at a root. level: the strength of the contact of each merge, 0 at leaves. It never falls on
    the way up. children: (nodes, 2), -1 at leaves. order, low, high: the leaves below a node are
    `order[low[node]:high[node]]`.
    """

    count: int
    parent: NDArray[np.int64]
    level: NDArray[np.float64]
    children: NDArray[np.int64]
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


def merge_tree(regions: Regions) -> MergeTree:
    """Return the hierarchy of regions with a graph: the contact that separates least is merged first.

    Regions of one marker merge at level 0. Of cells, a merged contact has the mean over all of its voxels, as when
    cells are found: cut at `options.merge` the tree gives the cells. Of other objects, it is as strong as the weaker
    of its two parts.
    """
    graph, options = regions.graph, regions.options
    assert graph is not None
    count = len(graph.nodes.size)
    times, depth, rows, columns = regions.shape
    markers = join_markers(graph, options, regions.spacing, (times * depth, rows, columns)).places
    if options.method == "components":
        edges = graph.edges._replace(one=graph.edges.one[:0], other=graph.edges.other[:0])
        strengths, contacts = np.empty(0), np.empty(0, np.int64)
    else:
        edges, strengths = graph.edges, contact_strengths(graph, options)
        contacts = edges.contacts.astype(np.int64)
    one, other = edges.one.astype(np.int64), edges.other.astype(np.int64)
    totals = strengths * contacts
    same = markers[one] == markers[other]
    is_mean = options.method == "cells"
    parent, level, children, used = _merge(count, one, other, strengths, totals, contacts, same, is_mean)
    order, low, high = _order(count, parent[:used], children[:used])
    return MergeTree(count, parent[:used], level[:used], children[:used], order, low, high)


_PAIR = types.UniTuple(types.int64, 2)


@compiled
def _merge(
    count: int,
    one: NDArray[np.int64],
    other: NDArray[np.int64],
    strengths: NDArray[np.float64],
    totals: NDArray[np.float64],
    contacts: NDArray[np.int64],
    same: NDArray[np.bool_],
    is_mean: bool,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], int]:
    most = max(1, 2 * count)
    parent, level = np.full(most, -1), np.zeros(most)
    children = np.full((most, 2), -1)
    ends = np.empty((one.size, 2), np.int64)
    total, number, strength = totals.copy(), contacts.copy(), np.where(same, -1.0, strengths)
    alive = np.ones(one.size, np.bool_)
    # Linked lists of the edges of each group. Merging two groups puts the shorter list into the longer one.
    first, degree = np.full(count, -1), np.zeros(count, np.int64)
    following = np.full((one.size, 2), -1)
    known = Dict.empty(types.int64, types.int64)
    heap = [(0.0, 0, 0, 0.0)]
    heap.pop()
    for edge in range(one.size):
        ends[edge, 0], ends[edge, 1] = one[edge], other[edge]
        for side in range(2):
            node = ends[edge, side]
            following[edge, side] = first[node]
            first[node] = 2 * edge + side
            degree[node] += 1
        known[min(one[edge], other[edge]) * count + max(one[edge], other[edge])] = edge
        heap.append((strength[edge], edge, 0, strength[edge]))
    heapq.heapify(heap)
    name = np.arange(count)  # of the node of the tree that a group is
    used = count
    while len(heap) > 0:
        _, edge, _, valid = heapq.heappop(heap)
        if not alive[edge] or strength[edge] != valid:
            continue
        kept, gone = ends[edge, 0], ends[edge, 1]
        if degree[kept] < degree[gone]:
            kept, gone = gone, kept
        alive[edge] = False
        level[used] = max(strength[edge], level[name[kept]], level[name[gone]])
        # the child with the smaller number first, so that the tree does not depend on the lists
        children[used, 0], children[used, 1] = min(name[kept], name[gone]), max(name[kept], name[gone])
        parent[name[kept]] = parent[name[gone]] = used
        name[kept] = used
        used += 1
        link = first[gone]
        while link >= 0:
            moved, side = link // 2, link % 2
            link = following[moved, side]
            if not alive[moved]:
                continue
            far = ends[moved, 1 - side]
            key = min(kept, far) * count + max(kept, far)
            into = known[key] if key in known else -1  # noqa: SIM401  # numba gives an optional number for `get`
            if into >= 0 and alive[into]:
                alive[moved] = False
                total[into] += total[moved]
                number[into] += number[moved]
                before = strength[into]
                if is_mean and before >= 0 and strength[moved] >= 0:
                    strength[into] = total[into] / number[into]
                else:  # a contact within a marker stays one
                    strength[into] = min(before, strength[moved])
                if strength[into] != before:
                    heapq.heappush(heap, (strength[into], into, 0, strength[into]))
            else:
                ends[moved, side] = kept
                following[moved, side] = first[kept]
                first[kept] = 2 * moved + side
                degree[kept] += 1
                known[key] = moved
        first[gone] = -1
    return parent, level, children, used


@compiled
def _order(
    count: int, parent: NDArray[np.int64], children: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
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
