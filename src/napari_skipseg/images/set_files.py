"""Files that a different file names: only plain names of regular files in the same folder are accepted."""

from __future__ import annotations

import stat
from pathlib import Path

from napari_skipseg.errors import FileError
from napari_skipseg.file_names import FORBIDDEN, is_reserved


def is_plain_name(name: str) -> bool:
    """Return whether `name` is a plain file name: no folder, drive, stream or device, on any system.

    The check is the same on all systems, so that a set that opens on Linux opens on Windows too.
    """
    if not name or name in (".", "..") or name != name.strip() or name.endswith("."):
        return False
    if any(letter in FORBIDDEN or not letter.isprintable() for letter in name):
        return False
    return not is_reserved(name)


def find_beside(path: Path, name: str) -> Path:
    """Return the file called `name` in the folder of `path`, the file that names it.

    Raises:
        FileError: the name leads elsewhere, there is no such file, or it is no regular file of this folder.
    """
    if not is_plain_name(name):
        raise FileError(
            f"'{path}' names a file in a different place ('{printable_name(name)}'), which is not opened: put the file "
            f"beside "
            "it and correct the name."
        )
    found = path.parent / name
    try:
        status, target = found.stat(), found.resolve()
    except (OSError, ValueError, RuntimeError):
        raise FileError(f"'{path}' needs '{name}' beside it, which is missing: copy it there too.") from None
    if not stat.S_ISREG(status.st_mode):
        raise FileError(f"'{found}', which '{path.name}' names, is no regular file: put the image itself there.")
    if target.parent != path.parent.resolve():
        raise FileError(
            f"'{found}', which '{path.name}' names, is a link to a different folder, which is not followed: put the "
            "file itself there."
        )
    return found


def printable_name(name: str) -> str:
    """Return a text of unknown origin for a message: shortened, and without control characters."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name[:80])
    return f"{shown}…" if len(name) > 80 else shown


def check_regular(path: Path) -> None:
    """Check that `path`, if it exists, is a file or a folder: opening a pipe or a device may wait for ever.

    Raises:
        FileError: it is neither.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise FileError(f"'{path}' is a pipe or a device: give an image file.")
