"""The command `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from napari_skipseg.cli.options import Device, Unit, VoxelSize, add_flags, flag, one_of
from napari_skipseg.networks.specs import NETWORK_NAMES, SKIPS, SelectInit
from napari_skipseg.terminal import echo, follow, watch
from napari_skipseg.training.settings import AUGMENTATIONS, PROTOCOLS, LossName, Precision

Text = str | None
Number = int | None
Fraction = float | None


FLAGS: dict[str, Any] = {
    "images": Annotated[list[Path] | None, flag("An image; repeat for several.")],
    "labels": Annotated[list[Path] | None, flag("Its labels; as many as images, in the same order.")],
    "classes": Annotated[list[str] | None, flag("A class; repeat.", "--class", metavar="NAME=VALUE")],
    "padding": Annotated[
        Text, flag("auto: learn nothing from black frames and other constant areas. none: they are tissue.")
    ],
    "ignore": Annotated[Number, flag("Label value of pixels that do not count.")],
    "widen": Annotated[Number, flag("Voxels by which classes grow (for truths of thin lines).")],
    "validate": Annotated[Text, flag("Slices held out for validation, such as 20-24.")],
    "name": Annotated[Text, flag("Name of the new model.")],
    "preset": Annotated[
        Text, flag("A network of `napari-skipseg networks` by name; the seven flags below go over it.")
    ],
    "network": Annotated[Text, flag(f"{one_of(NETWORK_NAMES)}.")],
    "skip": Annotated[Text, flag(f"What the skip connections do with the features: {one_of(SKIPS)}.")],
    "select_init": Annotated[
        Text, flag(f"How the select weights of st and sat start: {one_of(get_args(SelectInit))}.")
    ],
    "dimensions": Annotated[Number, flag("2 or 3.")],
    "in_channels": Annotated[Number, flag("Channels of the images, such as 3 for RGB.")],
    "widths": Annotated[Text, flag("Channels per level of a U-Net, such as 32,64,128,256.")],
    "dropout": Annotated[Fraction, flag("Share of the features that dropout sets to 0 while training.")],
    "patch": Annotated[Text, flag("Size of a training patch, such as 256,256.")],
    "batch": Annotated[Number, flag("Patches per step.")],
    "accumulate": Annotated[Number, flag("Parts in which a step takes its batch, to save memory.")],
    "steps": Annotated[Number, flag("Training steps.")],
    "protocol": Annotated[Text, flag(f"Optimiser, rates and first weights: {one_of(tuple(PROTOCOLS))}.")],
    "learning_rate": Annotated[Fraction, flag("Highest learning rate; by default the protocol's.")],
    "loss": Annotated[Text, flag(f"{one_of(get_args(LossName))}.")],
    "class_weight": Annotated[Fraction, flag("How often a class's pixel counts in the loss, background once.")],
    "augment": Annotated[Text, flag(f"How samples are varied: {one_of(tuple(AUGMENTATIONS))}.")],
    "precision": Annotated[Text, flag(f"{one_of(get_args(Precision))}.")],
    "patience": Annotated[Number, flag("Stop after so many validations without a lower loss; 0 = never.")],
    "epoch": Annotated[Number, flag("Steps per column of the weight-update map; 0 = no map.")],
    "seed": Annotated[Number, flag("Seed of weights, samples and augmentation.")],
    "start_from": Annotated[Text, flag("A model whose weights are the first ones.")],
    "voxel_size": VoxelSize,
    "unit": Unit,
}
"""The options that become settings, each named as its field."""


def train(
    settings: Annotated[
        Path | None, typer.Argument(metavar="[SETTINGS.json]", help="Settings; flags override.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the new model; by default your model folder.")] = None,
    device: Device = "auto",
    **flags: Any,
) -> None:
    """Train a model from labelled images; stopped at any moment, the same command resumes.

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
        echo(str(watch(work, f"training {chosen.name}")))
    else:
        follow(work, lambda _progress: None)


add_flags(train, FLAGS)
