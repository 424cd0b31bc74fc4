"""A stack cut into units of work: each reads one tile, and writes a part of the results that no other one writes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.stack import Stack
from napari_skipseg.images.tiles import Tile, TilePlan
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


@dataclass(frozen=True)
class Focus:
    """What is looked at: along each axis of a result (T, Z, Y, X) the voxels in view, or the one that is shown.

    An axis that is not named counts as in view all along.
    """

    view: dict[str, tuple[float, float]] = field(default_factory=dict)


class Order:
    """Which unit comes next: those left are taken in their order, the nearest to the focus first once there is one."""

    def __init__(self, grid: Grid, done: Iterable[int] = ()) -> None:
        self._grid = grid
        left = np.ones(len(grid), bool)
        left[list(done)] = False
        self._queue: NDArray[np.intp] = np.flatnonzero(left)
        self._next = 0

    def __len__(self) -> int:
        return len(self._queue) - self._next

    def take(self) -> int:
        """Return the number of the next unit, which is then no longer left."""
        number = int(self._queue[self._next])
        self._next += 1
        return number

    def look(self, focus: Focus) -> None:
        """Put the units that are left in order: first by time and slice, then by distance from the view's centre."""
        left = np.sort(self._queue[self._next :])
        keys = [np.zeros(len(left))]
        for axis in reversed(self._grid.axes):
            low, high = focus.view.get(axis, (-np.inf, np.inf))
            start, stop = self._intervals(axis)
            gap = np.maximum(0.0, np.maximum(start - high, low - (stop - 1)))
            if high > low and np.isfinite(high - low):
                keys[0] += np.square((start + stop - 1) / 2 - (low + high) / 2)[self._along(axis, left)]
            keys.append(gap[self._along(axis, left)])
        self._queue = left[np.lexsort(keys)]
        self._next = 0

    def _intervals(self, axis: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return where what is kept starts and stops along an axis: of each tile, or of each position."""
        if axis in self._grid.seen:
            borders = np.asarray(self._grid.tiles.axes[self._grid.seen.index(axis)].borders, float)
            return borders[:-1], borders[1:]
        places = np.arange(self._grid.shape[self._grid.axes.index(axis)], dtype=float)
        return places, places + 1

    def _along(self, axis: str, numbers: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return which tile or position along an axis each of the units is."""
        parts, tiles = np.divmod(numbers, len(self._grid.tiles))
        if axis in self._grid.seen:
            return np.unravel_index(tiles, self._grid.tiles.counts)[self._grid.seen.index(axis)]
        return np.unravel_index(parts, self._grid.loops)[self._grid.looped.index(axis)]


def make_grid(stack: Stack, seen: str, tiles: TilePlan) -> Grid:
    """Return the units of a stack."""
    axes = stack.axes.replace("C", "")
    return Grid(axes, tuple(stack.length(axis) for axis in axes), seen, tiles)
