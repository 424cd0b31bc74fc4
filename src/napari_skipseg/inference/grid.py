"""A stack cut into units of work: each reads one tile, and writes a part of the results that no other one writes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.stack import Stack
from napari_skipseg.images.tiles import Tile, TilePlan
from napari_skipseg.inference.outputs import Focus

if TYPE_CHECKING:  # a viewer makes grids too, and does not load torch
    from napari_skipseg.inference.dropout import Place

Region = tuple[slice, ...]


@dataclass(frozen=True)
class Unit:
    """One tile of one part of the stack: a slice, channel and time, or a volume and time.

    fixed: the position along each axis of `Grid.axes` that a tile does not span.
    """

    number: int
    place: Place
    fixed: dict[str, int]
    tile: Tile


@dataclass(frozen=True)
class Grid:
    """All units of a stack, numbered from 0: parts in the stack's order, in each the tiles in theirs.

    axes, shape: of the results without classes: the stack's axes without channels. seen: the axes that a tile spans.
    """

    axes: str
    shape: tuple[int, ...]
    seen: str
    tiles: TilePlan

    def __len__(self) -> int:
        return prod(self.loops) * len(self.tiles)

    @property
    def loops(self) -> tuple[int, ...]:
        """Lengths of the axes that a tile does not span."""
        return tuple(n for axis, n in zip(self.axes, self.shape, strict=True) if axis not in self.seen)

    @property
    def looped(self) -> str:
        """The axes that a tile does not span."""
        return "".join(axis for axis in self.axes if axis not in self.seen)

    def unit(self, number: int) -> Unit:
        """Return unit `number`."""
        part, tile = divmod(number, len(self.tiles))
        places = np.unravel_index(part, self.loops) if self.loops else ()
        fixed = {axis: int(place) for axis, place in zip(self.looped, places, strict=True)}
        return Unit(number, (part, tile), fixed, self.tiles[tile])

    def region(self, unit: Unit, stride: int = 1) -> Region:
        """Return what the unit writes of a result that has one pixel per `stride` voxels along the axes of a tile."""
        kept = dict(zip(self.seen, unit.tile.keep_of_level(stride), strict=True))
        return tuple(
            kept[axis] if axis in kept else slice(unit.fixed[axis], unit.fixed[axis] + 1) for axis in self.axes
        )

    def shape_of_level(self, stride: int) -> tuple[int, ...]:
        """Return the shape of a result that has one pixel per `stride` voxels along the axes of a tile."""
        return tuple(-(-n // stride) if axis in self.seen else n for axis, n in zip(self.axes, self.shape, strict=True))

    def chunks(self, stride: int = 1) -> tuple[int, ...]:
        """Return the shape of chunks of such a result of which every unit writes whole ones."""
        kept = dict(zip(self.seen, self.tiles.chunk, strict=True))
        return tuple(max(1, -(-kept[axis] // stride)) if axis in kept else 1 for axis in self.axes)


class Order:
    """Which unit comes next: those left are taken in their order, the nearest to the focus first once there is one."""

    def __init__(self, grid: Grid, done: Iterable[int] = ()) -> None:
        self._grid = grid
        self._left = np.ones(len(grid), bool)
        self._left[list(done)] = False
        self._queue: NDArray[np.intp] = np.flatnonzero(self._left)
        self._next = 0

    def __len__(self) -> int:
        return len(self._queue) - self._next

    def take(self) -> int:
        """Return the number of the next unit, which is then no longer left."""
        number = int(self._queue[self._next])
        self._left[number] = False
        self._next += 1
        return number

    def look(self, focus: Focus) -> None:
        """Put the units that are left in order.

        First by distance from the time and the slice that are shown, then those in view, then by distance from the
        view's centre.
        """
        left = np.flatnonzero(self._left)
        keys = [np.broadcast_to(key, self._lengths).ravel()[left] for key in self._keys(focus)]
        self._queue = left[np.lexsort(keys)]
        self._next = 0

    def _keys(self, focus: Focus) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return what units are sorted by, the last first; each spreads over the axes of `_lengths`."""
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

    @property
    def _axes(self) -> str:
        """The axes that units are numbered along, the last fastest."""
        return self._grid.looped + self._grid.seen

    @property
    def _lengths(self) -> tuple[int, ...]:
        return (*self._grid.loops, *self._grid.tiles.counts)

    def _gap(self, axis: str, low: float, high: float) -> NDArray[np.float64]:
        """Return how far [low, high] is from what is kept along an axis: of each tile, or of each position."""
        if axis in self._grid.seen:
            borders = np.asarray(self._grid.tiles.axes[self._grid.seen.index(axis)].borders, float)
        else:
            borders = np.arange(self._grid.shape[self._grid.axes.index(axis)] + 1, dtype=float)
        gap = np.maximum(0.0, np.maximum(borders[:-1] - high, low - (borders[1:] - 1)))
        return gap.reshape([-1 if each == axis else 1 for each in self._axes])


def make_grid(stack: Stack, seen: str, tiles: TilePlan) -> Grid:
    """Return the units of a stack."""
    axes = stack.axes.replace("C", "")
    return Grid(axes, tuple(stack.length(axis) for axis in axes), seen, tiles)
