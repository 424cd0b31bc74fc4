"""The command `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from napari_skipseg.cli.options import DeviceFlag, Flags, UnitFlag, VoxelSizeFlag, add_flags, flag, one_of
from napari_skipseg.networks.specs import NETWORK_NAMES, SKIPS, SelectInit
from napari_skipseg.terminal import drive_with_progress, print_line, with_progress_bar
from napari_skipseg.training.settings import AUGMENTATIONS, TrainSettings

_OWN: dict[str, Any] = {
    "images": Annotated[list[Path] | None, flag("An image; repeat for several.")],
    "labels": Annotated[list[Path] | None, flag("Its labels; as many as images, in the same order.")],
    "classes": Annotated[list[str] | None, flag("A class; repeat.", "--class", metavar="NAME=VALUE")],
    "name": Annotated[str | None, flag("Name of the new model.")],
    "preset": Annotated[
        str | None, flag("Name of a network in `napari-skipseg networks`; the seven flags below override it.")
    ],
    "network": Annotated[str | None, flag(f"{one_of(NETWORK_NAMES)}.")],
    "skip": Annotated[str | None, flag(f"What the skip connections do with the features: {one_of(SKIPS)}.")],
    "select_init": Annotated[
        str | None, flag(f"How the select weights of st and sat start: {one_of(get_args(SelectInit))}.")
    ],
    "dimensions": Annotated[int | None, flag("2 or 3.")],
    "in_channels": Annotated[int | None, flag("Channels of the images, such as 3 for RGB.")],
    "widths": Annotated[str | None, flag("Channels per level of a U-Net, such as 32,64,128,256.")],
    "dropout": Annotated[float | None, flag("Share of the features that dropout sets to 0 while training.")],
    "augment": Annotated[str | None, flag(f"How samples are varied: {one_of(tuple(AUGMENTATIONS))}.")],
    "voxel_size": VoxelSizeFlag,
    "unit": UnitFlag,
}
"""Flags that are no plain fields of the settings: files, classes, the network, and named sets of values."""
TRAIN_FLAGS: dict[str, Any] = {**_OWN, **Flags(TrainSettings).annotations}


def train(
    settings: Annotated[
        Path | None, typer.Argument(metavar="[SETTINGS.json]", help="Settings; flags override.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the new model; by default your model folder.")] = None,
    device: DeviceFlag = "auto",
    **flags: Any,
) -> None:
    """Train a model from labelled images; after a stop at any moment, the same command resumes.

    Several devices: torchrun --nproc-per-node 2 -m napari_skipseg.cli train …
    """
    from napari_skipseg.models.catalog import user_folder
    from napari_skipseg.training.flags import settings_from_flags

    chosen = settings_from_flags(settings, flags)
    from napari_skipseg.training.distributed import started_by_torchrun
    from napari_skipseg.training.train import iter_train

    processes = started_by_torchrun()
    work = iter_train(chosen, out or user_folder(), device, processes)
    if processes.is_first:
        print_line(str(with_progress_bar(work, f"training {chosen.name}")))
    else:
        drive_with_progress(work, lambda _progress: None)


add_flags(train, TRAIN_FLAGS)
