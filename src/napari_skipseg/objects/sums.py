"""What is added up over the voxels of objects: whole numbers for places, so that no block and no order matters."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.scores.table import compiled

_FAR = np.iinfo(np.int64).max


class PlaceSums(NamedTuple):
    """At each label: voxels, sums of (z, y, x), sums of zz, yy, xx, zy, zx, yx, first and last place along each axis.

    time: the time of the object.
    """

    voxels: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    least: NDArray[np.int64]
    most: NDArray[np.int64]
    time: NDArray[np.int64]

    def grown(self, labels: int) -> PlaceSums:
        """Return the sums with room for labels up to `labels`."""
        return self if labels < len(self.voxels) else PlaceSums(*map(_joined, self, make_place_sums(labels)))


class ValueSums(NamedTuple):
    """At each label: sum, sum of squares, least and largest of some values."""

    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    least: NDArray[np.float64]
    most: NDArray[np.float64]

    def grown(self, labels: int) -> ValueSums:
        """Return the sums with room for labels up to `labels`."""
        return self if labels < len(self.total) else ValueSums(*map(_joined, self, make_value_sums(labels)))


def make_place_sums(labels: int) -> PlaceSums:
    """Return sums over nothing for labels up to `labels`."""
    room = labels + 1
    return PlaceSums(
        np.zeros(room, np.int64),
        np.zeros((room, 3), np.int64),
        np.zeros((room, 6), np.int64),
        np.full((room, 3), _FAR),
        np.full((room, 3), -1, np.int64),
        np.zeros(room, np.int64),
    )


def make_value_sums(labels: int) -> ValueSums:
    """Return sums over nothing for labels up to `labels`."""
    room = labels + 1
    return ValueSums(np.zeros(room), np.zeros(room), np.full(room, np.inf), np.full(room, -np.inf))


def grown(sums: NDArray[np.float64], labels: int) -> NDArray[np.float64]:
    """Return sums with room for labels up to `labels`."""
    return sums if labels < len(sums) else _joined(sums, np.zeros(labels + 1))


def _joined(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
    new[: len(old)] = old
    return new


@compiled
def add_places(labels: NDArray[np.uint32], start: NDArray[np.int64], time: int, sums: PlaceSums) -> None:
    """Add the voxels of a block that begins at `start`, run by run along x."""
    depth, rows, columns = labels.shape
    for k in range(depth):
        z = start[0] + k
        for j in range(rows):
            y = start[1] + j
            end = 0
            while end < columns:
                begin, label = end, labels[k, j, end]
                end += 1
                while end < columns and labels[k, j, end] == label:
                    end += 1
                if label == 0:
                    continue
                count, low, high = end - begin, start[2] + begin, start[2] + end - 1
                along = count * (low + high) // 2
                sums.voxels[label] += count
                sums.time[label] = time
                first, second, least, most = sums.first[label], sums.second[label], sums.least[label], sums.most[label]
                first[0] += count * z
                first[1] += count * y
                first[2] += along
                second[0] += count * z * z
                second[1] += count * y * y
                second[2] += _squares(high) - _squares(low - 1)
                second[3] += count * z * y
                second[4] += z * along
                second[5] += y * along
                least[0], most[0] = min(least[0], z), max(most[0], z)
                least[1], most[1] = min(least[1], y), max(most[1], y)
                least[2], most[2] = min(least[2], low), max(most[2], high)


@compiled
def _squares(last: int) -> int:
    """Return 0² + 1² + … + last²."""
    return last * (last + 1) * (2 * last + 1) // 6


@compiled
def add_values(labels: NDArray[np.uint32], values: NDArray[Any], sums: ValueSums) -> None:
    """Add the values of a block's voxels, one after the other, in the order of memory."""
    flat, given = labels.reshape(-1), values.reshape(-1)
    place = 0
    while place < flat.size:
        label = flat[place]
        if label == 0:
            place += 1
            continue
        total, squares, least, most = sums.total[label], sums.squares[label], sums.least[label], sums.most[label]
        while place < flat.size and flat[place] == label:
            value = float(given[place])
            total += value
            squares += value * value
            least, most = min(least, value), max(most, value)
            place += 1
        sums.total[label], sums.squares[label], sums.least[label], sums.most[label] = total, squares, least, most
