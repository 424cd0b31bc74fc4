"""A label image and the values to measure, in slabs that are read once; the next is read while one is measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.classes import ClassProbability, ScaledProbability, read_block

AROUND = 2
"""Pixels around a slab that outlines in a plane depend on; the surface in a volume depends on one slice before it."""

LARGEST_SLAB = 2**25
"""Voxels of a slab."""

PIECE = 2**22
"""Voxels that are measured at once, so that converted values take little memory."""

_PLAIN = tuple(map(np.dtype, (np.uint8, np.uint16, np.float32, np.float64)))
"""Types of values that are measured as they are; others, also of another byte order, become float64."""


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
        return read_block(self.data, time=slab.time, channel=self.channel, z=slab.z, y=slab.y, x=slice(None))


class SlabReader(NamedTuple):
    """A slab that was read. around: its labels, with one slice before them and `AROUND` pixels around them in their
    planes, 0 outside of the image. values: of all sources."""

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
            parts = [each[start:stop] for each in self.values]
            kinds = [part.dtype if part.dtype in _PLAIN else np.float64 for part in parts]
            plain = [np.ascontiguousarray(part, kind) for part, kind in zip(parts, kinds, strict=True)]
            yield SlabPiece(piece, self.around[start : stop + 1], plain)


class SlabPiece(NamedTuple):
    """A part of a slab, as `SlabReader`; its values have one of the `_PLAIN` types."""

    slab: Slab
    around: NDArray[np.uint32]
    values: list[NDArray[Any]]


def plan_slabs(labels: Stack, largest: int) -> list[Slab]:
    """Return slabs that cover an image, those of the same rows one after another.

    They are whole chunks if the labels are stored in chunks, or whole planes if these are not too large.
    """
    times, depth, rows, columns = (labels.length(axis) for axis in "TZYX")
    chunks = getattr(labels.data, "chunks", None)
    deep = high = 1
    if isinstance(chunks, tuple) and all(isinstance(length, int) for length in chunks):  # Dask's are tuples of tuples
        lengths = dict(zip(labels.space.axes, chunks, strict=True))
        deep, high = lengths.get("Z", 1), lengths.get("Y", 1)
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


def iter_read_slabs(labels: Stack, sources: Sequence[SlabSource], slabs: Sequence[Slab]) -> Iterator[SlabReader]:
    """Yield all slabs, in their order.

    Raises:
        InputError: labels out of range, or values that are no probabilities.
    """
    last: tuple[Slab, NDArray[np.uint32]] | None = None

    def read(slab: Slab) -> SlabReader:
        nonlocal last
        above, below = min(AROUND, slab.y.start), min(AROUND, labels.length("Y") - slab.y.stop)
        rows = slice(slab.y.start - above, slab.y.stop + below)
        values = read_block(labels, time=slab.time, channel=0, z=slab.z, y=rows, x=slice(None))
        if values.size and (int(values.min()) < 0 or int(values.max()) > np.iinfo(np.uint32).max):
            raise InputError(f"'{labels.name}' contains numbers that are no labels: they must be 0 to 4,294,967,295.")
        depth, height, width = slab.z.stop - slab.z.start, slab.y.stop - slab.y.start, values.shape[2]
        around = np.zeros((1 + depth, height + 2 * AROUND, width + 2 * AROUND), np.uint32)
        around[1:, AROUND - above : AROUND + height + below, AROUND:-AROUND] = values
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
