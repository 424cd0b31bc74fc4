"""Labels of any program, read block by block, and which objects there are."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.classes import read_block
from napari_skipseg.objects.options import ObjectPlanes
from napari_skipseg.progress import Progress
from napari_skipseg.scores.table import compiled

BLOCK = (128, 256, 256)
"""Voxels of a block: 34 MB of 32-bit labels."""

MOST_WITH_FILES = 100_000
"""Objects, at most, that get a file each."""

Triple = tuple[int, int, int]
BlockLabels = NDArray[Any]
"""Labels of a block: uint32, or uint64 where numbers are larger."""


@dataclass(frozen=True)
class LabelBlock:
    """A block [low, high) of an image without its times, (z, y, x)."""

    low: Triple
    high: Triple


@dataclass(frozen=True, eq=False)
class ObjectLabels:
    """The labels of one time, shape (Z, Y, X); a plane has one slice.

    chosen: the objects that count, sorted; None = all. All others are read as 0. planes: "slices" if each slice has
    objects of its own.
    """

    stack: Stack
    time: int = 0
    chosen: NDArray[np.uint64] | None = None
    planes: ObjectPlanes = "volume"

    @property
    def name(self) -> str:
        """The name of the image."""
        return self.stack.name

    @property
    def shape(self) -> Triple:
        """Voxels along Z, Y and X."""
        return self.stack.length("Z"), self.stack.length("Y"), self.stack.length("X")

    @property
    def is_flat(self) -> bool:
        """Whether there is but one slice."""
        return self.shape[0] == 1

    @property
    def are_of_slices(self) -> bool:
        """Whether objects lie in slices, so that areas and lengths are measured, not volumes and areas."""
        return self.is_flat or self.planes == "slices"

    @property
    def space(self) -> Space:
        """Where the voxels lie."""
        return self.stack.space.with_axes("ZYX")

    def choose(self, objects: NDArray[np.uint64] | None) -> ObjectLabels:
        """Return the labels of some objects."""
        return replace(self, chosen=None if objects is None else np.unique(objects))

    def blocks(self, size: Triple = BLOCK, low: Triple = (0, 0, 0)) -> list[LabelBlock]:
        """Return blocks that cover the image, from `low` on."""
        ranges = [range(start, length, step) for start, length, step in zip(low, self.shape, size, strict=True)]
        return [
            LabelBlock(
                (z, y, x),
                (min(z + size[0], self.shape[0]), min(y + size[1], self.shape[1]), min(x + size[2], self.shape[2])),
            )
            for z, y, x in product(*ranges)
        ]

    def read(self, low: Sequence[int], high: Sequence[int]) -> BlockLabels:
        """Return the labels in [low, high), 0 outside of the image.

        Raises:
            InputError: numbers below 0.
        """
        inside = [(max(a, 0), min(b, length)) for a, b, length in zip(low, high, self.shape, strict=True)]
        z, y, x = (slice(a, b) for a, b in inside)
        values = read_block(self.stack, time=self.time, channel=0, z=z, y=y, x=x)
        if values.dtype.kind == "i" and values.size and int(values.min()) < 0:
            raise InputError(
                f"'{self.name}' contains numbers below 0, which are no labels: objects are whole numbers, 0 = none."
            )
        labels = values.astype(np.uint64 if values.dtype.itemsize == 8 else np.uint32, copy=False)
        if self.chosen is not None:
            labels = np.where(np.isin(labels, self.chosen.astype(labels.dtype)), labels, 0).astype(labels.dtype)
        around = [(a - want, end - b) for want, end, (a, b) in zip(low, high, inside, strict=True)]
        return np.pad(labels, around) if any(map(any, around)) else np.ascontiguousarray(labels)


def labels_at_time(stack: Stack, time: int | None = None, planes: ObjectPlanes = "volume") -> ObjectLabels:
    """Return the labels of a stack at one time. planes: as in `ObjectLabels`.

    Raises:
        InputError: no whole numbers, channels, or several times and none is chosen.
    """
    dtype = np.dtype(stack.data.dtype)
    if dtype.kind not in "bui":
        raise InputError(
            f"'{stack.name}' contains {dtype} values: objects are whole numbers, 0 = none. Find the objects first, "
            "with napari-skipseg objects."
        )
    if stack.length("C") > 1:
        raise InputError(f"'{stack.name}' has {stack.length('C')} channels: give the labels of one.")
    times = stack.length("T")
    if time is None and times > 1:
        raise InputError(f"'{stack.name}' has {times} times: choose one with --time, from 0 to {times - 1}.")
    if not 0 <= (time or 0) < times:
        raise InputError(f"Time {time} does not exist: '{stack.name}' has times 0 to {times - 1}.")
    return ObjectLabels(stack.channel(0), time or 0, planes=planes)


@dataclass(frozen=True, eq=False)
class ObjectCounts:
    """The objects of an image, sorted, with their voxels, and the sums of their places (z, y, x).

    digest: a hash of all labels that were counted.
    """

    labels: NDArray[np.uint64]
    voxels: NDArray[np.int64]
    places: NDArray[np.int64]
    digest: str

    def __len__(self) -> int:
        return len(self.labels)


def iter_count(labels: ObjectLabels, size: Triple = BLOCK) -> Generator[Progress, None, ObjectCounts]:
    """Yield block by block; return which objects there are.

    Raises:
        InputError: as `ObjectLabels.read`.
    """
    sums, digest = GroupedSums(1, 4), hashlib.blake2b(f"{labels.shape} {size}".encode(), digest_size=16)
    for done, block in enumerate(blocks := labels.blocks(size)):
        yield Progress(done, len(blocks), "counting the objects")
        values = labels.read(block.low, block.high)
        digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
        sums.add(*_runs_of(values, np.array(block.low, np.int64)))
    keys, columns = sums.total()
    return ObjectCounts(keys[:, 0], columns[:, 0], columns[:, 1:], digest.hexdigest())


class GroupedSums:
    """Whole numbers added up by keys, in memory that grows with the number of different keys."""

    _MOST = 2**20
    """Rows that wait before they are added up."""

    def __init__(self, keys: int, columns: int) -> None:
        self._waiting = [(np.empty((0, keys), np.uint64), np.empty((0, columns), np.int64))]
        self._count = 0

    def add(self, keys: NDArray[np.uint64], columns: NDArray[np.int64]) -> None:
        """Add rows; a key may occur several times."""
        self._waiting.append(_grouped(keys, columns))
        self._count += len(self._waiting[-1][0])
        if self._count > max(self._MOST, len(self._waiting[0][0])):
            self.total()

    def total(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return the keys, sorted, and their sums."""
        keys, columns = zip(*self._waiting, strict=True)
        self._waiting, self._count = [_grouped(np.concatenate(keys), np.concatenate(columns))], 0
        return self._waiting[0]


def _grouped(keys: NDArray[np.uint64], columns: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    if not len(keys):
        return keys, columns
    order = np.lexsort(keys.T[::-1])
    keys, columns = keys[order], columns[order]
    begins = np.flatnonzero(np.concatenate([[True], (keys[1:] != keys[:-1]).any(axis=1)]))
    return keys[begins], np.add.reduceat(columns, begins, axis=0)


def _runs_of(values: BlockLabels, start: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the runs along x of labels above 0: the label; voxels and the sums of their places."""
    count = _fill_runs(values, start, np.empty((0, 1), np.uint64), np.empty((0, 4), np.int64))
    keys, columns = np.empty((count, 1), np.uint64), np.empty((count, 4), np.int64)
    _fill_runs(values, start, keys, columns)
    return keys, columns


@compiled
def _fill_runs(
    values: BlockLabels, start: NDArray[np.int64], keys: NDArray[np.uint64], columns: NDArray[np.int64]
) -> int:
    """Write the runs into `keys` and `columns` if there is room; return how many there are."""
    depth, rows, width = values.shape
    found = 0
    for z in range(depth):
        for y in range(rows):
            end = 0
            while end < width:
                begin, label = end, values[z, y, end]
                end += 1
                while end < width and values[z, y, end] == label:
                    end += 1
                if label == 0:
                    continue
                if found < len(keys):
                    voxels = end - begin
                    keys[found, 0] = label
                    columns[found, 0] = voxels
                    columns[found, 1] = voxels * (start[0] + z)
                    columns[found, 2] = voxels * (start[1] + y)
                    columns[found, 3] = voxels * start[2] + voxels * (begin + end - 1) // 2
                found += 1
    return found


def check_number_of_files(count: int) -> None:
    """Raise if so many objects would get a file each.

    Raises:
        InputError: they are too many.
    """
    if count > MOST_WITH_FILES:
        raise InputError(
            f"{count:,} objects would get a file each, more than {MOST_WITH_FILES:,}: choose some with --objects, or "
            "leave small ones out with --least-voxels."
        )
