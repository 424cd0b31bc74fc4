"""The heights that basins climb: the distance to an edge, or the probability; the same whatever block is looked at."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.options import FARTHEST_SEEDS, ObjectOptions
from napari_skipseg.scores.table import compiled

NEVER = np.float32(-4)
"""The height of voxels that belong to no basin; all others have -1 and more."""

_REACHES = (32.0, FARTHEST_SEEDS)
"""Distances beyond which all are alike, in voxels of X; the second where seeds lie farther apart than the first.

A bound makes the distance a matter of the voxels around: a block of a large volume then gives what the whole does."""

_STEPS = 64
"""Distances are multiples of 1/64 voxel, so that rounding does not depend on where a block begins."""

_FAR = np.float32(1e12)


class Probability(Protocol):
    """The probability of a block, float32 in [0, 1], shape (Z, Y, X), where it is looked at."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths along Z, Y and X."""
        ...

    @property
    def has_padding(self) -> bool:
        """Whether exactly 0 means padding."""
        ...

    def __getitem__(self, place: Any) -> NDArray[np.float32]:
        """Return a part of it."""
        ...


def smoothing_radius(options: ObjectOptions) -> float:
    """Return how far around a voxel its height looks, in voxels of X; 0 where it looks at the voxel alone."""
    if options.method == "components" or options.seeds == "probability":
        return 0.0
    return _REACHES[0] if options.seed_distance <= _REACHES[0] else _REACHES[1]


def marker_depth(options: ObjectOptions) -> float:
    """Return the rise that a maximum must have over the pass to a higher one, so that it is more than noise."""
    return 0.5 if options.seeds == "distance" else 0.05


def mask_threshold(options: ObjectOptions) -> float:
    """Return the height from which on a voxel is inside: of an object, or of a cell and not of its boundary."""
    if options.method == "cells" and options.seeds == "probability":
        return float(np.float32(-options.threshold))
    return 0.0


def elevation_map(
    probability: Probability, options: ObjectOptions, spacing: tuple[float, float, float]
) -> NDArray[np.float32]:
    """Return the height of each voxel: its top is the middle of an object, or of a cell. Padding belongs to no basin.

    Shape: (Z, Y, X) -> (Z, Y, X). spacing: (z, y, x) in voxels of X; where slices are apart, z is 0.
    """
    cells, by_distance = options.method == "cells", options.seeds == "distance"
    inside = np.empty(probability.shape, np.bool_)
    for z in range(len(inside)):
        values = probability[z]
        inside[z] = (values > options.threshold) != cells
        if probability.has_padding:  # its edge is none of an object, as the border of the image is none
            inside[z] |= values == 0
    height = (
        distance_to_edge(inside, spacing, smoothing_radius(options))
        if by_distance
        else np.empty(inside.shape, np.float32)
    )
    for z, plane in enumerate(height):
        values = probability[z]
        if not by_distance:
            plane[:] = -values if cells else values
        np.copyto(plane, -values if cells else NEVER, where=~inside[z])
        if probability.has_padding:
            plane[values == 0] = NEVER
    return height


def distance_to_edge(mask: NDArray[np.bool_], spacing: tuple[float, float, float], reach: float) -> NDArray[np.float32]:
    """Return how far each voxel of a mask is from the nearest one that is not of it, at most `reach`; others have 0.

    Exact and Euclidean (Felzenszwalb and Huttenlocher 2012), by one pass along each axis. What lies beyond the array
    is no edge.
    """
    squared = np.empty(mask.shape, np.float32)
    _along_rows(mask, squared, np.float32(spacing[2]))
    if mask.shape[1] > 1:
        _along_columns(squared, np.float32(spacing[1]))
    if mask.shape[0] > 1 and spacing[0]:
        _along_columns(squared.swapaxes(0, 1), np.float32(spacing[0]))
    _finish(squared, np.float32(reach))
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
    """Return of how many parabolas the envelope is made; where they stand and begin goes into `feet` and `starts`."""
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
def _finish(squared: NDArray[np.float32], reach: Any) -> None:
    flat = squared.reshape(-1)
    for place in range(flat.size):
        flat[place] = min(np.round(np.sqrt(flat[place]) * _STEPS) / _STEPS, reach)
