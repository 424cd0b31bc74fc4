"""The command `objects`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from napari_skipseg.cli.options import AsJson, Flags, FormatFlag, UnitFlag, VoxelSizeFlag, add_flags, flag
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.terminal import print_line, print_report, with_progress_bar

if TYPE_CHECKING:
    from napari_skipseg.images.formats import Format
    from napari_skipseg.objects.files import ObjectFiles
    from napari_skipseg.scores.summary import ScoreSummary

_FLAGS = Flags(ObjectOptions)


def objects(
    probability: Annotated[Path, typer.Argument(metavar="PROBABILITY", help="A probability, or a binary image.")],
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Folder for the results; made if missing.")],
    image: Annotated[Path | None, flag("Image whose grey values are measured.", metavar="IN")] = None,
    truth: Annotated[Path | None, flag("True labels to score against.", metavar="TRUTH")] = None,
    axes: Annotated[
        str | None, flag("Names of the axes in the file's order, such as ZYX or XYZ; in place of its own.")
    ] = None,
    voxel_size: VoxelSizeFlag = None,
    unit: UnitFlag = None,
    form: Annotated[FormatFlag, flag("What the labels are written as.", "--format")] = FormatFlag.tiff,
    as_json: AsJson = False,
    **flags: Any,
) -> None:
    """Find the objects in a probability, as labels, and measure them: NAME_objects.tif and NAME_objects.csv."""
    options = ObjectOptions(**_FLAGS.given(flags))
    files = _write(_Wanted(probability, (axes, voxel_size, unit), image, truth, out_dir, form.value), options)
    scores = None if truth is None else _scores(files.labels, truth)
    if as_json:
        told = {} if scores is None else scores.pooled
        print_report({"objects": files.count, "files": [str(files.labels), str(files.table)], **told}, as_json)
        return
    print_line(f"{files.labels}\n{files.table}")
    print_report({"objects": files.count, **({} if scores is None else scores.mean)}, as_json)


add_flags(objects, _FLAGS.annotations)


class _Wanted(NamedTuple):
    """What is read, and where it goes."""

    probability: Path
    calibration: tuple[str | None, tuple[float, float, float] | None, str | None]
    image: Path | None
    truth: Path | None
    folder: Path
    form: Format


def _write(wanted: _Wanted, options: ObjectOptions) -> ObjectFiles:
    from napari_skipseg.inference.objects_to_folder import ObjectsRequest, iter_objects_to_folder
    from napari_skipseg.objects.classes import note_class
    from napari_skipseg.objects.files import describe_padding, doubt_about, doubt_about_planes, read_probability
    from napari_skipseg.scoring.truth import check_truth_shape, read_image_of

    found = read_probability(wanted.probability, *wanted.calibration)
    image = None if wanted.image is None else read_image_of(found.stack, wanted.image)
    if wanted.truth is not None:
        check_truth_shape(found.stack, wanted.truth)
    doubts = (
        ("Warning", doubt_about(found)),
        ("Note", note_class(found, options)),
        ("Note", doubt_about_planes(found.stack, options)),
    )
    for kind, doubt in doubts:
        if doubt:
            print_line(f"{kind}: {doubt}", err=True)
    padding = describe_padding(found.has_padding, options, found.labels and found.tissue is None)
    for note in (*found.stack.notes, *((padding,) if padding else ()), *(() if image is None else image.notes)):
        print_line(f"Note: {note}", err=True)
    work = iter_objects_to_folder(ObjectsRequest(found, options, image, wanted.form), wanted.folder)
    return with_progress_bar(work, f"finding objects in {wanted.probability.name}")


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
