"""Which image this is, by its voxels: the same for the same content, whatever file or layer it comes from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np

from napari_skipseg.images.stack import Stack

WHOLE = 2**20
"""Voxels up to which an image is hashed whole."""

BLOCKS = 16
"""Blocks of a larger image that are hashed, each in a slice of its own where there are enough."""

SIDE = 128
"""Side of a block along Y and X, in pixels; along C it has all, along other axes one."""


def identify(stack: Stack) -> str:
    """Return a SHA-256, in hexadecimal, of shape, type and voxels, of a large image of a sample of blocks.

    Name, file, voxel size and byte order do not count, nor what the axes are called, save which one is C. Of a
    terabyte it reads 16 blocks of 128 by 128; what changes elsewhere is not noticed.

    Raises:
        FileError, InputError: the voxels cannot be read or are no numbers.
    """
    told = hashlib.sha256()
    channel = stack.axes.find("C")
    told.update(f"{stack.shape} {np.dtype(stack.data.dtype).name} {channel}\n".encode())
    for index in _blocks(stack, channel):
        values = stack.read(index)
        told.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
    return told.hexdigest()


def _blocks(stack: Stack, channel: int) -> Iterator[tuple[int | slice, ...]]:
    if math.prod(stack.shape) <= WHOLE:
        yield (slice(None),) * len(stack.shape)
        return
    planes = [axis for axis, name in enumerate(stack.axes) if name not in "CYX"]
    slices = math.prod(stack.shape[axis] for axis in planes)
    for number in range(BLOCKS):
        low, high = number * slices // BLOCKS, max(number * slices // BLOCKS + 1, (number + 1) * slices // BLOCKS)
        chosen = low + _draw(f"slice {number} of {stack.shape}", high - low)
        places = np.unravel_index(chosen, [stack.shape[axis] for axis in planes]) if planes else ()
        index: list[int | slice] = [slice(0, length) for length in stack.shape]
        for axis, place in zip(planes, places, strict=True):
            index[axis] = int(place)
        for axis, length in enumerate(stack.shape):
            if axis != channel and axis not in planes:
                start = _draw(f"axis {axis} of block {number} of {stack.shape}", max(1, length - SIDE + 1))
                index[axis] = slice(start, min(start + SIDE, length))
        yield tuple(index)


def _draw(what: str, count: int) -> int:
    """Return a number from 0 to `count` - 1, always the same for `what`: numpy's generators may change."""
    return int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "little") % count
