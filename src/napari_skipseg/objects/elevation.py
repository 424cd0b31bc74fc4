"""The elevation map that basins climb: the distance to an edge, or the probability; the same in every block."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.options import FARTHEST_SEEDS, ObjectOptions
from napari_skipseg.scores.distances import distance_to_edge

NEVER = np.float32(-4)
"""The height of voxels that belong to no basin; all others have at least -1."""

_LIMITS = (32.0, FARTHEST_SEEDS)
"""The largest distance that is distinguished, in voxels of X; the second limit if seeds lie farther apart than the
first.

With a limit the distance depends only on voxels nearby, so that a block gives the same as the whole volume."""


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
