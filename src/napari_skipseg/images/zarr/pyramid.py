"""The levels of a pyramid: their sizes, and how each is made from the next finer one, in little memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.box import iter_boxes
from napari_skipseg.images.space import Space

LARGEST_PLANE_SIDE = 512
"""Levels are added until Y and X are no longer than this ..."""

LARGEST_VOLUME = 2**26
"""... and one time and channel has no more voxels than this: napari shows the last level in 3D."""

PyramidRegion = tuple[slice, ...]


@dataclass(frozen=True)
class PyramidLevel:
    """One level: its lengths, and the size of its voxels in voxels of the finest level."""

    shape: tuple[int, ...]
    factor: tuple[int, ...]


def plan_levels(shape: tuple[int, ...], space: Space) -> tuple[PyramidLevel, ...]:
    """Return the levels for an image, the finest first.

    From one level to the next, an axis of space is halved (rounded up) if its voxels are less than twice as long as the
    shortest: Z of serial sections stays until Y and X are as coarse.
    """
    levels = [PyramidLevel(shape, (1,) * len(shape))]
    axes = space.axes
    while _is_large(levels[-1].shape, axes):
        last = levels[-1]
        sides = {
            axis: space.size_along(axis) * factor
            for axis, factor, length in zip(axes, last.factor, last.shape, strict=True)
            if axis in "ZYX" and length > 1
        }
        shortest = min(sides.values())
        steps = [2 if axis in sides and sides[axis] < 2 * shortest else 1 for axis in axes]
        levels.append(
            PyramidLevel(
                tuple(-(-length // step) for length, step in zip(last.shape, steps, strict=True)),
                tuple(factor * step for factor, step in zip(last.factor, steps, strict=True)),
            )
        )
    return tuple(levels)


def _is_large(shape: tuple[int, ...], axes: str) -> bool:
    length = dict(zip(axes, shape, strict=True))
    voxels = math.prod(length.get(axis, 1) for axis in "ZYX")
    return max(length["Y"], length["X"]) > LARGEST_PLANE_SIDE or voxels > LARGEST_VOLUME


def average(values: NDArray[Any], steps: tuple[int, ...]) -> NDArray[Any]:
    """Return the means of blocks of `steps` (1 or 2) voxels, rounded half up for whole numbers; the rest is a block."""
    kind = values.dtype
    if kind.kind == "f":
        total = _sum_of_blocks(values, steps, np.result_type(kind, np.float32))
        return (total / math.prod(steps)).astype(kind)
    wide = np.dtype(np.uint16 if kind.itemsize == 1 and kind.kind in "ub" else np.int64)
    total = _sum_of_blocks(values, steps, wide)
    count = math.prod(steps)
    return ((total + count // 2) // count).astype(kind)


def _sum_of_blocks(values: NDArray[Any], steps: tuple[int, ...], wide: np.dtype[Any]) -> NDArray[Any]:
    for axis, step in enumerate(steps):
        if step == 2:
            values = np.add(*_pairs(values, axis), dtype=wide)
    return values


def _pairs(values: NDArray[Any], axis: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the first and the second of each two voxels along `axis`; a single last one is used twice."""
    even: list[slice] = [slice(None)] * values.ndim
    odd = even.copy()
    even[axis], odd[axis] = slice(0, None, 2), slice(1, None, 2)
    first, second = values[tuple(even)], values[tuple(odd)]
    if first.shape[axis] > second.shape[axis]:
        end = even.copy()
        end[axis] = slice(-1, None)
        second = np.concatenate([second, first[tuple(end)]], axis=axis)
    return first, second


def most_common(values: NDArray[Any], steps: tuple[int, ...]) -> NDArray[Any]:
    """Return the most common value of blocks of `steps` (1 or 2) voxels, the highest one of several.

    So a label that fills half of a block wins over the background.
    """
    if values.dtype == np.uint8 and values.size and values.max() <= 1:
        # of 0 and 1 the half decides, which takes a fortieth of the time
        ones = _sum_of_blocks(values, steps, np.dtype(np.uint8))
        return (2 * ones >= math.prod(steps)).view(np.uint8)
    parts = [values]
    for axis, step in enumerate(steps):
        if step == 2:
            parts = [half for part in parts for half in _pairs(part, axis)]
    ordered = _sorted(parts)
    best: NDArray[Any] = ordered[0].copy()
    longest = np.ones(best.shape, np.uint8)
    run = longest.copy()
    for previous, value in pairwise(ordered):
        run = np.where(value == previous, run + 1, 1).astype(np.uint8)
        better = run >= longest
        best[better] = value[better]
        longest = np.maximum(longest, run)
    return best


def _sorted(parts: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return arrays with the values of `parts`, sorted voxel by voxel; there are 1, 2, 4 or 8.

    A sorting network (Batcher 1968) of whole arrays is ten times as fast as sorting along a short axis.
    """
    ordered, count = list(parts), len(parts)
    for merged in (size for size in (1, 2, 4) if size < count):
        step = merged
        while step:
            for first in range(step % merged, count - step, 2 * step):
                for low in range(first, min(first + step, count - step)):
                    high = low + step
                    if low // (2 * merged) == high // (2 * merged):
                        pair = ordered[low], ordered[high]
                        ordered[low], ordered[high] = np.minimum(*pair), np.maximum(*pair)
            step //= 2
    return ordered


def regions(shape: tuple[int, ...], chunks: tuple[int, ...], largest: int) -> Iterator[PyramidRegion]:
    """Yield the parts of an array in C order: as many whole chunks as fit into `largest` voxels, at least one."""
    size = list(chunks)
    for axis in reversed(range(len(shape))):
        room = max(1, largest // math.prod(size))
        whole = -(-shape[axis] // chunks[axis])
        size[axis] = chunks[axis] * min(whole, room)
        if room < whole:
            break
    yield from iter_boxes(shape, size)


def region_below(region: PyramidRegion, steps: tuple[int, ...], finer: tuple[int, ...]) -> PyramidRegion:
    """Return the part of the finer level, of shape `finer`, from which `region` of the next one is made."""
    return tuple(
        slice(part.start * step, min(part.stop * step, length))
        for part, step, length in zip(region, steps, finer, strict=True)
    )
