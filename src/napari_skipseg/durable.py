"""Files that are on disk when the call returns, whole or as they were before: neither a kill nor a power cut halves
one.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

PARTIAL = ".partial"
"""Ending of a file that is being written; one that a killed process left is of no use."""


def write_durably(path: Path, content: bytes) -> None:
    """Write a file in place of an older one, in a folder that is there, with its name on disk too.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    write_whole_file(path, content)
    sync_folder(path.parent)


def write_whole_file(path: Path, content: bytes) -> None:
    """Write a file in place of an older one; which of the two is there after a power cut `sync_folder` decides.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    part = path.with_name(path.name + PARTIAL)
    try:
        with part.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def make_folders(folder: Path) -> None:
    """Make a folder, and those above it, where they are missing.

    Raises:
        OSError: it cannot be made.
    """
    if not folder.is_dir():
        make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names of a folder's files to disk; Windows does that by itself.

    Raises:
        OSError: the disk is at fault.
    """
    if sys.platform == "win32" or not folder.is_dir():
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
