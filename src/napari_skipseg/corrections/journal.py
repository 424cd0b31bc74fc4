"""The journal: every write is appended to a file within a fraction of a second, and replayed after a crash.

A record has its length, its CRC, a box and the new values of the box. The values are absolute, so a record can be
replayed twice. A kill truncates at most the last record, which is then skipped. The files are called
journal-NUMBER-ATTEMPT: each checkpoint begins a new number, each fault of the disk a new attempt.
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from napari_skipseg.durable import sync_folder

PREFIX = "journal-"
RETRY = 1.0
"""Seconds until entries that the disk refused are written again."""

GATHER = 0.05
"""Seconds to wait for more entries, so that the many writes of a brush stroke are synced to disk at once."""

_MAGIC = b"SKIPSEG\x01"
_HEAD = struct.Struct("<II")
_LARGEST = 2**28
"""Bytes of a record; a larger length is taken for damage."""

_CODEC: Any = Zstd(level=1)


class JournalEntry(NamedTuple):
    """One write. number: of the journal file. array: 0 = strokes, 1 = reviewed. corner: of the box of `values`."""

    number: int
    array: int
    corner: tuple[int, ...]
    values: NDArray[np.uint8]


class Journal:
    """The journal in `folder`. A thread of its own writes the entries that `append` queues.

    fault: why the disk refuses the entries, as a sentence; "" if it does not. No entry is dropped meanwhile.
    on_written: called by that thread after each batch with the bytes written under the current number.
    """

    def __init__(self, folder: Path, on_written: Callable[[int], None], content: str = "corrections") -> None:
        """Begin a new file. content: what is written, for the message of `fault`."""
        self.fault = ""
        self._folder, self._on_written, self._content = folder, on_written, content
        self._number = max((_number(file) for file in journals(folder)), default=0) + 1
        self._attempt, self._bytes = 0, 0
        self._open: tuple[int, BinaryIO] | None = None
        self._waiting: deque[JournalEntry] = deque()
        self._queued, self._written, self._tries = 0, 0, 0
        self._closing, self._hurry = False, False
        self._changed, self._writing = threading.Condition(), threading.Lock()
        self._thread = threading.Thread(target=self._run, name="corrections journal", daemon=True)
        self._thread.start()

    def append(self, array: int, corner: tuple[int, ...], values: NDArray[np.uint8]) -> None:
        """Queue a write; the caller must not change `values` afterwards."""
        with self._changed:
            self._waiting.append(JournalEntry(self._number, array, corner, values))
            self._queued += 1
            self._changed.notify_all()

    def begin_new(self) -> int:
        """Begin a new number for later entries and return it."""
        with self._changed:
            self._number += 1
            self._bytes = 0
            return self._number

    def remove_before(self, number: int) -> None:
        """Remove the files of lower numbers, whose entries are in the chunks.

        Raises:
            OSError: a file cannot be removed.
        """
        with self._writing:
            if self._open is not None and self._open[0] < number:
                self._close_file()
            for file in journals(self._folder):
                if _number(file) < number:
                    file.unlink()
            sync_folder(self._folder)

    def flush(self, timeout: float) -> bool:
        """Wait until all queued entries are on disk; return False after `timeout` seconds or a fault of the disk."""
        end = time.monotonic() + timeout
        with self._changed:
            wanted, tries = self._queued, self._tries
            while self._written < wanted:
                left = end - time.monotonic()
                if left <= 0 or (self.fault and self._tries > tries) or not self._thread.is_alive():
                    return False
                self._hurry = True
                self._changed.notify_all()
                self._changed.wait(left)
            return True

    def close(self) -> bool:
        """End the thread; return whether all entries are on disk."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        return self._written == self._queued

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    break
                self._changed.wait_for(lambda: self._closing or self._hurry, RETRY if self.fault else GATHER)
                self._hurry = False
                last, batch = self._closing, list(self._waiting)
            refused = self._try(batch)
            with self._changed:
                self.fault = refused
                self._tries += 1
                if not refused:
                    for _ in batch:
                        self._waiting.popleft()
                    self._written += len(batch)
                self._changed.notify_all()
            if refused and last:
                break
            if not refused:
                self._on_written(self._bytes)
        self._close_file()

    def _try(self, batch: list[JournalEntry]) -> str:
        """Write the entries and return why that failed, "" if it did not."""
        try:
            with self._writing:
                for entry in batch:
                    record = entry_to_bytes(entry)
                    self._file(entry.number).write(record)
                    if entry.number == self._number:
                        self._bytes += len(record)
                if self._open is not None:
                    _sync(self._open[1])
        except (OSError, MemoryError) as error:
            # the entries may be half in this file: it is read up to there, and the next file has all of them
            self._close_file()
            self._attempt += 1
            return damage_of_journal(self._folder, error, self._content)
        return ""

    def _file(self, number: int) -> BinaryIO:
        """Return the file of a number, open for writing."""
        if self._open is not None and self._open[0] != number:
            _sync(self._open[1])
            self._close_file()
        if self._open is None:
            path = self._folder / f"{PREFIX}{number:08}-{self._attempt:08}"
            handle = path.open("wb")
            self._open = (number, handle)
            handle.write(_MAGIC)
            sync_folder(self._folder)
        return self._open[1]

    def _close_file(self) -> None:
        if self._open is not None:
            handle, self._open = self._open[1], None
            with contextlib.suppress(OSError):
                handle.close()
            with contextlib.suppress(OSError):
                if Path(handle.name).stat().st_size <= len(_MAGIC):
                    Path(handle.name).unlink()


def _sync(handle: BinaryIO) -> None:
    handle.flush()
    os.fsync(handle.fileno())


def damage_of_journal(folder: Path, error: Exception, content: str = "corrections") -> str:
    """Return the message for a disk that does not accept corrections, or other content of a journal."""
    reason = (error.strerror if isinstance(error, OSError) else "") or str(error) or "there is too little memory"
    return (
        f"The {content} cannot be written to '{folder}' ({reason}): free some space there; they stay in memory, and "
        "are written as soon as that is possible."
    )


def entry_to_bytes(entry: JournalEntry) -> bytes:
    """Return an entry as a record of the journal."""
    shape = entry.values.shape
    header = struct.pack(f"<BB{len(shape)}q{len(shape)}q", entry.array, len(shape), *entry.corner, *shape)
    payload = header + bytes(_CODEC.encode(np.ascontiguousarray(entry.values)))
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def read_journal(file: Path) -> Iterator[JournalEntry]:
    """Yield the entries of a journal file up to its end or the first truncated record."""
    with file.open("rb") as handle:
        if handle.read(len(_MAGIC)) != _MAGIC:
            return
        while len(head := handle.read(_HEAD.size)) == _HEAD.size:
            length, sum_of_it = _HEAD.unpack(head)
            payload = handle.read(length) if length < _LARGEST else b""
            if len(payload) < length or zlib.crc32(payload) != sum_of_it or length < 2:
                return
            array, dimensions = payload[:2]
            body = 2 + 16 * dimensions
            header = struct.unpack(f"<{2 * dimensions}q", payload[2:body])
            corner, shape = header[:dimensions], header[dimensions:]
            values = np.frombuffer(_CODEC.decode(payload[body:]), np.uint8, math.prod(shape)).reshape(shape)
            yield JournalEntry(_number(file), array, corner, values)


def journals(folder: Path) -> list[Path]:
    """Return the files of the journal, in the order in which they were written."""
    return sorted(file for file in folder.glob(f"{PREFIX}*") if file.name[len(PREFIX) :].replace("-", "").isdigit())


def _number(file: Path) -> int:
    return int(file.name[len(PREFIX) :].partition("-")[0])
