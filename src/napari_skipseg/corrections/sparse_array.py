"""An array of bytes that stores only the chunks that are not all 0, for a stack of any size."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.stack import complete_index


class AxisRanges(NamedTuple):
    """A basic index: one range per axis with a step above 0.

    turned: which axes are read backwards. single: which axes are indexed by an integer.
    """

    axes: tuple[range, ...]
    turned: tuple[bool, ...]
    single: tuple[bool, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result: axes indexed by an integer are dropped."""
        return tuple(len(axis) for axis, single in zip(self.axes, self.single, strict=True) if not single)

    @property
    def turn(self) -> tuple[slice, ...]:
        """The index that reverses the axes that are read backwards."""
        return tuple(slice(None, None, -1 if turned else 1) for turned in self.turned)


def is_basic(key: Any) -> bool:
    """Return whether `key` has only integers, slices and an ellipsis."""
    parts = key if isinstance(key, tuple) else (key,)
    return not any(isinstance(part, list) or (isinstance(part, np.ndarray) and part.ndim > 0) for part in parts)


def ranges_of(key: Any, shape: tuple[int, ...]) -> AxisRanges:
    """Return the ranges of a basic index.

    Raises:
        IndexError: it does not fit the shape.
    """
    axes, turned, single = [], [], []
    for part, length in zip(complete_index(key, shape), shape, strict=True):
        places = range(part, part + 1) if isinstance(part, int) else range(length)[part]
        turned.append(places.step < 0)
        axes.append(places[::-1] if places.step < 0 else places)
        single.append(isinstance(part, int))
    return AxisRanges(tuple(axes), tuple(turned), tuple(single))


def points_of(key: Any, shape: tuple[int, ...]) -> tuple[NDArray[np.intp], ...]:
    """Return the coordinates along each axis of every point of an index with arrays, in the result's shape.

    As numpy: the axes of the arrays come where these stand if they stand side by side, else first.

    Raises:
        IndexError: it does not fit the shape.
    """
    parts = _one_per_axis(key, shape)
    chosen = [axis for axis, part in enumerate(parts) if not isinstance(part, slice)]
    numbers = np.broadcast_arrays(*(parts[axis] for axis in chosen))
    spans = {axis: range(shape[axis])[part] for axis, part in enumerate(parts) if isinstance(part, slice)}
    together = chosen == list(range(chosen[0], chosen[-1] + 1))
    before = sum(axis < chosen[0] for axis in spans) if together else 0
    lengths = [len(span) for span in spans.values()]
    result = (*lengths[:before], *numbers[0].shape, *lengths[before:])
    found: dict[int, NDArray[np.intp]] = {}
    for axis, places in zip(chosen, numbers, strict=True):
        found[axis] = np.broadcast_to(places.reshape(*places.shape, *[1] * (len(lengths) - before)), result)
    for order, (axis, span) in enumerate(spans.items()):
        position = order if order < before else order + numbers[0].ndim
        side = [len(span) if place == position else 1 for place in range(len(result))]
        found[axis] = np.broadcast_to(np.arange(span.start, span.stop, span.step, dtype=np.intp).reshape(side), result)
    return tuple(found[axis] for axis in range(len(shape)))


def _one_per_axis(key: Any, shape: tuple[int, ...]) -> list[Any]:
    """Return a slice or an array of coordinates (none negative) for each axis."""
    whole = key if isinstance(key, tuple) else (key,)
    given = [np.asarray(part) if isinstance(part, list) else part for part in whole]
    widths = [part.ndim if _is_mask(part) else int(part is not Ellipsis) for part in given]
    ellipses = [place for place, part in enumerate(given) if part is Ellipsis]
    missing = len(shape) - sum(widths)
    if len(ellipses) > 1 or missing < 0:
        raise IndexError(f"there are too many indices for an array of {len(shape)} dimensions")
    place = ellipses[0] if ellipses else len(given)
    given[place : place + 1] = [slice(None)] * missing
    parts: list[Any] = []
    for part in given:
        length = shape[len(parts)]
        if isinstance(part, slice):
            parts.append(part)
        elif _is_mask(part):
            if part.shape != shape[len(parts) : len(parts) + part.ndim]:
                raise IndexError(f"a mask of {part.shape} does not fit an array of {shape}")
            parts.extend(part.nonzero())
        else:
            parts.append(_inside(np.asarray(part), length))
    return parts


def _is_mask(part: Any) -> bool:
    return isinstance(part, np.ndarray) and part.dtype.kind == "b" and part.ndim > 0


def _inside(places: NDArray[Any], length: int) -> NDArray[np.intp]:
    if places.size == 0:
        return places.astype(np.intp)
    if places.dtype.kind not in "iu":
        raise IndexError(f"{places.dtype} values are no index: use integers, slices or masks")
    low, high = int(places.min()), int(places.max())
    if low < -length or high >= length:
        raise IndexError(f"index {low if low < -length else high} is out of range for an axis of length {length}")
    places = places.astype(np.intp, copy=False)
    return np.where(places < 0, places + length, places) if low < 0 else places


class ArrayBounds(NamedTuple):
    """The box around points: its first corner and its shape."""

    corner: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Voxels in the box."""
        return math.prod(self.shape)

    @property
    def ranges(self) -> tuple[range, ...]:
        """One range per axis."""
        return tuple(range(low, low + n) for low, n in zip(self.corner, self.shape, strict=True))


def bounds_of(points: tuple[NDArray[np.intp], ...]) -> ArrayBounds:
    """Return the box around one point or more."""
    corner = tuple(int(places.min()) for places in points)
    return ArrayBounds(corner, tuple(int(places.max()) - low + 1 for places, low in zip(points, corner, strict=True)))


def fit_to_shape(value: Any, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return `value` as bytes broadcast to `shape`, as numpy assigns.

    Raises:
        ValueError: the value does not fit the shape, or has numbers outside 0 to 255.
    """
    values = np.asarray(value)
    if values.dtype != np.uint8:
        if values.size and (values.min() < 0 or values.max() > np.iinfo(np.uint8).max):
            raise ValueError("corrections hold values from 0 to 255")
        values = values.astype(np.uint8)
    while values.ndim > len(shape) and values.shape[0] == 1:
        values = values[0]
    return np.broadcast_to(values, shape)


ChunkNumber = tuple[int, ...]
"""Which chunk: its number along each axis."""

ArrayBox = tuple[slice, ...]
"""A part of the array: one slice per axis, with start and stop."""

CHUNK_SIDE = 256
"""Length of a chunk along Y and X; along the other axes it is 1."""

DENSE_CHUNK = 2**16
"""Points are looked up one by one if the box around them has more voxels than this and more than four per point."""


LARGE_PART = 2**20
"""Voxels of `array[number]` from which on it is not read at once."""


class StoredChunk(NamedTuple):
    """A chunk as it was at one moment. stamp: the number of the last write to it."""

    values: NDArray[np.uint8]
    stamp: int


def chunk_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the chunks of an array of `shape`, whose last two axes are Y and X."""
    return tuple(min(CHUNK_SIDE, n) if axis >= len(shape) - 2 else 1 for axis, n in enumerate(shape))


class UnreadPart(np.lib.mixins.NDArrayOperatorsMixin):
    """`array[number]` of more than `LARGE_PART` voxels, read when its values are used, as they are then.

    At each step of a stroke napari asks `data[0]` for its type. To read a plane of 8192² for that takes 3 ms, most of
    it page faults: each row of a chunk lies in a page of its own.
    """

    def __init__(self, array: SparseArray, number: int) -> None:
        self._array, self._number = array, range(array.shape[0])[number]
        self.shape, self.dtype, self.ndim = array.shape[1:], array.dtype, array.ndim - 1

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self._array[(self._number,)], dtype=dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **others: Any) -> Any:
        read = (np.asarray(each) if isinstance(each, UnreadPart) else each for each in inputs)
        return getattr(ufunc, method)(*read, **others)

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(self)[key]

    def __len__(self) -> int:
        return self.shape[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(np.asarray(self), name)


class SparseArray:
    """An array of bytes that is read and written as a numpy array; chunks that were never written to are 0.

    Reading returns a new numpy array or a scalar, or an `UnreadPart`. Several threads may use it at once.

    stored: chunks that `load` returns when they are first read; without `load` all chunks are in memory.
    memory: bytes beyond which chunks that can be loaded again are evicted.
    on_write: called after each write that changes something, chunk by chunk and in order, with the box and a copy of
    its new values.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        shape: Iterable[int],
        stored: Iterable[ChunkNumber] = (),
        load: Callable[[ChunkNumber], NDArray[np.uint8]] | None = None,
        memory: int = 512 * 2**20,
    ) -> None:
        self.shape: tuple[int, ...] = tuple(int(n) for n in shape)
        self.chunks = chunk_shape(self.shape)
        self.on_write: Callable[[ArrayBox, NDArray[np.uint8]], None] | None = None
        self.lock = threading.RLock()
        self._load, self._stored = load, set(stored)
        self._there = set(self._stored)
        self._most = max(1, memory // math.prod(self.chunks))
        self._held: dict[ChunkNumber, NDArray[np.uint8]] = {}
        self._clean: dict[ChunkNumber, None] = {}
        self._dirty: dict[ChunkNumber, int] = {}
        self._writes = 0

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that a dense array of this shape would take."""
        return self.size

    @property
    def held_bytes(self) -> int:
        """Bytes that are in memory."""
        return len(self._held) * math.prod(self.chunks)

    @property
    def dirty_bytes(self) -> int:
        """Bytes in memory that are not in a chunk file yet."""
        return len(self._dirty) * math.prod(self.chunks)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("a sparse array cannot be looked at as a dense one without a copy")
        return np.asarray(self[...], dtype=dtype)

    def __getitem__(self, key: Any) -> Any:
        if type(key) is int and math.prod(self.shape[1:]) > LARGE_PART:
            return UnreadPart(self, key)
        with self.lock:
            if is_basic(key):
                ranges = ranges_of(key, self.shape)
                values = self._read(ranges.axes)[ranges.turn]
                return values.reshape(ranges.shape) if ranges.shape else values.reshape(-1)[0]
            return self._read_points(points_of(key, self.shape))

    def __setitem__(self, key: Any, value: Any) -> None:
        with self.lock:
            if is_basic(key):
                ranges = ranges_of(key, self.shape)
                values = fit_to_shape(value, ranges.shape).reshape([len(axis) for axis in ranges.axes])
                self._write(ranges.axes, values[ranges.turn])
            else:
                points = points_of(key, self.shape)
                values = fit_to_shape(value, points[0].shape)
                self._write_points(tuple(places.ravel() for places in points), values.ravel())

    def max(self, axis: None = None, out: None = None, **others: Any) -> np.uint8:
        """Return the highest value of the whole array; `axis` and `out` are not supported."""
        if axis is not None or out is not None:
            raise ValueError("only the highest value of the whole array can be requested")
        return np.uint8(max((int(chunk.max()) for _, chunk in self.iter_chunks()), default=0))

    def copy(self) -> SparseArray:
        """Return an array of its own with the same values, all in memory; `on_write` is not copied."""
        alone = SparseArray(self.shape)
        with self.lock:
            alone._held = {chunk_number: chunk.copy() for chunk_number, chunk in self.iter_chunks()}
        alone._dirty, alone._there = dict.fromkeys(alone._held, 0), set(alone._held)
        return alone

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseArray:
        return self.copy()

    def chunk_numbers(self) -> set[ChunkNumber]:
        """Return the numbers of the chunks that are there; all others are 0."""
        with self.lock:
            return set(self._there)

    def iter_chunks(self) -> Iterator[tuple[ChunkNumber, NDArray[np.uint8]]]:
        """Yield each chunk that is there, in order, as a copy of full size: it is 0 beyond the array's end."""
        for chunk_number in sorted(self.chunk_numbers()):
            yield chunk_number, self.read_chunk(chunk_number)

    def read_chunk(self, chunk_number: ChunkNumber) -> NDArray[np.uint8]:
        """Return a copy of one chunk; it is all 0 if the chunk is not there."""
        with self.lock:
            chunk = self._chunk(chunk_number)
            return np.zeros(self.chunks, np.uint8) if chunk is None else chunk.copy()

    def is_empty(self) -> bool:
        """Return whether all is 0, without loading a chunk."""
        with self.lock:
            return self._stored <= self._dirty.keys() and not any(
                self._held[chunk_number].any() for chunk_number in self._dirty
            )

    def dirty(self) -> list[ChunkNumber]:
        """Return the chunks that are not in their files as they are now."""
        with self.lock:
            return sorted(self._dirty)

    def keep(self, chunk_number: ChunkNumber) -> StoredChunk:
        """Return a copy of one chunk to be stored, with the number of the last write to it."""
        with self.lock:
            return StoredChunk(self.read_chunk(chunk_number), self._dirty.get(chunk_number, 0))

    def stored(self, chunk_number: ChunkNumber, kept: StoredChunk) -> None:
        """Note that a chunk is in its file as `keep` returned it; a chunk of zeros has no file."""
        with self.lock:
            is_there = bool(kept.values.any())
            (self._stored.add if is_there else self._stored.discard)(chunk_number)
            if self._dirty.get(chunk_number) == kept.stamp:
                del self._dirty[chunk_number]
                if is_there:
                    self._clean[chunk_number] = None
                    self._evict()
                else:
                    self._held.pop(chunk_number, None)
                    self._there.discard(chunk_number)

    def _read(self, axes: tuple[range, ...]) -> NDArray[np.uint8]:
        out = np.zeros([len(axis) for axis in axes], np.uint8)
        for chunk_number in self._touched(axes):
            if (chunk := self._chunk(chunk_number)) is not None:
                there, inside = self._overlap(axes, chunk_number)
                out[there] = chunk[inside]
        return out

    def _write(self, axes: tuple[range, ...], values: NDArray[np.uint8]) -> None:
        apart = tuple(slice(None if step else 1) for step in values.strides)  # broadcast values are looked at once
        something = bool(values[apart].any())
        for chunk_number in self._touched(axes, only_there=not something):
            there, inside = self._overlap(axes, chunk_number)
            self._put(chunk_number, inside, values[there])

    def _touched(self, axes: tuple[range, ...], only_there: bool = True) -> Iterator[ChunkNumber]:
        """Yield the numbers of the chunks that the ranges touch."""
        if not all(axes):
            return
        spans = [range(axis[0] // n, axis[-1] // n + 1) for axis, n in zip(axes, self.chunks, strict=True)]
        if only_there and len(self._there) < math.prod(len(span) for span in spans):
            places = [
                chunk_number
                for chunk_number in self._there
                if all(n in span for n, span in zip(chunk_number, spans, strict=True))
            ]
            yield from places
        else:
            yield from (
                chunk_number for chunk_number in product(*spans) if not only_there or chunk_number in self._there
            )

    def _overlap(self, axes: tuple[range, ...], chunk_number: ChunkNumber) -> tuple[ArrayBox, ArrayBox]:
        """Return the part of the ranges that lies in a chunk, and which part of the chunk that is."""
        there, inside = [], []
        for axis, number, n in zip(axes, chunk_number, self.chunks, strict=True):
            low = max(0, -(-(number * n - axis.start) // axis.step))
            high = min(len(axis), -(-((number + 1) * n - axis.start) // axis.step))
            first = axis.start + low * axis.step - number * n
            there.append(slice(low, max(low, high)))
            inside.append(slice(first, max(first, first + (high - low - 1) * axis.step + 1), axis.step))
        return tuple(there), tuple(inside)

    def _put(self, chunk_number: ChunkNumber, inside: ArrayBox, values: NDArray[np.uint8]) -> None:
        """Write into one chunk; call `on_write` if that changes anything."""
        chunk = self._chunk(chunk_number)
        if chunk is None:
            if not values.any():
                return
            chunk = self._held[chunk_number] = np.zeros(self.chunks, np.uint8)
            self._there.add(chunk_number)
        elif np.array_equal(chunk[inside], values):
            return
        chunk[inside] = values
        self._writes += 1
        self._clean.pop(chunk_number, None)
        self._dirty[chunk_number] = self._writes
        if self.on_write is not None:
            corner = [number * n for number, n in zip(chunk_number, self.chunks, strict=True)]
            box = tuple(slice(low + part.start, low + part.stop) for low, part in zip(corner, inside, strict=True))
            self.on_write(box, chunk[tuple(slice(part.start, part.stop) for part in inside)].copy())

    def _read_points(self, points: tuple[NDArray[np.intp], ...]) -> NDArray[np.uint8]:
        out = np.zeros(points[0].shape, np.uint8)
        if not out.size:
            return out
        box = bounds_of(points)
        if box.size <= max(DENSE_CHUNK, 4 * out.size):
            dense = self._read(box.ranges)
            return dense[tuple(places - low for places, low in zip(points, box.corner, strict=True))]
        flat, found = tuple(places.ravel() for places in points), out.reshape(-1)
        for chunk_number, chosen, local in self._groups(flat):
            if (chunk := self._chunk(chunk_number)) is not None:
                found[chosen] = chunk[local]
        return out

    def _write_points(self, points: tuple[NDArray[np.intp], ...], values: NDArray[np.uint8]) -> None:
        if not values.size:
            return
        box = bounds_of(points)
        if box.size <= max(DENSE_CHUNK, 4 * values.size):
            dense = self._read(box.ranges)
            dense[tuple(places - low for places, low in zip(points, box.corner, strict=True))] = values
            self._write(box.ranges, dense)
            return
        for chunk_number, chosen, local in self._groups(points):
            around = bounds_of(local)
            inside = tuple(slice(axis.start, axis.stop) for axis in around.ranges)
            new = self.read_chunk(chunk_number)[inside]
            new[tuple(places - low for places, low in zip(local, around.corner, strict=True))] = values[chosen]
            self._put(chunk_number, inside, new)

    def _groups(
        self, points: tuple[NDArray[np.intp], ...]
    ) -> Iterator[tuple[ChunkNumber, NDArray[np.intp], tuple[NDArray[np.intp], ...]]]:
        """Yield for each chunk which points lie in it, in their order, and their coordinates in the chunk."""
        grid = tuple(-(-length // n) for length, n in zip(self.shape, self.chunks, strict=True))
        number = np.ravel_multi_index(tuple(p // n for p, n in zip(points, self.chunks, strict=True)), grid)
        order = np.argsort(number, kind="stable")
        ends = np.flatnonzero(np.diff(number[order])) + 1
        for chosen in np.split(order, ends):
            chunk_number = tuple(int(n) for n in np.unravel_index(number[chosen[0]], grid))
            yield (
                chunk_number,
                chosen,
                tuple(p[chosen] - k * n for p, k, n in zip(points, chunk_number, self.chunks, strict=True)),
            )

    def _chunk(self, chunk_number: ChunkNumber) -> NDArray[np.uint8] | None:
        """Return a chunk itself, loaded if it is not in memory; None if there is none."""
        if chunk_number in self._clean:
            self._clean[chunk_number] = self._clean.pop(chunk_number)  # moved to the end: it is evicted last
        chunk = self._held.get(chunk_number)
        if chunk is None and chunk_number in self._stored and self._load is not None:
            chunk = self._held[chunk_number] = self._load(chunk_number)
            self._clean[chunk_number] = None
            self._evict()
        return chunk

    def _evict(self) -> None:
        while len(self._held) > self._most and len(self._clean) > 1:
            del self._held[oldest := next(iter(self._clean))]
            del self._clean[oldest]
