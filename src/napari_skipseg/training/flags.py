"""From a command line's flags and a settings file to training settings. Loads without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from napari_skipseg.errors import FileError, SpecError
from napari_skipseg.models.description import output_channels
from napari_skipseg.networks.presets import PRESETS
from napari_skipseg.networks.specs import SELECTING, spec_to_dict
from napari_skipseg.training.settings import (
    AUGMENTATIONS,
    FinetuneSettings,
    TrainSettings,
    settings_from_json,
)

_PATCHES = {2: [256, 256], 3: [32, 64, 64]}
SPEC_FLAGS = ("network", "skip", "select_init", "dimensions", "in_channels", "widths", "dropout")
WIDE = ("unet", "vnet", "di2in")
STAGED = {
    "residual-fcn": "give the width, stages and across of a residual FCN",
    "tiramisu": "give the width, growth and layers of a Tiramisu",
}
"""Networks that have no list of widths, and what to give instead."""
REQUIRED = {"name": "--name", "images": "--images", "labels": "--labels", "classes": "--class"}


def settings_from_flags(file: Path | None, flags: dict[str, Any]) -> TrainSettings:
    """Return the settings in `file`; flags that are not None and that settings know replace its values.

    A preset replaces the file's network, and flags of the network replace values of both.

    Raises:
        FileError: the file cannot be read.
        SpecError: it or a flag is not valid, or something needed was not given.
    """
    values = _read(file)
    given = _read_flags(flags)
    known = {field.name for field in fields(TrainSettings)}
    values |= {key: flag for key, flag in given.items() if key in known}
    spec = {key: flag for key, flag in given.items() if key in SPEC_FLAGS}
    if "preset" in given:
        name, presets = given["preset"], {preset.name: preset.spec for preset in PRESETS}
        preset = spec_to_dict(choose_settings("preset", name, presets))
        if spec.get("network") not in (None, preset["network"]):
            raise SpecError(
                f"Preset '{name}' is a {preset['network']}, not a {spec['network']}: leave out --network or --preset."
            )
        del preset["out_channels"]  # they follow from the classes
        values["spec"] = preset
    network = values.setdefault("spec", {"network": "unet"})
    if not isinstance(network, dict):
        raise SpecError(f"The settings '{file}' must give the spec as one JSON object.")
    network |= spec
    _check_flags(network, spec)
    missing = [flag for key, flag in REQUIRED.items() if not values.get(key)]
    if missing:
        raise SpecError(f"Training needs {', '.join(missing)}: give them as flags or in a settings file.")
    network.setdefault("out_channels", output_channels(len(values["classes"])))
    values.setdefault("patch", _PATCHES[3 if network.get("dimensions") == 3 else 2])
    return settings_from_json(TrainSettings, json.dumps(values))


def _check_flags(network: dict[str, Any], flags: dict[str, Any]) -> None:
    """Refuse flags that the network does not have."""
    name = network.get("network", "unet")
    if "widths" in flags and name in STAGED:
        raise SpecError(f"--widths is for {', '.join(WIDE)}: {STAGED[name]} in a settings file, under spec.")
    skips = network.get("level_skips") or [network.get("skip", "sum" if name == "residual-fcn" else "sat")]
    if "select_init" in flags and not any(skip in SELECTING for skip in skips):
        raise SpecError(f"--select-init needs a gate that selects: set --skip to {' or '.join(SELECTING)}.")


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


def choose_settings(what: str, name: str, choices: dict[str, Any]) -> Any:
    """Return the choice called `name`.

    Raises:
        SpecError: there is none; the message lists them.
    """
    if name not in choices:
        raise SpecError(f"There is no {what} '{name}': choose one of {', '.join(choices)}.")
    return choices[name]


def read_class(text: str) -> dict[str, Any]:
    """Return the class in a text NAME=VALUE.

    Raises:
        SpecError: the text has a different form.
    """
    name, _, value = text.rpartition("=")
    if not name or not re.fullmatch("-?[0-9]+", value):
        raise SpecError(f"'{text}' is no class: write NAME=VALUE, such as membrane=0.")
    return {"name": name, "label": int(value)}


def read_numbers(text: str) -> list[int]:
    """Return the numbers of a text such as 256,256 or 256x256.

    Raises:
        SpecError: it is no list of numbers.
    """
    try:
        return [int(part) for part in text.replace("x", ",").split(",")]
    except ValueError as error:
        raise SpecError(f"'{text}' is no list of numbers: write it like 256,256.") from error


_READERS: dict[str, Callable[[Any], Any]] = {
    "images": lambda paths: [str(path) for path in paths],
    "labels": lambda paths: [str(path) for path in paths],
    "classes": lambda texts: [read_class(text) for text in texts],
    "widths": read_numbers,
    "patch": read_numbers,
}


def finetune_from_flags(flags: dict[str, Any]) -> FinetuneSettings:
    """Return the settings of those `flags` that are not None; classes are NAME=VALUE, a patch is 256,256.

    Raises:
        SpecError: a flag is not valid.
    """
    return settings_from_json(FinetuneSettings, json.dumps(_read_flags(flags)))


def _read_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the flags that are given, as values of settings."""
    given = {
        key: _READERS[key](flag) if key in _READERS else flag for key, flag in flags.items() if flag not in (None, [])
    }
    if "augment" in given:
        given["augmentation"] = asdict(choose_settings("augmentation", given.pop("augment"), AUGMENTATIONS))
    return given
