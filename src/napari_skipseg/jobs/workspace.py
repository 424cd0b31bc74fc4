"""The private temporary folder for arrays that the viewer and the engine process exchange.

A session has one folder (mode 0700, in `TMPDIR`), and a run one folder in it. Copies of images are removed when the run
ends. The file of a result is removed with the last array that shows it, or when the engine is closed: on Linux and
macOS such arrays stay readable even then; on Windows a file in use stays, and a later session removes it. A session
locks its folder; folders that are no longer locked are removed when a new session begins. Loads without torch.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import EngineError, FileError
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.jobs.messages import ArrayReference
from napari_skipseg.locks import LOCK_FILE, FolderLock, holder_state

INPUT = "input"
"""The subfolder of a run for the engine's inputs; it is removed when the run ends."""
_PREFIX = f"napari-skipseg-{re.sub(r'[^A-Za-z0-9]+', '_', platform.node())}-"
"""Contains the host: several may share a temporary folder, and not every file system has locks across hosts."""

NEW = 3600.0
"""Seconds for which a folder without a lock is kept: its session may not have locked it yet."""

_locks: dict[Path, FolderLock] = {}
"""The locks of the session folders of this process. The number of the process is not enough: containers that share a
temporary folder and a host name count their processes each from 1."""


def make_session_folder() -> Path:
    """Remove the folders of dead sessions, and return a new private one, which `remove_folder` removes.

    Raises:
        FileError: it cannot be made.
    """
    sweep_dead_sessions()
    folder = _make_folder(_PREFIX, None)
    lock = FolderLock(folder, f"'{folder}' belongs to a different session.")
    with file_errors_as(folder):
        lock.take()
    _locks[folder] = lock
    return folder


def make_run_folder(session: Path) -> Path:
    """Return a new folder for one run.

    Raises:
        FileError: it cannot be made.
    """
    return _make_folder("run-", session)


def remove_folder(folder: Path) -> None:
    """Remove the folder of a session or a run, except files that are in use on Windows."""
    lock = _locks.pop(folder, None)
    if lock is not None:
        lock.release()
    shutil.rmtree(folder, ignore_errors=True)


def _make_folder(prefix: str, parent: Path | None) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    except OSError as error:
        place = parent or tempfile.gettempdir()
        raise FileError(
            f"No temporary folder can be made in {place} ({error.strerror}): free some space, or set TMPDIR to a "
            "folder on a different disk."
        ) from error


def sweep_dead_sessions() -> None:
    """Remove this user's folders of sessions that have ended: their locks are free."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if _is_mine(folder) and _is_dead(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_mine(folder: Path) -> bool:
    try:
        return folder.is_dir() and not folder.is_symlink() and (os.name == "nt" or folder.stat().st_uid == os.getuid())
    except OSError:
        return False


def _is_dead(folder: Path) -> bool:
    try:
        has_lock, age = (folder / LOCK_FILE).exists(), time.time() - folder.stat().st_mtime
    except OSError:
        return False
    return holder_state(folder) is False and (has_lock or age > NEW)


_mapped: weakref.WeakValueDictionary[Path, NDArray[Any]] = weakref.WeakValueDictionary()
"""The open files of results: a file in two messages, such as `ResultsOpened` and the result, is one array."""


def open_result(reference: ArrayReference) -> NDArray[Any]:
    """Return an array of the engine: read once and removed, or memory-mapped and removed with the last use.

    Raises:
        EngineError: the file is missing or damaged.
    """
    file = Path(reference.array_file)
    opened = _mapped.get(file)
    if opened is None:
        try:
            opened = np.load(file, mmap_mode=None if reference.once else "r")
        except (OSError, ValueError) as error:
            raise EngineError(f"The engine's result {file.name} cannot be read: try again.") from error
        if reference.once:
            with contextlib.suppress(OSError):
                file.unlink()
        else:
            _mapped[file] = opened
            weakref.finalize(opened.base, _discard, file).atexit = False
    values: NDArray[Any] = opened
    return values if reference.part is None else values[reference.part]


def _discard(file: Path) -> None:
    """Remove a result's file, and its folder with the last file. (`values.base` is the map that all views share.)"""
    with contextlib.suppress(OSError):
        file.unlink()
        file.parent.rmdir()
