"""A label image and the values to measure, in slabs that are read once: while one is measured, the next is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.classes import ClassProbability, ScaledProbability

AROUND = 2
"""Pixels around a slab that outlines in a plane depend on; in a volume it is one voxel before."""

LARGEST_SLAB = 2**25
"""Voxels of a slab."""

PIECE = 2**22
"""Voxels that are measured at once: what of them is converted is small."""


_PLAIN = tuple(map(np.dtype, (np.uint8, np.uint16, np.float32, np.float64)))
"""Types of values that are measured as they are; others (of another byte order, too) become float64."""


class Slab(NamedTuple):
    """A part of an image: one time, some slices, some rows, all columns."""

    time: int
    z: slice
    y: slice


class SlabSource(NamedTuple):
    """Values to measure; channel: along C."""

    name: str
    data: Stack | ClassProbability
    channel: int

    def read(self, slab: Slab) -> NDArray[Any] | ScaledProbability:
        """Return the values of a slab, shape (Z, Y, X)."""
        if isinstance(self.data, ClassProbability):
            return self.data.look_at(slab.time, slab.z, slab.y, slice(None))
        return _read(self.data, slab.time, self.channel, slab.z, slab.y)


class SlabReader(NamedTuple):
    """A slab as it was read. around: its labels, with one slice before them and `AROUND` pixels around them in their
    planes, 0 where the image ends. values: of all sources."""

    slab: Slab
    around: NDArray[np.uint32]
    values: list[NDArray[Any] | ScaledProbability]

    def pieces(self) -> Iterator[SlabPiece]:
        """Yield the slab in pieces along Z."""
        time, z, y = self.slab
        _, rows, columns = self.around.shape
        slices = max(1, PIECE // (rows * columns))
        for start in range(0, z.stop - z.start, slices):
            stop = min(start + slices, z.stop - z.start)
            piece = Slab(time, slice(z.start + start, z.start + stop), y)
            yield SlabPiece(piece, self.around[start : stop + 1], [_plain(each[start:stop]) for each in self.values])


class SlabPiece(NamedTuple):
    """A part of a slab, as `SlabReader`; its values are of one of `_PLAIN` types."""

    slab: Slab
    around: NDArray[np.uint32]
    values: list[NDArray[Any]]


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values, values.dtype if values.dtype in _PLAIN else np.float64)


def plan_slabs(labels: Stack, largest: int) -> list[Slab]:
    """Return slabs that cover an image, those of the same rows one behind the other.

    They are whole chunks, where the labels are stored in chunks, and else whole planes, where these are not too large.
    """
    times, depth, rows, columns = (labels.length(axis) for axis in "TZYX")
    deep, high = _chunk(labels)
    if deep * high * columns > largest:
        deep = high = 1
    height = rows if deep * rows * columns <= largest else max(1, largest // (deep * columns) // high) * high
    slices = max(1, largest // (height * columns) // deep) * deep
    return [
        Slab(time, slice(z, min(z + slices, depth)), slice(y, min(y + height, rows)))
        for time in range(times)
        for y in range(0, rows, height)
        for z in range(0, depth, slices)
    ]


def _chunk(stack: Stack) -> tuple[int, int]:
    """Return the lengths of a chunk along Z and Y, 1 where none are known."""
    chunks = getattr(stack.data, "chunks", None)
    if not isinstance(chunks, tuple) or not all(isinstance(length, int) for length in chunks):
        return 1, 1
    lengths = dict(zip(stack.space.axes, chunks, strict=True))
    return lengths.get("Z", 1), lengths.get("Y", 1)


def iter_read_slabs(labels: Stack, sources: Sequence[SlabSource], slabs: Sequence[Slab]) -> Iterator[SlabReader]:
    """Yield all slabs, in their order.

    Raises:
        InputError: labels that are no such numbers, or values that are no probabilities.
    """
    last: tuple[Slab, NDArray[np.uint32]] | None = None

    def read(slab: Slab) -> SlabReader:
        nonlocal last
        around = _read_around(labels, slab)
        if last is not None and (slab.time, slab.y, slab.z.start) == (last[0].time, last[0].y, last[0].z.stop):
            around[0] = last[1]
        last = slab, around[-1].copy()
        return SlabReader(slab, around, [source.read(slab) for source in sources])

    with ThreadPoolExecutor(1) as reader:
        waiting: Future[SlabReader] | None = None
        for slab in slabs:
            waiting, ready = reader.submit(read, slab), waiting
            if ready is not None:
                yield ready.result()
        if waiting is not None:
            yield waiting.result()


def _read_around(labels: Stack, slab: Slab) -> NDArray[np.uint32]:
    """Return the labels of a slab with what is around them in their planes; nothing is before them yet."""
    above, below = min(AROUND, slab.y.start), min(AROUND, labels.length("Y") - slab.y.stop)
    rows = slice(slab.y.start - above, slab.y.stop + below)
    values = _read(labels, slab.time, 0, slab.z, rows)
    if values.size and (int(values.min()) < 0 or int(values.max()) > np.iinfo(np.uint32).max):
        raise InputError(f"'{labels.name}' holds numbers that are no labels: they must be 0 to 4,294,967,295.")
    depth, height, width = slab.z.stop - slab.z.start, slab.y.stop - slab.y.start, values.shape[2]
    around = np.zeros((1 + depth, height + 2 * AROUND, width + 2 * AROUND), np.uint32)
    around[1:, AROUND - above : AROUND + height + below, AROUND:-AROUND] = values
    return around


def _read(stack: Stack, time: int, channel: int, z: slice, y: slice) -> NDArray[Any]:
    """Return voxels as (Z, Y, X)."""
    places: dict[str, int | slice] = {"T": time, "C": channel, "Z": z, "Y": y, "X": slice(None)}
    values = stack.read(tuple(places[axis] for axis in stack.space.axes))
    return values if "Z" in stack.space.axes else values[None]
