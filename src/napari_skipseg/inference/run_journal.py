"""The journal of the finished units of a run. A unit is noted once its files are on disk, so a power cut does no harm.

Bringing a file to disk takes milliseconds, and a fast device finishes units faster. So a thread does it for all units
that were finished meanwhile, at most ten times a second, and the network never waits for it. A kill loses nothing: the
run that continues finds the units that were written and not noted, checks them and keeps them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from napari_skipseg.durable import open_file, sync, sync_folder
from napari_skipseg.images.faults import file_errors_as

JOURNAL = "done"
"""The numbers of the units, 8 bytes each, in the order of their notes."""

EVERY = 0.1
"""Seconds between two times at which units are noted, and before the first; a shorter run needs no journal."""
PAUSE, LONGEST = 10, 2.0
"""The thread waits this many times as long as the last time took, so that a slow disk is left to others, but no longer
than so many seconds: what a power cut may cost."""

_NUMBER = np.dtype("<u8")


class TileJournal:
    """The journal of the run in `folder`, written by a thread of its own. Threads share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[Path] = []
        self._numbers: list[int] = []
        self._fault: Exception | None = None
        self._changed = threading.Condition()
        self._busy, self._hurry, self._closing = False, False, False
        self._thread: threading.Thread | None = None
        self._next = 0.0

    def add_files(self, files: Iterable[Path]) -> None:
        """Bring files to disk before the next unit is noted."""
        with self._changed:
            self._files += files

    def note(self, number: int, files: Iterable[Path] = ()) -> None:
        """Note a unit once `files`, and all files before, are on disk.

        Raises:
            FileError: the disk failed before.
        """
        self._check()
        with self._changed:
            self._files += files
            self._numbers.append(number)
            self._changed.notify_all()
            if self._thread is None:
                self._next = time.monotonic() + EVERY
                self._thread = threading.Thread(target=self._run, name="run journal", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Wait until all units up to now are on disk and noted.

        Raises:
            FileError: the disk failed.
        """
        with self._changed:
            if self._thread is not None:
                self._hurry = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._fault or not (self._busy or self._numbers))
                self._hurry = False
            files, self._files = self._files, []
        self._check()
        with file_errors_as(self._folder):
            sync(files, self._folder)

    def close(self) -> None:
        """Stop; units that were not noted yet are not noted any more."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _check(self) -> None:
        if self._fault is not None:
            with file_errors_as(self._folder / JOURNAL):
                raise self._fault

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._numbers)
                while not (self._closing or self._hurry) and (left := self._next - time.monotonic()) > 0:
                    self._changed.wait(left)
                if self._closing:
                    return
                (files, self._files), (numbers, self._numbers) = (self._files, []), (self._numbers, [])
                self._busy = True
            begun = time.monotonic()
            try:
                sync(files, self._folder)
                append_tiles(self._folder, numbers)
            except Exception as error:  # the next call of `note` or `flush` raises it
                self._fault = error
            with self._changed:
                self._busy = False
                self._next = time.monotonic() + max(EVERY, min(LONGEST, PAUSE * (time.monotonic() - begun)))
                self._changed.notify_all()
            if self._fault is not None:
                return


def append_tiles(folder: Path, numbers: Iterable[int]) -> None:
    """Note units in the folder of a run; the journal is on disk when this returns. Only one process at a time may call
    it.

    Raises:
        OSError: nothing can be written, or the journal is a link.
    """
    journal = folder / JOURNAL
    is_new = not journal.exists()
    with open_file(journal, append=True) as file:
        file.seek(file.tell() // _NUMBER.itemsize * _NUMBER.itemsize)  # a kill may have cut the last one short
        file.write(tiles_to_bytes(numbers))
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(folder)


def noted_tiles(folder: Path) -> list[int]:
    """Return the units in the journal, each once, in its order."""
    try:
        content = (folder / JOURNAL).read_bytes()
    except OSError:
        return []
    whole = len(content) // _NUMBER.itemsize * _NUMBER.itemsize
    return list(dict.fromkeys(np.frombuffer(content[:whole], _NUMBER).tolist()))


def tiles_to_bytes(numbers: Iterable[int]) -> bytes:
    """Return the bytes of some units in the journal."""
    return np.array(list(numbers), _NUMBER).tobytes()
