"""The command `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_skipseg.errors import InputError
from napari_skipseg.terminal import print_line


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
