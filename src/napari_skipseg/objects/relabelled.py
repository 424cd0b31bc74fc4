"""Labels of blocks looked at as objects, wherever one looks, without an array of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.stack import LazyArray
from napari_skipseg.objects.blocks import BlockGrid

SLAB = 2**26
"""Most voxels of a slab that is kept while planes of it are written."""


class RelabelledArray(LazyArray):
    """The number of the object at each voxel, shape (T, Z, Y, X); planes that follow each other read each chunk once.

    labels: an array of that shape, in each block from 1 on. numbers: of the object of each label, those of a block
    behind those of the blocks before. firsts: where those of each block begin, and in the end how many there are.
    """

    def __init__(self, labels: Any, grid: BlockGrid, numbers: NDArray[np.uint32], firsts: Sequence[int]) -> None:
        self._labels, self._grid, self._numbers, self._firsts = labels, grid, numbers, firsts
        self.shape = grid.shape
        self.dtype = np.dtype(np.uint32)
        self._kept: tuple[tuple[int, int], NDArray[np.uint32]] | None = None

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        time, z, y, x = index
        if not isinstance(time, int):
            return np.stack([self._read((each, z, y, x)) for each in range(self.shape[0])[time]])
        if isinstance(z, int):
            return self._plane(time, z)[y, x]
        region, steps = [], []
        for part, length in zip((z, y, x), self.shape[1:], strict=True):
            start, stop, step = (part, part + 1, 1) if isinstance(part, int) else part.indices(length)
            region.append(slice(start, max(start, stop)))
            steps.append(0 if isinstance(part, int) else slice(None, None, step))
        return self._region(time, region)[tuple(steps)]

    def _plane(self, time: int, z: int) -> NDArray[np.uint32]:
        deep = self._labels.chunks[1] if self._labels.chunks[1] * self.shape[2] * self.shape[3] <= SLAB else 1
        start = z // deep * deep
        if self._kept is None or self._kept[0] != (time, start):
            self._kept = None  # so that there is never a second slab
            slab = slice(start, min(start + deep, self.shape[1]))
            self._kept = (time, start), self._region(time, [slab, *(slice(0, length) for length in self.shape[2:])])
        plane: NDArray[np.uint32] = self._kept[1][z - start]
        return plane

    def _region(self, time: int, region: Sequence[slice]) -> NDArray[np.uint32]:
        labels: NDArray[np.uint32] = self._labels[(time, *region)]
        for block, place in self._grid.overlapping(time, region):
            numbers = self._numbers[self._firsts[block] : self._firsts[block + 1]]
            labels[place] = np.concatenate([np.zeros(1, np.uint32), numbers]).take(labels[place])
        return labels


class WithoutAxes(LazyArray):
    """An array (T, Z, Y, X) without those axes that an image does not have."""

    def __init__(self, data: LazyArray, axes: str) -> None:
        self._data, self._axes = data, axes
        self.shape = tuple(length for axis, length in zip("TZYX", data.shape, strict=True) if axis in axes)
        self.dtype = data.dtype

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        places = dict(zip(self._axes, index, strict=True))
        return self._data[tuple(places.get(axis, 0) for axis in "TZYX")]
