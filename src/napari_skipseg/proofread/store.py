"""The edits of the objects of one image on disk: a list that only grows, in a folder of its own.

Each edit, each undo and each redo is an entry of the journal that corrections use too: appended and synced by a thread
a fraction of a second after it came. An entry has a serial number, so an entry that a fault of the disk left twice
counts once.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from napari_skipseg.corrections.journal import Journal, journals, read_journal
from napari_skipseg.corrections.subject import Subject, subject_of
from napari_skipseg.durable import make_folders, write_durably
from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.images.identity import identify
from napari_skipseg.images.stack import Stack
from napari_skipseg.locks import FolderLock, is_held
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.proofread.edits import Edit, edit_from_dict, edit_to_dict
from napari_skipseg.user_folders import data_folder

EDITS_VARIABLE = "NAPARI_SKIPSEG_EDITS"
RECORD = "edits.json"

_SAME_SIZE = 0.01
"""Relative difference up to which two voxel sizes count as the same: programs round them."""

Act = Literal["do", "undo", "redo"]


@dataclass(frozen=True)
class EditsRecord:
    """What edits are of. subject: the probability or the labels. class_name: whose objects, "" = the only class.

    options: how the objects were found when they were edited last, None if that is not known.
    """

    subject: Subject
    class_name: str = ""
    options: ObjectOptions | None = None


@dataclass(frozen=True)
class JournalledEdit:
    """An edit and its number in the journal. time: when it was made, in seconds since 1970."""

    number: int
    edit: Edit
    time: float


@dataclass(frozen=True)
class StoredEdits:
    """Edits on this computer. changed: time of the last change. count: edits that are not undone."""

    folder: Path
    record: EditsRecord
    changed: float
    count: int
    is_open: bool


_RECORD = TypeAdapter(EditsRecord)


def edits_folder() -> Path:
    """Return the folder of all edits: `NAPARI_SKIPSEG_EDITS`, else the user's data folder."""
    return data_folder("edits", EDITS_VARIABLE)


def edits_record(stack: Stack, class_name: str = "", options: ObjectOptions | None = None) -> EditsRecord:
    """Return the record of edits of objects in a stack."""
    return EditsRecord(subject_of(stack, identify(stack)), class_name, options)


def folder_of(record: EditsRecord) -> Path:
    """Return the folder of edits."""
    ending = f"-{hashlib.sha256(record.class_name.encode()).hexdigest()[:8]}" if record.class_name else ""
    return edits_folder() / f"{record.subject.key}{ending}"


def check_same_image(wanted: EditsRecord, found: EditsRecord) -> None:
    """Check that edits belong to an image of this shape, voxel size and class.

    Raises:
        InputError: they do not.
    """
    name = found.subject.name
    if wanted.subject.shape != found.subject.shape:
        raise InputError(
            f"These edits are of '{name}' with the shape {found.subject.shape}, the objects have "
            f"{wanted.subject.shape}: choose the edits of this image."
        )
    sizes = wanted.subject.space.voxel_size, found.subject.space.voxel_size
    units = wanted.subject.space.unit, found.subject.space.unit
    if units[0] != units[1] or not np.allclose(*sizes, rtol=_SAME_SIZE):
        raise InputError(
            f"These edits were made with voxels of {_size(sizes[1])} {units[1]}, now they have {_size(sizes[0])} "
            f"{units[0]}: set the voxel size back, or export the edits and import them again."
        )
    if wanted.class_name and found.class_name and wanted.class_name != found.class_name:
        raise InputError(
            f"These edits are of objects of the class '{found.class_name}', not of '{wanted.class_name}': choose the "
            "edits of this class."
        )


def _size(size: Sequence[float]) -> str:
    return " × ".join(f"{side:g}" for side in size)


class EditStore:
    """The edits of one image while they are open. One process at a time can have them open.

    done: the edits that count, in their order. undone: those that can be done again, the last one at the end.
    """

    def __init__(self, folder: Path, record: EditsRecord) -> None:
        """Open the edits in a folder, or make it.

        Raises:
            FileError: another window has them open, or nothing can be written.
            InputError: they are of another shape, voxel size or class.
        """
        self.folder, self.record = folder, record
        name = record.subject.name
        self._lock = FolderLock(
            folder, f"The objects of '{name}' are being edited in another window (process {{holder}}): close it there."
        )
        with contextlib.ExitStack() as leaving, file_errors_as(folder):
            make_folders(folder)
            self._lock.take()
            leaving.callback(self._lock.release)
            found = read_record(folder)
            if found is not None:
                check_same_image(record, found)
                if not record.subject.file and found.subject.file:
                    self.record = replace(record, subject=found.subject)
                self.record = replace(self.record, options=record.options or found.options)
            if found != self.record:
                write_durably(folder / RECORD, json.dumps(asdict(self.record), indent=1).encode())
            self.done, self.undone, self._last = read_edits(folder)
            self._journal = Journal(folder, lambda size: None, "edits")
            leaving.pop_all()
        self._is_closed = False
        atexit.register(self.flush)

    @property
    def fault(self) -> str:
        """Why the disk does not accept the edits, as a sentence with a cure; "" if it does."""
        return self._journal.fault

    def add(self, edit: Edit) -> JournalledEdit:
        """Add an edit; edits that were undone can no longer be done again."""
        added = JournalledEdit(self._append("do", edit), edit, time.time())
        self.done.append(added)
        self.undone.clear()
        return added

    def undo(self, edit: JournalledEdit) -> None:
        """Record that an edit was undone."""
        self._append("undo", of=edit.number)
        self.done.remove(edit)
        self.undone.append(edit)

    def redo(self, edit: JournalledEdit) -> None:
        """Record that an edit was done again; it is the last one now."""
        self._append("redo", of=edit.number)
        self.undone.remove(edit)
        self.done.append(edit)

    def _append(self, act: Act, edit: Edit | None = None, of: int = 0) -> int:
        self._last += 1
        entry: dict[str, Any] = {"n": self._last, "act": act, "time": round(time.time(), 1)}
        entry |= {"of": of} if edit is None else {"edit": edit_to_dict(edit)}
        content = json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode()
        self._journal.append(0, (0,), np.frombuffer(content, np.uint8))
        return self._last

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait up to `timeout` seconds until all edits are on disk; return whether they are."""
        return self._journal.flush(timeout)

    def close(self) -> bool:
        """Release the edits; return whether all are on disk."""
        if self._is_closed:
            return True
        self._is_closed = True
        is_kept = self._journal.close()
        atexit.unregister(self.flush)
        self._lock.release()
        return is_kept


def read_record(folder: Path) -> EditsRecord | None:
    """Return the record in a folder of edits, None if there is none that can be read."""
    try:
        return _RECORD.validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError, SkipsegError):
        return None


def read_edits(folder: Path) -> tuple[list[JournalledEdit], list[JournalledEdit], int]:
    """Return the edits that count, those that were undone last and can be done again, and the last serial number.

    Raises:
        FileError: the journal cannot be read.
    """
    done: list[JournalledEdit] = []
    undone: list[JournalledEdit] = []
    last = 0
    with file_errors_as(folder):
        for file in journals(folder):
            for record in read_journal(file):
                entry = json.loads(record.values.tobytes())
                if entry["n"] <= last:
                    continue  # an entry whose first copy was on disk although the disk reported a fault
                last = entry["n"]
                if entry["act"] == "do":
                    done.append(JournalledEdit(last, edit_from_dict(entry["edit"]), entry["time"]))
                    undone.clear()
                    continue
                source, target = (done, undone) if entry["act"] == "undo" else (undone, done)
                place = next((place for place, each in enumerate(source) if each.number == entry["of"]), None)
                if place is not None:
                    target.append(source.pop(place))
    return done, undone, last


def find_edits() -> tuple[StoredEdits, ...]:
    """Return all edits on this computer, the last changed first."""
    found = []
    with contextlib.suppress(OSError):
        for folder in edits_folder().iterdir():
            record = read_record(folder)
            if record is None:
                continue
            with contextlib.suppress(FileError, OSError, InputError):
                files = [folder / RECORD, *journals(folder)]
                changed = max(file.stat().st_mtime for file in files)
                found.append(StoredEdits(folder, record, changed, len(read_edits(folder)[0]), is_held(folder)))
    return tuple(sorted(found, key=lambda each: (-each.changed, each.folder.name)))
