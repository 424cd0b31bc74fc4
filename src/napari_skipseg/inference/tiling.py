"""The units of work of a stack: each reads one tile, and writes a part of the results that no other unit writes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.intensity.normalize import Normalization
from napari_skipseg.images.intensity.padding import REACH, REACH_Z
from napari_skipseg.images.mask import MaskSurvey, iter_survey
from napari_skipseg.images.resample import resample_axis, source_range
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.tiles import AxisPlan, Tile, TilePlan, reflected
from napari_skipseg.inference.prediction import Focus
from napari_skipseg.progress import Progress

if TYPE_CHECKING:
    from napari_skipseg.inference.backends.interface import Pixels
    from napari_skipseg.inference.ensemble import TileCorner


TileRegion = tuple[slice, ...]


@dataclass(frozen=True)
class TileUnit:
    """One tile of one part of the stack: a slice, channel and time, or a volume and time.

    fixed: the position along each axis of `TileGrid.axes` that a tile does not span.
    """

    number: int
    place: TileCorner
    fixed: dict[str, int]
    tile: Tile


@dataclass(frozen=True)
class TileGrid:
    """All units of a stack, numbered from 0: parts in the stack's order, in each the tiles in theirs.

    axes, shape: of the results without classes: the stack's axes without channels. seen: the axes that a tile spans.

    whole, box: of a grid with only the units that overlap a box: the grid of the whole stack, and the box along `axes`.
    Its results then cover whole tiles, and begin at `start`.

    chosen: the units of such a grid that are numbered, in the order of all of them; None = all.
    """

    axes: str
    shape: tuple[int, ...]
    seen: str
    tiles: TilePlan
    whole: TileGrid | None = None
    box: tuple[slice, ...] = ()
    chosen: NDArray[np.intp] | None = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return prod(self.loops) * len(self.tiles) if self.chosen is None else len(self.chosen)

    @property
    def loops(self) -> tuple[int, ...]:
        """Lengths of the axes that a tile does not span."""
        return tuple(n for axis, n in zip(self.axes, self.shape, strict=True) if axis not in self.seen)

    @property
    def looped(self) -> str:
        """The axes that a tile does not span."""
        return "".join(axis for axis in self.axes if axis not in self.seen)

    def unit(self, number: int) -> TileUnit:
        """Return unit `number`."""
        part, tile = divmod(number if self.chosen is None else int(self.chosen[number]), len(self.tiles))
        places = np.unravel_index(part, self.loops) if self.loops else ()
        first = dict(zip(self.axes, self.start, strict=True))
        fixed = {axis: int(place) + first[axis] for axis, place in zip(self.looped, places, strict=True)}
        return TileUnit(number, self._place(part, tile, fixed), fixed, self.tiles[tile])

    def _place(self, part: int, tile: int, fixed: dict[str, int]) -> TileCorner:
        """Return the place of a unit in the grid of the whole stack, which decides its Monte Carlo samples."""
        if self.whole is None:
            return part, tile
        loops, counts = self.whole.loops, self.whole.tiles.counts
        number = int(np.ravel_multi_index(tuple(fixed.values()), loops)) if loops else 0
        near = np.unravel_index(tile, self.tiles.counts)
        skipped = [
            whole.starts.index(mine.starts[0])
            for whole, mine in zip(self.whole.tiles.axes, self.tiles.axes, strict=True)
        ]
        return number, int(np.ravel_multi_index(tuple(int(n) + k for n, k in zip(near, skipped, strict=True)), counts))

    @cached_property
    def start(self) -> tuple[int, ...]:
        """The voxel of the stack at which the results begin, along `axes`."""
        if self.whole is None:
            return (0,) * len(self.axes)
        seen = {axis: plan.borders[0] for axis, plan in zip(self.seen, self.tiles.axes, strict=True)}
        return tuple(seen.get(axis, side.start) for axis, side in zip(self.axes, self.box, strict=True))

    def crop(self, stride: int = 1) -> TileRegion:
        """Return the part of a result that is in the box: all of it without a box."""
        if self.whole is None:
            return tuple(slice(0, length) for length in self.shape_of_level(stride))
        found = []
        for axis, side, first in zip(self.axes, self.box, self.start, strict=True):
            step = stride if axis in self.seen else 1
            found.append(slice(side.start // step - first // step, -(-side.stop // step) - first // step))
        return tuple(found)

    def region(self, unit: TileUnit, stride: int = 1) -> TileRegion:
        """Return the region of a unit in a result with one pixel per `stride` voxels along the axes of a tile."""
        kept = dict(zip(self.seen, unit.tile.keep_of_level(stride), strict=True))
        found = []
        for axis, first in zip(self.axes, self.start, strict=True):
            side = kept[axis] if axis in kept else slice(unit.fixed[axis], unit.fixed[axis] + 1)
            skipped = first // stride if axis in kept else first  # tiles in a box begin on whole chunks
            found.append(slice(side.start - skipped, side.stop - skipped))
        return tuple(found)

    def shape_of_level(self, stride: int) -> tuple[int, ...]:
        """Return the shape of a result with one pixel per `stride` voxels along the axes of a tile."""
        return tuple(-(-n // stride) if axis in self.seen else n for axis, n in zip(self.axes, self.shape, strict=True))

    def chunks(self, stride: int = 1) -> tuple[int, ...]:
        """Return the shape of chunks of such a result, so that every unit writes whole chunks."""
        kept = dict(zip(self.seen, self.tiles.chunk, strict=True))
        return tuple(max(1, -(-kept[axis] // stride)) if axis in kept else 1 for axis in self.axes)


class Order:
    """The order of the units that are left: by number, or by distance from the focus once there is one."""

    def __init__(self, grid: TileGrid, done: Iterable[int] = ()) -> None:
        self._grid = grid
        self._left = np.ones(len(grid), bool)
        self._left[list(done)] = False
        self._queue: NDArray[np.intp] = np.flatnonzero(self._left)
        self._next = 0

    def __len__(self) -> int:
        return len(self._queue) - self._next

    def take(self) -> int:
        """Remove the next unit, and return its number."""
        number = int(self._queue[self._next])
        self._left[number] = False
        self._next += 1
        return number

    def reorder(self, focus: Focus) -> None:
        """Sort the units that are left: by distance from the shown time and slice, then those in view first, then by
        distance from the centre of the view."""
        left = np.flatnonzero(self._left)
        lengths = (*self._grid.loops, *self._grid.tiles.counts)
        chosen = left if self._grid.chosen is None else self._grid.chosen[left]
        keys = [np.broadcast_to(key, lengths).ravel()[chosen] for key in self._keys(focus)]
        self._queue = left[np.lexsort(keys)]
        self._next = 0

    def _keys(self, focus: Focus) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return the sort keys of the units, the last key first; each is broadcast over the axes of the units."""
        from_centre, from_view = np.zeros(1), np.zeros(1)
        from_shown = np.zeros(1, np.intp)
        for axis in (axis for axis in "TZYX" if axis in self._grid.axes and axis in focus.view):
            low, high = sorted(focus.view[axis])
            gap = self._gap(axis, low, high)
            if low == high:
                ranks = np.unique(gap, return_inverse=True)[1].reshape(gap.shape)
                from_shown = from_shown * (int(ranks.max()) + 1) + ranks
                continue
            from_view = from_view + np.square(gap)
            if np.isfinite(high - low):
                from_centre = from_centre + np.square(self._gap(axis, (low + high) / 2, (low + high) / 2))
        return from_centre, from_view, from_shown

    def _gap(self, axis: str, low: float, high: float) -> NDArray[np.float64]:
        """Return the distance of [low, high] from the kept part of each tile, or from each position, along an axis."""
        if axis in self._grid.seen:
            borders = np.asarray(self._grid.tiles.axes[self._grid.seen.index(axis)].borders, float)
            if self._grid.box:
                borders -= self._grid.box[self._grid.axes.index(axis)].start
        else:
            borders = np.arange(self._grid.shape[self._grid.axes.index(axis)] + 1, dtype=float)
        gap = np.maximum(0.0, np.maximum(borders[:-1] - high, low - (borders[1:] - 1)))
        return gap.reshape([-1 if each == axis else 1 for each in self._grid.looped + self._grid.seen])


def make_tile_grid(stack: Stack, seen: str, tiles: TilePlan) -> TileGrid:
    """Return the units of a stack."""
    axes = stack.space.axes.replace("C", "")
    return TileGrid(axes, tuple(stack.length(axis) for axis in axes), seen, tiles)


def limit_grid(grid: TileGrid, box: Mapping[str, slice], touched: NDArray[np.bool_] | None = None) -> TileGrid:
    """Return the units of a grid that overlap a box. They are those of the whole stack: same tiles, same results.

    box: by axis of the grid, within the stack. touched: the units of `grid` that are wanted, by the axes that a tile
    does not span and then by tiles; None = all.
    """
    plans, places = [], [box[axis] for axis in grid.looped]
    for axis, plan in zip(grid.seen, grid.tiles.axes, strict=True):
        first = bisect_right(plan.borders, box[axis].start) - 1
        stop = bisect_left(plan.borders, box[axis].stop)
        places.append(slice(first, stop))
        plans.append(replace(plan, starts=plan.starts[first:stop], borders=plan.borders[first : stop + 1]))
    covered = dict(zip(grid.seen, ((plan.borders[0], plan.borders[-1]) for plan in plans), strict=True))
    lengths = [covered.get(axis, (box[axis].start, box[axis].stop)) for axis in grid.axes]
    shape = tuple(stop - start for start, stop in lengths)
    chosen = None if touched is None else np.flatnonzero(touched[tuple(places)])
    sides = tuple(box[axis] for axis in grid.axes)
    return TileGrid(grid.axes, shape, grid.seen, TilePlan(tuple(plans)), grid, sides, chosen)


def iter_limit_to_mask(
    grid: TileGrid, labels: Stack, box: Mapping[str, slice]
) -> Generator[Progress, object, tuple[TileGrid, MaskSurvey]]:
    """Yield while a mask is read; return the units of a grid that it touches in a box, and what was read.

    labels: from `open_mask`. box: by axis of the grid, {} = all.

    Raises:
        InputError: the mask is 0 everywhere, or everywhere in the box.
    """
    borders: dict[str, Sequence[int]] = {axis: range(n + 1) for axis, n in zip(grid.axes, grid.shape, strict=True)}
    borders |= {axis: plan.borders for axis, plan in zip(grid.seen, grid.tiles.axes, strict=True)}
    survey = yield from iter_survey(labels, borders, {axis: box[axis] for axis in box if axis in labels.axes})
    order = grid.looped + grid.seen
    touched = survey.touched.transpose([labels.axes.index(axis) for axis in order if axis in labels.axes])
    missing = tuple(number for number, axis in enumerate(order) if axis not in labels.axes)
    touched = np.broadcast_to(np.expand_dims(touched, missing), (*grid.loops, *grid.tiles.counts))
    whole = {axis: slice(0, length) for axis, length in zip(grid.axes, grid.shape, strict=True)}
    return limit_grid(grid, {**whole, **box, **survey.box}, touched), survey


def outside_mask(grid: TileGrid, unit: TileUnit, mask: MaskSurvey) -> NDArray[np.bool_]:
    """Return where the kept part (*space) of a unit lies outside of a mask."""
    kept = dict(zip(grid.seen, unit.tile.keep_of_level(1), strict=True))
    return ~mask.inside({**unit.fixed, **kept}, grid.seen)


MOST_READ = 2**25
"""Most voxels that are read at once for a tile with larger voxels; a tile that needs more is joined from parts."""


class TilePixels(NamedTuple):
    """A tile as input of a network: pixels (C, *space) in standard units.

    padding: the share of padding in each pixel, in [0, 1], (1, *space); None if there is none.
    """

    pixels: Pixels
    padding: Pixels | None


def read_pixels(stack: Stack, grid: TileGrid, unit: TileUnit, normalization: Normalization) -> TilePixels:
    """Return a unit as input of the network, mirrored where its tile reaches beyond the image.

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
    stack: Stack, grid: TileGrid, unit: TileUnit, places: dict[str, NDArray[np.intp]], normalization: Normalization
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


def _prepared(
    stack: Stack, unit: TileUnit, ranges: dict[str, tuple[int, int]], normalization: Normalization
) -> TilePixels:
    """Return the voxels of these ranges as input of the network.

    If the stack has padding, more voxels around are read, which decide what is padding and how it is filled.
    """
    wide = dict(ranges)
    if normalization.has_padding:
        for axis, (first, last) in ranges.items():
            reach = REACH_Z if axis == "Z" else REACH
            wide[axis] = max(0, first - reach), min(stack.length(axis), last + reach)
    values = _read(stack, unit, wide)
    pixels, mask = normalization.prepare(values, across_slices="Z" in ranges)
    if values.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise InputError(f"'{stack.name}' has NaN or infinite values: replace them (numpy.nan_to_num) and try again.")
    inner = tuple(slice(first - wide[axis][0], last - wide[axis][0]) for axis, (first, last) in ranges.items())
    pixels = pixels[(slice(None), *inner)]
    if mask is None or not mask[inner].any():
        return TilePixels(pixels, None)
    return TilePixels(pixels, mask[inner][None].astype(np.float32))


def _read(stack: Stack, unit: TileUnit, ranges: dict[str, tuple[int, int]]) -> NDArray[np.generic]:
    """Return the voxels (C, *space) of these ranges."""
    index = tuple(
        slice(*ranges[axis]) if axis in ranges else unit.fixed.get(axis, slice(None)) for axis in stack.space.axes
    )
    values = stack.read(index)
    left = [axis for axis in stack.space.axes if axis not in unit.fixed]
    values = values.transpose([left.index(axis) for axis in ("C", *ranges) if axis in left])
    return values if "C" in left else values[None]


def keep_pixels(grid: TileGrid, unit: TileUnit, output: Pixels) -> Pixels:
    """Return the kept part of an `output` (classes, *space) of a whole tile."""
    if not grid.tiles.is_rescaled:
        kept: Pixels = output[(slice(None), *unit.tile.keep_in_read)]
        return kept
    return _back(grid, unit, output, 1)


def keep_padding(grid: TileGrid, unit: TileUnit, padding: Pixels | None) -> NDArray[np.bool_]:
    """Return the mask of padding in the kept part (*space), a single False if there is none."""
    if padding is None:
        return np.zeros(1, np.bool_)
    kept: NDArray[np.bool_] = keep_pixels(grid, unit, padding)[0] > 0.5
    return kept


def keep_map_pixels(grid: TileGrid, unit: TileUnit, attention: Pixels, stride: int) -> Pixels:
    """Return the kept part of a map (*space / stride) of a whole tile, with one pixel per `stride` of the stack."""
    if not grid.tiles.is_rescaled:
        kept: Pixels = attention[unit.tile.keep_in_read_of_level(stride)]
        return kept
    mapped: Pixels = _back(grid, unit, attention[None], stride)[0]
    return mapped


def _back(grid: TileGrid, unit: TileUnit, values: Pixels, stride: int) -> Pixels:
    """Return the kept part of `values` (C, *space), resampled from the network's grid to the stack's."""
    tile = unit.tile
    kept = tile.keep_of_level(stride)
    for number, (plan, part, start) in enumerate(zip(grid.tiles.axes, kept, tile.start, strict=True), start=1):
        places = np.arange(part.start, part.stop)
        limit = -(-plan.seen // stride)
        values = resample_axis(values, number, start // stride, limit, plan.seen / plan.length, places)
    return values


def _step(plan: AxisPlan) -> float:
    """Return the length of a voxel of the network's grid in voxels of the image."""
    return plan.length / plan.seen
