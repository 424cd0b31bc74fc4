"""Resampling between the image's grid and the network's: linear to smaller voxels, averaging to larger ones.

Both grids cover the same length: voxel i of n covers [i, i + 1) / n of it. The result at a voxel depends only on its
position in the whole image, so that parts that are resampled one by one fit together without a seam.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.stack import Stack

SAME = 0.05
"""Relative difference up to which two voxel sizes count as the same."""


def network_lengths(stack: Stack, axes: str, wanted: tuple[float, float, float]) -> tuple[int, ...]:
    """Return the lengths along `axes` of the grid with voxels of the size `wanted` (z, y, x), in the stack's unit.

    An axis keeps its length if its voxel size is within 5 % of the wanted one, or if it is one voxel long.
    """
    factor = {axis: stack.space.size_along(axis) / there for axis, there in zip("ZYX", wanted, strict=True)}
    return tuple(
        stack.length(axis)
        if abs(math.log(factor[axis])) <= SAME or stack.length(axis) == 1
        else max(1, round(stack.length(axis) * factor[axis]))
        for axis in axes
    )


def source_range(step: float, places: NDArray[np.intp], limit: int) -> tuple[int, int]:
    """Return the range [first, last) of source voxels that the target voxels at `places` are computed from.

    limit: length of the source grid. step: length of a target voxel in source voxels; 1.0 = the same grid.
    """
    if step == 1:
        return int(places.min()), int(places.max()) + 1
    reach = max(step, 1.0)
    first = math.ceil((places.min() + 0.5) * step - 0.5 - reach)
    last = math.floor((places.max() + 0.5) * step - 0.5 + reach)
    return min(max(first, 0), limit - 1), min(max(last, 0), limit - 1) + 1


def resample_axis(
    values: NDArray[np.float32], axis: int, first: int, limit: int, step: float, places: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Return the target voxels at `places` along `axis`, computed from the source `values`.

    first: position of the first of `values` in the source grid, of length `limit`. They must cover `source_range`.
    """
    if step == 1:
        wanted = places - first
        if wanted.size == values.shape[axis] and bool((np.diff(wanted) == 1).all()):
            return values
        taken: NDArray[np.float32] = np.take(values, wanted, axis)
        return taken
    start, stop = source_range(step, places, limit)
    along = [-1 if number == axis else 1 for number in range(values.ndim)]
    shape = tuple(len(places) if number == axis else length for number, length in enumerate(values.shape))
    resampled = np.zeros(shape, np.float32)
    for voxels, weights in _shares(step, places, start, stop):
        part = np.take(values, voxels - first, axis)
        part *= weights.reshape(along)
        resampled += part
    return resampled


def _shares(
    step: float, places: NDArray[np.intp], start: int, stop: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """Yield arrays with one source voxel in [start, stop) for each place, and its weight, until all are covered.

    The weights are a triangle with the sum 1 and a half width of one voxel of the coarser grid.
    """
    reach = max(step, 1.0)
    centres = (places + 0.5) * step - 0.5
    voxels = np.ceil(centres - reach).astype(np.intp) + np.arange(math.floor(2 * reach) + 1)[:, None]
    weights = np.maximum(0.0, 1.0 - np.abs(voxels - centres) / reach) * ((voxels >= start) & (voxels < stop))
    weights /= weights.sum(axis=0)
    yield from zip(np.clip(voxels, start, stop - 1), weights.astype(np.float32), strict=True)
