"""Fine-tunings that were interrupted: found by the checkpoints that lie in the model folder. Loads without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_skipseg.errors import SpecError
from napari_skipseg.training.settings import FinetuneSettings, settings_from_json

FOLDER, CHECKPOINT = ".training", "checkpoint.safetensors"
_LARGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Unfinished:
    """A fine-tuning that has a checkpoint and no model: its settings, and the step that is saved."""

    settings: FinetuneSettings
    step: int
    changed: float


def find_unfinished(folder: Path) -> list[Unfinished]:
    """Return the interrupted fine-tunings in a model folder, the newest first; what cannot be read is left out."""
    found = []
    for file in folder.glob(f"*{FOLDER}/{CHECKPOINT}"):
        if not (folder / file.parent.name.removesuffix(FOLDER)).exists() and (one := _read(file)) is not None:
            found.append(one)
    return sorted(found, key=lambda each: -each.changed)


def _read(file: Path) -> Unfinished | None:
    try:
        fit = json.loads(_header(file)["__metadata__"]["fit"])
        written = {
            key: value for key, value in fit["settings"].items() if key not in ("learnt_from_sha256", "computed_in")
        }
        return Unfinished(
            settings_from_json(FinetuneSettings, json.dumps(written)), int(fit["step"]), file.stat().st_mtime
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SpecError):
        return None


def _header(file: Path) -> dict[str, Any]:
    """Return the header of a safetensors file: 8 bytes of its length, then JSON."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > _LARGEST_HEADER:
            raise ValueError("no safetensors file")
        header: dict[str, Any] = json.loads(opened.read(length))
    return header
