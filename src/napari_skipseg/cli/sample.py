"""The commands `sample` and `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_skipseg.errors import InputError
from napari_skipseg.terminal import print_line

_NAME = "em-sample"


def sample(
    out_dir: Annotated[Path, typer.Argument(help="Folder for the files; made if missing.")],
    slices: Annotated[int, typer.Option(help="Slices.")] = 16,
    side: Annotated[int, typer.Option(help="Length of a slice's sides, in pixels.")] = 512,
    seed: Annotated[
        int, typer.Option(help="A different seed gives different tissue; the same seed, the same bytes.")
    ] = 0,
) -> None:
    """Write the synthetic EM stack of napari's File > Open Sample, and its truth, as OME-TIFF."""
    from napari_skipseg.images.faults import make_folder
    from napari_skipseg.images.files import write_ome_tiff
    from napari_skipseg.images.synthetic.sample import make_sample

    made = make_sample((slices, side, side), seed)
    make_folder(out_dir)
    stack = made.stack
    for ending, values in (("", stack.data), ("_membranes", made.membrane), ("_mitochondria", made.mitochondria)):
        file = out_dir / f"{_NAME}{ending}.tif"
        write_ome_tiff(file, values, stack.space)
        print_line(str(file))


def demo(
    headless: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write results here and close the window.")
    ] = None,
) -> None:
    """Open napari with the sample EM stack, segmented."""
    try:
        from napari_skipseg.widgets.panel import open_demo
    except ImportError as error:
        raise InputError(f'The viewer is not installed ({error}): pip install "napari-skipseg[all]".') from error
    for file in open_demo(headless):
        print_line(str(file))
