"""The corrections on this computer."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from napari_skipseg.corrections.chunk_files import CorrectionChunkFiles
from napari_skipseg.corrections.journal import journals, read_journal
from napari_skipseg.corrections.saved import SAVED_ARRAYS
from napari_skipseg.corrections.subject import FILE, CorrectionClass, Subject, read_correction_record
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.locks import LOCK_FILE, FolderLock, is_held
from napari_skipseg.user_folders import data_folder

CORRECTIONS_VARIABLE = "NAPARI_SKIPSEG_CORRECTIONS"


@dataclass(frozen=True)
class StoredCorrections:
    """Corrections of one image.

    changed: time of the last change, in seconds since 1970. was_interrupted: whether the last session ended without
    closing them. is_open: whether a window has them open now. is_empty: whether nothing was painted or reviewed.
    """

    folder: Path
    subject: Subject
    classes: tuple[CorrectionClass, ...]
    changed: float
    was_interrupted: bool
    is_open: bool
    is_empty: bool


def corrections_folder() -> Path:
    """Return the folder of all corrections: `NAPARI_SKIPSEG_CORRECTIONS`, else the user's data folder."""
    return data_folder("corrections", CORRECTIONS_VARIABLE)


def find_corrections() -> tuple[StoredCorrections, ...]:
    """Return all corrections, the last changed first; folders without corrections are skipped."""
    try:
        folders = [Path(entry.path) for entry in os.scandir(corrections_folder()) if entry.is_dir()]
    except OSError:
        return ()
    found = [one for folder in folders if (one := _look_into(folder)) is not None]
    return tuple(sorted(found, key=lambda one: (-one.changed, one.subject.key)))


def find_for(key: str) -> StoredCorrections | None:
    """Return the corrections of the image with this `identify` key, None if there are none."""
    return _look_into(corrections_folder() / key)


def find_by_file(path: str | os.PathLike[str]) -> StoredCorrections | None:
    """Return the newest corrections of an image in this file, even if it changed since; None if there are none."""
    place = os.path.abspath(path)  # noqa: PTH100  # as `read_stack` writes it, links and all
    return next((found for found in find_corrections() if found.subject.file == place), None)


def remove(found: StoredCorrections) -> None:
    """Delete corrections for good.

    Raises:
        FileError: a window has them open, or the files cannot be removed.
    """
    lock = lock_of(found.folder, found.subject.name)
    with file_errors_as(found.folder):
        lock.take()
        try:
            (found.folder / FILE).unlink(missing_ok=True)
            for place in found.folder.iterdir():
                if place.is_dir():
                    shutil.rmtree(place)
                elif place.name != LOCK_FILE:
                    place.unlink()
        finally:
            lock.release()
        found.folder.rmdir()


def lock_of(folder: Path, name: str) -> FolderLock:
    """Return the lock of the corrections of the image `name`."""
    return FolderLock(
        folder, f"'{name}' is being corrected in another window (process {{holder}}): close it there first."
    )


def is_left_open(folder: Path) -> bool:
    """Return whether the last session ended without closing these corrections; they must not be open now."""
    return (folder / LOCK_FILE).exists() or bool(journals(folder))


def _look_into(folder: Path) -> StoredCorrections | None:
    record = read_correction_record(folder)
    if record is None or record.subject.key != folder.name:
        return None
    is_open, changed = is_held(folder), record.changed
    with contextlib.suppress(OSError):  # a journal was removed meanwhile
        changed = max([changed, *(file.stat().st_mtime for file in journals(folder))])
    return StoredCorrections(
        folder,
        record.subject,
        record.classes,
        changed,
        not is_open and is_left_open(folder),
        is_open,
        not _holds_something(folder, record.subject.shape),
    )


def _holds_something(folder: Path, shape: tuple[int, ...]) -> bool:
    for name in SAVED_ARRAYS:
        if not CorrectionChunkFiles(folder / f"{name}.zarr", shape).is_empty():
            return True
    try:
        return any(entry.values.any() for file in journals(folder) for entry in read_journal(file))
    except OSError:  # a journal was removed meanwhile
        return True
