"""The record of a file's outcome. It is written last, whole or not at all, so that the results it names exist."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import re
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import ConfigDict, TypeAdapter

from napari_skipseg.batch.place import write_run_text
from napari_skipseg.errors import FileError, SkipsegError
from napari_skipseg.images.identity import fingerprint
from napari_skipseg.images.stack import Stack
from napari_skipseg.wording import sides_in_words

if TYPE_CHECKING:
    from napari_skipseg.inference.options import SegmentOptions
    from napari_skipseg.models.description import ModelDescription

_FORMAT_VERSION = 1
_SIZE = re.compile(r"(?:volume|area) \((.+)\)")
"""Title of the column of sizes in the table of objects."""
NO_SIZE = "Its voxel size is not known: sizes are in pixels."
OTHER_SIZE = "Its voxels are {} and {} was trained at {}: it was segmented without rescaling."
FOLDER = -1
"""The size in the record of an OME-Zarr, which is a folder."""

State = Literal["waiting", "running", "done", "skipped", "failed"]


class Output(NamedTuple):
    """A result. file: within the run's folder. bytes: its size, `FOLDER` of an OME-Zarr."""

    file: str
    bytes: int


@dataclass(frozen=True)
class FileRecord:
    """The outcome of the input `file`, at `relative` within the inputs. The names of its results begin with `name`.

    state: "segmented" = objects and scores are still to be computed. input, truth, mask: fingerprints of the files, by
    `images.identity`; None if there is none, or it could not be read. outputs: in the order of the report. seconds: by
    part. shape, axes, bytes: of the image in memory. findings: about the image, as in its recipe. voxel_size: in words,
    "" = not known. remarks: on its voxels, a sentence each. objects, mean_size, size_unit: number and mean size of the
    objects. reason: why it failed. note: other remarks, such as why there are no scores. thumbnail: path within the
    run's folder, "" = none. ended: when it was done or failed, in this machine's time.
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
    mask: dict[str, Any] | None = None
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
    """Write the record of a file once its thumbnail is on disk. folder: of the run.

    Raises:
        FileError: it cannot be written.
    """
    after = [folder / record.thumbnail] if record.thumbnail else []
    write_run_text(path, json.dumps({"format_version": _FORMAT_VERSION, **asdict(record)}, indent=1) + "\n", after)


def read_file_record(path: Path) -> FileRecord | None:
    """Return the record of a file, None if there is none that can be read."""
    try:
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict) or values.pop("format_version", None) != _FORMAT_VERSION:
            return None
        return _adapter().validate_python(values)
    except (OSError, ValueError):  # pydantic's errors are ValueErrors
        return None


def still_holds(record: FileRecord, folder: Path, file: str, mask: Path | None) -> bool:
    """Return whether all results are in `folder`, and neither the image in `file` nor its mask has changed since."""
    if record.input is None or not record.outputs:
        return False
    if any(not _is_there(folder / output.file, output.bytes) for output in record.outputs):
        return False
    masked = None if mask is None else fingerprint_of(str(mask))
    return (fingerprint_of(file), masked) == (record.input, record.mask)


def is_of_another(record: FileRecord, folder: Path, file: str) -> bool:
    """Return whether `folder` contains results of a different image with the same name."""
    return record.file != file and any(place.exists() for place in record.files(folder))


def fingerprint_of(file: str) -> dict[str, Any] | None:
    """Return the fingerprint of a file as JSON gives it back, None if it cannot be read."""
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


@dataclass(frozen=True)
class ObjectSizes:
    """The number of objects in a file and their mean size, None without objects. unit: such as "nm³"."""

    count: int
    mean: float | None
    unit: str


def read_sizes(table: Path) -> ObjectSizes:
    """Return the number of objects in a table that `Table.write_csv` wrote, and their mean size, row by row.

    Raises:
        FileError: it cannot be read, or is no table of objects.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as handle:
            rows = csv.reader(handle)
            names = next(rows)
            column, unit = next((n, found[1]) for n, name in enumerate(names) if (found := _SIZE.fullmatch(name)))
            sizes = [float(row[column]) for row in rows]
    except (OSError, ValueError, IndexError, StopIteration) as error:
        raise FileError(f"The measurements '{table}' cannot be read: start the batch again.") from error
    return ObjectSizes(len(sizes), math.fsum(sizes) / len(sizes) if sizes else None, unit)


def describe_voxels(stack: Stack) -> str:
    """Return the voxel size of an image along its axes of space, such as "50 × 4 × 4 nm"; "" if it is not known."""
    if not stack.space.has_size:
        return ""
    sides = [stack.space.size_along(axis) for axis in stack.space.spatial_axes]
    return f"{sides_in_words(sides)} {stack.space.unit}"


def remarks_on(stack: Stack, description: ModelDescription, options: SegmentOptions) -> tuple[str, ...]:
    """Return remarks on the voxel size of an image, one sentence each."""
    from napari_skipseg.inference.scale import axes_seen, network_scale, trained_voxel_size

    if not stack.space.has_size:
        return (NO_SIZE,)
    seen = axes_seen(description, options)
    trained = trained_voxel_size(description, stack.space.unit, seen)
    if (
        options.rescale
        or trained is None
        or all(factor == 1 for factor in network_scale(stack, description, seen).values())
    ):
        return ()
    here, there = (
        f"{sides_in_words(size[-len(seen) :])} {stack.space.unit}" for size in (stack.space.voxel_size, trained)
    )
    return (OTHER_SIZE.format(here, description.name, there),)
