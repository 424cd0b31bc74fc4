"""The commands `objects`, and `export`: objects as meshes, skeletons, contacts, and labels for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_skipseg.cli.options import AsJson, Flags, UnitFlag, VoxelSizeFlag, add_flags, flag
from napari_skipseg.images.formats import Format
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.terminal import print_line, print_report, with_progress_bar

if TYPE_CHECKING:
    from napari_skipseg.objects.classes import ClassImage
    from napari_skipseg.scoring.values import ScoreSummary
from typing import TYPE_CHECKING

from napari_skipseg.errors import InputError
from napari_skipseg.exports.options import ExportOptions

if TYPE_CHECKING:
    from napari_skipseg.images.stack import Stack

_FLAGS = Flags(ObjectOptions)


def objects(
    probability: Annotated[Path, typer.Argument(metavar="PROBABILITY", help="A probability, or a binary image.")],
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Folder for the results; made if missing.")],
    image: Annotated[Path | None, flag("Image whose grey values are measured.", metavar="IN")] = None,
    truth: Annotated[Path | None, flag("True labels to score against.", metavar="TRUTH")] = None,
    axes: Annotated[
        str | None, flag("Names of the axes in the file's order, such as ZYX or XYZ, instead of its own.")
    ] = None,
    voxel_size: VoxelSizeFlag = None,
    unit: UnitFlag = None,
    form: Annotated[Format, flag("File format of the labels.", "--format")] = "tiff",
    as_json: AsJson = False,
    **flags: Any,
) -> None:
    """Find the objects in a probability, as labels, and measure them: NAME_objects.tif and NAME_objects.csv."""
    options = ObjectOptions(**_FLAGS.given(flags))
    from napari_skipseg.inference.objects_to_folder import ObjectsRequest, iter_objects_to_folder
    from napari_skipseg.objects.files import read_probability
    from napari_skipseg.scoring.pairs import check_truth_shape, read_image_of

    found = read_probability(probability, axes, voxel_size, unit)
    measured = None if image is None else read_image_of(found.stack, image)
    if truth is not None:
        check_truth_shape(found.stack, truth)
    _print_notes(found, options, () if measured is None else measured.notes)
    work = iter_objects_to_folder(ObjectsRequest(found, options, measured, form), out_dir)
    files = with_progress_bar(work, f"finding objects in {probability.name}")
    scores = None if truth is None else _scores(files.labels, truth)
    if as_json:
        pooled = {} if scores is None else scores.pooled
        print_report({"objects": files.count, "files": [str(files.labels), str(files.table)], **pooled}, as_json)
        return
    print_line(f"{files.labels}\n{files.table}")
    print_report({"objects": files.count, **({} if scores is None else scores.mean)}, as_json)


add_flags(objects, _FLAGS.annotations)


def _print_notes(found: ClassImage, options: ObjectOptions, notes: tuple[str, ...]) -> None:
    """Print what a user should know before trusting the objects. notes: of the measured image."""
    from napari_skipseg.images.box import describe_cut
    from napari_skipseg.objects.classes import note_class
    from napari_skipseg.objects.files import describe_padding, doubt_about, doubt_about_planes

    padding = describe_padding(found.has_padding, options, found.labels and found.tissue is None)
    texts = [note_class(found, options), doubt_about_planes(found.stack, options), *found.stack.notes, padding, *notes]
    texts.append(describe_cut(options.box, found.stack))
    if doubt := doubt_about(found):
        print_line(f"Warning: {doubt}", err=True)
    for text in filter(None, texts):
        print_line(f"Note: {text}", err=True)


def _scores(labels: Path, truth: Path) -> ScoreSummary | None:
    from napari_skipseg.scores.instances import MaskError
    from napari_skipseg.scoring.files import ScoreOptions, iter_score_pairs
    from napari_skipseg.scoring.pairs import Pair

    try:
        (summary,) = with_progress_bar(
            iter_score_pairs([Pair(truth.name, labels, truth)], ScoreOptions("instances")), "scoring"
        )
    except MaskError as error:
        print_line(f"Note: {error}", err=True)
        return None
    return summary


_EXPORT = Flags(ExportOptions)


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

    given = _EXPORT.given(flags)
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


add_flags(export_labels, _EXPORT.annotations)


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
