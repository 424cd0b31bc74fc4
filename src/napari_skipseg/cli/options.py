"""Options that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

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


class PaddingFlag(StrEnum):
    """Whether constant areas may be padding."""

    auto = "auto"
    none = "none"


Padding = Annotated[
    PaddingFlag,
    typer.Option(help="auto: leave out black frames, empty slices and the like. none: take them for tissue."),
]
VoxelSize = Annotated[
    tuple[float, float, float] | None, typer.Option(metavar="Z Y X", help="Voxel size; give --unit too.")
]
Unit = Annotated[str | None, typer.Option(help="Unit of the voxel size: nm, µm, …")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def flag(help: str, *names: str, **more: Any) -> Any:
    """Return an option of a command."""
    return typer.Option(*names, help=help, **more)


def one_of(names: tuple[str, ...]) -> str:
    """Return names as a list in words."""
    return ", ".join(names)


def add_flags(command: Callable[..., None], flags: dict[str, Any]) -> None:
    """Put `flags`, annotations by name, in place of the `**flags` of `command`: typer takes the options from there."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[:-1]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=flags[name]) for name in flags
    ]
    command.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
