"""Files whose opening crashes the process: a note lies beside a file's record while it is opened, and stays on a crash.

A codec that crashes on a damaged file ends the whole batch, at every start. So a file at which the process crashed
several times in a row is left out until the user requests it again. Python's fault handler records the crashes. A
process that was killed leaves no such record, so this does not count as a crash.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

from napari_skipseg.batch.inputs import BatchInput
from napari_skipseg.batch.place import RunPlace
from napari_skipseg.device_faults import is_out_of_memory
from napari_skipseg.durable import open_file, write_whole
from napari_skipseg.errors import FileError, SkipsegError
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.images.files import location_of_image

MOST_CRASHES = 3
"""Crashes in a row after which a file is left out."""
CRASHES = ".crash-"
"""Beginning of the names of files in which the fault handler records where a process crashed."""

_kept: list[BinaryIO] = []
"""The file for the crashes of this worker, kept open."""


@dataclass(frozen=True)
class CrashNote:
    """How often in a row a process crashed while it opened a file.

    by: the process that opens it now, "" = none. changed: modification time of the file; a changed file is tried again.
    """

    crashes: int = 0
    by: str = ""
    changed: int = 0

    @property
    def is_hopeless(self) -> bool:
        """Whether the file is left out from now on."""
        return self.crashes >= MOST_CRASHES

    @property
    def reason(self) -> str:
        """Why it is left out, in a sentence."""
        return (
            f"The process crashed {self.crashes} times in a row while this file was opened, so it is left out: export "
            "the image again, or try it once more (Retry failed, in a shell --retry)."
        )


class CrashGuard:
    """Guards the files that this process opens. A file that crashed before is opened alone, so that no other file is
    blamed for the crash."""

    def __init__(self, place: RunPlace, is_closed: Callable[[], bool]) -> None:
        self._place, self._is_closed = place, is_closed
        self.by = f"{socket.gethostname()}-{os.getpid()}"
        self._changed = threading.Condition()
        self._inside, self._alone = 0, False

    def guard(self, entry: BatchInput) -> GuardedFile:
        """Return the guard of a file that will be opened."""
        return GuardedFile(self, note_of(self._place, entry), _note_file(self._place, entry))

    def enter(self, alone: bool) -> None:
        """Wait until the file may be opened, or until the batch stops."""
        with self._changed:
            while (self._alone or (alone and self._inside)) and not self._is_closed():
                self._changed.wait(0.1)
            self._inside += 1
            self._alone = self._alone or alone

    def leave(self, alone: bool) -> None:
        """Allow other files to be opened."""
        with self._changed:
            self._inside -= 1
            self._alone = self._alone and not alone
            self._changed.notify_all()


class GuardedFile:
    """A context manager around the opening of one file, until its first tile is computed.

    If it ends without `passed`, the file is not blamed, because the process has not crashed.
    """

    def __init__(self, guard: CrashGuard, note: CrashNote, file: Path) -> None:
        self._guard, self.note, self._file = guard, note, file
        self._is_alone, self._is_open = note.crashes > 0, False

    def __enter__(self) -> GuardedFile:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def passed(self) -> None:
        """Note that the file can be opened: earlier crashes no longer count."""
        if self._is_open:
            self.note = CrashNote()
            self._close()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Suspend the guard while this file only waits for other files."""
        was_open = self._is_open
        self._close()
        try:
            yield
        finally:
            if was_open:
                self._open()

    def _open(self) -> None:
        self._guard.enter(self._is_alone)
        self._is_open = True
        _write(self._file, replace(self.note, by=self._guard.by))

    def _close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        try:
            if self.note.crashes:
                _write(self._file, self.note)
            else:
                with file_errors_as(self._file):
                    self._file.unlink(missing_ok=True)
        finally:
            self._guard.leave(self._is_alone)


def note_of(place: RunPlace, entry: BatchInput) -> CrashNote:
    """Return the note of a file; count a crash if the process that opened it last has crashed."""
    try:
        changed = location_of_image(entry.file).stat().st_mtime_ns
    except OSError:
        changed = 0
    try:
        note = CrashNote(**json.loads(_note_file(place, entry).read_bytes()))
        if note.changed == changed and note.by:
            crash = place.path / f"{CRASHES}{note.by}"
            is_crash = crash.is_file() and crash.stat().st_size > 0
            return CrashNote(note.crashes + is_crash, "", changed)
        return note if note.changed == changed else CrashNote(changed=changed)
    except (OSError, ValueError, TypeError, AttributeError):  # there is none, or it was cut short
        return CrashNote(changed=changed)


def allow_reopening(place: RunPlace, entry: BatchInput) -> None:
    """Allow that a file that was left out is opened once more.

    Raises:
        FileError: nothing can be written.
    """
    note = note_of(place, entry)
    if note.is_hopeless:
        _write(_note_file(place, entry), replace(note, crashes=MOST_CRASHES - 1))


@contextlib.contextmanager
def crash_reports(place: RunPlace) -> Iterator[None]:
    """Record in the run's folder where this process crashes, unless Python's fault handler is already in use.

    Raises:
        FileError: nothing can be written.
    """
    clear_crashes(place)
    if faulthandler.is_enabled():
        yield
        return
    with _open_crashes(place) as handle:
        faulthandler.enable(handle)
        try:
            yield
        finally:
            faulthandler.disable()
            Path(handle.name).unlink(missing_ok=True)


def report_crashes(place: RunPlace) -> None:
    """Record in the run's folder where this process, a worker, crashes.

    Raises:
        FileError: nothing can be written.
    """
    if _kept or not faulthandler.is_enabled():
        handle = _open_crashes(place)
        faulthandler.enable(handle)
        for old in _kept:
            old.close()
        _kept[:] = [handle]


def clear_crashes(place: RunPlace) -> None:
    """Remove the empty crash reports of processes that did not crash."""
    for old in place.path.glob(f"{CRASHES}*"):
        with contextlib.suppress(OSError):
            if not old.stat().st_size:
                old.unlink(missing_ok=True)


def _open_crashes(place: RunPlace) -> BinaryIO:
    file = place.path / f"{CRASHES}{socket.gethostname()}-{os.getpid()}"
    with file_errors_as(file):
        return open_file(file)


def _note_file(place: RunPlace, entry: BatchInput) -> Path:
    return place.record(entry).with_suffix(".opening")


def _write(file: Path, note: CrashNote) -> None:
    # without a flush to the disk: there is a note for each file, and none has to survive a power cut
    text = json.dumps(asdict(note)).encode()
    with file_errors_as(file):
        try:
            write_whole(file, text)
        except FileNotFoundError:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, text)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors that only writing causes, and that every file would meet."""
_PROBE = ".probe"
_CONTINUE = "What is done stays: start the same batch again to continue."


class StoppedError(SkipsegError):
    """The batch was stopped while it processed the file; this is no fault of the file."""


def reason_of(error: Exception) -> str:
    """Return in one sentence why a file failed."""
    if isinstance(error, SkipsegError):
        return " ".join(str(error).split())
    if is_out_of_memory(error):
        return "There was not enough memory for it: choose a smaller tile, such as 256 (64 for a volume), or crop it."
    message = (str(error).strip().splitlines() or [""])[0].rstrip(".:")
    return f"It failed unexpectedly ({type(error).__name__}: {message}): try again, and report it if it fails again."


def fault_of_folder(error: Exception, folder: Path) -> FileError | None:
    """Return why nothing more can be written to `folder`; None if `error` has a different cause."""
    faults = [fault for fault in _chain(error) if isinstance(fault, OSError)]
    if any(fault.errno in _FULL for fault in faults):
        return FileError(f"{reason_of(error)} {_CONTINUE}")
    if faults:
        try:
            write_whole(folder / _PROBE, b"can this be written?")
            (folder / _PROBE).unlink(missing_ok=True)  # a different thread may have removed it
        except OSError as fault:
            return FileError(f"Nothing can be written to '{folder}' any more ({fault.strerror or fault}). {_CONTINUE}")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
