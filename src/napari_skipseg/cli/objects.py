"""The command `objects`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args

import typer

from napari_skipseg.cli.options import AsJson, FormatFlag, Unit, VoxelSize, add_flags, flag, one_of
from napari_skipseg.objects.options import Border, Method, ObjectOptions, ObjectPlanes, Seeds
from napari_skipseg.terminal import echo, report, watch

if TYPE_CHECKING:
    from napari_skipseg.images.files import Format
    from napari_skipseg.objects.files import ObjectFiles
    from napari_skipseg.scores.summary import Summary

_DEFAULT = ObjectOptions()

_FLAGS: dict[str, Any] = {
    "method": Annotated[str | None, flag(f"How: {one_of(get_args(Method))} (default {_DEFAULT.method}).")],
    "class_name": Annotated[str | None, flag("The class; the only or first one where left out.", "--class")],
    "threshold": Annotated[
        float | None, flag(f"Probability above which a voxel belongs to the class (default {_DEFAULT.threshold}).")
    ],
    "seeds": Annotated[str | None, flag(f"What parts objects: {one_of(get_args(Seeds))} (default {_DEFAULT.seeds}).")],
    "seed_distance": Annotated[
        float | None, flag(f"Closer seeds are one, in voxels of X (default {_DEFAULT.seed_distance:g}).")
    ],
    "merge": Annotated[
        float | None, flag(f"Cells whose boundary has a lower mean probability are one (default {_DEFAULT.merge}).")
    ],
    "smallest": Annotated[int | None, flag("Fewest voxels of an object.")],
    "largest": Annotated[int | None, flag("Most voxels of an object; 0 = no limit.")],
    "fill_holes": Annotated[bool | None, flag("Fill the holes of each object.", "--fill-holes")],
    "border": Annotated[str | None, flag(f"Objects at the image's border: {one_of(get_args(Border))}.")],
    "planes": Annotated[str | None, flag(f"Objects of the volume or of slices: {one_of(get_args(ObjectPlanes))}.")],
}
"""Those of `ObjectOptions`; what is not given has its default there."""


def objects(
    probability: Annotated[Path, typer.Argument(metavar="PROBABILITY", help="A probability, or a binary image.")],
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Folder for the results; made if missing.")],
    image: Annotated[Path | None, flag("Image whose grey values are measured.", metavar="IN")] = None,
    truth: Annotated[Path | None, flag("True labels to score against.", metavar="TRUTH")] = None,
    axes: Annotated[
        str | None, flag("Names of the axes in the file's order, such as ZYX or XYZ; in place of its own.")
    ] = None,
    voxel_size: VoxelSize = None,
    unit: Unit = None,
    form: Annotated[FormatFlag, flag("What the labels are written as.", "--format")] = FormatFlag.tiff,
    as_json: AsJson = False,
    **flags: Any,
) -> None:
    """Find the objects in a probability, as labels, and measure them: NAME_objects.tif and NAME_objects.csv."""
    options = ObjectOptions(**{name: value for name, value in flags.items() if value is not None})
    files = _write(_Wanted(probability, (axes, voxel_size, unit), image, truth, out_dir, form.value), options)
    scores = None if truth is None else _scores(files.labels, truth)
    if as_json:
        told = {} if scores is None else scores.pooled
        report({"objects": files.count, "files": [str(files.labels), str(files.table)], **told}, as_json)
        return
    echo(f"{files.labels}\n{files.table}")
    report({"objects": files.count, **({} if scores is None else scores.mean)}, as_json)


add_flags(objects, _FLAGS)


class _Wanted(NamedTuple):
    """What is read, and where it goes."""

    probability: Path
    calibration: tuple[str | None, tuple[float, float, float] | None, str | None]
    image: Path | None
    truth: Path | None
    folder: Path
    form: Format


def _write(wanted: _Wanted, options: ObjectOptions) -> ObjectFiles:
    from napari_skipseg.inference.objects_to_folder import ObjectsAsked, iter_objects_to_folder
    from napari_skipseg.objects.files import doubt_about, doubt_about_planes, read_probability
    from napari_skipseg.scoring.truth import check_truth, read_image_of

    found = read_probability(wanted.probability, *wanted.calibration)
    image = None if wanted.image is None else read_image_of(found.stack, wanted.image)
    if wanted.truth is not None:
        check_truth(found.stack, wanted.truth)
    for kind, told in (("Warning", doubt_about(found)), ("Note", doubt_about_planes(found.stack, options))):
        if told:
            echo(f"{kind}: {told}", err=True)
    for note in (*found.stack.notes, *(() if image is None else image.notes)):
        echo(f"Note: {note}", err=True)
    work = iter_objects_to_folder(ObjectsAsked(found, options, image, wanted.form), wanted.folder)
    return watch(work, f"finding objects in {wanted.probability.name}")


def _scores(labels: Path, truth: Path) -> Summary | None:
    from napari_skipseg.scores.instances import MaskError
    from napari_skipseg.scoring.files import Pair, ScoreOptions, iter_score_pairs

    try:
        (summary,) = watch(iter_score_pairs([Pair(truth.name, labels, truth)], ScoreOptions("instances")), "scoring")
    except MaskError as error:
        echo(f"Note: {error}", err=True)
        return None
    return summary
