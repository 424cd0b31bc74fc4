"""Basins of one block: which voxels climb to the same maximum, the properties of each basin, and where basins touch.

A voxel climbs to the highest of its face neighbours; of several equal ones, to the last in memory. So a basin depends
on no marker and on no block: a climb that leaves a block continues in the next one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.elevation import NEVER, Probability
from napari_skipseg.scores.table import compiled

FULL = 65535
"""What a probability of 1 adds to the strength of a boundary. Integers, as their sum is the same in any order."""

_NOWHERE = -1
_NO_BASIN = -(2**31)
_EMPTY = -1


class WatershedWindow(NamedTuple):
    """A block of `shape` that starts at `start` in an array of shape `whole`.

    depth: slices of one time; the times of a series follow each other along the first axis. linked: whether a voxel and
    the one in the next slice are neighbours.
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
    """Properties of the regions, basins or components, one entry each; those of two parts of a region can be added.

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
    """Properties of each pair of nodes that touch, `one` < `other`; those of two parts of a boundary can be added.

    saddle, where: the highest pass between them, and which contact that is. strength: the sum over all contacts of the
    larger probability of the two voxels, 65535 = 1. contacts: their number.
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

    height: of the block and around it; the block begins there at `low`. Ways, one int8 a voxel: 1 to 6 if the climb
    continues in the next voxel along -z, -y, -x, +x, +y, +z, also outside of the block; 0 at a maximum, -1 outside of
    all basins.
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
    """Return 1 to 6, or 0 at a maximum, or -1 outside of all basins; in the order of memory, so that ties are the same
    in every block."""
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
    """Replace the place that each voxel climbs to, its own at a maximum, by the label of the maximum."""
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
        while found[place] >= 0:  # all voxels on the way get the label too, so no way is climbed twice
            above = found[place]
            found[place] = label
            place = above
    for place in range(found.size):
        found[place] = 0 if found[place] == _NO_BASIN else -found[place]


def describe_basins(
    labels: NDArray[np.uint32], height: NDArray[np.float32] | None, count: int, window: WatershedWindow
) -> Nodes:
    """Return the properties of the labels 1 to `count` of a block, at 0 to `count` - 1; without `height` no peaks."""
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


def boundary_strength(probability: Probability, z: slice, y: slice, x: slice) -> NDArray[np.uint16]:
    """Return the strength of a boundary at each voxel of a part of a block, 65535 = probability 1; slice by slice, so
    that no second float array of the block is in memory."""
    planes, rows, columns = (range(length)[part] for length, part in zip(probability.shape, (z, y, x), strict=True))
    strength = np.empty((len(planes), len(rows), len(columns)), np.uint16)
    for plane, place in zip(strength, planes, strict=True):
        plane[:] = probability[place, y, x].astype(np.float64) * FULL + 0.5
    return strength


def region_contacts(
    labels: NDArray[np.uint32],
    height: NDArray[np.float32],
    strength: NDArray[np.uint16],
    window: WatershedWindow,
    across: int = -1,
) -> Edges:
    """Return the pairs of different labels above 0 that touch by their faces, in one pass over the voxels.

    All arrays have the window's shape. strength: as `boundary_strength`. across: the only axis along which contacts
    count, in a window of length 2 along it; -1 = all axes.
    """
    starts, whole = np.array(window.start), np.array(window.whole)
    table, used = _tabulate(labels, height, strength, starts, whole, window.linked, across)
    order = np.argsort(table.keys[:used])
    keys, saddle, where = table.keys[order], table.saddle[order], table.where[order]
    return Edges(keys >> 32, keys & 0xFFFFFFFF, saddle, where, table.strength[order], table.contacts[order])


class _Table(NamedTuple):
    """Pairs of labels as keys, and the columns of `Edges`, one row each.

    rows: a hash table, whose length is a power of 2: the row of a key, or -1.
    """

    rows: NDArray[np.int32]
    keys: NDArray[np.int64]
    saddle: NDArray[np.float32]
    where: NDArray[np.int64]
    strength: NDArray[np.int64]
    contacts: NDArray[np.int64]


class _Contacts(NamedTuple):
    """The contacts of one slice before they are added to a `_Table`, one entry each."""

    keys: NDArray[np.int64]
    saddle: NDArray[np.float32]
    where: NDArray[np.int64]
    strength: NDArray[np.int64]


@compiled
def _tabulate(
    labels: NDArray[np.uint32],
    height: NDArray[np.float32],
    strength: NDArray[np.uint16],
    start: NDArray[np.int64],
    whole: NDArray[np.int64],
    linked: bool,
    across: int,
) -> tuple[_Table, int]:
    table, used = _make(1024), 0
    depth, rows, columns = labels.shape
    room = 3 * rows * columns
    found = _Contacts(
        np.empty(room, np.int64), np.empty(room, np.float32), np.empty(room, np.int64), np.empty(room, np.int64)
    )
    for z in range(depth):
        first = ((start[0] + z) * whole[1] + start[1]) * whole[2] + start[2]
        count = 0
        for axis in range(3):
            if (across < 0 or axis == across) and (linked or axis > 0) and (axis > 0 or z + 1 < depth):
                count = _list(labels, height, strength, z, axis, first, whole[2], found, count)
        done = 0
        while done < count:
            done, used = _add(table, found, done, count, used)
            if done < count:
                table = _grown(table)
    return table, used


@compiled
def _list(
    labels: NDArray[np.uint32],
    height: NDArray[np.float32],
    strength: NDArray[np.uint16],
    z: int,
    axis: int,
    first: int,
    stride: int,
    found: _Contacts,
    count: int,
) -> int:
    """Append the contacts of a slice along one axis to `count` others; return the new count."""
    keys, saddles, places, walls = found
    down, right, deep = int(axis == 1), int(axis == 2), int(axis == 0)
    for y in range(labels.shape[1] - down):
        for x in range(labels.shape[2] - right):
            one, other = labels[z, y, x], labels[z + deep, y + down, x + right]
            if one != other and one > 0 and other > 0:
                keys[count] = (np.int64(min(one, other)) << 32) | np.int64(max(one, other))
                saddles[count] = min(height[z, y, x], height[z + deep, y + down, x + right])
                places[count] = (first + y * stride + x) * 3 + axis
                walls[count] = max(strength[z, y, x], strength[z + deep, y + down, x + right])
                count += 1
    return count


@compiled
def _add(table: _Table, found: _Contacts, done: int, count: int, used: int) -> tuple[int, int]:
    """Add contacts from `done` on while there is room; return how many are done, and how many pairs there are."""
    rows, keys, saddle, where, strength, contacts = table
    while done < count and used < keys.size:
        key = found.keys[done]
        slot = _slot(rows, keys, key)
        row = rows[slot]
        new = row == _EMPTY
        if new:
            row = used
            rows[slot], keys[row], strength[row], contacts[row] = row, key, 0, 0
            used += 1
        height, place = found.saddle[done], found.where[done]
        if new or height > saddle[row] or (height == saddle[row] and place < where[row]):
            saddle[row], where[row] = height, place
        strength[row] += found.strength[done]
        contacts[row] += 1
        done += 1
    return done, used


@compiled
def _make(room: int) -> _Table:
    return _Table(
        np.full(2 * room, _EMPTY, np.int32),
        np.empty(room, np.int64),
        np.empty(room, np.float32),
        np.empty(room, np.int64),
        np.empty(room, np.int64),
        np.empty(room, np.int64),
    )


@compiled
def _grown(full: _Table) -> _Table:
    used = full.keys.size
    table = _make(2 * used)
    table.keys[:used], table.saddle[:used], table.where[:used] = full.keys, full.saddle, full.where
    table.strength[:used], table.contacts[:used] = full.strength, full.contacts
    for row in range(used):
        table.rows[_slot(table.rows, table.keys, table.keys[row])] = row
    return table


@compiled
def _slot(rows: NDArray[np.int32], keys: NDArray[np.int64], key: Any) -> int:
    """Return where the row of a key is, or belongs, in a hash table with room for more."""
    mask = rows.size - 1
    slot = ((key ^ (key >> 29)) * 0x9E3779B97F4A7C1 >> 20) & mask
    while rows[slot] != _EMPTY and keys[rows[slot]] != key:
        slot = (slot + 1) & mask
    return int(slot)
