"""What is known of contacts beyond the graph: how strong they are voxel by voxel, and along which axis. All adds up.

Regions and contacts of two blocks, or of two regions that become one, are added column by column.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.classes import ClassProbability
from napari_skipseg.objects.region_graph import RegionGraph
from napari_skipseg.objects.watershed import FULL, boundary_strength
from napari_skipseg.progress import Progress
from napari_skipseg.scores.table import compiled

BINS = 16
"""Classes of strength that are counted at each contact, for its quantiles."""

READ_AT_ONCE = 2**25
"""Voxels that are read at once."""


class ContactStatistics(NamedTuple):
    """Sums over the voxels of regions and of their contacts.

    histogram: (contacts, 16), pairs of voxels at each contact by their strength, as in `Edges`. across: pairs of a
    contact that lie in two slices. inside: of each region, from region 0 on, the sum of its probability, 65535 = 1.
    areas: pixels of the regions in each of their slices, one region after the other; those of region n begin at
    `first[n]`.
    """

    histogram: NDArray[np.uint32]
    across: NDArray[np.uint32]
    inside: NDArray[np.int64]
    areas: NDArray[np.uint32]
    first: NDArray[np.int64]


def iter_contact_statistics(
    labels: Any,
    chosen: ClassProbability,
    graph: RegionGraph,
    boxes: NDArray[np.int32] | None,
    are_linked: bool,
) -> Generator[Progress, None, ContactStatistics]:
    """Yield while regions and contacts are looked at, slice by slice; return the sums.

    labels: the regions, (T, Z, Y, X). boxes: of the regions, as in `Regions`; None = areas are not wanted.
    """
    edges = graph.edges
    keys = (edges.one.astype(np.int64) + 1 << 32) | (edges.other.astype(np.int64) + 1)
    order = np.argsort(keys, kind="stable")
    lengths = np.zeros(len(graph.nodes.size) + 1, np.int64)
    if boxes is not None:
        lengths[1:] = np.maximum(boxes[1:, 2] - boxes[1:, 1], 0)
    first = np.concatenate([[0], np.cumsum(lengths)])
    found = ContactStatistics(
        np.zeros((len(keys), BINS), np.uint32),
        np.zeros(len(keys), np.uint32),
        np.zeros(len(lengths), np.int64),
        np.zeros(int(first[-1]), np.uint32),
        first,
    )
    times, depth, rows, columns = labels.shape
    deep = max(1, READ_AT_ONCE // max(1, rows * columns))
    everything = slice(None)
    for time in range(times):
        before = np.zeros((1, rows, columns), np.uint32)
        walls_before = np.zeros(before.shape, np.uint16)
        for z in range(0, depth, deep):
            slab = slice(z, min(z + deep, depth))
            values = np.ascontiguousarray(labels[time, slab], np.uint32)
            block = chosen.look_at(time, slab, everything, everything)
            walls = boundary_strength(block, everything, everything, everything)
            pair = np.concatenate([before, values]), np.concatenate([walls_before, walls])
            _add_slices(*pair, keys[order], order, are_linked and z > 0, are_linked, found)
            if boxes is not None:
                _add_areas(values, z, boxes, first, found.areas)
            before, walls_before = values[-1:], walls[-1:]
            yield Progress(time * depth + slab.stop, times * depth, "measuring contacts")
    return found


@compiled
def _add_slices(
    labels: NDArray[np.uint32],
    walls: NDArray[np.uint16],
    keys: NDArray[np.int64],
    order: NDArray[np.int64],
    with_first: bool,
    are_linked: bool,
    found: ContactStatistics,
) -> None:
    """Add all slices but the first one, which is the one before them, and their contacts.

    with_first: whether contacts with the first slice count.
    """
    depth, rows, columns = labels.shape
    known, row = np.int64(-1), -1
    for z in range(1, depth):
        for y in range(rows):
            for x in range(columns):
                here = labels[z, y, x]
                if here == 0:
                    continue
                found.inside[here] += walls[z, y, x]
                for axis in range(3):
                    down, right, deep = int(axis == 1), int(axis == 2), int(axis == 0)
                    if (deep and not (with_first if z == 1 else are_linked)) or y < down or x < right:
                        continue
                    there = labels[z - deep, y - down, x - right]
                    if there == 0 or there == here:
                        continue
                    key = (np.int64(min(here, there)) << 32) | np.int64(max(here, there))
                    if key != known:
                        place = np.searchsorted(keys, key)
                        known, row = key, int(order[place]) if place < keys.size and keys[place] == key else -1
                    if row >= 0:
                        wall = int(max(walls[z, y, x], walls[z - deep, y - down, x - right]))
                        found.histogram[row, min(wall * BINS // FULL, BINS - 1)] += 1
                        found.across[row] += deep


@compiled
def _add_areas(
    labels: NDArray[np.uint32],
    start: int,
    boxes: NDArray[np.int32],
    first: NDArray[np.int64],
    areas: NDArray[np.uint32],
) -> None:
    depth, rows, columns = labels.shape
    for z in range(depth):
        for y in range(rows):
            for x in range(columns):
                label = labels[z, y, x]
                if label > 0:
                    areas[first[label] + start + z - boxes[label, 1]] += 1
