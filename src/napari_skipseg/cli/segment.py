"""The commands `segment`, `run`, which repeats one, and `suggest`, which names the models for an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from napari_skipseg.cli.options import (
    AsJson,
    DepthFlag,
    DeviceFlag,
    Flags,
    FormatFlag,
    UnitFlag,
    VoxelSizeFlag,
    add_flags,
    read_classes,
)
from napari_skipseg.errors import InputError
from napari_skipseg.images.formats import USUAL_DEPTH
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.terminal import print_line, print_report, report_rows, with_progress_bar

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
    dtype: DepthFlag = USUAL_DEPTH,
    form: FormatFlag = "tiff",
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
        from napari_skipseg.api import load_model
        from napari_skipseg.inference.run_spec import RunSpec
        from napari_skipseg.inference.scale import describe_far_off, describe_unknown_size
        from napari_skipseg.inference.to_folder import FolderTarget, iter_segment
        from napari_skipseg.inference.trial import iter_plan

        spec = RunSpec(stack, loaded := load_model(model), options)
        if note := (
            describe_unknown_size(stack, loaded.description) or describe_far_off(stack, loaded.description, options)
        ):
            print_line(f"Note: {note}", err=True)
        if not plan:
            work = iter_segment(spec, FolderTarget(out_dir, stack.name, dtype, form, restart))
            for written in with_progress_bar(work, f"segmenting {stack.name}"):
                print_line(str(written))
            continue
        plans.append(with_progress_bar(iter_plan(spec, out_dir, dtype, form), "measuring one tile", notes=False))
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


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A _recipe.json, or a result that contains one.")],
    out_dir: Annotated[
        Path | None, typer.Argument(metavar="OUT_DIR", help="Folder for the results; else 'again' beside RECIPE.")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--input", help="An image to use instead of the recipe's; repeat for several.")
    ] = None,
    model: Annotated[str, typer.Option(help="The recipe's model, if it has moved: its name or folder.")] = "",
    restart: Annotated[bool, typer.Option("--restart", help="Throw away an unfinished run that lies there.")] = False,
) -> None:
    """Segment, or find objects, again with a recipe: the same image, model, options and choices."""
    from napari_skipseg.images.files import read_stack
    from napari_skipseg.inference.recipes.lookup import name_of_run, read_recipe_file
    from napari_skipseg.inference.recipes.repeat import AGAIN, iter_repeat, prepare_repeat

    found, near = read_recipe_file(recipe), recipe.absolute().parent
    printed: tuple[str, ...] = ()
    images: list[Path | None] = [*image] if image else [None]
    for file in images:
        stack = None if file is None else read_stack(file)
        repeat = prepare_repeat(found, stack, near, model)
        for warning in repeat.warnings:
            if warning not in printed:
                print_line(f"Warning: {warning}", err=True)
        printed = repeat.warnings
        name = name_of_run(recipe) if file is None else ""
        work = iter_repeat(repeat, near / AGAIN if out_dir is None else out_dir, restart, name)
        for written in with_progress_bar(work, repeat.title):
            print_line(str(written))


def suggest(
    file: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image; the middle of it is looked at.")],
    labels: Annotated[
        Path | None, typer.Option(help="Strokes over it: 0 = nothing, 1 = background, 2 and more = classes.")
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", metavar="NAME=VALUE", help="A class of the strokes; repeatable.")
    ] = None,
    axes: Annotated[str | None, typer.Option(help="Names of the axes in the file's order, such as ZYX.")] = None,
    voxel_size: VoxelSizeFlag = None,
    unit: UnitFlag = None,
    device: DeviceFlag = "auto",
    as_json: AsJson = False,
) -> None:
    """Say which installed models suit an image, the best first. A few strokes decide if a model knows their class."""
    from napari_skipseg.images.files import read_stack
    from napari_skipseg.images.intensity.normalize import measure
    from napari_skipseg.inference.suggest import iter_suggest, view_of_stack

    values = read_classes(classes or [])
    if (labels is None) != (not values) or sorted(values.values()) != list(range(2, 2 + len(values))):
        raise InputError("Strokes need a name for each class: give --labels FILE and --class NAME=2 (then 3, 4, …).")
    stack = read_stack(file, axes, voxel_size, unit)
    strokes = None if labels is None else read_stack(labels, are_labels=True).channel(0)
    view = view_of_stack(stack, measure(stack), strokes, tuple(sorted(values, key=lambda name: values[name])))
    found = with_progress_bar(iter_suggest(view, device), "suggest")
    rows = [
        {
            "model": each.model,
            "rescale": each.rescale if as_json else "yes" if each.rescale else "no",
            "score": round(each.score, 3) if as_json else f"{each.score:.2f}",
            "reasons": "; ".join(each.reasons),
        }
        for each in found.ranked
    ]
    report_rows(rows, as_json)
    if not as_json:
        if found.note:
            print_line(found.note)
        for name, reason in found.left_out.items():
            print_line(f"{name}: {reason}.")
