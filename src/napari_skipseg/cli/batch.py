"""The command `batch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from napari_skipseg.cli.options import Depth, FormatFlag, PaddingFlag, PlanesFlag, add_flags, flag, one_of
from napari_skipseg.objects.options import Border, Method, ObjectPlanes, Seeds
from napari_skipseg.terminal import echo, saying

if TYPE_CHECKING:
    from napari_skipseg.batch.settings import BatchSettings

BATCH: dict[str, Any] = {
    "recursive": Annotated[bool, flag("Look into folders within INPUTS too.", "--recursive")],
    "truth": Annotated[str | None, flag("Folder with labels of the same names: scores.")],
    "truth_label": Annotated[int | None, flag("Value of the class in it; else as the model was trained.")],
    "as_stack": Annotated[bool, flag("Each folder holds the slices of one stack, one file each.", "--as-stack")],
    "inside": Annotated[bool, flag("OUT may lie among the inputs.", "--inside")],
    "workers": Annotated[int | None, flag("Processes of this machine; 0 = this one alone.")],
    "scheduler": Annotated[str | None, flag("Address of a Dask scheduler, such as tcp://host:8786.")],
    "axes": Annotated[
        str | None,
        flag("Names of the axes in the file's order, such as ZYX or XYZ; files of another number of axes keep theirs."),
    ],
    "voxel_size": Annotated[tuple[float, float, float] | None, flag("Voxel size; give --unit too.", metavar="Z Y X")],
    "unit": Annotated[str | None, flag("Unit of the voxel size: nm, µm, …")],
}
"""The options that become settings of the batch, each named as its field; what is not given keeps its default."""
SEGMENT: dict[str, Any] = {
    "device": Annotated[str | None, flag("auto, cpu, cuda or mps.")],
    "attention": Annotated[bool, flag("Write the attention maps too.", "--attention")],
    "threshold": Annotated[float | None, flag("Probability above which a voxel is labelled.")],
    "average": Annotated[int | None, flag("Average over 4 or 8 mirrored and turned copies.")],
    "planes": Annotated[PlanesFlag | None, flag("xyz: a 2D network along all three axes, averaged.")],
    "padding": Annotated[PaddingFlag | None, flag("auto: leave out black frames, empty slices …; none: keep them.")],
    "rescale": Annotated[bool, flag("Bring the images to the model's voxel size.", "--rescale")],
    "invert": Annotated[bool, flag("Feed the negative of the images to the model.", "--invert")],
    "channel": Annotated[int | None, flag("Which channel, counted from 0.")],
    "tile": Annotated[int | None, flag("Longest side of a tile; 0 = chosen.")],
    "samples": Annotated[int | None, flag("Passes with dropout on: mean and uncertainty; 0 = none.")],
    "dropout": Annotated[float | None, flag("Rate in those passes; else that of the training.")],
    "seed": Annotated[int | None, flag("Seed of those passes.")],
}
"""Those of the segmentation, as of `segment`."""
OBJECTS: dict[str, Any] = {
    "method": Annotated[str | None, flag(f"Find objects too: {one_of(get_args(Method))}.", "--objects")],
    "class_name": Annotated[str | None, flag("The class whose objects are found.", "--objects-class")],
    "object_threshold": Annotated[float | None, flag("Probability above which a voxel belongs to an object.")],
    "seeds": Annotated[str | None, flag(f"What parts objects: {one_of(get_args(Seeds))}.")],
    "seed_distance": Annotated[float | None, flag("Seeds that lie closer are one, in voxels of X.")],
    "merge": Annotated[float | None, flag("Cells whose boundary has a lower mean probability are one.")],
    "smallest": Annotated[int | None, flag("Fewest voxels of an object.")],
    "largest": Annotated[int | None, flag("Most voxels of an object; 0 = no limit.")],
    "fill_holes": Annotated[bool, flag("Fill what an object encloses.", "--fill-holes")],
    "border": Annotated[str | None, flag(f"Objects that touch the border: {one_of(get_args(Border))}.")],
    "object_planes": Annotated[str | None, flag(f"Objects of: {one_of(get_args(ObjectPlanes))}.")],
}
"""Those of the search for objects."""


def batch(
    inputs: Annotated[str, typer.Argument(metavar="INPUTS", help="A folder, an image, or a pattern in quotes.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder for the results: a run's folder for each recipe.")],
    model: Annotated[str, typer.Option(help="A model's name, or its folder.")] = "em-membrane",
    dtype: Annotated[Depth, typer.Option(help="How probabilities are stored.")] = Depth.uint8,
    form: Annotated[FormatFlag, typer.Option("--format", help="What the results are written as.")] = FormatFlag.tiff,
    retry: Annotated[bool, typer.Option("--retry", help="Do again only what failed the last time.")] = False,
    **flags: Any,
) -> None:
    """Segment every image in a folder. Stopped or killed, the same command goes on where it was."""
    with saying(f"Looking for images in {inputs} …"):  # while imports take seconds
        from napari_skipseg.batch.run import iter_batch
        from napari_skipseg.cli.batch_table import show_batch

        settings = _settings(inputs, out, model, (dtype.value, form.value), flags)
    result = show_batch(iter_batch(settings, retry))
    echo(result.describe())
    for row in result.rows:
        if row.state == "failed":
            echo(f"failed  {row.called}: {row.reason}")
    for place in (result.folder, result.summary, result.report):
        echo(str(place))
    if result.count("failed"):
        raise typer.Exit(1)


def _settings(inputs: str, out: str, model: str, how: tuple[Any, Any], flags: dict[str, Any]) -> BatchSettings:
    from napari_skipseg.batch.settings import BatchSettings, ask
    from napari_skipseg.errors import InputError
    from napari_skipseg.inference.options import SegmentOptions
    from napari_skipseg.objects.options import ObjectOptions

    options = SegmentOptions(**{"attention": False, **_given(SEGMENT, flags)})
    wanted = {name.removeprefix("object_"): value for name, value in _given(OBJECTS, flags).items()}
    if wanted and "method" not in wanted:
        raise InputError("Say how objects are found: --objects components, watershed or cells.")
    request = ask(model, options, *how, objects=ObjectOptions(**wanted) if wanted else None)
    return BatchSettings(inputs, out, request, **_given(BATCH, flags))


def _given(named: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Return those of the `named` flags that were given."""
    found = {name: flags.get(name) for name in named}
    return {
        name: getattr(value, "value", value)
        for name, value in found.items()
        if value is not None and value is not False
    }


add_flags(batch, BATCH | SEGMENT | OBJECTS)
