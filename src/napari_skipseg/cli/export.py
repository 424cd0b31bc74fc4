"""The command `export`: objects as meshes, skeletons, contacts, and labels for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_skipseg.cli.options import AsJson, Flags, UnitFlag, VoxelSizeFlag, add_flags, flag
from napari_skipseg.errors import InputError
from napari_skipseg.exports.options import ExportOptions
from napari_skipseg.terminal import print_line, print_report, with_progress_bar

if TYPE_CHECKING:
    from napari_skipseg.images.stack import Stack

_FLAGS = Flags(ExportOptions)


def export_labels(
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="Objects: labels of any program, 0 = none.")],
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Folder for the results; made if missing.")],
    objects: Annotated[
        str, flag("Only these objects, by their numbers, such as 3,7,12.", "--objects", metavar="N,N,…")
    ] = "",
    contacts_with: Annotated[
        Path | None,
        flag("Contacts with the objects of a second label image, not among each other.", metavar="LABELS"),
    ] = None,
    edits: Annotated[
        Path | None, flag("Apply these edits first, as `edits export` writes them.", metavar="EDITS")
    ] = None,
    time: Annotated[int | None, flag("The time to export, of labels with several.", metavar="N")] = None,
    axes: Annotated[
        str | None, flag("Names of the axes in the file's order, such as ZYX or XYZ, instead of its own.")
    ] = None,
    voxel_size: VoxelSizeFlag = None,
    unit: UnitFlag = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that are there already.")] = False,
    as_json: AsJson = False,
    **flags: Any,
) -> None:
    """Export objects: meshes, skeletons, contacts, measurements, and labels for Neuroglancer, IMOD and WEBKNOSSOS."""
    from napari_skipseg.exports.contacts import OtherLabels
    from napari_skipseg.exports.labels import labels_at_time
    from napari_skipseg.exports.to_folder import ExportRequest, iter_export_objects, with_space_of
    from napari_skipseg.images.files import read_stack
    from napari_skipseg.inference.saving import plain_name
    from napari_skipseg.objects.files import planes_of_objects

    given = _FLAGS.given(flags)
    options = ExportOptions(**{**given, **({"contacts": True} if contacts_with else {})})
    stack = read_stack(labels, axes, voxel_size, unit, are_labels=True)
    planes = planes_of_objects(stack)
    if edits is not None:
        stack = _with_edits(stack, edits)
    opened, other = labels_at_time(stack, time, planes), None
    if contacts_with is not None:
        second = labels_at_time(read_stack(contacts_with, axes, voxel_size, unit, are_labels=True), time)
        other = OtherLabels(with_space_of(opened, second), plain_name(contacts_with.name))
    request = ExportRequest(opened, options, plain_name(labels.name), _numbers(objects), other, overwrite)
    done = with_progress_bar(iter_export_objects(request, out_dir), f"exporting objects of {labels.name}")
    if as_json:
        print_report({"objects": done.count, "files": list(map(str, done.files))}, as_json)
    else:
        print_line("\n".join(map(str, done.files)))
        print_report({"objects": done.count}, as_json)
    for note in done.notes:
        print_line(f"Note: {note}", err=True)


add_flags(export_labels, _FLAGS.annotations)


def _numbers(text: str) -> tuple[int, ...]:
    numbers = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and 0 < int(part) < 2**64 for part in numbers):
        raise InputError(f"'{text}' are no objects: give their numbers, such as --objects 3,7,12.")
    return tuple(map(int, numbers))


def _with_edits(stack: Stack, edits: Path) -> Stack:
    """Return the labels with edits applied, as a lazy view."""
    from napari_skipseg.objects.options import ObjectOptions
    from napari_skipseg.proofread.exchange import iter_edited_labels, read_edits_file

    found = read_edits_file(edits)
    options = None if found.record is None else found.record.options
    edited, refused = with_progress_bar(
        iter_edited_labels(stack, options or ObjectOptions(), found), "applying the edits"
    )
    for each in refused:
        print_line(f"Edit {each.number} ({each.edit.kind}) was left out: {each.reason}", err=True)
    return edited
