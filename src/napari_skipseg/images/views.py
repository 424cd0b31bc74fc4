"""Lazy views: arrays that are transposed, reversed, cut, or converted to different values or types on reading."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.stack import ArrayLike, LazyArray, Stack
from napari_skipseg.images.zarr.array import ZarrArray


class CutArray(LazyArray):
    """A lazy view of a part of an array: axis number -> position or slice of positions. No axis is dropped."""

    def __init__(self, data: ArrayLike, parts: Mapping[int, int | slice]) -> None:
        self._data = data
        self._places = {
            axis: range(int(data.shape[axis]))[part if isinstance(part, slice) else slice(part, part + 1)]
            for axis, part in parts.items()
        }
        self.shape = tuple(len(self._places.get(axis, range(int(n)))) for axis, n in enumerate(data.shape))
        self.dtype = data.dtype

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        return self._data[tuple(self._moved(axis, part) for axis, part in enumerate(index))]

    def _moved(self, axis: int, part: int | slice) -> int | slice:
        if axis not in self._places:
            return part
        if isinstance(part, int):
            return self._places[axis][part]
        places = self._places[axis][part]
        return slice(places.start, places.stop if places.stop >= 0 else None, places.step)


class TurnedArray(LazyArray):
    """An array with its axes in a different order, some of them running backwards.

    Its axis i is axis `order[i]` of `data`; the axes in `backwards`, numbered as in this array, are reversed.
    """

    def __init__(self, data: ArrayLike, order: tuple[int, ...], backwards: tuple[int, ...] = ()) -> None:
        self._data, self._order, self._backwards = data, order, frozenset(backwards)
        self.shape = tuple(int(data.shape[axis]) for axis in order)
        self.dtype = data.dtype
        chunks = getattr(data, "chunks", None)
        if chunks is not None:
            self.chunks = tuple(chunks[axis] for axis in order)  # the viewer reads chunk by chunk

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        behind: list[int | slice] = [0] * len(index)
        for axis, (part, length) in enumerate(zip(index, self.shape, strict=True)):
            behind[self._order[axis]] = _mirrored(part, length) if axis in self._backwards else part
        values = self._data[tuple(behind)]
        kept = [self._order[axis] for axis, part in enumerate(index) if isinstance(part, slice)]
        return np.asarray(values).transpose(np.argsort(np.argsort(kept))) if kept else values


class InvertedArray(LazyArray):
    """Inverted grey values: a stored 0 is `top`."""

    def __init__(self, data: ArrayLike, top: int | bool) -> None:
        self._data, self.shape = data, tuple(int(length) for length in data.shape)
        self.dtype = np.dtype(data.dtype)
        self._top = self.dtype.type(top)

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        values = np.asarray(self._data[index])
        return np.logical_not(values)[()] if self.dtype.kind == "b" else (self._top - values)[()]


class LookupArray(LazyArray):
    """The greys of a table for the numbers of an array; numbers beyond its end get the last grey."""

    def __init__(self, data: ArrayLike, table: NDArray[Any]) -> None:
        self._data, self.shape = data, tuple(int(length) for length in data.shape)
        self.dtype, self._table = table.dtype, table

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        return self._table[np.minimum(self._data[index], len(self._table) - 1)]


class ClippedArray(LazyArray):
    """Grey values, limited to `low` and `high`; None = no limit."""

    def __init__(self, data: ArrayLike, low: float | None, high: float | None) -> None:
        self._data, self._low, self._high = data, low, high
        self.shape, self.dtype = tuple(int(length) for length in data.shape), np.dtype(data.dtype)
        chunks = getattr(data, "chunks", None)
        if chunks is not None:
            self.chunks = chunks

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        return np.clip(np.asarray(self._data[index]), self._low, self._high).astype(self.dtype)[()]


def _mirrored(part: int | slice, length: int) -> int | slice:
    """Return `part` of an axis that is counted from its other end."""
    if isinstance(part, int):
        return length - 1 - part
    places = range(length - 1, -1, -1)[part]
    if not places:
        return slice(0, 0)
    return slice(places.start, places.stop if places.stop >= 0 else None, places.step)


class MappedArray(LazyArray):
    """Numbers of type `stored` from byte `offset` of a file as an array of `shape`, read on demand.

    The file's length is checked before each read: reading a map of a file that was cut short would end the process.

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
        """Return the array with its axes in a different order."""
        return self._with(self._values.transpose(order))

    def reshape(self, shape: tuple[int, ...]) -> MappedArray:
        """Return the array without some of its axes of length 1."""
        return self._with(self._values.reshape(shape))

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        if self._map.size() < self._end:
            raise FileError(f"'{self._path}' was cut short while it was read: copy it again, and open it again.")
        return np.array(self._values[index], self.dtype)[()]


class RecodedArray(LazyArray):
    """Labels with different values: each label in a table is replaced by its value there."""

    def __init__(self, labels: ZarrArray, values: Mapping[int, int]) -> None:
        self._labels = labels
        self._table = np.arange(256, dtype=np.uint8)
        self._table[list(values)] = list(values.values())
        self.shape, self.dtype = tuple(labels.shape), np.dtype(np.uint8)

    def written(self) -> Iterator[tuple[slice, ...]]:
        """Yield the parts that may have labels; they are 0 elsewhere."""
        yield from self._labels.written()

    def _read(self, index: tuple[int | slice, ...]) -> NDArray[np.uint8]:
        recoded: NDArray[np.uint8] = self._table[np.asarray(self._labels[index])]
        return recoded


class NarrowedArray(LazyArray):
    """Whole numbers of 64 bits as 32 bits, which OME-TIFF supports."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.shape, self.dtype = stack.shape, np.dtype(np.int32)

    def _read(self, index: tuple[int | slice, ...]) -> NDArray[np.int32]:
        values, limits = self._stack.read(index), np.iinfo(np.int32)
        if values.size and (values.min() < limits.min or values.max() > limits.max):
            raise InputError(
                f"'{self._stack.name}' contains labels above {limits.max}: give its classes smaller numbers."
            )
        return values.astype(np.int32)
