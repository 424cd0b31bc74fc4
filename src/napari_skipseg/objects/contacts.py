"""Where labels of a block, or of two blocks side by side, touch: one row for each pair, in one pass over the voxels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.basins import FULL, Edges, Window
from napari_skipseg.objects.landscape import Probability
from napari_skipseg.scores.table import compiled

_EMPTY = -1


def strength_of(probability: Probability, z: slice, y: slice, x: slice) -> NDArray[np.uint16]:
    """Return how strong a boundary is at each voxel of a part of a block: 65535 = probability 1."""
    planes = range(probability.shape[0])[z]
    return np.stack([(probability[plane, y, x].astype(np.float64) * FULL + 0.5).astype(np.uint16) for plane in planes])


def contacts(
    labels: NDArray[np.uint32],
    height: NDArray[np.float32],
    strength: NDArray[np.uint16],
    window: Window,
    across: int = -1,
) -> Edges:
    """Return the pairs of different labels above 0 that touch by their faces.

    All arrays have the window's shape. strength: as `strength_of`. across: the one axis along which contacts count, of
    a window of length 2 along it; all axes where it is -1.
    """
    starts, whole = np.array(window.start), np.array(window.whole)
    table = _tabulate(labels, height, strength, starts, whole, window.linked, across)
    rows = np.flatnonzero(table.keys != _EMPTY)
    rows = rows[np.argsort(table.keys[rows])]
    keys = table.keys[rows]
    one, other = keys >> 32, keys & 0xFFFFFFFF
    return Edges(one, other, table.saddle[rows], table.where[rows], table.strength[rows], table.contacts[rows])


class _Table(NamedTuple):
    """A hash table, its length a power of 2: pairs of labels as keys, and the columns of `Edges`."""

    keys: NDArray[np.int64]
    saddle: NDArray[np.float32]
    where: NDArray[np.int64]
    strength: NDArray[np.int64]
    contacts: NDArray[np.int64]


class _Contacts(NamedTuple):
    """The contacts of one slice, before they are added up; the columns of `_Table`, one entry each."""

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
) -> _Table:
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
    return table


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
    """List the contacts of a slice along one axis behind `count` others; return how many there are then."""
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
    """Add contacts from `done` on while there is room; return how many are done then, and how many pairs there are."""
    keys, saddle, where, strength, contacts = table
    while done < count and 2 * used < keys.size:
        key = found.keys[done]
        slot = _slot(keys, key)
        new = keys[slot] == _EMPTY
        if new:
            keys[slot], strength[slot], contacts[slot] = key, 0, 0
            used += 1
        height, place = found.saddle[done], found.where[done]
        if new or height > saddle[slot] or (height == saddle[slot] and place < where[slot]):
            saddle[slot], where[slot] = height, place
        strength[slot] += found.strength[done]
        contacts[slot] += 1
        done += 1
    return done, used


@compiled
def _make(room: int) -> _Table:
    return _Table(
        np.full(room, _EMPTY, np.int64),
        np.empty(room, np.float32),
        np.empty(room, np.int64),
        np.empty(room, np.int64),
        np.empty(room, np.int64),
    )


@compiled
def _grown(table: _Table) -> _Table:
    more = _make(2 * table.keys.size)
    for old in range(table.keys.size):
        if table.keys[old] != _EMPTY:
            new = _slot(more.keys, table.keys[old])
            more.keys[new] = table.keys[old]
            more.saddle[new], more.where[new] = table.saddle[old], table.where[old]
            more.strength[new], more.contacts[new] = table.strength[old], table.contacts[old]
    return more


@compiled
def _slot(keys: NDArray[np.int64], key: Any) -> int:
    """Return where a key lies in a table with room for more, or is to lie."""
    mask = keys.size - 1
    slot = ((key ^ (key >> 29)) * 0x9E3779B97F4A7C1 >> 20) & mask
    while keys[slot] not in (_EMPTY, key):
        slot = (slot + 1) & mask
    return int(slot)
