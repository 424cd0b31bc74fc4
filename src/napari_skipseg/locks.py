"""A lock on a folder that goes with the process that holds it, however that ends: nothing stale is ever left."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import BinaryIO

from napari_skipseg.errors import FileError

LOCK_FILE = "lock"
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_FAR = 2**30
"""Byte that is locked on Windows, where what is locked cannot be read: the process's number lies before it."""


class FolderLock:
    """The lock of the folder `folder`: a file whose lock the system itself takes back when its process is gone.

    Where a file system knows no locks (some clusters'), it is always granted.

    refusal: the sentence where another one holds it, with {holder} in place of its process's number.
    """

    def __init__(self, folder: Path, refusal: str) -> None:
        self._folder, self._file, self._refusal = folder, folder / LOCK_FILE, refusal
        self._handle: BinaryIO | None = None

    def take(self) -> None:
        """Make the folder where it is missing, and take its lock.

        Raises:
            FileError: another one, of this process or another, holds it.
            OSError: nothing can be written.
        """
        while self._handle is None:
            self._folder.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as closing:
                handle = closing.enter_context(self._file.open("a+b"))
                if not _lock(handle):
                    handle.seek(0)
                    holder = handle.read(20).decode("ascii", "replace").strip() or "of unknown number"
                    raise FileError(self._refusal.replace("{holder}", holder))
                if os.path.samestat(os.fstat(handle.fileno()), self._file.stat()):  # else removed meanwhile
                    handle.truncate(0)
                    handle.write(str(os.getpid()).encode("ascii"))
                    handle.flush()
                    closing.pop_all()
                    self._handle = handle

    def release(self) -> None:
        """Let go of the folder; the lock's file is gone then."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        if sys.platform == "win32":  # which removes no file that is open
            handle.close()
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
        handle.close()


def is_held(folder: Path) -> bool:
    """Return whether a process holds the lock of `folder`; it is not taken."""
    try:
        with (folder / LOCK_FILE).open("r+b") as handle:
            return not _lock(handle, shared=True)
    except OSError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: BinaryIO, shared: bool = False) -> bool:
        handle.seek(_FAR)
        try:
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            return error.errno not in _HELD
        if shared:
            msvcrt.locking(handle.fileno(), msvcrt.LK_UNLCK, 1)
        return True

else:
    import fcntl

    def _lock(handle: BinaryIO, shared: bool = False) -> bool:
        """Return whether the lock was granted; it goes when the file is closed."""
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in _HELD
        return True
