"""Files at which the process itself ended: a note lies beside a file's record while it is opened, and stays if it does.

A codec that crashes on a damaged file takes the whole batch with it, and would again at every start. So a file at which
the process crashed several times in a row is left out, until it is asked for again. That it crashed is written down by
Python's fault handler; a process that was killed leaves nothing there, whatever it was about, and that counts for
nothing.
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
"""How the files begin that say of a process that it crashed, and where."""

_kept: list[BinaryIO] = []
"""The file that a worker's crashes go to."""


@dataclass(frozen=True)
class CrashNote:
    """How often in a row a process crashed while it opened a file.

    by: the process that has it open now, "" = none. changed: when the file was, as another content is another chance.
    """

    crashes: int = 0
    by: str = ""
    changed: int = 0

    @property
    def is_hopeless(self) -> bool:
        """Whether the file is not to be opened again."""
        return self.crashes >= MOST_CRASHES

    @property
    def reason(self) -> str:
        """Why it is not, in a sentence."""
        return (
            f"The process crashed {self.crashes} times in a row while this file was opened, so it is left out: export "
            "the image again, or try it once more (Retry failed, in a shell --retry)."
        )


class CrashGuard:
    """The files that this process is opening. A file that is suspect is opened while no other is, so that its
    neighbours are not blamed for it."""

    def __init__(self, place: RunPlace, is_closed: Callable[[], bool]) -> None:
        self._place, self._is_closed = place, is_closed
        self.by = f"{socket.gethostname()}-{os.getpid()}"
        self._changed = threading.Condition()
        self._inside, self._alone = 0, False

    def look_at(self, entry: BatchInput) -> GuardedFile:
        """Return what is known of a file that is about to be opened."""
        return GuardedFile(self, note_of(self._place, entry), _place_of(self._place, entry))

    def enter(self, alone: bool) -> None:
        """Wait until the file may be opened, or until the batch stops."""
        with self._changed:
            while (self._alone or (alone and self._inside)) and not self._is_closed():
                self._changed.wait(0.1)
            self._inside += 1
            self._alone = self._alone or alone

    def leave(self, alone: bool) -> None:
        """Let other files be opened."""
        with self._changed:
            self._inside -= 1
            self._alone = self._alone and not alone
            self._changed.notify_all()


class GuardedFile:
    """One file from before it is opened until its first tile was computed; a context manager.

    If it is left without `passed`, the file is not blamed: the process still runs, whatever happened.
    """

    def __init__(self, openings: CrashGuard, note: CrashNote, place: Path) -> None:
        self._openings, self.note, self._place = openings, note, place
        self._is_alone, self._is_open = note.crashes > 0, False

    def __enter__(self) -> GuardedFile:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def passed(self) -> None:
        """Note that the file can be opened: crashes that were noted before no longer count."""
        if self._is_open:
            self.note = CrashNote()
            self._close()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Note nothing while the file only waits for other files."""
        was_open = self._is_open
        self._close()
        try:
            yield
        finally:
            if was_open:
                self._open()

    def _open(self) -> None:
        self._openings.enter(self._is_alone)
        self._is_open = True
        _write(self._place, replace(self.note, by=self._openings.by))

    def _close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        try:
            if self.note.crashes:
                _write(self._place, self.note)
            else:
                with file_errors_as(self._place):
                    self._place.unlink(missing_ok=True)
        finally:
            self._openings.leave(self._is_alone)


def note_of(place: RunPlace, entry: BatchInput) -> CrashNote:
    """Return what is noted of a file, with the end of the process that had it open the last time."""
    changed = _changed(entry)
    try:
        told = CrashNote(**json.loads(_place_of(place, entry).read_bytes()))
        if told.changed == changed and told.by:
            crash = place.path / f"{CRASHES}{told.by}"
            is_crash = crash.is_file() and crash.stat().st_size > 0
            return CrashNote(told.crashes + is_crash, "", changed)
        return told if told.changed == changed else CrashNote(changed=changed)
    except (OSError, ValueError, TypeError, AttributeError):  # there is none, or it was cut short
        return CrashNote(changed=changed)


def allow_reopening(place: RunPlace, entry: BatchInput) -> None:
    """Allow a file that was left out to be opened once more.

    Raises:
        FileError: nothing can be written.
    """
    note = note_of(place, entry)
    if note.is_hopeless:
        _write(_place_of(place, entry), replace(note, crashes=MOST_CRASHES - 1))


@contextlib.contextmanager
def crash_reports(place: RunPlace) -> Iterator[None]:
    """Let Python's fault handler write into the run's folder where this process crashes, if nobody else enabled it.

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
    """Let Python's fault handler write into the run's folder where this process, a worker, crashes.

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


def _place_of(place: RunPlace, entry: BatchInput) -> Path:
    return place.record(entry).with_suffix(".opening")


def _changed(entry: BatchInput) -> int:
    try:
        return location_of_image(entry.file).stat().st_mtime_ns
    except OSError:
        return 0


def _write(place: Path, note: CrashNote) -> None:
    """Write a note; quickly, as there is one for each file, and what a power cut leaves of it is no matter."""
    text = json.dumps(asdict(note)).encode()
    with file_errors_as(place):
        try:
            write_whole(place, text)
        except FileNotFoundError:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, text)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What only writing can meet, and every file would."""
_PROBE = ".probe"
_CONTINUE = "What is done stays: start the same batch again to continue."


class StoppedError(SkipsegError):
    """The batch was stopped while it worked on the file, which is not at fault."""


def reason_of(error: Exception) -> str:
    """Return in one sentence why a file failed."""
    if isinstance(error, SkipsegError):
        return " ".join(str(error).split())
    if is_out_of_memory(error):
        return "There was not enough memory for it: choose a smaller tile, such as 256 (64 for a volume), or crop it."
    said = (str(error).strip().splitlines() or [""])[0].rstrip(".:")
    return (
        f"It failed unexpectedly ({type(error).__name__}: {said}): try again, and report it where it fails once more."
    )


def fault_of_folder(error: Exception, folder: Path) -> FileError | None:
    """Return why nothing more can be written to `folder`, where that is what `error` says; None for all else."""
    faults = [fault for fault in _chain(error) if isinstance(fault, OSError)]
    if any(fault.errno in _FULL for fault in faults):
        return FileError(f"{reason_of(error)} {_CONTINUE}")
    if faults:
        try:
            write_whole(folder / _PROBE, b"can this be written?")
            (folder / _PROBE).unlink(missing_ok=True)  # another file may fail at this moment too
        except OSError as fault:
            return FileError(f"Nothing can be written to '{folder}' any more ({fault.strerror or fault}). {_CONTINUE}")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
