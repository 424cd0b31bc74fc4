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

from napari_skipseg.corrections.chunk_files import CorrectionChunkFiles
from napari_skipseg.corrections.journal import journals, read_journal
from napari_skipseg.corrections.sparse_array import ChunkNumber, SparseArray
from napari_skipseg.corrections.subject import Subject
from napari_skipseg.durable import draft_folder, replace, sync, sync_folder, write_durably
from napari_skipseg.errors import FileError
from napari_skipseg.images.stack import LazyArray
from napari_skipseg.images.zarr.metadata import is_node, read_node

_FILE = "counts.json"


@dataclass(frozen=True)
class CorrectionSummary:
    """What was corrected. pixels: how many train, by value. slices: on how many slices. reviewed_pixels: how many of
    all pixels were marked as reviewed, painted or not.
    """

    pixels: dict[int, int]
    slices: int
    reviewed_pixels: int


class LabelCounts:
    """The counts of two arrays of the same shape."""

    def __init__(self, strokes: SparseArray, reviewed: SparseArray) -> None:
        self._strokes, self._reviewed = strokes, reviewed
        self._counts: dict[ChunkNumber, dict[int, int]] = {}
        self._stale = strokes.places() | reviewed.places()

    def change(self, place: ChunkNumber) -> None:
        """Be told that a chunk of either changed."""
        self._stale.add(place)

    def summary(self) -> CorrectionSummary:
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
        return CorrectionSummary(dict(sorted(pixels.items())), len({place[:-2] for place in there}), reviewed)

    def save(self, folder: Path) -> None:
        """Write the counts down for the next time, where they are whole; they need not be."""
        if not self._stale:
            told = {",".join(map(str, place)): counts for place, counts in self._counts.items()}
            with contextlib.suppress(OSError):
                write_durably(folder / _FILE, json.dumps(told).encode())

    def restore(self, folder: Path) -> None:
        """Take the counts of the last time, and remove their file: they hold until something changes.

        Raises:
            OSError: the file cannot be removed.
        """
        try:
            told = json.loads((folder / _FILE).read_bytes())
            counts = {
                tuple(map(int, place.split(","))): {int(value): int(number) for value, number in found.items()}
                for place, found in told.items()
            }
        except (OSError, ValueError, AttributeError):
            counts = {}
        (folder / _FILE).unlink(missing_ok=True)
        if counts.keys() == self._stale:
            self._counts, self._stale = counts, set()


def chunk_target_of(strokes: NDArray[np.uint8], reviewed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what trains: the strokes, and where there are none what was found right."""
    return np.where(strokes > 0, strokes, reviewed)


def _count(strokes: NDArray[np.uint8], reviewed: NDArray[np.uint8]) -> dict[int, int]:
    """Return the pixels of the target by value, and under 0 how many are reviewed."""
    numbers = np.bincount(chunk_target_of(strokes, reviewed).ravel(), minlength=1)
    numbers[0] = np.count_nonzero(reviewed)
    return {int(value): int(numbers[value]) for value in np.flatnonzero(numbers)}


SAVED_ARRAYS = ("strokes", "reviewed")

_MARK = "napari-skipseg-corrections"
"""The attribute by which a store of ours is known that lacks the chunks in which nothing is."""


class SavedCorrections(NamedTuple):
    """strokes: what was painted. reviewed: what was found right. files: where the chunks of both lie."""

    strokes: SparseArray
    reviewed: SparseArray
    files: tuple[CorrectionChunkFiles, CorrectionChunkFiles]

    @property
    def arrays(self) -> tuple[SparseArray, SparseArray]:
        """Both, in the order of their files."""
        return self.strokes, self.reviewed

    @property
    def pairs(self) -> tuple[tuple[SparseArray, CorrectionChunkFiles], ...]:
        """Each with the files of its chunks."""
        return tuple(zip(self.arrays, self.files, strict=True))


def load_saved(folder: Path, shape: tuple[int, ...]) -> SavedCorrections:
    """Return the corrections in `folder`, to the last whole record of the journal; chunks are read when looked at.

    Raises:
        FileError: a chunk that the journal writes to is damaged.
        OSError: they cannot be read.
    """
    strokes, reviewed = (CorrectionChunkFiles(folder / f"{name}.zarr", shape) for name in SAVED_ARRAYS)
    saved = SavedCorrections(
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


def write_all_chunks(array: ChunkTarget, subject: Subject, path: Path, told: Mapping[str, Any] | None = None) -> Path:
    """Return `path`, an OME-Zarr that has only the chunks in which something is, in place of an older one of ours.

    It appears under its name when it is whole and on disk. told: what it says of itself besides, as JSON.

    Raises:
        FileError: something else is there, or a chunk is damaged.
        OSError: it cannot be written.
    """
    if os.path.lexists(path) and (path.is_symlink() or not is_complete(path)):
        raise FileError(f"'{path}' is there already and not ours: choose another name, or remove it.")
    with draft_folder(path.parent) as draft:
        files = CorrectionChunkFiles(draft / "store", subject.shape)
        files.create(subject.space, {_MARK: dict(told or {})})
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


def write_snapshot(saved: SavedCorrections, subject: Subject, path: Path) -> Snapshot:
    """Write what trains as `path` and, where something was reviewed, the strokes alone beside it.

    Raises:
        FileError: something else is there, or a chunk is damaged.
        OSError: it cannot be written.
    """
    labels = write_all_chunks(ChunkTarget(saved), subject, path)
    if saved.reviewed.is_empty():
        return Snapshot(labels)
    beside = path.with_name(f"{path.name}_strokes")
    return Snapshot(labels, write_all_chunks(ChunkTarget(saved, only_strokes=True), subject, beside))


def is_complete(path: Path) -> bool:
    """Return whether `path` is an OME-Zarr that `write_all_chunks` wrote."""
    return is_node(path) and _MARK in read_node(path).attributes


class ChunkTarget(LazyArray):
    """What of the corrections trains, or only the strokes, read where it is looked at."""

    def __init__(self, saved: SavedCorrections, only_strokes: bool = False) -> None:
        self.shape, self.dtype = saved.strokes.shape, saved.strokes.dtype
        self._saved, self._arrays = saved, saved.arrays[:1] if only_strokes else saved.arrays

    def places(self) -> list[ChunkNumber]:
        """Return the chunks in which something may be."""
        return sorted(set().union(*(array.places() for array in self._arrays)))

    def piece(self, place: ChunkNumber) -> NDArray[np.uint8]:
        """Return one chunk."""
        with self._saved.strokes.lock:
            return self._merge([array.piece(place) for array in self._arrays])

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        with self._saved.strokes.lock:
            return self._merge([array[index] for array in self._arrays])

    def _merge(self, values: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        return chunk_target_of(*values) if len(values) > 1 else values[0]


def chunk_of_box(box: tuple[slice, ...], chunks: tuple[int, ...]) -> ChunkNumber:
    """Return the chunk in which a box lies that lies in one."""
    return tuple(part.start // n for part, n in zip(box, chunks, strict=True))
