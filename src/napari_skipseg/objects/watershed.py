"""Basins of one block: which voxels climb to the same top, what each basin is, and where basins touch.

A voxel climbs to the highest of its face neighbours, the later one in memory of several. So what a basin is depends on
no seed and on no block: a climb that leaves a block goes on in the next one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.elevation import NEVER
from napari_skipseg.scores.table import compiled

FULL = 65535
"""What a probability of 1 adds to the strength of a boundary: whole numbers add up to the same in any order."""


_NOWHERE = -1
_NO_BASIN = -(2**31)


class WatershedWindow(NamedTuple):
    """A block in an array of shape `whole`, of which it starts at `start`.

    depth: slices of one time; the times of a series follow each other along the first axis. linked: whether voxels are
    neighbours of those in the next slice.
    """

    start: tuple[int, int, int]
    shape: tuple[int, int, int]
    whole: tuple[int, int, int]
    depth: int
    linked: bool

    @property
    def spatial(self) -> tuple[int, ...]:
        """The axes along which voxels are neighbours."""
        return (0, 1, 2) if self.linked else (1, 2)

    def begins(self, axis: int) -> bool:
        """Return whether the image, at this time, begins with the block."""
        return self.start[axis] % (self.depth if axis == 0 else self.whole[axis]) == 0

    def ends(self, axis: int) -> bool:
        """Return whether the image, at this time, ends with the block."""
        return (self.start[axis] + self.shape[axis]) % (self.depth if axis == 0 else self.whole[axis]) == 0


class Nodes(NamedTuple):
    """What is known of each basin, or component: one entry each, all additive over the parts of one.

    size: voxels. first: the flat place of the first one. border: it touches the image's border. peak, top: the
    largest height and its flat place. hollow: it is background.
    """

    size: NDArray[np.int64]
    first: NDArray[np.int64]
    border: NDArray[np.bool_]
    peak: NDArray[np.float32]
    top: NDArray[np.int64]
    hollow: NDArray[np.bool_]


class Edges(NamedTuple):
    """What is known of each pair of nodes that touch, `one` < `other`: all additive over the parts of their contact.

    saddle, where: the highest pass between them, and which contact that is. strength: the sum over all contacts of the
    larger probability of the two voxels, 65535 = 1. contacts: how many there are.
    """

    one: NDArray[Any]
    other: NDArray[Any]
    saddle: NDArray[np.float32]
    where: NDArray[np.int64]
    strength: NDArray[np.int64]
    contacts: NDArray[Any]


def climb_to_maxima(
    height: NDArray[np.float32], low: NDArray[np.int64], window: WatershedWindow
) -> tuple[NDArray[np.uint32], NDArray[np.int8]]:
    """Return the basins of a block, numbered from 1 in the order of their first voxels, and the way up from each voxel.

    height: of the block and what is known around it; the block begins there at `low`. Ways, one int8 a voxel: 1 to 6
    for a climb that goes on in the next voxel along -z, -y, -x, +x, +y, +z, be it outside of the block; 0 at a top,
    -1 outside of all basins.
    """
    found = np.empty(window.shape, np.int32)
    ways = np.empty(window.shape, np.int8)
    _climb(height, low, found.reshape(-1), ways.reshape(-1), np.array(window.shape), window.linked)
    return found.view(np.uint32), ways


@compiled
def _climb(
    height: NDArray[np.float32],
    low: NDArray[np.int64],
    found: NDArray[np.int32],
    ways: NDArray[np.int8],
    shape: NDArray[np.int64],
    linked: bool,
) -> None:
    depth, rows, columns = shape[0], shape[1], shape[2]
    steps = (-rows * columns, -columns, -1, 1, columns, rows * columns)
    place = 0
    for z in range(depth):
        for y in range(rows):
            for x in range(columns):
                way = _way_up(height, z + low[0], y + low[1], x + low[2], linked)
                leaves = (
                    (way == 1 and z == 0)
                    or (way == 2 and y == 0)
                    or (way == 3 and x == 0)
                    or (way == 4 and x == columns - 1)
                    or (way == 5 and y == rows - 1)
                    or (way == 6 and z == depth - 1)
                )
                found[place] = _NO_BASIN if way == _NOWHERE else place if leaves or way == 0 else place + steps[way - 1]
                ways[place] = way
                place += 1
    _number(found)


@compiled
def _way_up(height: NDArray[np.float32], z: int, y: int, x: int, linked: bool) -> int:
    """Return 1 to 6, or 0 where a voxel is a top; -1 where it belongs to no basin."""
    best = height[z, y, x]
    if best == NEVER:
        return _NOWHERE
    way = 0
    if linked and z > 0 and height[z - 1, y, x] > best:
        best, way = height[z - 1, y, x], 1
    if y > 0 and (height[z, y - 1, x] > best or (way > 0 and height[z, y - 1, x] == best)):
        best, way = height[z, y - 1, x], 2
    if x > 0 and (height[z, y, x - 1] > best or (way > 0 and height[z, y, x - 1] == best)):
        best, way = height[z, y, x - 1], 3
    if x + 1 < height.shape[2] and height[z, y, x + 1] >= best:
        best, way = height[z, y, x + 1], 4
    if y + 1 < height.shape[1] and height[z, y + 1, x] >= best:
        best, way = height[z, y + 1, x], 5
    if linked and z + 1 < height.shape[0] and height[z + 1, y, x] >= best:
        best, way = height[z + 1, y, x], 6
    return way


@compiled
def _number(found: NDArray[np.int32]) -> None:
    """Replace the place that each voxel climbs to, its own at a top, by the label of the top."""
    last = 0
    for start in range(found.size):
        place = start
        while found[place] >= 0 and found[place] != place:
            place = found[place]
        if found[place] == place:
            last += 1
            found[place] = -last
        label = found[place]
        place = start
        while found[place] >= 0:
            above = found[place]
            found[place] = label
            place = above
    for place in range(found.size):
        found[place] = 0 if found[place] == _NO_BASIN else -found[place]


def describe_basins(
    labels: NDArray[np.uint32], height: NDArray[np.float32] | None, count: int, window: WatershedWindow
) -> Nodes:
    """Return what is known of the labels 1 to `count` of a block, at 0 to `count` - 1."""
    nodes = Nodes(
        np.zeros(count, np.int64),
        np.full(count, np.iinfo(np.int64).max),
        np.zeros(count, np.bool_),
        np.full(count, NEVER),
        np.zeros(count, np.int64),
        np.zeros(count, np.bool_),
    )
    heights = np.empty((1, 1, 1), np.float32) if height is None else height
    depth = window.depth if window.linked and window.depth > 1 else 0
    _describe(labels, heights, height is not None, np.array(window.start), np.array(window.whole), depth, nodes)
    return nodes


@compiled
def _describe(
    labels: NDArray[np.uint32],
    height: NDArray[np.float32],
    has_height: bool,
    start: NDArray[np.int64],
    whole: NDArray[np.int64],
    deep: int,
    nodes: Nodes,
) -> None:
    depth, rows, width = labels.shape
    for z in range(depth):
        for y in range(rows):
            place = ((start[0] + z) * whole[1] + start[1] + y) * whole[2] + start[2]
            edge_row = (deep > 0 and (start[0] + z) % deep in (0, deep - 1)) or start[1] + y in (0, whole[1] - 1)
            for x in range(width):
                label = labels[z, y, x]
                if label > 0:
                    node = label - 1
                    nodes.size[node] += 1
                    nodes.first[node] = min(nodes.first[node], place + x)
                    if edge_row or start[2] + x == 0 or start[2] + x == whole[2] - 1:
                        nodes.border[node] = True
                    if has_height and height[z, y, x] >= nodes.peak[node]:
                        nodes.peak[node] = height[z, y, x]
                        nodes.top[node] = place + x
