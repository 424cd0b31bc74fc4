"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Depth(StrEnum):
    """How probabilities are stored."""

    uint8 = "uint8"
    float32 = "float32"


class FormatFlag(StrEnum):
    """What results are written as."""

    tiff = "tiff"
    ome_zarr = "ome-zarr"


class PlanesFlag(StrEnum):
    """Along which axes a 2D network runs."""

    xy = "xy"
    xyz = "xyz"


VoxelSize = Annotated[tuple[float, float, float] | None, typer.Option(metavar="Z Y X", help="Voxel size.")]
Unit = Annotated[str | None, typer.Option(help="Unit of the voxel size: nm, µm, …")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
