"""The command `finetune`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from napari_skipseg.cli.options import AsJson, Device
from napari_skipseg.errors import SpecError
from napari_skipseg.progress import run_to_end
from napari_skipseg.terminal import report, report_rows, watch
from napari_skipseg.training.augmentation import AUGMENTATIONS
from napari_skipseg.training.finetune_settings import BatchNorm, Reach
from napari_skipseg.training.settings import LossName, Precision


def _one_of(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def finetune(
    model: Annotated[str, typer.Option(help="The model to start from, by name or folder.")],
    name: Annotated[str, typer.Option(help="Name of the new model.")],
    images: Annotated[list[Path], typer.Option(help="A corrected image; repeat for several.")],
    labels: Annotated[
        list[Path],
        typer.Option(help="Its labels, in the same order: 0 = not looked at, 1 = background, 2… = classes."),
    ],
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME=VALUE", help="A class of the labels; by default the model's, from 2 on."),
    ] = None,
    reach: Annotated[str, typer.Option(help=f"How far the network may move: {_one_of(get_args(Reach))}.")] = "normal",
    validate: Annotated[str, typer.Option(help="What is held out: auto, or slices such as 5-9.")] = "auto",
    remember: Annotated[bool, typer.Option(help="Keep what the model knew.")] = True,
    steps: Annotated[int, typer.Option(help="Training steps; 0 = those of the reach, or as many as fit.")] = 0,
    minutes: Annotated[float, typer.Option(help="Stop and keep the best after so long; 0 = never.")] = 0.0,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    patch: Annotated[str | None, typer.Option(help="Size of a training patch, such as 256,256.")] = None,
    batch: Annotated[int, typer.Option(help="Patches per step; 0 = chosen.")] = 0,
    loss: Annotated[str, typer.Option(help=f"{_one_of(get_args(LossName))}.")] = "bce+dice",
    class_weight: Annotated[float, typer.Option(help="How often a class's voxel counts, background once.")] = 1.0,
    augment: Annotated[str, typer.Option(help=f"How patches are varied: {_one_of(tuple(AUGMENTATIONS))}.")] = "default",
    batch_norm: Annotated[str, typer.Option(help=f"Its statistics: {_one_of(get_args(BatchNorm))}.")] = "frozen",
    precision: Annotated[str, typer.Option(help=f"{_one_of(get_args(Precision))}.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of patches, augmentation and of what is held out.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the new model; by default your model folder.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Fine-tune a model on corrected images, and compare it with the old one; stopped, the same command resumes.

    Several devices: torchrun --nproc-per-node 2 -m napari_skipseg.cli finetune …
    """
    from napari_skipseg.models.catalog import user_folder
    from napari_skipseg.training.finetune_flags import finetune_from_flags

    if augment not in AUGMENTATIONS:
        raise SpecError(f"There is no augmentation '{augment}': choose one of {_one_of(tuple(AUGMENTATIONS))}.")
    settings = finetune_from_flags(
        {
            "model": model,
            "name": name,
            "images": [str(image) for image in images],
            "labels": [str(label) for label in labels],
            "reach": reach,
            "validate": validate,
            "remember": remember,
            "steps": steps,
            "minutes": minutes,
            "learning_rate": learning_rate,
            "batch": batch,
            "loss": loss,
            "class_weight": class_weight,
            "augmentation": asdict(AUGMENTATIONS[augment]),
            "batch_norm": batch_norm,
            "precision": precision,
            "seed": seed,
        },
        classes or [],
        patch,
    )
    from napari_skipseg.training.corrected import read_corrected
    from napari_skipseg.training.distributed import started_by_torchrun
    from napari_skipseg.training.finetune import iter_finetune

    processes = started_by_torchrun()
    work = iter_finetune(settings, read_corrected(settings), out or user_folder(), device, processes)
    if not processes.is_first:
        run_to_end(work)
        return
    _show(watch(work, f"fine-tuning {name}"), as_json)


def _show(finetuned: Any, as_json: bool) -> None:
    """Show the table of the old model against the new one, and where that lies."""
    rows = [asdict(row) for row in finetuned.report.rows]
    if as_json:
        told = {"is_better": finetuned.report.is_better, "reason": finetuned.report.reason, "rows": rows}
        report({"folder": str(finetuned.folder), **told}, as_json)
        return
    report_rows(rows, as_json)
    typer.echo(finetuned.report.reason)
    typer.echo(str(finetuned.folder))
