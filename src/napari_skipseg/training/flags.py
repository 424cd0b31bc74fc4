"""From a command line's flags and a settings file to training settings. Loads without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from napari_skipseg.errors import FileError, SpecError
from napari_skipseg.training.settings import TrainSettings, settings_from_json

PATCHES = {2: [256, 256], 3: [32, 64, 64]}
REQUIRED = {"name": "--name", "images": "--images", "labels": "--labels", "classes": "--class"}


def settings_from_flags(
    file: Path | None, flags: dict[str, Any], spec: dict[str, Any], classes: list[str]
) -> TrainSettings:
    """Return the settings in `file` with every flag that is not None in its place.

    Raises:
        FileError: the file cannot be read.
        SpecError: it or a flag is not valid, or something needed was not given.
    """
    values = _read(file)
    values |= {key: value for key, value in flags.items() if value is not None}
    network = values.get("spec", {"network": "unet"})
    values["spec"] = network | {key: value for key, value in spec.items() if value is not None}
    if classes:
        values["classes"] = [_class(text) for text in classes]
    missing = [flag for key, flag in REQUIRED.items() if not values.get(key)]
    if missing:
        raise SpecError(f"Training needs {', '.join(missing)}: give them as flags or in a settings file.")
    values.setdefault("patch", PATCHES.get(values["spec"].get("dimensions", 2), [256, 256]))
    return settings_from_json(json.dumps(values))


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"The settings '{file}' cannot be read: {error}.") from error
    except json.JSONDecodeError as error:
        raise SpecError(f"The settings '{file}' are not valid JSON: {error}.") from error
    if not isinstance(values, dict):
        raise SpecError(f"The settings '{file}' must be one JSON object.")
    return values


def _class(text: str) -> dict[str, Any]:
    name, _, value = text.rpartition("=")
    if not name or not value.lstrip("-").isdigit():
        raise SpecError(f"'{text}' is no class: write NAME=VALUE, such as membrane=0.")
    return {"name": name, "label": int(value)}
