"""The elevation map that basins climb: the distance to an edge, or the probability; the same in every block."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.options import FARTHEST_SEEDS, ObjectOptions
from napari_skipseg.scores.table import compiled

NEVER = np.float32(-4)
"""The height of voxels that belong to no basin; all others have at least -1."""

_LIMITS = (32.0, FARTHEST_SEEDS)
"""The largest distance that is distinguished, in voxels of X; the second limit if seeds lie farther apart than the
first.

With a limit the distance depends only on voxels nearby, so that a block gives the same as the whole volume."""

_STEPS = 64
"""Distances are multiples of 1/64 voxel, so that their rounding does not depend on where a block begins."""

_FAR = np.float32(1e12)


class Probability(Protocol):
    """The probability of a block, shape (Z, Y, X), of which parts are read as float32 in [0, 1]."""

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
    """Return up to which distance a voxel's height depends on others, in voxels of X; 0 = on no other."""
    if options.method == "components" or options.seeds == "probability":
        return 0.0
    return _LIMITS[0] if options.seed_distance <= _LIMITS[0] else _LIMITS[1]


def marker_depth(options: ObjectOptions) -> float:
    """Return how far a maximum must rise above the pass to a higher one; if it rises less, it is noise."""
    return 0.5 if options.seeds == "distance" else 0.05


def mask_threshold(options: ObjectOptions) -> float:
    """Return the height from which on a voxel is inside an object, or inside a cell and not in its boundary."""
    if options.method == "cells" and options.seeds == "probability":
        return float(np.float32(-options.chosen_threshold))
    return 0.0


def elevation_map(
    probability: Probability, options: ObjectOptions, spacing: tuple[float, float, float]
) -> NDArray[np.float32]:
    """Return the height of each voxel, with a maximum in the middle of an object or a cell. Padding is in no basin.

    Shape: (Z, Y, X) -> (Z, Y, X). spacing: (z, y, x) in voxels of X; z is 0 if each slice has objects of its own.
    """
    cells, by_distance = options.method == "cells", options.seeds == "distance"
    inside = np.empty(probability.shape, np.bool_)
    for z in range(len(inside)):
        values = probability[z]
        inside[z] = (values > options.chosen_threshold) != cells
        if probability.has_padding:  # the edge of the tissue, like the border of the image, is no edge of an object
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
