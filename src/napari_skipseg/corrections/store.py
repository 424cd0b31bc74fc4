"""The corrections of one image while they are open: two sparse arrays; each write is on disk within a second."""

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
    ChunkTarget,
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
"""Bytes of the journal at which a checkpoint writes all into the chunks and begins a new journal."""

_MANY = 256 * 2**20
"""Bytes of unsaved chunks in memory at which a checkpoint begins too."""

REVIEWS = 1000
"""Reviews that can be undone."""

_AT_ONCE = 128
"""Chunks that are copied and written together."""

WRITERS = 8
"""Threads that write them."""

_PAUSE = 10.0
"""Seconds until a failed checkpoint is tried again."""

_CODEC: Any = Zstd(level=1)


class Corrections:
    """What was painted over an image, and what was accepted; only one process at a time can open it.

    Both arrays are bytes with the axes of the image without C: 0 = not looked at, 1 = background, 2 and more = the
    classes. They may be read and written from any thread; each write is on disk within a second. Open them with
    `open_corrections`.

    strokes: what was painted. reviewed: what was accepted, with the values that were on screen.
    was_interrupted: whether the last session ended without closing them.
    version: grows with every write.
    """

    def __init__(self, folder: Path, subject: Subject) -> None:
        self.folder, self._record_lock = folder, threading.Lock()
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
        self._is_closed = self._is_released = False
        self._checkpointing = threading.Lock()
        self._journal = Journal(folder, self._on_journal_written)
        for number, array in enumerate(self._saved.arrays):
            array.on_write = partial(self._on_write, number)
        atexit.register(self.flush)
        if self.strokes.dirty() or self.reviewed.dirty():
            self._checkpoint_soon()

    def _load(self, subject: Subject) -> SavedCorrections:
        before = read_correction_record(self.folder)
        if before is not None:
            check_same(subject, before)
            if not subject.file:  # a copy in memory: the file that it once came from stays known
                subject = replace(subject, file=before.subject.file, file_fingerprint=before.subject.file_fingerprint)
        self._record = CorrectionRecord(subject) if before is None else replace(before, subject=subject)
        saved = load_saved(self.folder, subject.shape)
        for files in saved.files:
            files.create(subject.space)
            files.remove_partial()
        self._last_box = saved.last_box or self._record.last_box
        self._counts = LabelCounts(*saved.arrays)
        self._counts.restore(self.folder)
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
        """Why the disk does not accept what was painted, as a sentence with a cure; "" if it does."""
        return self._journal.fault or self._fault

    @property
    def is_empty(self) -> bool:
        """Whether nothing is painted or reviewed."""
        return self.strokes.is_empty() and self.reviewed.is_empty()

    def name_classes(self, classes: tuple[CorrectionClass, ...]) -> None:
        """Write the names of the values to disk.

        Raises:
            InputError: two classes have one value, or one name.
            FileError: they cannot be written.
        """
        for what in ({one.value for one in classes}, {one.name for one in classes}):
            if len(what) < len(classes):
                raise InputError("Two classes have the same name or the same value: give each its own.")
        self._update_record(classes=tuple(classes))

    def review(self, box: ArrayBox, accepted: ArrayLike) -> None:
        """Accept values in a box: 1 = background, 2 and more = the classes, 0 = not reviewed.

        accepted: has the shape of the box; axes of length 1 may be left out.

        Raises:
            ValueError: the shape is different, or a value does not fit into a byte.
        """
        with self.strokes.lock:
            before = self.reviewed[box]
            values = np.asarray(accepted)
            if values.size != before.size:
                raise ValueError(f"a review of {values.shape} for a box of {before.shape}")
            self.reviewed[box] = values.reshape(before.shape)
            self._reviews.append((box, bytes(_CODEC.encode(np.ascontiguousarray(before))) if before.any() else b""))

    def take_back_review(self) -> ArrayBox | None:
        """Undo the last review of this session and return its box, None if there is none."""
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
        """Wait up to `timeout` seconds until all writes are on disk; return whether they are."""
        return self._journal.flush(timeout)

    def checkpoint(self) -> bool:
        """Write all changed chunks and remove the journal; return whether that succeeded.

        A kill at any moment leaves each chunk old or new, and the journal until all chunks are on disk. Later writes
        go to a new journal.
        """
        with self._checkpointing:
            if self._is_released:
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
                    self._update_record(changed=self._changed, last_box=self._last_box)
                self._journal.remove_before(number)
            except (OSError, MemoryError, FileError, RuntimeError) as error:  # the last: Python is ending
                self._fault, self._failed_at = damage_of_journal(self.folder, error), time.monotonic()
                return False
            self._fault = ""
            return True

    def _store(self, array: SparseArray, files: CorrectionChunkFiles, places: Sequence[ChunkNumber]) -> bool:
        """Write chunks into their files; return False if their content is not in the journal, which must come first."""
        kept = [array.keep(number) for number in places]
        if not self._journal.flush(60.0):
            return False
        with ThreadPoolExecutor(WRITERS, "corrections checkpoint") as writers:  # most of the time goes by waiting
            deque(writers.map(files.write, places, [one.values for one in kept]), maxlen=0)
        for number, one in zip(places, kept, strict=True):
            array.stored(number, one)
        return True

    def snapshot(self, folder: Path) -> Snapshot:
        """Write the training labels as `folder`, and the strokes alone beside it if anything was reviewed.

        The training labels are the strokes, and the reviewed values where nothing is painted. Both are OME-Zarr
        stores without their empty chunks; `images.files.read_stack` reads them.

        Raises:
            FileError: they cannot be written.
        """
        with file_errors_as(folder):
            return write_snapshot(self._saved, self.subject, Path(folder))

    @property
    def saved(self) -> SavedCorrections:
        """Both arrays, with the files of their chunks."""
        return self._saved

    def summary(self) -> CorrectionSummary:
        """Return how many pixels were corrected: by value, on how many slices, and how many were reviewed."""
        return self._counts.summary()

    def last_label(self) -> tuple[int, ...] | None:
        """Return a labelled voxel of the last edit that left a label, else any labelled voxel; None if there is none.

        Raises:
            FileError: a chunk is damaged.
        """
        target = ChunkTarget(self._saved)
        boxes = [tuple(slice(*side) for side in self._last_box)] if self._last_box else []
        for number in target.chunk_numbers():
            sides = zip(number, self.strokes.chunks, strict=True)
            boxes.append(tuple(slice(n * length, (n + 1) * length) for n, length in sides))
        for box in boxes:
            labelled = np.argwhere(target[box])
            if len(labelled):
                # the middle one in reading order: unlike the middle of the box it has a label for certain
                middle = labelled[len(labelled) // 2]
                return tuple(int(side.start + at) for side, at in zip(box, middle, strict=True))
        return None

    def close(self) -> bool:
        """Write all to disk and release the corrections; return whether all is on disk. The arrays are closed then."""
        with self.strokes.lock:
            if self._is_closed:
                return True
            self._is_closed = True
            for array in self._saved.arrays:
                array.on_write = None
        is_whole = self.checkpoint()
        with self._checkpointing:
            self._is_released = True
        is_kept = self._journal.close()
        atexit.unregister(self.flush)
        if is_whole:
            self._counts.summary()
            self._counts.save(self.folder)
        self._lock.release()
        return is_kept

    def _update_record(self, **changes: Any) -> None:
        """Change fields of the record, on disk and here."""
        with self._record_lock:
            record = replace(self._record, **changes)
            write_correction_record(self.folder, record)
            self._record = record

    def _on_write(self, number: int, box: ArrayBox, values: NDArray[np.uint8]) -> None:
        self._journal.append(number, tuple(part.start for part in box), values)
        self._counts.change(chunk_of_box(box, self.strokes.chunks))
        if values.any():
            self._last_box = tuple((side.start, side.stop) for side in box)
        self.version += 1
        self._changed = time.time()

    def _on_journal_written(self, written: int) -> None:
        if written > LARGE_LABELS or self.strokes.dirty_bytes + self.reviewed.dirty_bytes > _MANY:
            self._checkpoint_soon()

    def _checkpoint_soon(self) -> None:
        if not self._checkpointing.locked() and (not self._fault or time.monotonic() > self._failed_at + _PAUSE):
            with contextlib.suppress(RuntimeError):  # Python is ending: the journal has it all
                threading.Thread(target=self.checkpoint, name="corrections checkpoint", daemon=True).start()


def open_corrections(stack: Stack, key: str = "") -> Corrections:
    """Return the corrections of `stack`, empty if there are none yet.

    key: the result of `images.identity.identify(stack)`, if it is known already.

    Raises:
        FileError: another window has them open, they are damaged, or nothing can be written.
        InputError: the voxels of the image are not numbers.
    """
    key = key or identify(stack)
    return Corrections(corrections_folder() / key, subject_of(stack, key))
