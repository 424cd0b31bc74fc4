"""Tile geometry: which voxels a tile reads, and which of them it keeps. Plain numbers; no array is touched.

Tiles of one fixed size start on multiples of the network's stride and overlap by twice the margin. Every voxel is kept
by exactly one tile. The first tile starts at the image's border and the last one ends less than a stride beyond it, so
that a tile sees the borders just as the whole image would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tile:
    """One tile: voxels [start, start + size) of each axis are read, `keep` are kept.

    `start + size` may lie beyond the image: what is missing is filled by reflection.
    """

    start: tuple[int, ...]
    size: tuple[int, ...]
    keep: tuple[slice, ...]

    @property
    def keep_in_read(self) -> tuple[slice, ...]:
        """Return `keep` counted from the tile's first voxel."""
        return tuple(slice(k.start - s, k.stop - s) for k, s in zip(self.keep, self.start, strict=True))

    def keep_of_level(self, stride: int) -> tuple[slice, ...]:
        """Return `keep` in the pixels of a map that has one per `stride` voxels: each kept by one tile."""
        return tuple(slice(-(-k.start // stride), -(-k.stop // stride)) for k in self.keep)

    def keep_in_read_of_level(self, stride: int) -> tuple[slice, ...]:
        """Return `keep_of_level` counted from the tile's first map pixel."""
        firsts = (start // stride for start in self.start)
        return tuple(
            slice(k.start - first, k.stop - first) for k, first in zip(self.keep_of_level(stride), firsts, strict=True)
        )


def plan_tiles(shape: tuple[int, ...], largest: tuple[int, ...], margin: int, stride: int) -> tuple[Tile, ...]:
    """Return the tiles that cover `shape`, none larger than `largest` (nor smaller than margins and stride need).

    Raises:
        ValueError: lengths that do not match in number, or are not positive.
    """
    if len(shape) != len(largest) or min(*shape, *largest, stride) < 1 or margin < 0:
        raise ValueError(f"cannot plan tiles of {largest} over {shape} with margin {margin} and stride {stride}")
    axes = [tuple(_plan_axis(length, most, margin, stride)) for length, most in zip(shape, largest, strict=True)]
    return tuple(
        Tile(
            tuple(start for start, _, _ in parts),
            tuple(size for _, size, _ in parts),
            tuple(keep for _, _, keep in parts),
        )
        for parts in product(*axes)
    )


def _plan_axis(length: int, largest: int, margin: int, stride: int) -> Iterator[tuple[int, int, slice]]:
    """Yield (start, size, keep) along one axis; sizes are equal and as small as their number allows."""
    whole = _up(length, stride)
    margin = _up(margin, stride)
    most = max(largest // stride * stride, 2 * margin + stride)
    if whole <= most:
        yield 0, whole, slice(0, length)
        return
    count = -(-(whole - 2 * margin) // (most - 2 * margin))
    step = _up(-(-(whole - 2 * margin) // count), stride)
    size = step + 2 * margin
    for number in range(count):
        last = number == count - 1
        start = whole - size if last else number * step
        first = 0 if number == 0 else number * step + margin
        yield start, size, slice(first, length if last else (number + 1) * step + margin)


def _up(length: int, stride: int) -> int:
    return -(-length // stride) * stride


def reflected(length: int, start: int, size: int) -> NDArray[np.intp]:
    """Return the positions in [0, length) that places start … start + size - 1 stand for, mirrored at both ends."""
    places = np.arange(start, start + size)
    if length == 1:
        return np.zeros_like(places)
    period = 2 * (length - 1)
    folded = np.abs(places) % period
    return np.where(folded < length, folded, period - folded)
