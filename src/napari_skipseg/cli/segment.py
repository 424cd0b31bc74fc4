"""The command `segment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from napari_skipseg.cli.options import DepthFlag, Flags, FormatFlag, UnitFlag, VoxelSizeFlag, add_flags
from napari_skipseg.errors import InputError
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.terminal import print_line, print_report, with_progress_bar

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
        str | None, typer.Option(help="One image of a file with several: its number, from 0, or its name.")
    ] = None,
    all_images: Annotated[
        bool, typer.Option("--all-images", help="Segment all images of such a file, one by one.")
    ] = False,
    as_stack: Annotated[bool, typer.Option("--as-stack", help="IN is a folder with one file per slice.")] = False,
    dtype: Annotated[DepthFlag, typer.Option(help="Type of the stored probabilities.")] = DepthFlag.uint8,
    form: Annotated[FormatFlag, typer.Option("--format", help="File format of the results.")] = FormatFlag.tiff,
    restart: Annotated[bool, typer.Option("--restart", help="Discard an unfinished run in OUT_DIR.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Measure one tile; print time, memory and disk of the run.")
    ] = False,
    **flags: Any,
) -> None:
    """Segment an image into OUT_DIR. After a stop or a kill, the same command continues."""
    from napari_skipseg.images.files import images_to_read, read_stack
    from napari_skipseg.inference.estimate import total_of

    check_stack(file, as_stack)
    if all_images and image is not None:
        raise InputError("--image and --all-images exclude each other: give one of them.")
    options, plans = SegmentOptions(**_FLAGS.given(flags)), []
    for each in images_to_read(file) if all_images else (file,):
        stack = read_stack(each, axes, voxel_size, unit, image=image)
        # these take seconds to import, and a fault of the file is shown before
        from napari_skipseg.api import iter_segment_to_folder, load_model
        from napari_skipseg.inference.scale import describe_far_off, describe_unknown_size
        from napari_skipseg.inference.trial import iter_plan

        loaded = load_model(model)
        if note := (
            describe_unknown_size(stack, loaded.description) or describe_far_off(stack, loaded.description, options)
        ):
            print_line(f"Note: {note}", err=True)
        if not plan:
            work = iter_segment_to_folder(
                stack, loaded, options, out_dir, stack.name, dtype=dtype.value, form=form.value, restart=restart
            )
            for written in with_progress_bar(work, f"segmenting {stack.name}"):
                print_line(str(written))
            continue
        planning = iter_plan(stack, loaded, options, out_dir, dtype.value, form.value)
        plans.append(with_progress_bar(planning, "measuring one tile", notes=False))
        if all_images:
            print_line(f"{stack.name} {stack.title}".strip())
        print_report(plans[-1].describe(), as_json=False)
    if len(plans) > 1:
        print_report(total_of(plans), as_json=False)


add_flags(segment, _FLAGS.annotations)


def check_stack(file: Path, as_stack: bool) -> None:
    """Check that --as-stack is given for a folder of slices, and for nothing else.

    Raises:
        InputError: it is missing, or there is no folder of slices.
    """
    from napari_skipseg.images.files import location_of_image
    from napari_skipseg.images.slices import holds_slices, is_pattern
    from napari_skipseg.images.zarr.metadata import is_zarr

    place = location_of_image(file)
    if place.is_dir() and not is_zarr(place):
        if not as_stack and holds_slices(place):
            raise InputError(
                f"'{file}' is a folder: give --as-stack too if it contains the slices of one stack; `napari-skipseg "
                "batch` segments each image in it by itself."
            )
    elif as_stack and place.exists() and not is_pattern(place):
        raise InputError(
            f"'{file}' is no folder of slices: leave out --as-stack. (One of several images in a file is chosen with "
            "--image NUMBER or --image NAME, all of them with --all-images.)"
        )
