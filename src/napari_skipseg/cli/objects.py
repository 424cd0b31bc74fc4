"""The command `objects`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_skipseg.cli.options import AsJson, Flags, FormatFlag, UnitFlag, VoxelSizeFlag, add_flags, flag
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.terminal import print_line, print_report, with_progress_bar

if TYPE_CHECKING:
    from napari_skipseg.objects.classes import ClassImage
    from napari_skipseg.scoring.values import ScoreSummary

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
    form: Annotated[FormatFlag, flag("File format of the labels.", "--format")] = FormatFlag.tiff,
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
    work = iter_objects_to_folder(ObjectsRequest(found, options, measured, form.value), out_dir)
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
