"""The two arrays of corrections on disk: their chunks, and the later writes in the journal."""

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
    """How much was corrected.

    pixels: number of training pixels by value. slices: number of slices with corrections. reviewed_pixels: number of
    reviewed pixels, painted or not.
    """

    pixels: dict[int, int]
    slices: int
    reviewed_pixels: int


class LabelCounts:
    """Counts labelled pixels chunk by chunk; only chunks that changed are counted again."""

    def __init__(self, strokes: SparseArray, reviewed: SparseArray) -> None:
        self._strokes, self._reviewed = strokes, reviewed
        self._counts: dict[ChunkNumber, dict[int, int]] = {}
        self._stale = strokes.chunk_numbers() | reviewed.chunk_numbers()

    def change(self, number: ChunkNumber) -> None:
        """Note that a chunk of either array changed."""
        self._stale.add(number)

    def summary(self) -> CorrectionSummary:
        """Return the counts of the present labels."""
        with self._strokes.lock:
            while self._stale:
                number = self._stale.pop()
                self._counts[number] = _count(self._strokes.read_chunk(number), self._reviewed.read_chunk(number))
                if not self._counts[number]:
                    del self._counts[number]
            there = dict(self._counts)
        pixels: dict[int, int] = {}
        for counts in there.values():
            for value, count in counts.items():
                pixels[value] = pixels.get(value, 0) + count
        reviewed = pixels.pop(0, 0)
        return CorrectionSummary(dict(sorted(pixels.items())), len({number[:-2] for number in there}), reviewed)

    def save(self, folder: Path) -> None:
        """Write the counts for the next session, if they are complete; without them it counts again."""
        if not self._stale:
            named = {",".join(map(str, number)): counts for number, counts in self._counts.items()}
            with contextlib.suppress(OSError):
                write_durably(folder / _FILE, json.dumps(named).encode())

    def restore(self, folder: Path) -> None:
        """Take the counts of the last session and remove their file, as it would be wrong after the next write.

        Raises:
            OSError: the file cannot be removed.
        """
        try:
            saved = json.loads((folder / _FILE).read_bytes())
            counts = {
                tuple(map(int, number.split(","))): {int(value): int(number) for value, number in found.items()}
                for number, found in saved.items()
            }
        except (OSError, ValueError, AttributeError):
            counts = {}
        (folder / _FILE).unlink(missing_ok=True)
        if counts.keys() == self._stale:
            self._counts, self._stale = counts, set()


def chunk_target_of(strokes: NDArray[np.uint8], reviewed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the training labels: the strokes, and the reviewed values where nothing is painted."""
    return np.where(strokes > 0, strokes, reviewed)


def _count(strokes: NDArray[np.uint8], reviewed: NDArray[np.uint8]) -> dict[int, int]:
    """Return the number of training pixels by value, and of reviewed pixels under 0."""
    numbers = np.bincount(chunk_target_of(strokes, reviewed).ravel(), minlength=1)
    numbers[0] = np.count_nonzero(reviewed)
    return {int(value): int(numbers[value]) for value in np.flatnonzero(numbers)}


SAVED_ARRAYS = ("strokes", "reviewed")

_MARK = "napari-skipseg-corrections"
"""The attribute that marks a store of ours, which has no empty chunks."""


class SavedCorrections(NamedTuple):
    """Both arrays and the files of their chunks.

    strokes: what was painted. reviewed: what was accepted. last_box: start and stop along each axis of the last entry
    of the journal that has labels; empty if there is none.
    """

    strokes: SparseArray
    reviewed: SparseArray
    files: tuple[CorrectionChunkFiles, CorrectionChunkFiles]
    last_box: tuple[tuple[int, int], ...] = ()

    @property
    def arrays(self) -> tuple[SparseArray, SparseArray]:
        """Both arrays, in the order of their files."""
        return self.strokes, self.reviewed

    @property
    def pairs(self) -> tuple[tuple[SparseArray, CorrectionChunkFiles], ...]:
        """Each array with the files of its chunks."""
        return tuple(zip(self.arrays, self.files, strict=True))


def load_saved(folder: Path, shape: tuple[int, ...]) -> SavedCorrections:
    """Return the corrections in `folder` up to the last whole record of the journal; chunks are loaded when read.

    Raises:
        FileError: a chunk that the journal writes to is damaged.
        OSError: the files cannot be read.
    """
    strokes, reviewed = (CorrectionChunkFiles(folder / f"{name}.zarr", shape) for name in SAVED_ARRAYS)
    saved = SavedCorrections(
        SparseArray(shape, strokes.chunk_numbers(), strokes.read),
        SparseArray(shape, reviewed.chunk_numbers(), reviewed.read),
        (strokes, reviewed),
    )
    saved.reviewed.lock = saved.strokes.lock
    last_box: tuple[tuple[int, int], ...] = ()
    for file in journals(folder):
        for entry in read_journal(file):
            box = tuple((start, start + n) for start, n in zip(entry.corner, entry.values.shape, strict=True))
            saved.arrays[entry.array][tuple(slice(*side) for side in box)] = entry.values
            last_box = box if entry.values.any() else last_box
    return saved._replace(last_box=last_box)


def write_all_chunks(
    array: ChunkTarget, subject: Subject, path: Path, attributes: Mapping[str, Any] | None = None
) -> Path:
    """Return `path`, an OME-Zarr that has only the chunks in which something is, in number of an older one of ours.

    It appears under its name once it is complete and on disk. attributes: its own attributes, as JSON.

    Raises:
        FileError: `path` exists and is not ours, or a chunk is damaged.
        OSError: it cannot be written.
    """
    if os.path.lexists(path) and (path.is_symlink() or not is_complete(path)):
        raise FileError(f"'{path}' is there already and not ours: choose a different name, or remove it.")
    with draft_folder(path.parent) as draft:
        files = CorrectionChunkFiles(draft / "store", subject.shape)
        files.create(subject.space, {_MARK: dict(attributes or {})})
        for number in array.chunk_numbers():
            values = array.read_chunk(number)
            if values.any():
                files.write_new(number, values)
        sync((file for file in files.path.rglob("*") if file.is_file()), files.path)
        if path.exists():
            replace(path, draft / "replaced")
        replace(files.path, path)
        sync_folder(path.parent)
    return path


class Snapshot(NamedTuple):
    """Where the training labels were written. strokes: the strokes alone, None if nothing was reviewed."""

    labels: Path
    strokes: Path | None = None


def write_snapshot(saved: SavedCorrections, subject: Subject, path: Path) -> Snapshot:
    """Write the training labels as `path` and, if anything was reviewed, the strokes alone beside it.

    Raises:
        FileError: `path` exists and is not ours, or a chunk is damaged.
        OSError: they cannot be written.
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
    """The training labels of corrections, or the strokes alone, as a lazy view."""

    def __init__(self, saved: SavedCorrections, only_strokes: bool = False) -> None:
        self.shape, self.dtype = saved.strokes.shape, saved.strokes.dtype
        self._saved, self._arrays = saved, saved.arrays[:1] if only_strokes else saved.arrays

    def chunk_numbers(self) -> list[ChunkNumber]:
        """Return the numbers of the chunks that may have labels."""
        return sorted(set().union(*(array.chunk_numbers() for array in self._arrays)))

    def read_chunk(self, number: ChunkNumber) -> NDArray[np.uint8]:
        """Return one chunk."""
        with self._saved.strokes.lock:
            return self._merge([array.read_chunk(number) for array in self._arrays])

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        with self._saved.strokes.lock:
            return self._merge([array[index] for array in self._arrays])

    def _merge(self, values: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        return chunk_target_of(*values) if len(values) > 1 else values[0]


def chunk_of_box(box: tuple[slice, ...], chunks: tuple[int, ...]) -> ChunkNumber:
    """Return the number of the chunk that contains a box."""
    return tuple(part.start // n for part, n in zip(box, chunks, strict=True))
