"""The command `segment`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from napari_skipseg.cli.options import Depth, Device, FormatFlag, Padding, PaddingFlag, PlanesFlag, Unit, VoxelSize
from napari_skipseg.terminal import report, watch

if TYPE_CHECKING:
    from napari_skipseg.inference.options import SegmentOptions


def segment(
    image: Annotated[Path, typer.Argument(metavar="IN", help="A TIFF, OME-TIFF, OME-Zarr, MRC, PNG or JPEG.")],
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Folder for the results; made if missing.")],
    model: Annotated[str, typer.Option(help="A model's name, or its folder.")] = "em-membrane",
    device: Device = "auto",
    attention: Annotated[bool, typer.Option("--attention", help="Write the attention maps too.")] = False,
    threshold: Annotated[float, typer.Option(help="Probability above which a voxel is labelled.")] = 0.5,
    average: Annotated[int, typer.Option(help="Average over 4 or 8 mirrored and turned copies.")] = 1,
    planes: Annotated[
        PlanesFlag, typer.Option(help="xyz: a 2D network along all three axes, averaged.")
    ] = PlanesFlag.xy,
    rescale: Annotated[bool, typer.Option("--rescale", help="Bring the image to the model's voxel size.")] = False,
    channel: Annotated[int | None, typer.Option(help="Which channel, counted from 0.")] = None,
    axes: Annotated[str | None, typer.Option(help="Names of the axes, such as ZYX, where the file is wrong.")] = None,
    voxel_size: VoxelSize = None,
    unit: Unit = None,
    tile: Annotated[int, typer.Option(help="Longest side of a tile; 0 = chosen.")] = 0,
    dtype: Annotated[Depth, typer.Option(help="How probabilities are stored.")] = Depth.uint8,
    form: Annotated[FormatFlag, typer.Option("--format", help="What the results are written as.")] = FormatFlag.tiff,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away an unfinished run that lies there.")] = False,
    samples: Annotated[int, typer.Option(help="Passes with dropout on: mean and uncertainty; 0 = none.")] = 0,
    dropout: Annotated[float | None, typer.Option(help="Rate in those passes; else that of the training.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of those passes.")] = 0,
    padding: Padding = PaddingFlag.auto,
    invert: Annotated[bool, typer.Option("--invert", help="Feed the negative of the image to the model.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Measure one tile; say what the run takes.")] = False,
) -> None:
    """Segment an image into OUT_DIR. Stopped or killed, the same command goes on where it was."""
    from napari_skipseg.inference.options import SegmentOptions

    shown = SegmentOptions(device, threshold, tile, average, channel, planes.value, rescale)
    options = replace(shown, attention=attention, samples=samples, dropout=dropout, seed=seed, padding=padding.value)
    options = replace(options, invert=invert)
    _segment(image, (axes, voxel_size, unit), model, options, Writing(out_dir, dtype.value, form.value, restart, plan))


class Writing(NamedTuple):
    """Where results go and how."""

    folder: Path
    depth: Literal["uint8", "float32"]
    form: Literal["tiff", "ome-zarr"]
    restart: bool
    plan_only: bool


def _segment(
    image: Path,
    calibration: tuple[str | None, tuple[float, float, float] | None, str | None],
    model: str,
    options: SegmentOptions,
    writing: Writing,
) -> None:
    from napari_skipseg.images.files import read_stack

    stack = read_stack(image, *calibration)
    from napari_skipseg.api import iter_segment_to_folder, load_model
    from napari_skipseg.inference.planning import iter_plan

    loaded, folder, how = load_model(model), writing.folder, (writing.depth, writing.form)
    if writing.plan_only:
        plan = watch(iter_plan(stack, loaded, options, folder, *how), "measuring one tile")
        report(plan.describe(), as_json=False)
        return
    work = iter_segment_to_folder(stack, loaded, options, folder, stack.name, *how, writing.restart)
    for file in watch(work, f"segmenting {image.name}"):
        typer.echo(str(file))
