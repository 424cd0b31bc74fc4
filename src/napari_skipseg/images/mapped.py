"""Plain numbers in a file, memory-mapped and given in the machine's byte order."""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import FileError
from napari_skipseg.images.stack import LazyArray


class MappedArray(LazyArray):
    """Numbers of type `stored` from byte `offset` of a file on, as an array of `shape`, read where it is looked at.

    Its length is checked before each read: looking at a map of a file that was cut short meanwhile ends the process.

    Raises:
        OSError, ValueError: there is no such file, or it is shorter.
    """

    def __init__(self, path: Path, stored: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> None:
        with path.open("rb") as handle:
            self._map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        self._path, self._end = path, offset + math.prod(shape) * stored.itemsize
        flat = np.frombuffer(self._map, stored, math.prod(shape), offset)
        self._place(flat.reshape(shape))

    def _place(self, values: NDArray[Any]) -> MappedArray:
        self._values, self.shape, self.dtype = values, values.shape, values.dtype.newbyteorder("=")
        return self

    def _with(self, values: NDArray[Any]) -> MappedArray:
        other = MappedArray.__new__(MappedArray)
        other._map, other._path, other._end = self._map, self._path, self._end
        return other._place(values)

    def transpose(self, order: tuple[int, ...]) -> MappedArray:
        """Return the array with its axes in another order."""
        return self._with(self._values.transpose(order))

    def reshape(self, shape: tuple[int, ...]) -> MappedArray:
        """Return the array without some of its axes of length 1."""
        return self._with(self._values.reshape(shape))

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        if self._map.size() < self._end:
            raise FileError(f"'{self._path}' was cut short while it was read: copy it again, and open it again.")
        return np.array(self._values[index], self.dtype)[()]
