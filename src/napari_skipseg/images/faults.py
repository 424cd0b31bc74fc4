"""Errors of reading and writing as sentences with a cure, and files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from napari_skipseg.durable import is_held_on_windows, nearest_place, replacing_durably
from napari_skipseg.errors import FileError, SkipsegError

LONGEST_ON_WINDOWS = 259
"""Longest path on Windows, unless a setting of the registry allows more."""


@contextmanager
def file_errors_as(path: Path) -> Iterator[None]:
    """Turn an error of the file system into a FileError about `path` with a cure."""
    try:
        yield
    except OSError as error:
        raise FileError(_write_fault(path, error)) from error


def check_can_be_made(folder: Path) -> None:
    """Check that no file is in the place of `folder` or of one above it.

    Raises:
        FileError: there is one.
    """
    nearest = nearest_place(folder)
    if not nearest.is_dir():
        raise FileError(f"'{nearest}' is a file: choose a different folder.")


def make_folder(target: Path) -> None:
    """Make a folder, and those above it, if they are missing.

    Raises:
        FileError: it cannot be made.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"The folder '{target}' cannot be made: {error.strerror}. Choose a different one.") from error


@contextmanager
def replacing(path: Path, synced: bool = True, after: Sequence[Path] = ()) -> Iterator[BinaryIO]:
    """Yield a new file, open for reading and writing, that is renamed to `path` at the end, or removed on an error.

    synced: it is on disk at the end; else a power cut may leave an empty file. after: files to bring to disk before.

    Raises:
        FileError: it cannot be written.
    """
    with file_errors_as(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with replacing_durably(path, synced, after) as handle:
            yield handle


def _write_fault(path: Path, error: OSError) -> str:
    """Return a sentence about an error of the file system, with a cure."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"There is no space left to write '{path}': free some space or choose a different folder."
    if is_held_on_windows(error) and path.exists():
        return (
            f"'{path}' is open in a viewer or in a different program and cannot be replaced: close its layer, or that "
            "program, and run the same again; all that is done stays."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"'{path}' may not be written: choose a folder in which you may write."
    if error.errno == errno.EFBIG:
        return f"'{path}' is larger than the file system allows: choose a different disk."
    if error.errno == errno.ENAMETOOLONG or (
        sys.platform == "win32" and len(str(path.absolute())) > LONGEST_ON_WINDOWS
    ):
        return f"The path '{path}' is too long: give the image a shorter name, or choose a folder with a shorter path."
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"The folder '{path.parent}' does not exist: create it or choose a different one."
    if error.errno == errno.EISDIR:
        return f"'{path}' is a folder: give the name of a file."
    if error.errno == errno.ELOOP:
        return f"'{path}' is a link to a different place and is not written to: remove the link."
    return f"'{path}' cannot be written ({error.strerror or error}): choose a different place."


@contextmanager
def read_errors_as_sentences(path: Path, what: str = "The file") -> Iterator[None]:
    """Turn all errors of reading a damaged file into a FileError, except SkipsegErrors."""
    # tifffile and its codecs do not check the file: a damaged one can raise anything (IndexError, TypeError,
    # struct.error, MemoryError, errors of the codecs)
    try:
        yield
    except (SkipsegError, KeyboardInterrupt):
        raise
    except FileNotFoundError as error:
        raise FileError(f"'{path}' does not exist: check the name.") from error
    except IsADirectoryError as error:
        raise FileError(f"'{path}' is a folder: give an image file, or the folder of an OME-Zarr.") from error
    except PermissionError as error:
        raise FileError(f"'{path}' may not be read: ask its owner for permission.") from error
    except MemoryError as error:
        raise FileError(f"{what} '{path}' needs more memory than there is: read a smaller part.") from error
    except NotImplementedError as error:
        raise FileError(f"'{path}' is stored in a way that cannot be read: save it uncompressed.") from error
    except Exception as error:
        raise FileError(f"{what} '{path}' is damaged and cannot be read: copy or export it again.") from error
