"""What a unit reads of its stack, in the network's grid and standard units; and its output on the stack's own grid."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.normalize import Normalization
from napari_skipseg.images.padding import REACH, REACH_Z
from napari_skipseg.images.resample import resample_axis, source_range
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.tiles import AxisPlan, reflected
from napari_skipseg.inference.grid import Grid, Unit

if TYPE_CHECKING:  # a viewer reads patches too, and does not load torch
    from napari_skipseg.inference.backends import Pixels

MOST_READ = 2**25
"""Voxels read at once for a tile of larger ones; it is put together from parts where it is made of more."""


class TilePixels(NamedTuple):
    """What a network sees of a tile: pixels (C, *space) in standard units.

    padding: how much of each pixel is padding, in [0, 1], (1, *space); None where there is none.
    """

    pixels: Pixels
    padding: Pixels | None


def read_pixels(stack: Stack, grid: Grid, unit: Unit, normalization: Normalization) -> TilePixels:
    """Return what the network sees of a unit, mirrored where its tile reaches beyond the image.

    Raises:
        InputError: NaN or infinite values that are not padding.
    """
    places = {
        axis: reflected(plan.seen, start, size)
        for axis, plan, start, size in zip(grid.seen, grid.tiles.axes, unit.tile.start, unit.tile.size, strict=True)
    }
    read = _pixels(stack, grid, unit, places, normalization)
    return TilePixels(np.ascontiguousarray(read.pixels), read.padding)


def _pixels(
    stack: Stack, grid: Grid, unit: Unit, places: dict[str, NDArray[np.intp]], normalization: Normalization
) -> TilePixels:
    """Return the pixels at these places of the network's grid."""
    plans = dict(zip(grid.seen, grid.tiles.axes, strict=True))
    ranges = {axis: source_range(_step(plans[axis]), places[axis], plans[axis].length) for axis in grid.seen}
    longest = max(grid.seen, key=lambda axis: len(places[axis]))
    if len(places[longest]) > 1 and prod(stop - start for start, stop in ranges.values()) > MOST_READ:
        halves = [places | {longest: half} for half in np.array_split(places[longest], 2)]
        parts = [_pixels(stack, grid, unit, half, normalization) for half in halves]
        return _joined(parts, 1 + grid.seen.index(longest))
    pixels, padding = _prepared(stack, unit, ranges, normalization)
    for number, axis in enumerate(grid.seen, start=1):
        first, length, step = ranges[axis][0], plans[axis].length, _step(plans[axis])
        pixels = resample_axis(pixels, number, first, length, step, places[axis])
        if padding is not None:
            padding = resample_axis(padding, number, first, length, step, places[axis])
    return TilePixels(pixels, padding)


def _joined(parts: list[TilePixels], axis: int) -> TilePixels:
    """Return parts of a tile that follow each other along an axis as one."""
    pixels = np.concatenate([part.pixels for part in parts], axis)
    if all(part.padding is None for part in parts):
        return TilePixels(pixels, None)
    shares = [np.zeros_like(part.pixels[:1]) if part.padding is None else part.padding for part in parts]
    return TilePixels(pixels, np.concatenate(shares, axis))


def _prepared(stack: Stack, unit: Unit, ranges: dict[str, tuple[int, int]], normalization: Normalization) -> TilePixels:
    """Return the voxels of these ranges as the network sees them.

    Where the stack has padding more is read around them: it decides what is padding here, and what takes its place.
    """
    wide = dict(ranges)
    if normalization.padding:
        for axis, (first, last) in ranges.items():
            reach = REACH_Z if axis == "Z" else REACH
            wide[axis] = max(0, first - reach), min(stack.length(axis), last + reach)
    values = _read(stack, unit, wide)
    pixels, mask = normalization.prepare(values, across_slices="Z" in ranges)
    if values.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise InputError(f"'{stack.name}' holds NaN or infinite values: replace them (numpy.nan_to_num) and try again.")
    inner = tuple(slice(first - wide[axis][0], last - wide[axis][0]) for axis, (first, last) in ranges.items())
    pixels = pixels[(slice(None), *inner)]
    if mask is None or not mask[inner].any():
        return TilePixels(pixels, None)
    return TilePixels(pixels, mask[inner][None].astype(np.float32))


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


def keep_padding(grid: Grid, unit: Unit, padding: Pixels | None) -> NDArray[np.bool_] | None:
    """Return where padding is in what the unit keeps (*space), None where there is none."""
    if padding is None:
        return None
    kept: NDArray[np.bool_] = keep_pixels(grid, unit, padding)[0] > 0.5
    return kept if kept.any() else None


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
