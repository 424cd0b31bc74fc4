"""Interrupted fine-tunings: found by their checkpoints in the model folder. Loads without torch."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from napari_skipseg.errors import SpecError
from napari_skipseg.models.folder import TRAINING
from napari_skipseg.training.settings import FinetuneSettings, settings_from_json

_CHECKPOINT = "checkpoint.safetensors"
_LARGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Unfinished:
    """A fine-tuning that has a checkpoint and no model: its settings, and the step that is saved."""

    settings: FinetuneSettings
    step: int
    changed: float


def find_unfinished(folder: Path) -> list[Unfinished]:
    """Return the interrupted fine-tunings in a model folder, the newest first; unreadable ones are left out."""
    found = []
    for file in folder.glob(f"*{TRAINING}/{_CHECKPOINT}"):
        if (folder / file.parent.name.removesuffix(TRAINING)).exists():
            continue
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, SpecError):
            with file.open("rb") as opened:  # the header of a safetensors file: 8 bytes of its length, then JSON
                length = int.from_bytes(opened.read(8), "little")
                if length > _LARGEST_HEADER:
                    continue
                fit = json.loads(json.loads(opened.read(length))["__metadata__"]["fit"])
            added = ("learnt_from_sha256", "computed_in")  # no settings, but in the same record
            written = {key: value for key, value in fit["settings"].items() if key not in added}
            settings = settings_from_json(FinetuneSettings, json.dumps(written))
            found.append(Unfinished(settings, int(fit["step"]), file.stat().st_mtime))
    return sorted(found, key=lambda each: -each.changed)
