"""Blocks of a large image: which voxels each stands for, and which it must read around them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from napari_skipseg.devices import cores, free_memory
from napari_skipseg.objects.block_regions import VoxelSpacing, margin_of
from napari_skipseg.objects.elevation import smoothing_radius
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.watershed import WatershedWindow

CHUNK = (16, 256, 256)
"""The shape of a chunk of labels; blocks are whole chunks."""

BLOCK_SIDE = 256
"""The sides of a block that looks far around itself."""

LARGEST_BLOCK = 2**24
"""Voxels of a block that looks at most one voxel around: whole planes where they fit, to read each only once."""

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
    """Blocks side by side, counted in C order. shape: of the image, (T, Z, Y, X). steps: the sides of a block, of which
    the last one along an axis may have less."""

    shape: tuple[int, int, int, int]
    steps: tuple[int, int, int]

    @property
    def chunk(self) -> tuple[int, int, int]:
        """The chunk of an array of labels, so that each chunk lies in one block."""
        sides = zip(CHUNK, self.steps, self.shape[1:], strict=True)
        z, y, x = (min(c if step % c == 0 or step >= length else step, length) for c, step, length in sides)
        return z, y, x

    def overlapping(self, time: int, region: Sequence[slice]) -> Iterator[tuple[int, tuple[slice, ...]]]:
        """Yield the blocks that a region (z, y, x) lies in, with the place of what they share in that region."""
        sides = list(zip(region, self.steps, strict=True))
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
    """Return the blocks of an image. size: of a block, chosen where it is not given."""
    return BlockGrid(shape, size or _size(shape[1:], far=options.method != "components"))


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
    """Return how many blocks may be computed at once: one a core, and more than two only where memory is plenty."""
    return min(len(cores()), max(2, free_memory("cpu") // MEMORY_FOR_ONE))


def _size(lengths: tuple[int, ...], far: bool) -> tuple[int, int, int]:
    if far:
        return BLOCK_SIDE, BLOCK_SIDE, BLOCK_SIDE
    depth = CHUNK[0]
    columns = min(lengths[2], LARGEST_BLOCK // (depth * CHUNK[1]))
    rows = min(lengths[1], LARGEST_BLOCK // (depth * columns))
    depth = max(1, min(lengths[0], LARGEST_BLOCK // (rows * columns)) // depth) * depth
    return depth, _whole_chunks(rows, lengths[1], CHUNK[1]), _whole_chunks(columns, lengths[2], CHUNK[2])


def _whole_chunks(length: int, whole: int, chunk: int) -> int:
    return length if length == whole else max(1, length // chunk) * chunk
