"""The corrections of one image, open: two sparse arrays to be painted into, on disk within a second of every write."""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import ArrayLike, NDArray

from napari_skipseg.corrections.catalog import corrections_folder, is_left_open, lock_of
from napari_skipseg.corrections.chunk_files import CorrectionChunkFiles
from napari_skipseg.corrections.journal import Journal, damage_of_journal, journals
from napari_skipseg.corrections.saved import (
    CorrectionSummary,
    LabelCounts,
    SavedCorrections,
    Snapshot,
    chunk_of_box,
    load_saved,
    write_snapshot,
)
from napari_skipseg.corrections.sparse_array import ArrayBox, ChunkNumber, SparseArray
from napari_skipseg.corrections.subject import (
    CorrectionClass,
    CorrectionRecord,
    Subject,
    check_same,
    read_correction_record,
    subject_of,
    write_correction_record,
)
from napari_skipseg.durable import make_folders
from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.images.identity import identify
from napari_skipseg.images.stack import Stack

__all__ = ["CorrectionSummary", "Corrections", "open_corrections"]

LARGE_LABELS = 32 * 2**20
"""Bytes of the journal from which on all goes into the chunks, and a new one begins."""

_MANY = 256 * 2**20
"""Bytes of chunks in memory that are in no file, from which on the same is done."""

REVIEWS = 1000
"""Reviews that can be taken back."""

_AT_ONCE = 128
"""Chunks that are copied and written together."""

WRITERS = 8
"""Threads that write them."""

_PAUSE = 10.0
"""Seconds until a checkpoint that failed is tried again."""

_CODEC: Any = Zstd(level=1)


class Corrections:
    """What was painted over an image, and what was found right; one process at a time has them open.

    Both arrays are bytes with the axes of the image without C: 0 = not looked at, 1 = background, 2 and more = the
    classes. They may be read and written from any thread; each write is on disk within a second. `open_corrections`
    gives one.

    strokes: what was painted. reviewed: what was found right, with the values that were seen.
    was_interrupted: the last session ended without closing it.
    version: grows with every write.
    """

    def __init__(self, folder: Path, subject: Subject) -> None:
        self.folder, self._telling = folder, threading.Lock()
        self._lock = lock_of(folder, subject.name)
        with contextlib.ExitStack() as leaving:
            with file_errors_as(folder):
                make_folders(folder)
                was_left = is_left_open(folder)
                self.version, self._changed = 0, max((file.stat().st_mtime for file in journals(folder)), default=0.0)
                self._lock.take()
                leaving.callback(self._lock.release)
                self._saved = self._load(subject)
            self.was_interrupted = was_left
            leaving.pop_all()
        self.strokes, self.reviewed = self._saved.arrays
        self._reviews: deque[tuple[ArrayBox, bytes]] = deque(maxlen=REVIEWS)
        self._fault, self._failed_at = "", 0.0
        self._is_closed, self._is_let_go = False, False
        self._checkpointing = threading.Lock()
        self._journal = Journal(folder, self._look_at_size)
        for number, array in enumerate(self._saved.arrays):
            array.on_write = partial(self._hear, number)
        atexit.register(self.flush)
        if self.strokes.dirty() or self.reviewed.dirty():
            self._checkpoint_soon()

    def _load(self, subject: Subject) -> SavedCorrections:
        before = read_correction_record(self.folder)
        if before is not None:
            check_same(subject, before)
            if not subject.file:  # a copy of it in memory: where it once came from stays known
                subject = replace(subject, file=before.subject.file, file_fingerprint=before.subject.file_fingerprint)
        self._record = CorrectionRecord(subject) if before is None else replace(before, subject=subject)
        saved = load_saved(self.folder, subject.shape)
        for files in saved.files:
            files.create(subject.space)
            files.remove_partial()
        self._tallies = LabelCounts(*saved.arrays)
        self._tallies.restore(self.folder)
        if self._record != before:
            write_correction_record(self.folder, self._record)
        return saved

    @property
    def subject(self) -> Subject:
        """The image that is corrected."""
        return self._record.subject

    @property
    def classes(self) -> tuple[CorrectionClass, ...]:
        """The classes that were named last."""
        return self._record.classes

    @property
    def fault(self) -> str:
        """Why the disk does not take what was painted, as a sentence with its cure; "" where all is well."""
        return self._journal.fault or self._fault

    @property
    def is_empty(self) -> bool:
        """Whether nothing is painted or reviewed."""
        return self.strokes.is_empty() and self.reviewed.is_empty()

    def name_classes(self, classes: tuple[CorrectionClass, ...]) -> None:
        """Save what the values are called, at once.

        Raises:
            InputError: two classes have one value, or one name.
            FileError: they cannot be written.
        """
        for what in ({one.value for one in classes}, {one.name for one in classes}):
            if len(what) < len(classes):
                raise InputError("Two classes have the same name or the same value: give each its own.")
        self._tell(classes=tuple(classes))

    def review(self, box: ArrayBox, accepted: ArrayLike) -> None:
        """Mark a box as reviewed, with what was found right there: 1 = background, 2 and more = the classes.

        accepted: of the box's shape (axes of length 1 may be left out); where it is 0 nothing is reviewed.

        Raises:
            ValueError: the shape is another, or no values of a byte.
        """
        with self.strokes.lock:
            before = self.reviewed[box]
            values = np.asarray(accepted)
            if values.size != before.size:
                raise ValueError(f"a review of {values.shape} for a box of {before.shape}")
            self.reviewed[box] = values.reshape(before.shape)
            self._reviews.append((box, bytes(_CODEC.encode(np.ascontiguousarray(before))) if before.any() else b""))

    def take_back_review(self) -> ArrayBox | None:
        """Return the box of the last review, which is as it was before; None where there is none of this session."""
        with self.strokes.lock:
            if not self._reviews:
                return None
            box, packed = self._reviews.pop()
            if packed:
                before: NDArray[np.uint8] = np.frombuffer(_CODEC.decode(packed), np.uint8)
                self.reviewed[box] = before.reshape(self.reviewed[box].shape)
            else:
                self.reviewed[box] = 0
            return box

    def flush(self, timeout: float = 5.0) -> bool:
        """Return whether all that was written until now is on disk, at latest after `timeout` seconds."""
        return self._journal.flush(timeout)

    def checkpoint(self) -> bool:
        """Return whether all that was written until now is in the chunks, and no longer in the journal.

        A kill at any moment leaves the old chunk or the new one, and the journal until all are on disk. What is
        written meanwhile goes to a new journal.
        """
        with self._checkpointing:
            if self._is_let_go:
                return False
            with self.strokes.lock:
                number = self._journal.begin_new()
                changed = [(array, files, array.dirty()) for array, files in self._saved.pairs]
            try:
                for array, files, places in changed:
                    for first in range(0, len(places), _AT_ONCE):
                        if not self._store(array, files, places[first : first + _AT_ONCE]):
                            return False
                    files.sync(places)
                if self._changed > self._record.changed:
                    self._tell(changed=self._changed)
                self._journal.remove_before(number)
            except (OSError, MemoryError, FileError, RuntimeError) as error:  # the last: Python is ending
                self._fault, self._failed_at = damage_of_journal(self.folder, error), time.monotonic()
                return False
            self._fault = ""
            return True

    def _store(self, array: SparseArray, files: CorrectionChunkFiles, places: Sequence[ChunkNumber]) -> bool:
        """Return whether these chunks are in their files; what is in them must be in the journal first."""
        kept = [array.keep(place) for place in places]
        if not self._journal.flush(60.0):
            return False
        with ThreadPoolExecutor(WRITERS, "corrections checkpoint") as writers:  # most of the time goes by waiting
            deque(writers.map(files.write, places, [one.values for one in kept]), maxlen=0)
        for place, one in zip(places, kept, strict=True):
            array.stored(place, one)
        return True

    def snapshot(self, folder: Path) -> Snapshot:
        """Return what trains now, written as `folder`: the strokes, and where there are none what was reviewed; and
        beside it the strokes alone where something was. They are OME-Zarr stores that have only the chunks in which
        something is; `images.files.read_stack` reads them.

        Raises:
            FileError: it cannot be written.
        """
        with file_errors_as(folder):
            return write_snapshot(self._saved, self.subject, Path(folder))

    @property
    def saved(self) -> SavedCorrections:
        """Both arrays, with the files of their chunks."""
        return self._saved

    def summary(self) -> CorrectionSummary:
        """Return how many pixels were corrected: by value, on how many slices, how many of them reviewed."""
        return self._tallies.summary()

    def close(self) -> bool:
        """Return whether all is on disk; let go of the corrections, whose arrays are no longer to be written to."""
        with self.strokes.lock:
            if self._is_closed:
                return True
            self._is_closed = True
            for array in self._saved.arrays:
                array.on_write = None
        is_whole = self.checkpoint()
        with self._checkpointing:
            self._is_let_go = True
        is_kept = self._journal.close()
        atexit.unregister(self.flush)
        if is_whole:
            self._tallies.summary()
            self._tallies.save(self.folder)
        self._lock.release()
        return is_kept

    def _tell(self, **changes: Any) -> None:
        """Write down what is otherwise about the corrections from now on."""
        with self._telling:
            record = replace(self._record, **changes)
            write_correction_record(self.folder, record)
            self._record = record

    def _hear(self, number: int, box: ArrayBox, values: NDArray[np.uint8]) -> None:
        self._journal.append(number, tuple(part.start for part in box), values)
        self._tallies.change(chunk_of_box(box, self.strokes.chunks))
        self.version += 1
        self._changed = time.time()

    def _look_at_size(self, written: int) -> None:
        if written > LARGE_LABELS or self.strokes.dirty_bytes + self.reviewed.dirty_bytes > _MANY:
            self._checkpoint_soon()

    def _checkpoint_soon(self) -> None:
        if not self._checkpointing.locked() and (not self._fault or time.monotonic() > self._failed_at + _PAUSE):
            with contextlib.suppress(RuntimeError):  # Python is ending: the journal has it all
                threading.Thread(target=self.checkpoint, name="corrections checkpoint", daemon=True).start()


def open_corrections(stack: Stack, key: str = "") -> Corrections:
    """Return the corrections of `stack`, new and empty where there are none.

    key: what `images.identity.identify(stack)` said, where that is known already.

    Raises:
        FileError: another window has them open, they are damaged, or nothing can be written.
        InputError: the voxels of the image are no numbers.
    """
    key = key or identify(stack)
    return Corrections(corrections_folder() / key, subject_of(stack, key))
