"""The hierarchy of merges of a graph: which regions join at which strength, down to one object per connected part."""

from __future__ import annotations

import heapq
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.typed import Dict
from numpy.typing import NDArray

from napari_skipseg.objects.agglomerate import MergeTree, leaf_order
from napari_skipseg.objects.find import join_markers
from napari_skipseg.progress import Progress, run_to_end
from napari_skipseg.proofread.regions import Regions, contact_strengths
from napari_skipseg.scores.table import compiled

_LOOK = 0.1
"""Seconds between two looks at how far the merging is."""
_CONTACTS, _STOP = 0, 1
"""Places in the state of `_merge`."""


def merge_tree(regions: Regions) -> MergeTree:
    """Return the hierarchy of regions with a graph, as `iter_merge_tree`."""
    return run_to_end(iter_merge_tree(regions))


def iter_merge_tree(regions: Regions) -> Generator[Progress, None, MergeTree]:
    """Yield while the hierarchy of regions with a graph is built; return it. If it is closed, the work stops.

    The contact that separates least is merged first.

    Regions of one marker merge at level 0. Of cells, a merged contact has the mean over all of its voxels, as when
    cells are found: cut at `options.merge` the tree gives the cells. Of other objects, it is as strong as the weaker
    of its two parts.
    """
    yield Progress(0, 1, "looking at the contacts")
    graph, options = regions.known_graph, regions.options
    count = len(graph.nodes.size)
    times, depth, rows, columns = regions.shape
    markers = join_markers(graph, options, regions.spacing, (times * depth, rows, columns)).places
    if options.method == "components":
        edges = graph.edges._replace(one=graph.edges.one[:0], other=graph.edges.other[:0])
        strengths, contacts = np.empty(0), np.empty(0, np.int64)
    else:
        edges, strengths = graph.edges, contact_strengths(graph, options)
        contacts = edges.contacts.astype(np.int64)
    ends = np.stack([edges.one, edges.other], axis=1).astype(np.int64)
    same = markers[ends[:, 0]] == markers[ends[:, 1]]
    totals, is_mean = strengths * contacts, options.method == "cells"
    state = np.zeros(2, np.int64)
    work = partial(_merge, count, ends, np.where(same, -1.0, strengths), totals, contacts, is_mean, state)
    with ThreadPoolExecutor(1, "hierarchy of merges") as threads:
        merging = threads.submit(work)
        try:
            while not wait([merging], timeout=_LOOK).done:
                yield Progress(int(state[_CONTACTS]), max(1, len(ends)), "building the hierarchy of merges")
        finally:
            state[_STOP] = 1
    parent, level, children, over, used = merging.result()
    order, low, high = leaf_order(count, parent[:used], children[:used])
    return MergeTree(count, parent[:used], level[:used], children[:used], over[:used], order, low, high)


class _Links(NamedTuple):
    """The contacts of groups while these are merged, one entry each, and linked lists of the contacts of each group.

    strength: -1 within a marker. first, following: `2 * contact + side`, -1 at the end of a list. degree: lengths.
    """

    ends: NDArray[np.int64]
    strength: NDArray[np.float64]
    total: NDArray[np.float64]
    number: NDArray[np.int64]
    alive: NDArray[np.bool_]
    first: NDArray[np.int64]
    degree: NDArray[np.int64]
    following: NDArray[np.int64]


@compiled
def _merge(
    count: int,
    ends: NDArray[np.int64],
    strength: NDArray[np.float64],
    totals: NDArray[np.float64],
    contacts: NDArray[np.int64],
    is_mean: bool,
    state: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], int]:
    # state: how many contacts are merged or gone, which is written here; not 0 if the work is to stop
    # the arrays are changed in place: copies would take 40 bytes for each of millions of contacts
    most, edges = max(1, 2 * count), len(strength)
    parent, level = np.full(most, -1), np.zeros(most)
    children, over = np.full((most, 2), -1), np.full(most, -1)
    links = _Links(
        ends,
        strength,
        totals,
        contacts,
        np.ones(edges, np.bool_),
        np.full(count, -1),
        np.zeros(count, np.int64),
        np.full((edges, 2), -1),
    )
    known = Dict.empty(types.int64, types.int64)
    heap = [(0.0, 0)]
    heap.pop()
    for edge in range(edges):
        for side in range(2):
            node = ends[edge, side]
            links.following[edge, side] = links.first[node]
            links.first[node] = 2 * edge + side
            links.degree[node] += 1
        known[min(ends[edge, 0], ends[edge, 1]) * count + max(ends[edge, 0], ends[edge, 1])] = edge
        heap.append((strength[edge], edge))
    heapq.heapify(heap)
    name = np.arange(count)  # of the node of the tree that a group is
    used = count
    while len(heap) > 0 and state[_STOP] == 0:
        valid, edge = heapq.heappop(heap)
        if not links.alive[edge] or links.strength[edge] != valid:
            continue
        # the shorter list goes into the longer one, so that few contacts are moved
        kept, gone = links.ends[edge, 0], links.ends[edge, 1]
        if links.degree[kept] < links.degree[gone]:
            kept, gone = gone, kept
        links.alive[edge] = False
        state[_CONTACTS] += 1
        level[used] = max(valid, level[name[kept]], level[name[gone]])
        children[used, 0], children[used, 1] = min(name[kept], name[gone]), max(name[kept], name[gone])
        parent[name[kept]] = parent[name[gone]] = used
        over[used] = edge
        name[kept] = used
        used += 1
        state[_CONTACTS] += _move(links, known, heap, gone, kept, count, is_mean)
    return parent, level, children, over, used


@compiled
def _move(links: _Links, known: Any, heap: Any, gone: int, kept: int, count: int, is_mean: bool) -> int:
    """Give the contacts of one group to another; two of the same pair become one. Return how many are gone so."""
    joined = 0
    ends, strength, total, number, alive, first, degree, following = links
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
            joined += 1
            total[into] += total[moved]
            number[into] += number[moved]
            before = strength[into]
            if is_mean and before >= 0 and strength[moved] >= 0:
                strength[into] = total[into] / number[into]
            else:
                strength[into] = min(before, strength[moved])
            if strength[into] != before:
                heapq.heappush(heap, (strength[into], into))
        else:
            ends[moved, side] = kept
            following[moved, side] = first[kept]
            first[kept] = 2 * moved + side
            degree[kept] += 1
            known[key] = moved
    first[gone] = -1
    return joined
