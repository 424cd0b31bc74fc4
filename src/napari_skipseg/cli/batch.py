"""The command `batch`."""

from __future__ import annotations

from typing import Annotated, Any, get_args

import typer

from napari_skipseg.batch.settings import BatchSettings, make_settings
from napari_skipseg.cli.options import DepthFlag, Flags, FormatFlag, VoxelSizeFlag, add_flags
from napari_skipseg.errors import InputError
from napari_skipseg.images.formats import USUAL_DEPTH
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.objects.options import ObjectOptions, ObjectPlanes
from napari_skipseg.terminal import print_line, with_spinner

_BATCH = Flags(BatchSettings)
_SEGMENT = Flags(SegmentOptions, leave_out=("mask",), defaults={"attention": False})
_OBJECTS = Flags(
    ObjectOptions,
    leave_out=("box", "mask"),  # objects are found where it was segmented
    names={
        "method": "objects",
        "class_name": "objects_class",
        "threshold": "object_threshold",
        "planes": "object_planes",
    },
)
_OWN = {"voxel_size": VoxelSizeFlag}


def batch(
    inputs: Annotated[str, typer.Argument(metavar="INPUTS", help="A folder, an image, or a pattern in quotes.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder for the results; each recipe gets a subfolder.")],
    model: Annotated[str, typer.Option(help="A model's name, or its folder.")] = "em-membrane",
    dtype: DepthFlag = USUAL_DEPTH,
    form: FormatFlag = "tiff",
    retry: Annotated[bool, typer.Option("--retry", help="Process only the files that failed the last time.")] = False,
    **flags: Any,
) -> None:
    """Segment every image in a folder. After a stop or a kill, the same command continues."""
    with with_spinner(f"Looking for images in {inputs} …"):  # the imports take seconds
        from napari_skipseg.batch.run import iter_batch
        from napari_skipseg.cli.batch_table import show_batch

        objects = _OBJECTS.given(flags)
        if objects and "method" not in objects:
            raise InputError("Choose how objects are found: --objects components, watershed or cells.")
        if flags.get("planes") in get_args(ObjectPlanes):
            raise InputError(
                f"--planes {flags['planes']} is an option of objects: write --object-planes {flags['planes']} here."
            )
        request = make_settings(
            model,
            SegmentOptions(**_SEGMENT.given(flags)),
            depth=dtype,
            form=form,
            objects=ObjectOptions(**objects) if objects else None,
        )
        settings = BatchSettings(inputs, out, request, voxel_size=flags["voxel_size"], **_BATCH.given(flags))
    result = show_batch(iter_batch(settings, retry))
    print_line(result.describe())
    for row in result.rows:
        if row.state == "failed":
            print_line(f"failed  {row.full_name}: {row.reason}")
    for place in (result.folder, result.summary, result.report):
        print_line(str(place))
    if result.count("failed"):
        raise typer.Exit(1)


add_flags(batch, {**_BATCH.annotations, **_OWN, **_SEGMENT.annotations, **_OBJECTS.annotations})
