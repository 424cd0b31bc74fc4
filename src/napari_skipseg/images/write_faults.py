"""Faults of writing: one sentence with its cure for each, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_skipseg.errors import FileError


@contextmanager
def telling_faults(path: Path) -> Iterator[None]:
    """Turn a fault of the file system while `path` is written into a FileError with its cure."""
    try:
        yield
    except OSError as error:
        raise FileError(_write_fault(path, error)) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write beside `path`; it takes that name at the end, or disappears on any fault."""
    part = path.with_name(path.name + ".part")
    try:
        with telling_faults(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            yield part
            part.replace(path)
    finally:
        _remove(part)


def _write_fault(path: Path, error: OSError) -> str:
    """Return the sentence for a fault of the file system, with its cure."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"There is no space left to write '{path}': free some space or choose another folder."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"'{path}' may not be written: choose a folder in which you may write."
    if error.errno == errno.EFBIG:
        return f"'{path}' is larger than the file system allows: choose another disk."
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"The folder '{path.parent}' does not exist: create it or choose another."
    if error.errno == errno.EISDIR:
        return f"'{path}' is a folder: give the name of a file."
    return f"'{path}' cannot be written ({error.strerror or error}): choose another place."


def _remove(part: Path) -> None:
    try:
        part.unlink(missing_ok=True)
    except OSError:
        return  # its folder is gone or closed to us: there is nothing of ours to remove
