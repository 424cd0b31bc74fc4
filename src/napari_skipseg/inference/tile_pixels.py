"""What a unit reads of its stack, in the network's grid and standard units; and its output on the stack's own grid."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.normalize import Normalization
from napari_skipseg.images.resample import resample_axis, source_range
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.tiles import AxisPlan, reflected
from napari_skipseg.inference.backends import Pixels
from napari_skipseg.inference.grid import Grid, Unit

MOST_READ = 2**25
"""Voxels read at once for a tile of larger ones; it is put together from parts where it is made of more."""


def read_pixels(stack: Stack, grid: Grid, unit: Unit, normalization: Normalization) -> Pixels:
    """Return the unit's pixels (C, *space) in standard units, mirrored where its tile reaches beyond the image.

    Raises:
        InputError: NaN or infinite values.
    """
    places = {
        axis: reflected(plan.seen, start, size)
        for axis, plan, start, size in zip(grid.seen, grid.tiles.axes, unit.tile.start, unit.tile.size, strict=True)
    }
    return np.ascontiguousarray(_pixels(stack, grid, unit, places, normalization))


def _pixels(
    stack: Stack, grid: Grid, unit: Unit, places: dict[str, NDArray[np.intp]], normalization: Normalization
) -> Pixels:
    """Return the pixels (C, *space) at these places of the network's grid."""
    plans = dict(zip(grid.seen, grid.tiles.axes, strict=True))
    ranges = {axis: source_range(_step(plans[axis]), places[axis], plans[axis].length) for axis in grid.seen}
    longest = max(grid.seen, key=lambda axis: len(places[axis]))
    if len(places[longest]) > 1 and prod(stop - start for start, stop in ranges.values()) > MOST_READ:
        halves = (places | {longest: half} for half in np.array_split(places[longest], 2))
        parts = [_pixels(stack, grid, unit, half, normalization) for half in halves]
        return np.concatenate(parts, axis=1 + grid.seen.index(longest))
    values = _read(stack, unit, ranges)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"'{stack.name}' holds NaN or infinite values: replace them (numpy.nan_to_num) and try again.")
    pixels = normalization.apply(values)
    for number, axis in enumerate(grid.seen, start=1):
        pixels = resample_axis(pixels, number, ranges[axis][0], plans[axis].length, _step(plans[axis]), places[axis])
    return pixels


def _read(stack: Stack, unit: Unit, ranges: dict[str, tuple[int, int]]) -> NDArray[np.generic]:
    """Return the voxels (C, *space) of these ranges."""
    index = tuple(slice(*ranges[axis]) if axis in ranges else unit.fixed.get(axis, slice(None)) for axis in stack.axes)
    values = stack.read(index)
    left = [axis for axis in stack.axes if axis not in unit.fixed]
    values = values.transpose([left.index(axis) for axis in ("C", *ranges) if axis in left])
    return values if "C" in left else values[None]


def keep_pixels(grid: Grid, unit: Unit, output: Pixels) -> Pixels:
    """Return what the unit keeps of an `output` (classes, *space) that covers its whole tile."""
    if not grid.tiles.is_rescaled:
        kept: Pixels = output[(slice(None), *unit.tile.keep_in_read)]
        return kept
    return _back(grid, unit, output, 1)


def keep_map_pixels(grid: Grid, unit: Unit, attention: Pixels, stride: int) -> Pixels:
    """Return what the unit keeps of a map (*space / stride) of its whole tile: one pixel per `stride` of the stack."""
    if not grid.tiles.is_rescaled:
        kept: Pixels = attention[unit.tile.keep_in_read_of_level(stride)]
        return kept
    mapped: Pixels = _back(grid, unit, attention[None], stride)[0]
    return mapped


def _back(grid: Grid, unit: Unit, values: Pixels, stride: int) -> Pixels:
    """Return what is kept of `values` (C, *space), brought from the network's grid to the stack's."""
    tile = unit.tile
    kept = tile.keep_of_level(stride)
    for number, (plan, part, start) in enumerate(zip(grid.tiles.axes, kept, tile.start, strict=True), start=1):
        places = np.arange(part.start, part.stop)
        limit = -(-plan.seen // stride)
        values = resample_axis(values, number, start // stride, limit, plan.seen / plan.length, places)
    return values


def _step(plan: AxisPlan) -> float:
    """Return how many voxels of the image one of the network's grid is long."""
    return plan.length / plan.seen
