"""An engine process whose fine-tuning is a stub: 40 steps of 20 ms unless told, a checkpoint at every fifth.

The first step of a model called "unlearnt" takes a minute.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from napari_skipseg.errors import InputError
from napari_skipseg.images.stack import ArrayLike, Stack
from napari_skipseg.models.catalog import locate_model
from napari_skipseg.progress import Progress
from napari_skipseg.training.progress import (
    ComparisonReport,
    Finetuned,
    KeepBest,
    ScoreRow,
    TrainingProgress,
    TrainingSummary,
    ValidationPicture,
)

STEPS, PAUSE, EVERY = 40, 0.02, 5


@dataclass(frozen=True)
class Corrected:
    stack: Stack
    labels: ArrayLike
    name: str
    strokes: ArrayLike | None = None


def _counts(corrected: tuple[Corrected, ...]) -> dict[str, int]:
    values = np.concatenate([np.asarray(each.labels[...]).ravel() for each in corrected])
    return {"background": int((values == 1).sum()), "membrane": int((values == 2).sum())}


def iter_plan_finetuning(settings: Any, corrected: tuple[Corrected, ...], device_name: str = "auto") -> Any:
    yield Progress(0, 1, "looking through the corrections")
    counts = _counts(corrected)
    if not counts["membrane"]:
        raise InputError("No pixel of membrane was painted: paint some.")
    return TrainingSummary(
        counts, {"membrane": 0}, (len(corrected), 0), 1, 12.5, {"shape": list(corrected[0].stack.shape)}
    )


def iter_finetune(
    settings: Any,
    corrected: Any,
    folder: Path,
    device_name: str = "auto",
    processes: Any = None,
    parent: Any = None,
    afresh: bool = False,
) -> Any:
    scratch = folder / f"{settings.name}.training"
    scratch.mkdir(exist_ok=True)
    checkpoint = scratch / "step"
    begun = step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    image = np.asarray(corrected[0].stack.data[...], np.float32).reshape(-1, *corrected[0].stack.shape[-2:])[0]
    steps = settings.steps or STEPS
    while step < steps:
        time.sleep(60 if settings.name == "unlearnt" else PAUSE)
        step += 1
        if step % EVERY == 0:
            checkpoint.write_text(str(step))
        try:
            told = yield TrainingProgress(step, steps, f"step {step}", step, {"training loss": 1 / step})
            picture = ValidationPicture(
                step, steps, f"step {step}", image, image / 255, np.zeros(image.shape, np.int16)
            )
            if isinstance(told, KeepBest) or isinstance((yield picture), KeepBest):
                break
        except GeneratorExit:
            checkpoint.write_text(str(step))
            raise
    made = folder / settings.name
    made.mkdir()
    for name in ("model.json", "weights.safetensors"):
        (made / name).write_bytes((locate_model(settings.model) / name).read_bytes())
    facts = {"begun": begun, "ended": step, "parent": parent.description.name, **_counts(corrected)}
    (made / "facts.json").write_text(json.dumps(facts))
    for file in (checkpoint, scratch):
        file.unlink(missing_ok=True) if file.is_file() else file.rmdir() if file.exists() else None
    return Finetuned(
        made, ComparisonReport((ScoreRow("held-out corrections", "membrane", "Dice", 0.5, 0.75),), True, "Better.")
    )


if __name__ == "__main__":
    for name, members in {"labels": [Corrected], "estimate": [iter_plan_finetuning], "run": [iter_finetune]}.items():
        module = ModuleType(f"napari_skipseg.training.finetune.{name}")
        for member in members:
            setattr(module, member.__name__, member)
        sys.modules[module.__name__] = module
    from napari_skipseg.jobs.worker import main

    main()
