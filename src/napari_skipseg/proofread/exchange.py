"""Edits in a file, and edits applied to labels in a file: JSON in and out, labels block by block."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from napari_skipseg.durable import draft_folder, write_durably
from napari_skipseg.errors import FileError, SkipsegError
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import iter_write_ome_zarr
from napari_skipseg.objects.blocks import CHUNK
from napari_skipseg.objects.classes import ClassImage
from napari_skipseg.objects.contact_file import CONTACTS_FORMAT, read_classifier
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import Progress
from napari_skipseg.proofread.edits import Edit, Reweigh, edit_from_dict, edit_to_dict
from napari_skipseg.proofread.regions import IN_MEMORY, Regions, iter_regions_of_labels, iter_regions_of_probability
from napari_skipseg.proofread.session import RefusedEdit, apply_edits
from napari_skipseg.proofread.state import ObjectsUnderEdit
from napari_skipseg.proofread.store import EditsRecord, check_same_image, edits_record

FORMAT = "napari-skipseg edits 1"
_RECORD = TypeAdapter(EditsRecord)


@dataclass(frozen=True)
class EditsFile:
    """Edits, and of which image they are: None if the file does not say it, as that of a classifier of contacts."""

    record: EditsRecord | None
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class EditedLabels:
    """Labels that were written, how many edits were applied, and those that make no sense for these objects."""

    labels: Path
    applied: int
    refused: tuple[RefusedEdit, ...] = ()


def write_edits(path: str | os.PathLike[str], record: EditsRecord, edits: Sequence[Edit]) -> Path:
    """Write edits as JSON, one a line, in place of an older file.

    Raises:
        FileError: they cannot be written.
    """
    path = Path(path)
    lines = ",\n".join(json.dumps(edit_to_dict(edit), ensure_ascii=False) for edit in edits)
    head = json.dumps({"format": FORMAT, "of": asdict(record)}, ensure_ascii=False)
    with file_errors_as(path):
        write_durably(path, f'{head[:-1]}, "edits": [\n{lines}\n]}}\n'.encode())
    return path


def read_edits_file(path: str | os.PathLike[str]) -> EditsFile:
    """Return the edits in a file. A classifier of contacts is one edit: it decides all contacts.

    Raises:
        FileError: it cannot be read, or holds no edits.
    """
    path = Path(path)
    with file_errors_as(path):
        content = path.read_bytes()
    try:
        found = json.loads(content)
        if isinstance(found, Mapping) and found.get("format") == CONTACTS_FORMAT:
            return EditsFile(None, (Reweigh(read_classifier(path).weights),))
        if not isinstance(found, Mapping) or found.get("format") != FORMAT:
            raise ValueError("another format")
        record = None if "of" not in found else _RECORD.validate_python(found["of"])
        return EditsFile(record, tuple(map(edit_from_dict, found["edits"])))
    except FileError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError, SkipsegError) as error:
        raise FileError(
            f"'{path}' holds no edits of objects: export them with `napari-skipseg edits export`."
        ) from error


@dataclass(frozen=True)
class LabelsTarget:
    """Where edited labels go: a TIFF, or a folder with the ending .zarr. recipe: stored with them."""

    path: Path
    recipe: Mapping[str, Any] = field(default_factory=dict)


def iter_regions(
    image: ClassImage | Stack, options: ObjectOptions, folder: Path | None = None
) -> Generator[Progress, None, Regions]:
    """Yield while the regions of a probability, or of labels of any program, are found; return them.

    folder: for the regions of a probability that is too large for memory; it must stay.
    """
    if isinstance(image, Stack):
        return (yield from iter_regions_of_labels(image, options.planes == "volume"))
    return (yield from iter_regions_of_probability(image, options, folder))


def iter_apply_to_file(
    image: ClassImage | Stack, options: ObjectOptions, edits: EditsFile, target: LabelsTarget
) -> Generator[Progress, None, EditedLabels]:
    """Yield while objects are found, edited and written, block by block; return what was written.

    image: the probability whose objects were edited, or labels of another program.

    Raises:
        FileError: nothing can be written, or the image cannot be read.
        InputError: the edits are of another shape, voxel size or class.
    """
    stack = image if isinstance(image, Stack) else image.stack
    if edits.record is not None:
        check_same_image(edits_record(stack, options.class_name), edits.record)
    with ExitStack() as leaving:
        large = not isinstance(image, Stack) and _voxels(stack) > IN_MEMORY
        with file_errors_as(target.path):
            target.path.parent.mkdir(parents=True, exist_ok=True)
            folder = leaving.enter_context(draft_folder(target.path.parent)) / "regions" if large else None
        objects = ObjectsUnderEdit((yield from iter_regions(image, options, folder)))
        changes, refused = apply_edits(objects, edits.edits)
        yield from iter_write_labels(objects, target)
    return EditedLabels(target.path, len(changes), tuple(refused))


def iter_edited_labels(
    stack: Stack, options: ObjectOptions, edits: EditsFile
) -> Generator[Progress, None, tuple[Stack, tuple[RefusedEdit, ...]]]:
    """Yield while labels of any program are edited; return them as a lazy view, and the edits that make no sense.

    Raises:
        InputError: as `iter_apply_to_file`; they are no labels.
    """
    if edits.record is not None:
        check_same_image(edits_record(stack, options.class_name), edits.record)
    objects = ObjectsUnderEdit((yield from iter_regions(stack, options)))
    _, refused = apply_edits(objects, edits.edits)
    axes = "".join(axis for axis in "TZYX" if axis in stack.space.axes)
    return replace(stack, data=objects.labels(), space=stack.space.with_axes(axes), file=""), tuple(refused)


def iter_write_labels(objects: ObjectsUnderEdit, target: LabelsTarget) -> Generator[Progress, None, None]:
    """Yield while the objects are written as labels, block by block.

    Raises:
        FileError: they cannot be written.
    """
    labels, space = objects.labels(), objects.regions.space
    axes = "".join(axis for axis in "TZYX" if axis in space.axes)
    recipe = {**target.recipe, "layer": "labels"}
    if target.path.suffix.lower() == ".zarr":
        chunks = tuple({"T": 1, **dict(zip("ZYX", CHUNK, strict=True))}[axis] for axis in axes)
        layout = Layout(labels.shape, space.with_axes(axes), "uint32", chunks=chunks, kind="labels", description=recipe)
        yield from iter_write_ome_zarr(target.path, labels, layout)
    else:
        yield Progress(0, 1, f"writing {target.path.name}")
        write_ome_tiff(target.path, labels, space.with_axes(axes), description=recipe)


def _voxels(stack: Stack) -> int:
    count = 1
    for axis in "TZYX":
        count *= stack.length(axis)
    return count
