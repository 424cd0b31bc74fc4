"""What became of a file: written last, whole or not at all, so that what it names is there."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import ConfigDict, TypeAdapter

from napari_skipseg.batch.place import write_run_text
from napari_skipseg.errors import SkipsegError
from napari_skipseg.images.identity import fingerprint

_FORMAT_VERSION = 1
FOLDER = -1
"""The size that is noted of a store, which is a folder."""

State = Literal["waiting", "running", "done", "skipped", "failed"]


class Output(NamedTuple):
    """A result. file: within the run's folder. bytes: its size, `FOLDER` of an OME-Zarr."""

    file: str
    bytes: int


@dataclass(frozen=True)
class FileRecord:
    """What became of the input `file`, which lay at `relative` within the inputs, and whose results are called `name`.

    state: "segmented" = objects and scores are still due. input, truth: what the files were, by `images.identity`;
    None if that could not be said. outputs: in the order in which they are reported. seconds: by part. shape, axes,
    bytes: of the image, as it is in memory. findings: about the image, as in its recipe. voxel_size: in words, "" =
    not known. remarks: on its voxels, a sentence each. objects, mean_size, size_unit: how many were found, and how
    large they are. reason: why it failed. note: what else is to be said, such as why there are no scores.
    thumbnail: within the run's folder, "" = none. ended: when
    it was done or failed, in this machine's time.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    file: str
    relative: str
    name: str
    state: Literal["segmented", "done", "failed"]
    input: dict[str, Any] | None = None
    outputs: tuple[Output, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    axes: str = ""
    bytes: int = 0
    reason: str = ""
    note: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    truth: dict[str, Any] | None = None
    thumbnail: str = ""
    ended: str = ""
    findings: tuple[str, ...] = ()
    voxel_size: str = ""
    remarks: tuple[str, ...] = ()
    objects: int | None = None
    mean_size: float | None = None
    size_unit: str = ""

    def files(self, folder: Path) -> list[Path]:
        """Return the results as paths, in the run's `folder`."""
        return [folder / output.file for output in self.outputs]


@cache
def _adapter() -> TypeAdapter[FileRecord]:
    return TypeAdapter(FileRecord)


def write_file_record(path: Path, record: FileRecord, folder: Path) -> None:
    """Record what became of a file, whose results are in the run's `folder`. Its thumbnail is on disk before.

    Raises:
        FileError: it cannot be written.
    """
    after = [folder / record.thumbnail] if record.thumbnail else []
    write_run_text(path, json.dumps({"format_version": _FORMAT_VERSION, **asdict(record)}, indent=1) + "\n", after)


def read_file_record(path: Path) -> FileRecord | None:
    """Return what became of a file, None if that is not known, or not to be read."""
    try:
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict) or values.pop("format_version", None) != _FORMAT_VERSION:
            return None
        return _adapter().validate_python(values)
    except (OSError, ValueError):  # pydantic's errors are of the latter
        return None


def still_holds(record: FileRecord, folder: Path, file: str) -> bool:
    """Return whether the results in `folder` are those of the image in `file` as it is now, and all there."""
    if record.input is None or not record.outputs:
        return False
    if any(not _is_there(folder / output.file, output.bytes) for output in record.outputs):
        return False
    return is_known_input(file) == record.input


def is_of_another(record: FileRecord, folder: Path, file: str) -> bool:
    """Return whether there are results in `folder` that are those of an image of another place."""
    return record.file != file and any(place.exists() for place in record.files(folder))


def is_known_input(file: str) -> dict[str, Any] | None:
    """Return what distinguishes a file from a changed one, None if it cannot be read."""
    with contextlib.suppress(SkipsegError, OSError):
        found: dict[str, Any] = json.loads(json.dumps(fingerprint(file)))
        return found
    return None


def outputs_of(files: list[Path], folder: Path) -> tuple[Output, ...]:
    """Return `files`, which lie in `folder`, with their sizes."""
    return tuple(
        Output(file.relative_to(folder).as_posix(), FOLDER if file.is_dir() else file.stat().st_size) for file in files
    )


def _is_there(file: Path, size: int) -> bool:
    try:
        return file.is_dir() if size == FOLDER else file.is_file() and file.stat().st_size == size
    except OSError:
        return False
