"""The image that was corrected, and the record about it on disk."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from napari_skipseg.durable import write_durably
from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.images.identity import fingerprint
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack

NOT_LOOKED_AT = 0
BACKGROUND = 1
FIRST_CLASS = 2
HIGHEST = 255
"""Corrections are bytes."""
CLASS_COLORS = ("#2ee6c5", "#ffb347", "#7aa2ff", "#ff7ab6", "#c5f06b", "#d59bff")
"""Colours of classes, in results and in corrections."""


@dataclass(frozen=True)
class CorrectionClass:
    """A class that can be painted: its name, its value (2 or more) and its colour as #rrggbb."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    value: int
    color: str

    def __post_init__(self) -> None:
        if not self.name.strip() or not FIRST_CLASS <= self.value <= HIGHEST:
            raise InputError(
                f"'{self.name}' with value {self.value} is not a class: give a name, and a value from {FIRST_CLASS} to "
                f"{HIGHEST} (0 means not looked at, 1 background)."
            )


FILE = "corrections.json"


@dataclass(frozen=True)
class Subject:
    """The image that was corrected.

    key: the result of `images.identity.identify`. name: of its layer or file. file: its path, "" if it was only in
    memory. file_fingerprint: of that file when it was corrected. shape, space: of the corrections, without C.
    """

    key: str
    name: str
    file: str
    shape: tuple[int, ...]
    space: Space
    file_fingerprint: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CorrectionRecord:
    """What is on disk about corrections besides their voxels.

    changed: when they last changed, in seconds since 1970. last_box: start and stop along each axis of the last write
    that left labels; empty if that is not known.
    """

    subject: Subject
    classes: tuple[CorrectionClass, ...] = ()
    changed: float = 0.0
    last_box: tuple[tuple[int, int], ...] = ()


_RECORD = TypeAdapter(CorrectionRecord)


def subject_of(stack: Stack, key: str) -> Subject:
    """Return the description of `stack` as the subject of corrections; without its file it has no fingerprint."""
    space = stack.space.without("C")
    try:
        found = fingerprint(stack.file) if stack.file else {}
    except SkipsegError:
        found = {}
    return Subject(key, stack.name, stack.file, tuple(stack.length(axis) for axis in space.axes), space, found)


def read_correction_record(folder: Path) -> CorrectionRecord | None:
    """Return the record in a folder of corrections, None if there is none that can be read."""
    try:
        return _RECORD.validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError, SkipsegError):
        return None


def write_correction_record(folder: Path, record: CorrectionRecord) -> None:
    """Write the record, in place of an older one.

    Raises:
        FileError: it cannot be written.
    """
    with file_errors_as(folder / FILE):
        write_durably(folder / FILE, json.dumps(asdict(record), indent=1).encode())


def check_same(subject: Subject, record: CorrectionRecord) -> None:
    """Check that the corrections on disk have the shape of the image.

    Raises:
        FileError: they have a different shape.
    """
    if record.subject.shape != subject.shape:
        raise FileError(
            f"The corrections of '{subject.name}' have the shape {record.subject.shape}, the image has "
            f"{subject.shape}: export them with the command `corrections export`, then delete them."
        )
