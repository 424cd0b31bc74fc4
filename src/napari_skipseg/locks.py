"""A lock on a folder that ends with its process, however that ends: no stale lock is ever left.

The lock is that of `flock`. On Linux the holder also takes a lock of the open file (OFD), which can be queried without
taking it. On macOS and Windows a query takes the lock for a moment, so `FolderLock.take` tries again for a short time
before it reports that the lock is held.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
import time
import warnings
from pathlib import Path
from typing import BinaryIO

from napari_skipseg.errors import FileError

LOCK_FILE = "lock"
_AT_WORK = "'{folder}' is being written by a different run (process {holder}): wait for it, or end it first."
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_FAR = 2**30
"""Byte that is locked on Windows, where locked bytes cannot be read: the number of the process lies before it."""
_PATIENCE, _PAUSE = 0.1, 0.002
"""Seconds for which a held lock is tried again, and between two tries: a query holds it for microseconds."""
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

_warned: set[int] = set()
"""The file systems (their device numbers) for which a warning of missing locks was given."""


class FolderLock:
    """The lock of the folder `folder`: a file whose lock the system releases when its process has ended.

    Some file systems have no locks (Lustre without `-o flock`, some NFS). There every lock is granted, and a warning
    says so once.

    refusal: the sentence if another process holds the lock, with {holder} in place of the number of that process, and
    {folder} in place of the folder.
    """

    def __init__(self, folder: Path, refusal: str = _AT_WORK) -> None:
        self._folder, self._file, self._refusal = folder, folder / LOCK_FILE, refusal.replace("{folder}", str(folder))
        self._handle: BinaryIO | None = None

    def take(self) -> None:
        """Make the folder if it is missing, and take its lock.

        Raises:
            FileError: another one, of this process or another, holds it; the lock's file is a link.
            OSError: nothing can be written.
        """
        until = time.monotonic() + _PATIENCE
        while self._handle is None:
            self._folder.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as closing:
                handle = closing.enter_context(_open_lock(self._file, to_take=True))
                granted = lock_file(handle)
                if granted is False:
                    if time.monotonic() < until:
                        time.sleep(_PAUSE)
                        continue
                    handle.seek(0)
                    holder = handle.read(20).decode("ascii", "replace").strip() or "of unknown number"
                    raise FileError(self._refusal.replace("{holder}", holder))
                if granted is None:
                    _warn_of_no_locks(self._folder)
                if os.path.samestat(os.fstat(handle.fileno()), self._file.stat()):  # else it was removed meanwhile
                    handle.truncate(0)
                    handle.write(str(os.getpid()).encode("ascii"))
                    handle.flush()
                    closing.pop_all()
                    self._handle = handle

    def release(self) -> None:
        """Release the folder; the lock's file is removed."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        if sys.platform == "win32":  # which removes no file that is open
            handle.close()
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
        handle.close()


def is_held(folder: Path) -> bool:
    """Return whether a process holds the lock of `folder`. False on a file system without locks."""
    return holder_state(folder) is True


def holder_state(folder: Path) -> bool | None:
    """Return whether a process holds the lock of `folder`; None if the file system has no locks, so that it is
    unknown."""
    try:
        with _open_lock(folder / LOCK_FILE) as handle:
            return _is_locked(handle)
    except FileNotFoundError:
        return False
    except (OSError, FileError):
        return None


def _open_lock(file: Path, to_take: bool = False) -> BinaryIO:
    """Return the lock's file, open. A link is refused: it could lead to any file of the user."""
    flags, mode = (os.O_RDWR | os.O_CREAT, "r+b") if to_take else (os.O_RDONLY, "rb")
    try:
        opened: BinaryIO = os.fdopen(os.open(file, flags | _NO_LINK, 0o666), mode, buffering=0)  # type: ignore[assignment]
        return opened
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileError(f"'{file}' is a link, and a lock must be a file: remove it.") from error
        raise


def _warn_of_no_locks(folder: Path) -> None:
    device = folder.stat().st_dev
    if device not in _warned:
        _warned.add(device)
        warnings.warn(
            f"The file system of '{folder}' has no locks: make sure that no other run writes to this folder.",
            stacklevel=3,
        )


if sys.platform == "win32":
    import msvcrt

    def lock_file(handle: BinaryIO) -> bool | None:
        """Return whether the lock of an open file was granted; None if the file system has no locks.

        It ends when the file is closed.
        """
        handle.seek(_FAR)
        try:
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            return False if error.errno in _HELD else None
        finally:
            handle.seek(0)
        return True

    def _is_locked(handle: BinaryIO) -> bool | None:
        granted = lock_file(handle)
        if granted:
            handle.seek(_FAR)
            msvcrt.locking(handle.fileno(), msvcrt.LK_UNLCK, 1)
        return None if granted is None else not granted

else:
    import fcntl

    _FLOCK = "hhqqi4x"
    """struct flock of Linux: type, whence, start, length (0 = to the end), process."""
    _HAS_OFD = sys.platform.startswith("linux") and hasattr(fcntl, "F_OFD_GETLK")
    _WHOLE_FILE = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)

    def lock_file(handle: BinaryIO) -> bool | None:
        """Return whether the lock of an open file was granted; None if the file system has no locks.

        It ends when the file is closed.
        """
        granted = _flock(handle, fcntl.LOCK_EX)
        if granted and _HAS_OFD:
            with contextlib.suppress(OSError):  # a kernel without them: a query takes the other lock
                fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _WHOLE_FILE)
        return granted

    def _is_locked(handle: BinaryIO) -> bool | None:
        if _HAS_OFD:
            try:
                answer = fcntl.fcntl(handle, fcntl.F_OFD_GETLK, _WHOLE_FILE)
                return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    return None
        granted = _flock(handle, fcntl.LOCK_SH)
        return None if granted is None else not granted

    def _flock(handle: BinaryIO, kind: int) -> bool | None:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except OSError as error:
            return False if error.errno in _HELD else None
        return True
