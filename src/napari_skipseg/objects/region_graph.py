"""Where labels of a block, or of two blocks side by side, touch: one row for each pair, in one pass over the voxels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.elevation import Probability
from napari_skipseg.objects.watershed import FULL, Edges, WatershedWindow
from napari_skipseg.scores.table import compiled

_EMPTY = -1


def contact_strength(probability: Probability, z: slice, y: slice, x: slice) -> NDArray[np.uint16]:
    """Return how strong a boundary is at each voxel of a part of a block: 65535 = probability 1."""
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
    """Return the pairs of different labels above 0 that touch by their faces.

    All arrays have the window's shape. strength: as `contact_strength`. across: the one axis along which contacts
    count, of a window of length 2 along it; all axes where it is -1.
    """
    starts, whole = np.array(window.start), np.array(window.whole)
    table, used = _tabulate(labels, height, strength, starts, whole, window.linked, across)
    order = np.argsort(table.keys[:used])
    keys, saddle, where = table.keys[order], table.saddle[order], table.where[order]
    return Edges(keys >> 32, keys & 0xFFFFFFFF, saddle, where, table.strength[order], table.contacts[order])


class _Table(NamedTuple):
    """Pairs of labels as keys, and the columns of `Edges`, one row each.

    rows: a hash table, its length a power of 2: the row of a key, or -1.
    """

    rows: NDArray[np.int32]
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
    """Return where in a hash table with room for more the row of a key is, or is to be."""
    mask = rows.size - 1
    slot = ((key ^ (key >> 29)) * 0x9E3779B97F4A7C1 >> 20) & mask
    while rows[slot] != _EMPTY and keys[rows[slot]] != key:
        slot = (slot + 1) & mask
    return int(slot)
