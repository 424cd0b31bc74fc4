"""The command `train`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from napari_skipseg.cli.options import Device, Unit, VoxelSize
from napari_skipseg.networks.specs import NETWORK_NAMES, SKIPS, SelectInit
from napari_skipseg.progress import run_to_end
from napari_skipseg.terminal import watch
from napari_skipseg.training.augmentation import AUGMENTATIONS
from napari_skipseg.training.protocols import PROTOCOLS
from napari_skipseg.training.settings import LossName, Precision

Text = str | None
Number = int | None
Fraction = float | None


def _flag(help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, **more)


def _one_of(names: tuple[str, ...]) -> str:
    return ", ".join(names)


FLAGS: dict[str, Any] = {
    "images": Annotated[list[Path] | None, _flag("An image; repeat for several.")],
    "labels": Annotated[list[Path] | None, _flag("Its labels; as many as images, in the same order.")],
    "classes": Annotated[list[str] | None, _flag("A class; repeat.", "--class", metavar="NAME=VALUE")],
    "ignore": Annotated[Number, _flag("Label value of pixels that do not count.")],
    "widen": Annotated[Number, _flag("Voxels by which classes grow (for truths of thin lines).")],
    "validate": Annotated[Text, _flag("Slices held out for validation, such as 20-24.")],
    "name": Annotated[Text, _flag("Name of the new model.")],
    "preset": Annotated[
        Text, _flag("A network of `napari-skipseg networks` by name; the seven flags below go over it.")
    ],
    "network": Annotated[Text, _flag(f"{_one_of(NETWORK_NAMES)}.")],
    "skip": Annotated[Text, _flag(f"What crosses the long skips: {_one_of(SKIPS)}.")],
    "select_init": Annotated[
        Text, _flag(f"How the select weights of st and sat start: {_one_of(get_args(SelectInit))}.")
    ],
    "dimensions": Annotated[Number, _flag("2 or 3.")],
    "in_channels": Annotated[Number, _flag("Channels of the images, such as 3 for RGB.")],
    "widths": Annotated[Text, _flag("Channels per level of a U-Net, such as 32,64,128,256.")],
    "dropout": Annotated[Fraction, _flag("Share of the features that dropout sets to 0 while training.")],
    "patch": Annotated[Text, _flag("Size of a training patch, such as 256,256.")],
    "batch": Annotated[Number, _flag("Patches per step.")],
    "accumulate": Annotated[Number, _flag("Parts in which a step takes its batch, to save memory.")],
    "steps": Annotated[Number, _flag("Training steps.")],
    "protocol": Annotated[Text, _flag(f"Optimiser, rates and first weights: {_one_of(tuple(PROTOCOLS))}.")],
    "learning_rate": Annotated[Fraction, _flag("Highest learning rate; by default the protocol's.")],
    "loss": Annotated[Text, _flag(f"{_one_of(get_args(LossName))}.")],
    "class_weight": Annotated[Fraction, _flag("How often a class's pixel counts in the loss, background once.")],
    "augment": Annotated[Text, _flag(f"How samples are varied: {_one_of(tuple(AUGMENTATIONS))}.")],
    "precision": Annotated[Text, _flag(f"{_one_of(get_args(Precision))}.")],
    "patience": Annotated[Number, _flag("Stop after so many validations without a lower loss; 0 = never.")],
    "epoch": Annotated[Number, _flag("Steps per column of the weight-update map; 0 = no map.")],
    "seed": Annotated[Number, _flag("Seed of weights, samples and augmentation.")],
    "start_from": Annotated[Text, _flag("A model whose weights are the first ones.")],
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
        typer.echo(str(watch(work, f"training {chosen.name}")))
    else:
        run_to_end(work)


def _signature() -> inspect.Signature:
    """Return the signature of `train` with `FLAGS` in place of its `**flags`: typer takes the options from it."""
    own = list(inspect.signature(train, eval_str=True).parameters.values())[:-1]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=FLAGS[name]) for name in FLAGS
    ]
    return inspect.Signature([*own, *more])


train.__signature__ = _signature()  # type: ignore[attr-defined]
