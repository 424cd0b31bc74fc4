"""The command `finetune`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from napari_skipseg.cli.options import AsJson, Device, add_flags, flag, one_of
from napari_skipseg.progress import run_to_end
from napari_skipseg.terminal import report, report_rows, watch
from napari_skipseg.training.augmentation import AUGMENTATIONS
from napari_skipseg.training.finetune_settings import BatchNorm, Reach
from napari_skipseg.training.settings import LossName, Precision

if TYPE_CHECKING:
    from napari_skipseg.training.learning import Finetuned

FLAGS: dict[str, Any] = {
    "classes": Annotated[
        list[str] | None,
        flag("A class of the labels; repeat. By default the model's, from 2 on.", "--class", metavar="NAME=VALUE"),
    ],
    "reach": Annotated[str | None, flag(f"How far the network may move: {one_of(get_args(Reach))}.")],
    "validate": Annotated[str | None, flag("What is held out: auto, or slices such as 5-9.")],
    "remember": Annotated[bool | None, flag("Keep what the model knew.", "--remember/--no-remember")],
    "steps": Annotated[int | None, flag("Training steps; by default those of the reach, or as many as fit.")],
    "minutes": Annotated[float | None, flag("Stop and keep the best after so long.")],
    "learning_rate": Annotated[float | None, flag("Highest learning rate; by default that of the reach.")],
    "patch": Annotated[str | None, flag("Size of a training patch, such as 256,256.")],
    "batch": Annotated[int | None, flag("Patches per step.")],
    "loss": Annotated[str | None, flag(f"{one_of(get_args(LossName))}.")],
    "class_weight": Annotated[float | None, flag("How often a class's voxel counts in the loss, background once.")],
    "augment": Annotated[str | None, flag(f"How patches are varied: {one_of(tuple(AUGMENTATIONS))}.")],
    "batch_norm": Annotated[str | None, flag(f"Its statistics: {one_of(get_args(BatchNorm))}.")],
    "precision": Annotated[str | None, flag(f"{one_of(get_args(Precision))}.")],
    "seed": Annotated[int | None, flag("Seed of patches, augmentation and of what is held out.")],
}
"""The options that become settings, each named as its field; what is not given keeps its default."""


def finetune(
    model: Annotated[str, typer.Option(help="The model to start from, by name or folder.")],
    name: Annotated[str, typer.Option(help="Name of the new model.")],
    images: Annotated[list[Path], typer.Option(help="A corrected image; repeat for several.")],
    labels: Annotated[list[Path], typer.Option(help="Its labels: 0 = not looked at, 1 = background, 2… = classes.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the new model; by default your model folder.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
    **flags: Any,
) -> None:
    """Fine-tune a model on corrected images, and compare it with the old one; stopped, the same command resumes.

    Several devices: torchrun --nproc-per-node 2 -m napari_skipseg.cli finetune …
    """
    from napari_skipseg.models.catalog import user_folder
    from napari_skipseg.training.finetune_flags import finetune_from_flags

    files = {"images": [str(image) for image in images], "labels": [str(label) for label in labels]}
    settings = finetune_from_flags({"model": model, "name": name, **files, **flags})
    from napari_skipseg.training.corrected import read_corrected
    from napari_skipseg.training.distributed import started_by_torchrun
    from napari_skipseg.training.finetune import iter_finetune

    processes = started_by_torchrun()
    work = iter_finetune(settings, read_corrected(settings), out or user_folder(), device, processes)
    if processes.is_first:
        _show(watch(work, f"fine-tuning {name}"), as_json)
    else:
        run_to_end(work)


def _show(finetuned: Finetuned, as_json: bool) -> None:
    """Show the table of the old model against the new one, and where that lies."""
    rows = [asdict(row) for row in finetuned.report.rows]
    if as_json:
        told = {"is_better": finetuned.report.is_better, "reason": finetuned.report.reason, "rows": rows}
        report({"folder": str(finetuned.folder), **told}, as_json)
        return
    report_rows(rows, as_json)
    typer.echo(finetuned.report.reason)
    typer.echo(str(finetuned.folder))


add_flags(finetune, FLAGS)
