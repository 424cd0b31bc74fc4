"""The command `suggest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_skipseg.cli.options import AsJson, DeviceFlag, UnitFlag, VoxelSizeFlag, read_classes
from napari_skipseg.errors import InputError
from napari_skipseg.terminal import print_line, report_rows, with_progress_bar


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
