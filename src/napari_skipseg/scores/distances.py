"""The Euclidean distance to the edge of a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.scores.table import compiled

_STEPS = 64
"""Distances are multiples of 1/64 voxel, so that their rounding does not depend on where a block begins."""

_FAR = np.float32(1e12)


def distance_to_edge(mask: NDArray[np.bool_], spacing: tuple[float, float, float], limit: float) -> NDArray[np.float32]:
    """Return the distance from each voxel of a mask to the nearest one outside, at most `limit`; 0 outside.

    Exact and Euclidean (Felzenszwalb and Huttenlocher 2012), by one pass along each axis. The border of the array is
    no edge. `edt` and scipy give the same, but slower (decision 0014).
    """
    squared = np.empty(mask.shape, np.float32)
    _along_rows(mask, squared, np.float32(spacing[2]))
    if mask.shape[1] > 1:
        _along_columns(squared, np.float32(spacing[1]))
    if mask.shape[0] > 1 and spacing[0]:
        _along_columns(squared.swapaxes(0, 1), np.float32(spacing[0]))
    _to_distance(squared, np.float32(limit))
    return squared


@compiled
def _along_rows(mask: NDArray[np.bool_], squared: NDArray[np.float32], step: Any) -> None:
    depth, height, width = mask.shape
    for z in range(depth):
        for y in range(height):
            last = -1
            for x in range(width):
                if not mask[z, y, x]:
                    last = x
                squared[z, y, x] = _FAR if last < 0 else np.float32((x - last) * step) ** 2
            last = -1
            for x in range(width - 1, -1, -1):
                if not mask[z, y, x]:
                    last = x
                if last >= 0:
                    squared[z, y, x] = min(squared[z, y, x], np.float32((last - x) * step) ** 2)


@compiled
def _along_columns(squared: NDArray[np.float32], step: Any) -> None:
    """Replace the values along the middle axis by the lower envelope of the parabolas that stand on them."""
    planes, length, width = squared.shape
    column = np.empty(length, np.float64)
    feet = np.empty(length, np.int64)
    starts = np.empty(length, np.float64)
    square = step * step
    for plane in range(planes):
        for x in range(width):
            for place in range(length):
                column[place] = squared[plane, place, x]
            count = _envelope(column, square, feet, starts)
            nearest = 0
            for place in range(length if count else 0):
                while nearest + 1 < count and starts[nearest + 1] <= place:
                    nearest += 1
                away = place - feet[nearest]
                squared[plane, place, x] = square * away * away + column[feet[nearest]]


@compiled
def _envelope(column: NDArray[np.float64], square: Any, feet: NDArray[np.int64], starts: NDArray[np.float64]) -> int:
    """Return how many parabolas the envelope has; write where they stand and begin into `feet` and `starts`."""
    count = 0
    for place in range(column.size):
        value = column[place]
        if value >= _FAR:
            continue
        start = -1e18
        while count > 0:
            foot = feet[count - 1]
            start = (value - column[foot] + square * (place * place - foot * foot)) / (2 * square * (place - foot))
            if start > starts[count - 1]:
                break
            count -= 1
            start = -1e18
        starts[count], feet[count] = start, place
        count += 1
    return count


@compiled
def _to_distance(squared: NDArray[np.float32], limit: Any) -> None:
    flat = squared.reshape(-1)
    for place in range(flat.size):
        flat[place] = min(np.round(np.sqrt(flat[place]) * _STEPS) / _STEPS, limit)
