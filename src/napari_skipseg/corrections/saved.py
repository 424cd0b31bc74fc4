"""The two arrays of corrections as they are on disk: their chunks, and what the journal says came after."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.corrections.chunk_files import ChunkFiles
from napari_skipseg.corrections.journal import journals, read_journal
from napari_skipseg.corrections.sparse_array import Place, SparseArray
from napari_skipseg.corrections.subject import Subject
from napari_skipseg.durable import draft_folder, replace, sync, sync_folder, write_durably
from napari_skipseg.errors import FileError
from napari_skipseg.images.stack import LazyArray
from napari_skipseg.images.zarr.metadata import is_node, read_node

FILE = "counts.json"


@dataclass(frozen=True)
class Summary:
    """What was corrected. pixels: how many train, by value. slices: on how many slices. reviewed_pixels: how many of
    all pixels were marked as reviewed, painted or not.
    """

    pixels: dict[int, int]
    slices: int
    reviewed_pixels: int


class Tallies:
    """The counts of two arrays of the same shape."""

    def __init__(self, strokes: SparseArray, reviewed: SparseArray) -> None:
        self._strokes, self._reviewed = strokes, reviewed
        self._counts: dict[Place, dict[int, int]] = {}
        self._stale = strokes.places() | reviewed.places()

    def change(self, place: Place) -> None:
        """Be told that a chunk of either changed."""
        self._stale.add(place)

    def summary(self) -> Summary:
        """Return the counts of what is there now."""
        with self._strokes.lock:
            while self._stale:
                place = self._stale.pop()
                self._counts[place] = _count(self._strokes.piece(place), self._reviewed.piece(place))
                if not self._counts[place]:
                    del self._counts[place]
            there = dict(self._counts)
        pixels: dict[int, int] = {}
        for counts in there.values():
            for value, number in counts.items():
                pixels[value] = pixels.get(value, 0) + number
        reviewed = pixels.pop(0, 0)
        return Summary(dict(sorted(pixels.items())), len({place[:-2] for place in there}), reviewed)

    def save(self, folder: Path) -> None:
        """Write the counts down for the next time, where they are whole; they need not be."""
        if not self._stale:
            told = {",".join(map(str, place)): counts for place, counts in self._counts.items()}
            with contextlib.suppress(OSError):
                write_durably(folder / FILE, json.dumps(told).encode())

    def restore(self, folder: Path) -> None:
        """Take the counts of the last time, and remove their file: they hold until something changes.

        Raises:
            OSError: the file cannot be removed.
        """
        try:
            told = json.loads((folder / FILE).read_bytes())
            counts = {
                tuple(map(int, place.split(","))): {int(value): int(number) for value, number in found.items()}
                for place, found in told.items()
            }
        except (OSError, ValueError, AttributeError):
            counts = {}
        (folder / FILE).unlink(missing_ok=True)
        if counts.keys() == self._stale:
            self._counts, self._stale = counts, set()


def target_of(strokes: NDArray[np.uint8], reviewed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what trains: the strokes, and where there are none what was found right."""
    return np.where(strokes > 0, strokes, reviewed)


def _count(strokes: NDArray[np.uint8], reviewed: NDArray[np.uint8]) -> dict[int, int]:
    """Return the pixels of the target by value, and under 0 how many are reviewed."""
    numbers = np.bincount(target_of(strokes, reviewed).ravel(), minlength=1)
    numbers[0] = np.count_nonzero(reviewed)
    return {int(value): int(numbers[value]) for value in np.flatnonzero(numbers)}


NAMES = ("strokes", "reviewed")

MARK = "napari-skipseg-corrections"
"""The attribute by which a store of ours is known that lacks the chunks in which nothing is."""


class Saved(NamedTuple):
    """strokes: what was painted. reviewed: what was found right. files: where the chunks of both lie."""

    strokes: SparseArray
    reviewed: SparseArray
    files: tuple[ChunkFiles, ChunkFiles]

    @property
    def arrays(self) -> tuple[SparseArray, SparseArray]:
        """Both, in the order of their files."""
        return self.strokes, self.reviewed

    @property
    def pairs(self) -> tuple[tuple[SparseArray, ChunkFiles], ...]:
        """Each with the files of its chunks."""
        return tuple(zip(self.arrays, self.files, strict=True))


def load_saved(folder: Path, shape: tuple[int, ...]) -> Saved:
    """Return the corrections in `folder`, to the last whole record of the journal; chunks are read when looked at.

    Raises:
        FileError: a chunk that the journal writes to is damaged.
        OSError: they cannot be read.
    """
    strokes, reviewed = (ChunkFiles(folder / f"{name}.zarr", shape) for name in NAMES)
    saved = Saved(
        SparseArray(shape, strokes.places(), strokes.read),
        SparseArray(shape, reviewed.places(), reviewed.read),
        (strokes, reviewed),
    )
    saved.reviewed.lock = saved.strokes.lock
    for file in journals(folder):
        for entry in read_journal(file):
            ends = [start + n for start, n in zip(entry.corner, entry.values.shape, strict=True)]
            saved.arrays[entry.array][tuple(map(slice, entry.corner, ends))] = entry.values
    return saved


def write_whole(array: Target, subject: Subject, path: Path, told: Mapping[str, Any] | None = None) -> Path:
    """Return `path`, an OME-Zarr that has only the chunks in which something is, in place of an older one of ours.

    It appears under its name when it is whole and on disk. told: what it says of itself besides, as JSON.

    Raises:
        FileError: something else is there, or a chunk is damaged.
        OSError: it cannot be written.
    """
    if os.path.lexists(path) and (path.is_symlink() or not is_whole(path)):
        raise FileError(f"'{path}' is there already and not ours: choose another name, or remove it.")
    with draft_folder(path.parent) as draft:
        files = ChunkFiles(draft / "store", subject.shape)
        files.create(subject.space, {MARK: dict(told or {})})
        for place in array.places():
            values = array.piece(place)
            if values.any():
                files.write_new(place, values)
        sync((file for file in files.path.rglob("*") if file.is_file()), files.path)
        if path.exists():
            replace(path, draft / "replaced")
        replace(files.path, path)
        sync_folder(path.parent)
    return path


class Snapshot(NamedTuple):
    """Where what trains was written. labels: strokes, and where there are none what was reviewed. strokes: they alone;
    None where nothing was reviewed."""

    labels: Path
    strokes: Path | None = None


def write_snapshot(saved: Saved, subject: Subject, path: Path) -> Snapshot:
    """Write what trains as `path` and, where something was reviewed, the strokes alone beside it.

    Raises:
        FileError: something else is there, or a chunk is damaged.
        OSError: it cannot be written.
    """
    labels = write_whole(Target(saved), subject, path)
    if saved.reviewed.is_empty():
        return Snapshot(labels)
    beside = path.with_name(f"{path.name}_strokes")
    return Snapshot(labels, write_whole(Target(saved, only_strokes=True), subject, beside))


def is_whole(path: Path) -> bool:
    """Return whether `path` is an OME-Zarr that `write_whole` wrote."""
    return is_node(path) and MARK in read_node(path).attributes


class Target(LazyArray):
    """What of the corrections trains, or only the strokes, read where it is looked at."""

    def __init__(self, saved: Saved, only_strokes: bool = False) -> None:
        self.shape, self.dtype = saved.strokes.shape, saved.strokes.dtype
        self._saved, self._arrays = saved, saved.arrays[:1] if only_strokes else saved.arrays

    def places(self) -> list[Place]:
        """Return the chunks in which something may be."""
        return sorted(set().union(*(array.places() for array in self._arrays)))

    def piece(self, place: Place) -> NDArray[np.uint8]:
        """Return one chunk."""
        with self._saved.strokes.lock:
            return self._merge([array.piece(place) for array in self._arrays])

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        with self._saved.strokes.lock:
            return self._merge([array[index] for array in self._arrays])

    def _merge(self, values: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        return target_of(*values) if len(values) > 1 else values[0]


def place_of_box(box: tuple[slice, ...], chunks: tuple[int, ...]) -> Place:
    """Return the chunk in which a box lies that lies in one."""
    return tuple(part.start // n for part, n in zip(box, chunks, strict=True))
