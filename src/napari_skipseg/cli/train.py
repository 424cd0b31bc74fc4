"""The commands `train` and `finetune`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from napari_skipseg.cli.options import AsJson, DeviceFlag, Flags, UnitFlag, VoxelSizeFlag, add_flags, flag
from napari_skipseg.networks.specs import NETWORK_NAMES, SKIPS, SelectInit
from napari_skipseg.progress import Progress
from napari_skipseg.terminal import drive_with_progress, print_line, print_report, report_rows, with_progress_bar
from napari_skipseg.training.settings import AUGMENTATIONS, FinetuneSettings, TrainSettings
from napari_skipseg.wording import counted, in_words

if TYPE_CHECKING:
    from napari_skipseg.training.progress import Finetuned, TrainingSummary

_OWN: dict[str, Any] = {
    "images": Annotated[list[Path] | None, flag("An image; repeat for several.")],
    "labels": Annotated[list[Path] | None, flag("Its labels; as many as images, in the same order.")],
    "classes": Annotated[list[str] | None, flag("A class; repeat.", "--class", metavar="NAME=VALUE")],
    "name": Annotated[str | None, flag("Name of the new model.")],
    "preset": Annotated[
        str | None, flag("Name of a network in `napari-skipseg networks`; the seven flags below override it.")
    ],
    "network": Annotated[str | None, flag(f"{', '.join(NETWORK_NAMES)}.")],
    "skip": Annotated[str | None, flag(f"What the skip connections do with the features: {', '.join(SKIPS)}.")],
    "select_init": Annotated[
        str | None, flag(f"How the select weights of st and sat start: {', '.join(get_args(SelectInit))}.")
    ],
    "dimensions": Annotated[int | None, flag("2 or 3.")],
    "in_channels": Annotated[int | None, flag("Channels of the images, such as 3 for RGB.")],
    "widths": Annotated[str | None, flag("Channels per level of a U-Net, such as 32,64,128,256.")],
    "dropout": Annotated[float | None, flag("Share of the features that dropout sets to 0 while training.")],
    "augment": Annotated[str | None, flag(f"How samples are varied: {', '.join(tuple(AUGMENTATIONS))}.")],
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


STEP = re.compile(r"step (\d+)")
FINETUNE_FLAGS: dict[str, Any] = {
    "classes": Annotated[
        list[str] | None,
        flag("A class of the labels; repeat. By default the model's, from 2 on.", "--class", metavar="NAME=VALUE"),
    ],
    "augment": Annotated[str | None, flag(f"How patches are varied: {', '.join(tuple(AUGMENTATIONS))}.")],
    **Flags(FinetuneSettings).annotations,
}
"""The options that become settings; options that are not given keep their defaults."""


def finetune(
    model: Annotated[str, typer.Option(help="The model to start from, by name or folder.")],
    name: Annotated[str, typer.Option(help="Name of the new model.")],
    images: Annotated[list[Path], typer.Option(help="A corrected image; repeat for several.")],
    labels: Annotated[list[Path], typer.Option(help="Its labels: 0 = not looked at, 1 = background, 2… = classes.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the new model; by default your model folder.")] = None,
    device: DeviceFlag = "auto",
    as_json: AsJson = False,
    **flags: Any,
) -> None:
    """Fine-tune a model on corrected images, and compare it with the old one; after a stop, the same command resumes.

    Several devices: torchrun --nproc-per-node 2 -m napari_skipseg.cli finetune …
    """
    from napari_skipseg.models.catalog import check_free, user_folder
    from napari_skipseg.training.flags import finetune_from_flags

    files = {"images": [str(image) for image in images], "labels": [str(label) for label in labels]}
    settings = finetune_from_flags({"model": model, "name": name, **files, **flags})
    from napari_skipseg.training.distributed import started_by_torchrun
    from napari_skipseg.training.finetune.estimate import iter_plan_finetuning
    from napari_skipseg.training.finetune.labels import read_corrected
    from napari_skipseg.training.finetune.run import iter_finetune

    processes, folder, corrected = started_by_torchrun(), out or user_folder(), read_corrected(settings)
    work = iter_finetune(settings, corrected, folder, device, processes)
    if not processes.is_first:
        drive_with_progress(work, lambda _progress: None)
        return
    check_free(name, folder)
    summary = with_progress_bar(iter_plan_finetuning(settings, corrected, device), "looking at the labels")
    # the time was measured on one device
    _print_summary(summary if processes.count == 1 else replace(summary, seconds=None))
    try:
        finetuned = with_progress_bar(_iter_without_losses(work), f"fine-tuning {name}")
    except KeyboardInterrupt:
        print_line(_describe_saved(folder, name), err=True)
        raise
    _print_report(finetuned, as_json)


def _describe_saved(folder: Path, name: str) -> str:
    """Return which part of a stopped fine-tuning is saved."""
    from napari_skipseg.training.unfinished import find_unfinished

    if (folder / name).exists():
        return f"The model '{name}' is written: the same command only scores it."
    steps = [found.step for found in find_unfinished(folder) if found.settings.name == name]
    if steps and steps[0]:
        return f"Step {steps[0]} is saved: the same command continues from there."
    return "No step was done yet, so nothing is saved: the same command begins again."


def _print_summary(summary: TrainingSummary) -> None:
    """Print on stderr which labels are learnt and held out, and how long the training takes."""
    trained, held = counted(summary.places[0], "place"), summary.places[1]
    takes = "" if summary.seconds is None else f" Takes about {in_words(summary.seconds)}."
    slices = counted(summary.slices, "slice")
    judged = f"compares old and new on {held} other{'s' * (held != 1)}"
    if summary.is_in_turn:
        judged = "holds out each stroke in turn for the scores"
    print_line(f"Labels on {slices}: learns from {trained}, {judged}.{takes}", err=True)
    width = max(len(class_name) for class_name in summary.pixels)
    for class_name, count in summary.pixels.items():
        held_out = "" if summary.is_in_turn else f", {summary.held_out.get(class_name, 0):,} held out"
        print_line(f"  {class_name:{width}}  {counted(count, 'pixel')} to learn from{held_out}", err=True)


def _iter_without_losses(work: Generator[Progress, Any, Finetuned]) -> Generator[Progress, None, Finetuned]:
    """Forward `work` without the losses in its messages, so that the time left fits; print once where it resumes."""
    from napari_skipseg.training.progress import without_losses

    begun = False
    with contextlib.closing(work):
        while True:
            try:
                progress = next(work)
            except StopIteration as stop:
                finetuned: Finetuned = stop.value
                return finetuned
            if not begun and (found := STEP.match(progress.message)):
                begun = True
                if (done := int(found[1]) - 1) > 0:
                    print_line(f"Resumed from its checkpoint at step {done}.", err=True)
            yield replace(progress, message=without_losses(progress.message))


def _print_report(finetuned: Finetuned, as_json: bool) -> None:
    """Print the comparison of the old and the new model, and the folder of the new one."""
    rows = [asdict(row) for row in finetuned.report.rows]
    for unknown in ("first", "limits"):
        if all(row[unknown] is None for row in rows):
            rows = [{key: value for key, value in row.items() if key != unknown} for row in rows]
    if as_json:
        print_report({"folder": str(finetuned.folder), **asdict(finetuned.report)}, as_json)
        return
    report_rows(rows, as_json)
    print_line(finetuned.report.reason)
    print_line(str(finetuned.folder))


add_flags(finetune, FINETUNE_FLAGS)
