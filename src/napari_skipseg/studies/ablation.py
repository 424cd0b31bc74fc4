"""Ablation of short and long skips: the same training with both, with either, and with neither.

Drozdzal et al. 2016, section 3.2, figure 3 and table 3: what the long skips, and the shortcuts in the blocks,
contribute to the residual FCN.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch

from napari_skipseg.csv_files import read_csv
from napari_skipseg.devices import choose_device
from napari_skipseg.errors import DeviceError, FileError, SkipsegError, SpecError
from napari_skipseg.inference.saving import scratch_folder, write_text
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.models.folder import is_scored, read_description
from napari_skipseg.networks.build import count_parameters
from napari_skipseg.networks.specs import ResidualFCNSpec
from napari_skipseg.progress import Progress
from napari_skipseg.studies.pictures import CurvePanel, draw_curves, write_figure
from napari_skipseg.studies.results import StudyRow, move_into, write_table
from napari_skipseg.training.checkpoint import CHECKPOINT
from napari_skipseg.training.patches import read_data
from napari_skipseg.training.settings import (
    TrainSettings,
    settings_from_json,
    settings_to_dict,
    slices_to_hold_out,
)
from napari_skipseg.training.train import iter_train

TRAINED = "trained"
TABLE, PICTURE, SETTINGS, MODELS = "ablation.csv", "ablation.png", "settings.json", "models"


class Variant(NamedTuple):
    """One training of an ablation: its name in files, its title, and the changes of the network's spec."""

    name: str
    title: str
    changes: dict[str, Any]


NO_LONG: dict[str, Any] = {"skip": "none", "level_skips": (), "gate_maps": 1}
VARIANTS = (
    Variant("long-short", "long and short skips", {"short_skips": True}),
    Variant("short", "only short skips", {"short_skips": True, **NO_LONG}),
    Variant("long", "only long skips", {"short_skips": False}),
)
"""The three variants of figure 3, in its order."""
NEITHER = Variant("plain", "no skips", {"short_skips": False, **NO_LONG})
"""The fourth variant; the paper reports only that it could not be trained."""


@dataclass(frozen=True)
class AblationRow:
    """The result of one variant (table 3); None if it was not trained, or the value is not known.

    best_held_out_loss: the lowest, at `step`. training_loss: at the same step, the mean of the steps just before it.
    held_out_dice, v_rand, v_info: scores of the final weights on whole slices, as on the model's card; Dice is the mean
    over classes. seconds: of the training and its scoring, if it was not interrupted. state: "trained", or the failure.
    """

    variant: str
    trainable_parameters: int
    best_held_out_loss: float | None = None
    training_loss: float | None = None
    step: int | None = None
    held_out_dice: float | None = None
    v_rand: float | None = None
    v_info: float | None = None
    seconds: float | None = None
    state: str = TRAINED


def plan_ablation(settings: TrainSettings, variants: Sequence[Variant] = VARIANTS) -> tuple[TrainSettings, ...]:
    """Return the settings of each variant; they differ only in the name and in the skips of the network.

    The long skips are those of `settings`, or sums if these have none.

    Raises:
        SpecError: the network is no residual FCN, no slices are held out, or there is a model to start from.
    """
    spec = settings.spec
    if not isinstance(spec, ResidualFCNSpec):
        raise SpecError(
            f"Of the networks only the residual FCN has short skips to take away, and these settings train a "
            f"{spec.network}: set the network to residual-fcn."
        )
    if not slices_to_hold_out(settings.validate):
        raise SpecError("An ablation compares losses on slices held out: name some with validate, such as 20-24.")
    if settings.start_from is not None:
        raise SpecError("The variants of an ablation are different networks and start afresh: leave start_from out.")
    if set(spec.skips) == {"none"}:
        spec = replace(spec, skip="sum", level_skips=())
    return tuple(
        replace(settings, name=f"{settings.name}-{variant.name}", spec=replace(spec, **variant.changes))
        for variant in variants
    )


def iter_ablation(
    settings: TrainSettings, folder: Path, device_name: str = "auto", variants: Sequence[Variant] = VARIANTS
) -> Generator[Progress, None, tuple[AblationRow, ...]]:
    """Train the variants one after another, yield the progress, and return a row for each.

    `folder` gets the models, the settings, and ablation.csv and ablation.png, which are written again after each
    variant. The same call resumes: trained models are kept, and a stopped training continues from its checkpoint to the
    same weights. If a training fails, for example with a loss that is not finite, its row has the reason, and the
    others continue.

    Raises:
        SkipsegError: bad settings, unreadable or unsuitable images, no such device, a full disk, or `folder` contains
            an ablation with different settings.
    """
    plan = plan_ablation(settings, variants)
    device = choose_device(device_name)
    total = settings.steps * len(plan)
    yield Progress(0, total, f"reading the images; training on {device.title}")
    models = folder / MODELS
    if not all(is_scored(models / own.name) for own in plan):
        read_data(settings)  # a fault of the images is reported now, and once
    _keep_settings(settings, folder)
    known = _known_seconds(folder)
    rows: list[AblationRow] = []
    for number, (variant, own) in enumerate(zip(variants, plan, strict=True)):
        at = Progress(number * settings.steps, total, variant.title)
        row = AblationRow(variant.name, count_parameters(own.spec), seconds=known.get(variant.name))
        rows.append((yield from _iter_variant(row, own, models, device_name, at)))
        _write(rows, variants, plan, folder)
    return tuple(rows)


def _keep_settings(settings: TrainSettings, folder: Path) -> None:
    """Write `settings` to `folder`; raise if it contains an ablation with different ones."""
    kept = folder / SETTINGS
    if kept.exists():
        try:
            same = settings_from_json(TrainSettings, kept.read_bytes()) == settings
        except (OSError, SkipsegError):
            same = False
        if not same:
            raise SpecError(
                f"'{folder}' contains an ablation with different settings: choose a different folder, or delete it."
            )
        return
    text = json.dumps(settings_to_dict(settings), indent=1, ensure_ascii=False) + "\n"
    with scratch_folder(folder) as scratch:
        draft = scratch / SETTINGS
        write_text(draft, text)
        move_into([draft], folder)


def _iter_variant(
    row: AblationRow, settings: TrainSettings, models: Path, device_name: str, at: Progress
) -> Generator[Progress, None, AblationRow]:
    """Train a variant unless its model exists, yield the progress counted from `at`, and return its row."""
    target = models / settings.name
    begun = (models / f"{settings.name}.training" / CHECKPOINT).exists()
    try:
        if not is_scored(target):
            took = yield from _timed(iter_train(settings, models, device_name), at, settings.steps)
            row = replace(row, seconds=None if begun else round(took, 2))
        return _with_scores(row, read_description(target))
    except (FileError, DeviceError):
        raise
    except (SkipsegError, MemoryError, RuntimeError) as error:  # torch's out of memory is a RuntimeError
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        return replace(row, seconds=None, state=f"failed: {reason[:200]}")


def _timed(work: Generator[Progress, None, Path], at: Progress, steps: int) -> Generator[Progress, None, float]:
    """Yield the progress of `work`, counted from `at`; return its seconds, without those spent at a yield.

    steps: of this training. Its other phases, such as scoring, count different things and do not move the bar.
    """
    seconds, reached = 0.0, 0
    with closing(work):
        while True:
            begin = perf_counter()
            progress = next(work, None)
            seconds += perf_counter() - begin
            if progress is None:
                return seconds
            if progress.message.startswith("step "):
                reached = progress.done
            elif reached:
                reached = steps
            yield Progress(at.done + reached, at.total, f"{at.message}: {progress.message}")


def _known_seconds(folder: Path) -> dict[str, float]:
    """Return the seconds that an earlier call measured, by variant."""
    found = {row.get("variant", ""): row.get("seconds", "") for row in read_csv(folder / TABLE)}
    try:
        return {name: float(seconds) for name, seconds in found.items() if seconds}
    except ValueError:
        return {}


def _with_scores(row: AblationRow, description: ModelDescription) -> AblationRow:
    curves, scores = description.training.curves, description.card.scores
    step, best = min(curves["held-out loss"], key=lambda point: point[1])
    training = curves["training loss"]
    # the points of this curve lie at different steps: the first one at or after `step` is the mean that includes it
    at_step = next((value for reached, value in training if reached >= step), training[-1][1])
    dice = [scores[f"Dice {name}"] for name in description.class_names if f"Dice {name}" in scores]
    return replace(
        row,
        best_held_out_loss=best,
        training_loss=at_step,
        step=step,
        held_out_dice=round(float(np.mean(dice)), 5) if dice else None,
        v_rand=scores.get("V_rand"),
        v_info=scores.get("V_info"),
    )


def ablation_summary(rows: Sequence[AblationRow]) -> list[StudyRow]:
    """Return rows that are narrow enough for a terminal, with a state only if a variant failed."""
    failed = any(row.state != TRAINED for row in rows)
    return [
        {
            "variant": row.variant,
            "held-out": _short(row.best_held_out_loss),
            "training": _short(row.training_loss),
            "step": row.step,
            "Dice": _short(row.held_out_dice),
            "V_rand": _short(row.v_rand),
            "V_info": _short(row.v_info),
            "seconds": None if row.seconds is None else round(row.seconds),
        }
        | ({"state": row.state} if failed else {})
        for row in rows
    ]


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _write(
    rows: Sequence[AblationRow], variants: Sequence[Variant], plan: Sequence[TrainSettings], folder: Path
) -> None:
    """Write table and picture of the variants so far."""
    panels = []
    for row, variant, own in zip(rows, variants, plan, strict=False):
        trained = row.state == TRAINED
        curves = read_description(folder / MODELS / own.name).training.curves if trained else {}
        panels.append(CurvePanel(variant.title, curves, row.step, row.state))
    with scratch_folder(folder) as scratch:
        drafts = [write_table(scratch / TABLE, [asdict(row) for row in rows])]
        drafts.append(write_figure(draw_curves(panels), scratch / PICTURE))
        move_into(drafts, folder)
