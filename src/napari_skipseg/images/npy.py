"""Write a stack slice by slice to a .npy file, and find the .npy file of a memory-mapped array."""

from __future__ import annotations

import math
import mmap
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.images.stack import ArrayLike, Stack
from napari_skipseg.progress import Progress

LARGEST_PART = 2**28
"""Most bytes that are copied at once, unless a single slice is larger."""


def iter_write_npy(stack: Stack, file: Path) -> Generator[Progress, None, None]:
    """Write the stack to `file` (.npy), slice by slice, so that it is never whole in memory. Yield after each part.

    Raises:
        FileError: no space is left.
        InputError: the image cannot be read.
    """
    dtype = np.dtype(stack.data.dtype)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": stack.shape}
    written, total = 0, math.prod(stack.shape) * dtype.itemsize
    try:
        with file.open("wb") as opened:
            np.lib.format.write_array_header_1_0(opened, header)
            for part in _parts(stack):
                values = _read(stack, part, dtype)
                _append(opened, values)
                written += values.nbytes
                yield Progress(0, 1, f"copying the image, {100 * written // total} %")
    except OSError as error:
        raise FileError(
            f"'{stack.name}' cannot be copied to {file.parent} ({error.strerror}): free {total / 2**20:.0f} MiB there, "
            "or set TMPDIR to a folder on a different disk."
        ) from error


def _append(opened: BinaryIO, values: NDArray[Any]) -> None:
    opened.write(values.data)


def _parts(stack: Stack) -> Iterator[tuple[int | slice, ...]]:
    """Yield parts in C order: slices, or strips of a slice if it exceeds `LARGEST_PART`."""
    shape, itemsize = stack.shape, np.dtype(stack.data.dtype).itemsize
    rows = stack.space.axes.index("Y")
    axis = max(rows - 1, 0)
    while axis < len(shape) - 1 and math.prod(shape[axis + 1 :]) * itemsize > LARGEST_PART:
        axis += 1
    step = 1 if axis < rows else max(1, LARGEST_PART // (math.prod(shape[axis + 1 :]) * itemsize))
    for lead in np.ndindex(shape[:axis]):
        for start in range(0, shape[axis], step):
            yield (*lead, slice(start, start + step), *(slice(None),) * (len(shape) - axis - 1))


def _read(stack: Stack, part: tuple[int | slice, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        return np.ascontiguousarray(stack.read(part), dtype)
    except SkipsegError:
        raise
    except Exception as error:
        raise InputError(
            f"'{stack.name}' cannot be read ({type(error).__name__}: {error}): open the image again."
        ) from error


def find_npy_file(values: ArrayLike) -> tuple[str, int | None]:
    """Return the .npy file that an array maps, and the part of its first axis if it maps only that; else ("", None)."""
    if not isinstance(values, np.memmap) or not values.flags.c_contiguous or not str(values.filename).endswith(".npy"):
        return "", None
    whole = values if isinstance(values.base, mmap.mmap) else values.base
    if not isinstance(whole, np.memmap) or not isinstance(whole.base, mmap.mmap) or whole.dtype != values.dtype:
        return "", None
    # mode "c": changes in memory are not in the file. A file that is gone can still be mapped.
    if whole.mode == "c" or not Path(str(values.filename)).is_file():
        return "", None
    if whole.shape == values.shape:
        return str(values.filename), None
    if whole.shape[1:] != values.shape or not whole.flags.c_contiguous:
        return "", None
    start = values.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    return str(values.filename), start // values.nbytes
