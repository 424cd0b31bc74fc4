"""Blocks of a large image: which voxels each stands for, and which it must read around them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from napari_skipseg.devices import cores, free_memory
from napari_skipseg.objects.basins import Window
from napari_skipseg.objects.landscape import reach_of
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.parts import Spacing, margin_of

CHUNK = (16, 256, 256)
"""The shape of a chunk of labels; blocks are whole chunks."""

SIDE = 256
"""The sides of a block that looks far around itself."""

LARGEST = 2**24
"""Voxels of a block that looks at most one voxel around: whole planes where they fit, to read each only once."""


MEMORY_FOR_ONE = 2**33
"""Bytes of free memory for each block that is computed beside two others; each takes up to half a GiB."""


class Block(NamedTuple):
    """A block of one time: its window, and the voxels to read, in which the block begins at `low`."""

    time: int
    window: Window
    read: tuple[slice, slice, slice]
    low: tuple[int, int, int]


def plan_blocks(
    shape: tuple[int, int, int, int],
    options: ObjectOptions,
    spacing: Spacing,
    size: tuple[int, int, int] | None = None,
) -> Iterator[Block]:
    """Yield the blocks of an image in C order. size: of a block, chosen where it is not given."""
    times, *lengths = shape
    reach = reach_of(options)
    wide = (0, 0, 0) if options.method == "components" else margin_of(spacing)
    halo = [math.ceil(reach / side) + more + 1 if side else 0 for side, more in zip(spacing, wide, strict=True)]
    steps = size or _size(tuple(lengths), far=options.method != "components")
    whole = (times * lengths[0], lengths[1], lengths[2])
    corners = (range(0, length, step) for length, step in zip(lengths, steps, strict=True))
    for time, *corner in product(range(times), *corners):
        ends = [min(start + step, length) for start, step, length in zip(corner, steps, lengths, strict=True)]
        low = [min(start, around) for start, around in zip(corner, halo, strict=True)]
        high = [min(length, end + around) for length, end, around in zip(lengths, ends, halo, strict=True)]
        z, y, x = (slice(start - before, end) for start, before, end in zip(corner, low, high, strict=True))
        sides = [end - start for start, end in zip(corner, ends, strict=True)]
        window = Window(
            (time * lengths[0] + corner[0], corner[1], corner[2]),
            (sides[0], sides[1], sides[2]),
            whole,
            lengths[0],
            options.planes == "volume",
        )
        yield Block(time, window, (z, y, x), (low[0], low[1], low[2]))


def blocks_at_once() -> int:
    """Return how many blocks may be computed at once: one a core, and more than two only where memory is plenty."""
    return min(len(cores()), max(2, free_memory("cpu") // MEMORY_FOR_ONE))


def _size(lengths: tuple[int, ...], far: bool) -> tuple[int, int, int]:
    if far:
        return SIDE, SIDE, SIDE
    depth = CHUNK[0]
    columns = min(lengths[2], LARGEST // (depth * CHUNK[1]))
    rows = min(lengths[1], LARGEST // (depth * columns))
    depth = max(1, min(lengths[0], LARGEST // (rows * columns)) // depth) * depth
    return depth, _whole_chunks(rows, lengths[1], CHUNK[1]), _whole_chunks(columns, lengths[2], CHUNK[2])


def _whole_chunks(length: int, whole: int, chunk: int) -> int:
    return length if length == whole else max(1, length // chunk) * chunk
