"""The command `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_skipseg.cli.options import Device, Unit, VoxelSize
from napari_skipseg.terminal import watch


def train(
    settings: Annotated[
        Path | None, typer.Argument(metavar="[SETTINGS.json]", help="Settings; flags override.")
    ] = None,
    images: Annotated[list[Path] | None, typer.Option(help="An image; repeat for several.")] = None,
    labels: Annotated[list[Path] | None, typer.Option(help="Its labels; as many as images, in the same order.")] = None,
    classes: Annotated[list[str] | None, typer.Option("--class", metavar="NAME=VALUE", help="A class; repeat.")] = None,
    ignore: Annotated[int | None, typer.Option(help="Label value of pixels that do not count.")] = None,
    widen: Annotated[int | None, typer.Option(help="Voxels by which classes grow (for truths of thin lines).")] = None,
    validate: Annotated[str | None, typer.Option(help="Slices held out for validation, such as 20-24.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new model.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the new model; by default your model folder.")] = None,
    network: Annotated[str | None, typer.Option(help="unet or residual-fcn.")] = None,
    skip: Annotated[str | None, typer.Option(help="org, st, at, sat (unet); none, sum, org (residual-fcn).")] = None,
    dimensions: Annotated[int | None, typer.Option(help="2 or 3.")] = None,
    widths: Annotated[str | None, typer.Option(help="Channels per level of a U-Net, such as 32,64,128,256.")] = None,
    patch: Annotated[str | None, typer.Option(help="Size of a training patch, such as 256,256.")] = None,
    batch: Annotated[int | None, typer.Option(help="Patches per step.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    loss: Annotated[str | None, typer.Option(help="bce, dice or bce+dice.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, samples and augmentation.")] = None,
    start_from: Annotated[str | None, typer.Option(help="A model whose weights are the first ones.")] = None,
    voxel_size: VoxelSize = None,
    unit: Unit = None,
    device: Device = "auto",
) -> None:
    """Train a model from labelled images; stopped at any moment, the same command resumes."""
    flags = dict(locals())
    from napari_skipseg.models.catalog import user_folder
    from napari_skipseg.training.flags import settings_from_flags

    chosen = settings_from_flags(settings, flags)
    from napari_skipseg.training.train import iter_train

    typer.echo(str(watch(iter_train(chosen, out or user_folder(), device), f"training {chosen.name}")))
