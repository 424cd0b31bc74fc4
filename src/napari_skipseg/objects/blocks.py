"""Blocks of a large image: their voxels, those to read around them, and their labels seen as objects."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.devices import cores, free_memory
from napari_skipseg.images.stack import LazyArray
from napari_skipseg.objects.block_regions import VoxelSpacing, margin_of
from napari_skipseg.objects.elevation import smoothing_radius
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.watershed import WatershedWindow

CHUNK = (16, 256, 256)
"""The shape of a chunk of labels; blocks are whole chunks."""

BLOCK_SIDE = 256
"""The sides of a block that depends on voxels far around it."""

LARGEST_BLOCK = 2**24
"""Voxels of a block that depends on at most one voxel around it: whole planes if they fit, so each is read once."""

SLAB = 2**26
"""Most voxels of a slab that is kept while planes of it are written."""

MEMORY_FOR_ONE = 2**33
"""Bytes of free memory for each block that is computed beside two others; each takes up to half a GiB."""


class ObjectBlock(NamedTuple):
    """A block of one time: its number, its window, and the voxels to read, in which the block begins at `low`."""

    number: int
    time: int
    window: WatershedWindow
    read: tuple[slice, slice, slice]
    low: tuple[int, int, int]

    @property
    def place(self) -> tuple[int | slice, ...]:
        """Where it lies in an array (T, Z, Y, X)."""
        z, y, x = (slice(a, a + length) for a, length in zip(self.window.start, self.window.shape, strict=True))
        before = self.time * self.window.depth
        return self.time, slice(z.start - before, z.stop - before), y, x


@dataclass(frozen=True)
class BlockGrid:
    """Blocks side by side, numbered in C order. shape: of the image, (T, Z, Y, X). steps: the sides of a block, of
    which the last one along an axis may be smaller."""

    shape: tuple[int, int, int, int]
    steps: tuple[int, int, int]

    @property
    def chunk(self) -> tuple[int, int, int]:
        """The chunk of an array of labels, so that each chunk lies in one block."""
        sides = zip(CHUNK, self.steps, self.shape[1:], strict=True)
        z, y, x = (min(c if step % c == 0 or step >= length else step, length) for c, step, length in sides)
        return z, y, x

    def overlapping(self, time: int, box: Sequence[slice]) -> Iterator[tuple[int, tuple[slice, ...]]]:
        """Yield the number of each block that overlaps a box (z, y, x), with the place of the overlap in the box."""
        sides = list(zip(box, self.steps, strict=True))
        counts = [-(-length // step) for length, step in zip(self.shape[1:], self.steps, strict=True)]
        for places in product(*(range(part.start // step, -(-part.stop // step)) for part, step in sides)):
            number, shared = time, []
            for place, count, (part, step) in zip(places, counts, sides, strict=True):
                number = number * count + place
                begin = place * step - part.start
                shared.append(slice(max(begin, 0), min(begin + step, part.stop - part.start)))
            yield number, tuple(shared)


def block_grid_of(
    shape: tuple[int, int, int, int], options: ObjectOptions, size: tuple[int, int, int] | None = None
) -> BlockGrid:
    """Return the blocks of an image. size: of a block, None = chosen by what it depends on."""
    if size is None:
        size = (BLOCK_SIDE, BLOCK_SIDE, BLOCK_SIDE) if options.method != "components" else _flat_block(shape[1:])
    return BlockGrid(shape, size)


def plan_blocks(grid: BlockGrid, options: ObjectOptions, spacing: VoxelSpacing) -> Iterator[ObjectBlock]:
    """Yield the blocks in C order."""
    times, *lengths = grid.shape
    reach = smoothing_radius(options)
    wide = (0, 0, 0) if options.method == "components" else margin_of(spacing)
    halo = [math.ceil(reach / side) + more + 1 if side else 0 for side, more in zip(spacing, wide, strict=True)]
    whole = (times * lengths[0], lengths[1], lengths[2])
    corners = (range(0, length, step) for length, step in zip(lengths, grid.steps, strict=True))
    for number, (time, *corner) in enumerate(product(range(times), *corners)):
        ends = [min(start + step, length) for start, step, length in zip(corner, grid.steps, lengths, strict=True)]
        low = [min(start, around) for start, around in zip(corner, halo, strict=True)]
        high = [min(length, end + around) for length, end, around in zip(lengths, ends, halo, strict=True)]
        z, y, x = (slice(start - before, end) for start, before, end in zip(corner, low, high, strict=True))
        sides = [end - start for start, end in zip(corner, ends, strict=True)]
        window = WatershedWindow(
            (time * lengths[0] + corner[0], corner[1], corner[2]),
            (sides[0], sides[1], sides[2]),
            whole,
            lengths[0],
            options.planes == "volume",
        )
        yield ObjectBlock(number, time, window, (z, y, x), (low[0], low[1], low[2]))


def blocks_at_once() -> int:
    """Return how many blocks may be computed at once: one a core, more than two only if there is memory for them."""
    return min(len(cores()), max(2, free_memory("cpu") // MEMORY_FOR_ONE))


def _flat_block(lengths: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the largest block of whole chunks, and of whole planes if they fit."""
    depth = CHUNK[0]
    columns = min(lengths[2], LARGEST_BLOCK // (depth * CHUNK[1]))
    rows = min(lengths[1], LARGEST_BLOCK // (depth * columns))
    depth = max(1, min(lengths[0], LARGEST_BLOCK // (rows * columns)) // depth) * depth
    return depth, _whole_chunks(rows, lengths[1], CHUNK[1]), _whole_chunks(columns, lengths[2], CHUNK[2])


def _whole_chunks(length: int, whole: int, chunk: int) -> int:
    return length if length == whole else max(1, length // chunk) * chunk


class RelabelledArray(LazyArray):
    """The number of the object at each voxel, a lazy view of shape (T, Z, Y, X) on the labels of blocks.

    labels: an array of that shape, in each block from 1 on. numbers: the object of each label, block after block.
    firsts: where the numbers of each block begin, and at the end how many there are.
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
        box, steps = [], []
        for part, length in zip((z, y, x), self.shape[1:], strict=True):
            start, stop, step = (part, part + 1, 1) if isinstance(part, int) else part.indices(length)
            box.append(slice(start, max(start, stop)))
            steps.append(0 if isinstance(part, int) else slice(None, None, step))
        return self._box(time, box)[tuple(steps)]

    def _plane(self, time: int, z: int) -> NDArray[np.uint32]:
        # A row of chunks is kept, so that a writer of plane after plane reads each chunk once.
        deep = self._labels.chunks[1] if self._labels.chunks[1] * self.shape[2] * self.shape[3] <= SLAB else 1
        start = z // deep * deep
        if self._kept is None or self._kept[0] != (time, start):
            self._kept = None  # so that there is never a second slab
            slab = slice(start, min(start + deep, self.shape[1]))
            self._kept = (time, start), self._box(time, [slab, *(slice(0, length) for length in self.shape[2:])])
        plane: NDArray[np.uint32] = self._kept[1][z - start]
        return plane

    def _box(self, time: int, box: Sequence[slice]) -> NDArray[np.uint32]:
        labels: NDArray[np.uint32] = self._labels[(time, *box)]
        for block, place in self._grid.overlapping(time, box):
            numbers = self._numbers[self._firsts[block] : self._firsts[block + 1]]
            labels[place] = np.concatenate([np.zeros(1, np.uint32), numbers]).take(labels[place])
        return labels


class WithoutAxes(LazyArray):
    """An array (T, Z, Y, X) without the axes of length 1 that its image does not have."""

    def __init__(self, data: LazyArray, axes: str) -> None:
        self._data, self._axes = data, axes
        self.shape = tuple(length for axis, length in zip("TZYX", data.shape, strict=True) if axis in axes)
        self.dtype = data.dtype

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        places = dict(zip(self._axes, index, strict=True))
        return self._data[tuple(places.get(axis, 0) for axis in "TZYX")]
