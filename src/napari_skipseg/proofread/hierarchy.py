"""The hierarchy of merges of a graph: which regions join at which strength, down to one object per connected part."""

from __future__ import annotations

import heapq
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any, NamedTuple

import numpy as np
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
    same = markers[edges.one] == markers[edges.other]
    totals, is_mean = strengths * contacts, options.method == "cells"
    strengths[same] = -1.0
    links = _links(count, np.stack([edges.one, edges.other], axis=1), strengths, totals, contacts)
    state = np.zeros(2, np.int64)
    work = partial(_merge, count, links, is_mean, state)
    with ThreadPoolExecutor(1, "hierarchy of merges") as threads:
        merging = threads.submit(work)
        try:
            while not wait([merging], timeout=_LOOK).done:
                yield Progress(int(state[_CONTACTS]), max(1, len(strengths)), "building the hierarchy of merges")
        finally:
            state[_STOP] = 1
    parent, level, children, over, used = merging.result()
    order, low, high = leaf_order(count, parent[:used], children[:used])
    return MergeTree(count, parent[:used], level[:used], children[:used], over[:used], order, low, high)


class _Links(NamedTuple):
    """The contacts of groups while these are merged, one entry each, and linked lists of the contacts of each group.

    Each takes some 70 bytes, and there are millions: places are of 32 bits where these are enough.

    strength: -1 within a marker. is_new: whether it changed. first, following: `2 * contact + side`, -1 at the end of a
    list. degree: lengths. order: contacts by their strengths at the start. table: a hash table of the contacts by their
    ends, -1 where it is empty.
    """

    ends: NDArray[Any]
    strength: NDArray[np.float64]
    total: NDArray[np.float64]
    number: NDArray[np.int64]
    alive: NDArray[np.bool_]
    is_new: NDArray[np.bool_]
    first: NDArray[Any]
    degree: NDArray[np.int64]
    following: NDArray[Any]
    order: NDArray[Any]
    table: NDArray[Any]


def _links(
    count: int,
    ends: NDArray[Any],
    strength: NDArray[np.float64],
    total: NDArray[np.float64],
    number: NDArray[np.int64],
) -> _Links:
    edges = len(strength)
    place = np.int32 if 2 * edges < 2**31 else np.int64
    return _Links(
        ends.astype(place),
        strength,
        total,
        number,
        alive=np.ones(edges, np.bool_),
        is_new=np.zeros(edges, np.bool_),
        first=np.full(count, -1, place),
        degree=np.zeros(count, np.int64),
        following=np.full((edges, 2), -1, place),
        order=np.argsort(strength, kind="stable").astype(place),
        table=np.full(2 ** int(np.ceil(np.log2(1.5 * edges + 2))), -1, place),
    )


@compiled
def _merge(
    count: int, links: _Links, is_mean: bool, state: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], int]:
    # state: how many contacts are merged or gone, which is written here; not 0 if the work is to stop
    most, edges = max(1, 2 * count), len(links.strength)
    parent, level = np.full(most, -1), np.zeros(most)
    children, over = np.full((most, 2), -1), np.full(most, -1)
    for edge in range(edges):
        for side in range(2):
            node = links.ends[edge, side]
            links.following[edge, side] = links.first[node]
            links.first[node] = 2 * edge + side
            links.degree[node] += 1
        links.table[_slot(links, links.ends[edge, 0], links.ends[edge, 1])] = edge
    heap = [(0.0, 0)]  # of the contacts that changed; the others come from `order`
    heap.pop()
    name = np.arange(count)  # of the node of the tree that a group is
    used, begin = count, 0
    while state[_STOP] == 0:
        while begin < edges and (links.is_new[links.order[begin]] or not links.alive[links.order[begin]]):
            begin += 1
        while len(heap) > 0 and (not links.alive[heap[0][1]] or links.strength[heap[0][1]] != heap[0][0]):
            heapq.heappop(heap)
        if begin == edges and len(heap) == 0:
            break
        edge = -1
        if begin < edges:
            edge = int(np.int64(links.order[begin]))
        if edge < 0 or (len(heap) > 0 and heap[0] < (links.strength[edge], edge)):
            edge = heapq.heappop(heap)[1]
        # the shorter list goes into the longer one, so that few contacts are moved
        kept, gone = int(np.int64(links.ends[edge, 0])), int(np.int64(links.ends[edge, 1]))
        if links.degree[kept] < links.degree[gone]:
            kept, gone = gone, kept
        links.alive[edge] = False
        state[_CONTACTS] += 1
        level[used] = max(links.strength[edge], level[name[kept]], level[name[gone]])
        children[used, 0], children[used, 1] = min(name[kept], name[gone]), max(name[kept], name[gone])
        parent[name[kept]] = parent[name[gone]] = used
        over[used] = edge
        name[kept] = used
        used += 1
        state[_CONTACTS] += _move(links, heap, gone, kept, is_mean)
    return parent, level, children, over, used


@compiled
def _move(links: _Links, heap: Any, gone: int, kept: int, is_mean: bool) -> int:
    """Give the contacts of one group to another; two of the same pair become one. Return how many are gone so."""
    joined = 0
    link = int(np.int64(links.first[gone]))  # of 64 bits, like all places that are counted with
    while link >= 0:
        moved, side = link // 2, link % 2
        link = int(np.int64(links.following[moved, side]))
        if not links.alive[moved]:
            continue
        far = int(np.int64(links.ends[moved, 1 - side]))
        into = int(np.int64(links.table[_slot(links, kept, far)]))
        if into >= 0:
            links.alive[moved] = False
            joined += 1
            links.total[into] += links.total[moved]
            links.number[into] += links.number[moved]
            before = links.strength[into]
            if is_mean and before >= 0 and links.strength[moved] >= 0:
                links.strength[into] = links.total[into] / links.number[into]
            else:
                links.strength[into] = min(before, links.strength[moved])
            if links.strength[into] != before:
                links.is_new[into] = True
                heapq.heappush(heap, (links.strength[into], into))
        else:
            _remove(links, _slot(links, gone, far))
            links.ends[moved, side] = kept
            links.following[moved, side] = links.first[kept]
            links.first[kept] = 2 * moved + side
            links.degree[kept] += 1
            links.table[_slot(links, kept, far)] = moved
    links.first[gone] = -1
    return joined


@compiled
def _home(links: _Links, one: int, other: int) -> int:
    """Return where the contact of two groups is looked for first in the hash table."""
    key = np.uint64(min(one, other)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(max(one, other))
    key = (key ^ (key >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return int(np.int64((key ^ (key >> np.uint64(32))) & np.uint64(links.table.size - 1)))


@compiled
def _slot(links: _Links, one: int, other: int) -> int:
    """Return where the contact of two groups is in the hash table, or the empty place where it would be.

    A contact of a group that is gone is never looked for, so those that are not alive may stay.
    """
    table, ends = links.table, links.ends
    slot = _home(links, one, other)
    while table[slot] >= 0:
        found = table[slot]
        if min(ends[found, 0], ends[found, 1]) == min(one, other) and max(ends[found, 0], ends[found, 1]) == max(
            one, other
        ):
            break
        slot = (slot + 1) & (table.size - 1)
    return slot


@compiled
def _remove(links: _Links, slot: int) -> None:
    """Empty a place of the hash table; those behind it move up, so that they are still found."""
    table, ends, last = links.table, links.ends, links.table.size - 1
    behind = (slot + 1) & last
    while table[behind] >= 0:
        found = table[behind]
        if (behind - _home(links, ends[found, 0], ends[found, 1])) & last >= (behind - slot) & last:
            table[slot] = found
            slot = behind
        behind = (behind + 1) & last
    table[slot] = -1
