"""Every write as it was made, appended to a file within a fraction of a second, and read again after a crash.

A record is its length, its CRC and what was written where: absolute values, so that reading it twice changes nothing.
A kill cuts at most the last record short, which is then left out. The files are called journal-NUMBER-ATTEMPT: a new
number begins where all before is about to go into the chunks, a new attempt after a fault of the disk.
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
"""Seconds after which what the disk refused is written again."""

GATHER = 0.05
"""Seconds that are waited for more, so that a brush stroke's many writes come to disk at once."""

_MAGIC = b"SKIPSEG\x01"
_HEAD = struct.Struct("<II")
_LARGEST = 2**28
"""Bytes of a record from which on its length is not believed."""

_CODEC: Any = Zstd(level=1)


class JournalEntry(NamedTuple):
    """One write: to which array, from which corner on, which values. number: of the journal it belongs to."""

    number: int
    array: int
    corner: tuple[int, ...]
    values: NDArray[np.uint8]


class Journal:
    """The journal in `folder`, written by a thread of its own from what `append` gives it.

    fault: why the disk refuses to take it, as a sentence, "" where all is well. Nothing is dropped meanwhile.
    on_written: is called by that thread after each time with the bytes of the present number so far.
    """

    def __init__(self, folder: Path, on_written: Callable[[int], None]) -> None:
        self.fault = ""
        self._folder, self._on_written = folder, on_written
        self._number = max((_number(file) for file in journals(folder)), default=0) + 1
        self._attempt, self._bytes = 0, 0
        self._open: tuple[int, BinaryIO] | None = None
        self._waiting: deque[JournalEntry] = deque()
        self._came, self._kept, self._tries = 0, 0, 0
        self._closing, self._hurry = False, False
        self._changed, self._writing = threading.Condition(), threading.Lock()
        self._thread = threading.Thread(target=self._run, name="corrections journal", daemon=True)
        self._thread.start()

    def append(self, array: int, corner: tuple[int, ...], values: NDArray[np.uint8]) -> None:
        """Have a write noted; `values` belong to the journal from now on."""
        with self._changed:
            self._waiting.append(JournalEntry(self._number, array, corner, values))
            self._came += 1
            self._changed.notify_all()

    def begin_new(self) -> int:
        """Return the number under which all is noted that comes from now on."""
        with self._changed:
            self._number += 1
            self._bytes = 0
            return self._number

    def remove_before(self, number: int) -> None:
        """Remove all that was noted under lower numbers: it is in the chunks.

        Raises:
            OSError: a file cannot be removed.
        """
        with self._writing:
            if self._open is not None and self._open[0] < number:
                self._leave()
            for file in journals(self._folder):
                if _number(file) < number:
                    file.unlink()
            sync_folder(self._folder)

    def flush(self, timeout: float) -> bool:
        """Return whether all that came until now is on disk, at latest after `timeout` seconds or a refusal."""
        end = time.monotonic() + timeout
        with self._changed:
            wanted, tries = self._came, self._tries
            while self._kept < wanted:
                left = end - time.monotonic()
                if left <= 0 or (self.fault and self._tries > tries) or not self._thread.is_alive():
                    return False
                self._hurry = True
                self._changed.notify_all()
                self._changed.wait(left)
            return True

    def close(self) -> bool:
        """Return whether all is on disk; nothing is noted from now on."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        return self._kept == self._came

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
                    self._kept += len(batch)
                self._changed.notify_all()
            if refused and last:
                break
            if not refused:
                self._on_written(self._bytes)
        self._leave()

    def _try(self, batch: list[JournalEntry]) -> str:
        """Return why the entries could not be written, "" where they are on disk."""
        try:
            with self._writing:
                self._write(batch)
        except (OSError, MemoryError) as error:
            self._leave()  # what is half in it is read up to there, and comes again in the next one
            self._attempt += 1
            return damage_of_journal(self._folder, error)
        return ""

    def _write(self, batch: list[JournalEntry]) -> None:
        for entry in batch:
            handle = self._file(entry.number)
            record = entry_to_bytes(entry)
            handle.write(record)
            if entry.number == self._number:
                self._bytes += len(record)
        if self._open is not None:
            _sync(self._open[1])

    def _file(self, number: int) -> BinaryIO:
        """Return the file of a number, open for writing."""
        if self._open is not None and self._open[0] != number:
            _sync(self._open[1])
            self._leave()
        if self._open is None:
            path = self._folder / f"{PREFIX}{number:08}-{self._attempt:08}"
            handle = path.open("wb")
            self._open = (number, handle)
            handle.write(_MAGIC)
            sync_folder(self._folder)
        return self._open[1]

    def _leave(self) -> None:
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


def damage_of_journal(folder: Path, error: Exception) -> str:
    """Return the sentence for a fault of the disk while corrections are written."""
    reason = (error.strerror if isinstance(error, OSError) else "") or str(error) or "there is too little memory"
    return (
        f"The corrections cannot be written to '{folder}' ({reason}): free some space there; they stay in memory, and "
        "are written as soon as that is possible."
    )


def entry_to_bytes(entry: JournalEntry) -> bytes:
    """Return a record."""
    shape = entry.values.shape
    told = struct.pack(f"<BB{len(shape)}q{len(shape)}q", entry.array, len(shape), *entry.corner, *shape)
    payload = told + bytes(_CODEC.encode(np.ascontiguousarray(entry.values)))
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def read_journal(file: Path) -> Iterator[JournalEntry]:
    """Yield the entries of a journal up to its end, or to the first one that is torn."""
    with file.open("rb") as handle:
        if handle.read(len(_MAGIC)) != _MAGIC:
            return
        while len(head := handle.read(_HEAD.size)) == _HEAD.size:
            length, sum_of_it = _HEAD.unpack(head)
            payload = handle.read(length) if length < _LARGEST else b""
            if len(payload) < length or zlib.crc32(payload) != sum_of_it or length < 2:
                return
            yield _decode(_number(file), payload)


def _decode(number: int, payload: bytes) -> JournalEntry:
    array, dimensions = payload[:2]
    body = 2 + 16 * dimensions
    told = struct.unpack(f"<{2 * dimensions}q", payload[2:body])
    corner, shape = told[:dimensions], told[dimensions:]
    values = np.frombuffer(_CODEC.decode(payload[body:]), np.uint8, math.prod(shape)).reshape(shape)
    return JournalEntry(number, array, corner, values)


def journals(folder: Path) -> list[Path]:
    """Return the files of the journal, in the order in which they were written."""
    return sorted(file for file in folder.glob(f"{PREFIX}*") if file.name[len(PREFIX) :].replace("-", "").isdigit())


def _number(file: Path) -> int:
    return int(file.name[len(PREFIX) :].partition("-")[0])
