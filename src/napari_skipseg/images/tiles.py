"""Tile geometry: the voxels that a tile reads, and those that it keeps. Plain numbers without arrays.

Tiles of one fixed size start on multiples of the network's stride and overlap by twice the margin. Every voxel is kept
by exactly one tile, and a tile keeps whole chunks. The first tile starts at the image's border and the last one ends
less than a stride beyond it, so that the borders are the same as for the whole image.

If the network needs a different voxel size than that of the image, a tile reads voxels of the network's grid and keeps
voxels of the image's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil, prod
from typing import overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tile:
    """One tile: it reads voxels [start, start + size) of the network's grid and keeps `keep` of the image's grid.

    `start + size` may be beyond the image; missing voxels are filled by reflection.
    """

    start: tuple[int, ...]
    size: tuple[int, ...]
    keep: tuple[slice, ...]

    @property
    def keep_in_read(self) -> tuple[slice, ...]:
        """Return `keep` counted from the tile's first voxel, if image and network have the same grid."""
        return tuple(slice(k.start - s, k.stop - s) for k, s in zip(self.keep, self.start, strict=True))

    def keep_of_level(self, stride: int) -> tuple[slice, ...]:
        """Return `keep` in the pixels of a map with one pixel per `stride` voxels; each is kept by one tile."""
        return tuple(slice(-(-k.start // stride), -(-k.stop // stride)) for k in self.keep)

    def keep_in_read_of_level(self, stride: int) -> tuple[slice, ...]:
        """Return `keep_of_level` counted from the tile's first map pixel, if image and network have the same grid."""
        firsts = (start // stride for start in self.start)
        return tuple(
            slice(k.start - first, k.stop - first) for k, first in zip(self.keep_of_level(stride), firsts, strict=True)
        )


@dataclass(frozen=True)
class AxisPlan:
    """The tiles along one axis: their starts, and the borders between their kept parts.

    length: of the image. seen: length of the network's grid, which covers the same distance. chunk: all borders but the
    last are multiples of it.
    """

    length: int
    seen: int
    size: int
    chunk: int
    starts: tuple[int, ...]
    borders: tuple[int, ...]


@dataclass(frozen=True)
class TilePlan(Sequence[Tile]):
    """All tiles in C order; they are made on demand, so that millions of them take no memory."""

    axes: tuple[AxisPlan, ...]

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of tiles along each axis."""
        return tuple(len(axis.starts) for axis in self.axes)

    @property
    def size(self) -> tuple[int, ...]:
        """The size that all tiles have, in voxels of the network's grid."""
        return tuple(axis.size for axis in self.axes)

    @property
    def chunk(self) -> tuple[int, ...]:
        """Lengths of the chunks; every tile keeps whole chunks."""
        return tuple(min(axis.chunk, axis.length) for axis in self.axes)

    @property
    def is_rescaled(self) -> bool:
        """Whether the network's grid is different from the image's."""
        return any(axis.seen != axis.length for axis in self.axes)

    def __len__(self) -> int:
        return prod(self.counts)

    @overload
    def __getitem__(self, number: int) -> Tile: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[Tile]: ...

    def __getitem__(self, number: int | slice) -> Tile | Sequence[Tile]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"there is no tile {number} of {len(self)}")
        places = [int(place) for place in np.unravel_index(number % len(self), self.counts)]
        return Tile(
            tuple(axis.starts[place] for axis, place in zip(self.axes, places, strict=True)),
            self.size,
            tuple(
                slice(axis.borders[place], axis.borders[place + 1])
                for axis, place in zip(self.axes, places, strict=True)
            ),
        )


def plan_tiles(
    shape: tuple[int, ...],
    largest: tuple[int, ...],
    margin: int,
    stride: int,
    chunk: int = 1,
    seen: tuple[int, ...] | None = None,
    shrink: bool = True,
) -> TilePlan:
    """Return the tiles that cover `shape`, none larger than `largest`, unless margins and stride need more.

    chunk: a tile keeps whole chunks of this length, or shorter ones if `largest` leaves less room. seen: lengths of the
    network's grid if it differs from the image's; margin, stride and largest are in its voxels. shrink: make tiles as
    short as their number allows; else all images that need several tiles have tiles of one size.

    Raises:
        ValueError: lengths that do not match in number, or are not positive.
    """
    seen = seen or shape
    if not len(shape) == len(largest) == len(seen) or min(*shape, *largest, *seen, stride, chunk) < 1 or margin < 0:
        raise ValueError(f"cannot plan tiles of {largest} over {shape} with margin {margin} and stride {stride}")
    margin = round_up(margin, stride)
    return TilePlan(
        tuple(
            _plan_axis(_Axis(length, network, margin, stride), most, chunk, shrink)
            for length, network, most in zip(shape, seen, largest, strict=True)
        )
    )


@dataclass(frozen=True)
class _Axis:
    """The needs of one axis: what its tiles must cover."""

    length: int
    seen: int
    margin: int
    stride: int

    @cached_property
    def whole(self) -> int:
        return round_up(self.seen, self.stride)

    @cached_property
    def is_rescaled(self) -> bool:
        return self.seen != self.length

    @cached_property
    def reach(self) -> int:
        """How far a tile reads beyond its kept part: the margin, and the reach of interpolation back to the image.

        Interpolation needs a voxel of the coarser grid around each centre, also in maps of one pixel per stride.
        """
        if not self.is_rescaled:
            return self.margin
        pixels = 1 + abs(self.seen / self.length - 1) / 2
        return max(self.margin + ceil(pixels), ceil(self.stride * pixels))

    def room(self, size: int) -> int:
        """Return the least number of image voxels that a tile of `size` keeps between two others."""
        if not self.is_rescaled:
            return size - 2 * self.reach
        return (size - 2 * self.reach - self.stride) * self.length // self.seen

    def first(self, border: int) -> int:
        """Return the last start of a tile that keeps voxels from `border` on."""
        place = border * self.seen // self.length - self.reach
        return max(0, place // self.stride * self.stride) if border else 0

    def borders(self, size: int, chunk: int) -> tuple[int, ...] | None:
        """Return the borders between tiles of `size` that each keep as much as possible, None if they keep nothing."""
        borders = [0]
        while self.whole - self.first(borders[-1]) > size:
            end = self.first(borders[-1]) + size - self.reach
            border = max(0, end) * self.length // self.seen // chunk * chunk
            if border <= borders[-1]:
                return None
            borders.append(border)
        return (*borders, self.length)


def _plan_axis(axis: _Axis, largest: int, chunk: int, shrink: bool) -> AxisPlan:
    """Return the fewest tiles no longer than `largest`, and of those the shortest."""
    most = largest // axis.stride * axis.stride
    if axis.whole <= most:
        return AxisPlan(axis.length, axis.seen, axis.whole, chunk, (0,), (0, axis.length))
    while axis.room(most) < axis.stride:
        most += axis.stride
    chunk = min(round_up(chunk, axis.stride), axis.room(most) // axis.stride * axis.stride)
    borders = axis.borders(most, chunk) or (0, axis.length)
    low, high = 0, most // axis.stride
    while shrink and high - low > 1:
        middle = (low + high) // 2
        tried = axis.borders(middle * axis.stride, chunk)
        if tried is not None and len(tried) == len(borders):
            high = middle
        else:
            low = middle
    size = high * axis.stride
    borders = axis.borders(size, chunk) or borders
    starts = tuple(min(axis.first(border), axis.whole - size) for border, _ in pairwise(borders))
    return AxisPlan(axis.length, axis.seen, size, chunk, starts, borders)


def round_up(length: int, stride: int) -> int:
    """Return the next multiple of `stride` from `length` on."""
    return -(-length // stride) * stride


def reflected(length: int, start: int, size: int) -> NDArray[np.intp]:
    """Return positions start … start + size - 1, mirrored at both ends into [0, length)."""
    places = np.arange(start, start + size)
    if length == 1:
        return np.zeros_like(places)
    period = 2 * (length - 1)
    folded = np.abs(places) % period
    return np.where(folded < length, folded, period - folded)
