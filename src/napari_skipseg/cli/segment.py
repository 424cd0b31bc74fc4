"""The command `segment`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from napari_skipseg.cli.options import DepthFlag, Flags, FormatFlag, UnitFlag, VoxelSizeFlag, add_flags
from napari_skipseg.errors import InputError
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.terminal import print_line, print_report, with_progress_bar

if TYPE_CHECKING:
    from napari_skipseg.inference.estimate import RunPlan

_FLAGS = Flags(SegmentOptions, defaults={"attention": False})


def segment(
    file: Annotated[
        Path, typer.Argument(metavar="IN", help="A TIFF, OME-TIFF, OME-Zarr, MRC, PNG or JPEG, or a folder of slices.")
    ],
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Folder for the results; made if missing.")],
    model: Annotated[str, typer.Option(help="A model's name, or its folder.")] = "em-membrane",
    axes: Annotated[
        str | None, typer.Option(help="Names of the axes in the file's order, such as ZYX or XYZ; in place of its own.")
    ] = None,
    voxel_size: VoxelSizeFlag = None,
    unit: UnitFlag = None,
    image: Annotated[
        str | None, typer.Option(help="Which image of a file that holds several: its number, from 0, or its name.")
    ] = None,
    all_images: Annotated[bool, typer.Option("--all-images", help="All images of such a file, one by one.")] = False,
    as_stack: Annotated[bool, typer.Option("--as-stack", help="IN is a folder with one file per slice.")] = False,
    dtype: Annotated[DepthFlag, typer.Option(help="How probabilities are stored.")] = DepthFlag.uint8,
    form: Annotated[FormatFlag, typer.Option("--format", help="What the results are written as.")] = FormatFlag.tiff,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away an unfinished run that lies there.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Measure one tile; say what the run takes.")] = False,
    **flags: Any,
) -> None:
    """Segment an image into OUT_DIR. Stopped or killed, the same command continues where it was."""
    from napari_skipseg.images.files import images_to_read
    from napari_skipseg.inference.estimate import total_of

    check_stack(file, as_stack)
    if all_images and image is not None:
        raise InputError("--image and --all-images exclude each other: give one of them.")
    wanted = [Path(each) for each in images_to_read(file)] if all_images else [file]

    options = SegmentOptions(**_FLAGS.given(flags))
    writing, plans = OutputFlags(out_dir, dtype.value, form.value, restart, plan), []
    for each in wanted:
        taken = InputFlags(each, axes, voxel_size, unit, image)
        plans += _segment(taken, model, options, writing, is_headed=all_images)
    if len(plans) > 1:
        print_report(total_of(plans), as_json=False)


add_flags(segment, _FLAGS.annotations)


def check_stack(file: Path, as_stack: bool) -> None:
    """Raise if a folder of slices is given without saying that it is one stack, or what is no folder is called so.

    Raises:
        InputError: it is so.
    """
    from napari_skipseg.images.files import location_of_image
    from napari_skipseg.images.slices import holds_slices, is_pattern
    from napari_skipseg.images.zarr.metadata import is_zarr

    place = location_of_image(file)
    if place.is_dir() and not is_zarr(place):
        if not as_stack and holds_slices(place):
            raise InputError(
                f"'{file}' is a folder: give --as-stack too if it holds the slices of one stack; `napari-skipseg "
                "batch` segments each image in it by itself."
            )
    elif as_stack and place.exists() and not is_pattern(place):
        raise InputError(
            f"'{file}' is no folder of slices: leave out --as-stack. (One of several images in a file is chosen with "
            "--image NUMBER or --image NAME, all of them with --all-images.)"
        )


class InputFlags(NamedTuple):
    """What is read, and how: see `images.files.read_stack`."""

    file: Path
    axes: str | None
    voxel_size: tuple[float, float, float] | None
    unit: str | None
    image: str | None


class OutputFlags(NamedTuple):
    """Where results go and how."""

    folder: Path
    depth: Literal["uint8", "float32"]
    form: Literal["tiff", "ome-zarr"]
    restart: bool
    plan_only: bool


def _segment(
    taken: InputFlags,
    model: str,
    options: SegmentOptions,
    writing: OutputFlags,
    is_headed: bool,
) -> list[RunPlan]:
    """Segment an image, or print what that would take; return the plans that were printed. is_headed: with its name."""
    from napari_skipseg.images.files import read_stack

    stack = read_stack(taken.file, taken.axes, taken.voxel_size, taken.unit, image=taken.image)
    from napari_skipseg.api import iter_segment_to_folder, load_model
    from napari_skipseg.inference.scale import describe_unknown_size
    from napari_skipseg.inference.trial import iter_plan

    loaded, folder, how = load_model(model), writing.folder, (writing.depth, writing.form)
    if note := describe_unknown_size(stack, loaded.description):
        print_line(f"Note: {note}", err=True)
    if writing.plan_only:
        plan = with_progress_bar(iter_plan(stack, loaded, options, folder, *how), "measuring one tile", notes=False)
        if is_headed:
            print_line(f"{stack.name} {stack.title}".strip())
        print_report(plan.describe(), as_json=False)
        return [plan]
    work = iter_segment_to_folder(stack, loaded, options, folder, stack.name, *how, writing.restart)
    for file in with_progress_bar(work, f"segmenting {stack.name}"):
        print_line(str(file))
    return []
