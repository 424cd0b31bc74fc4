"""Which channels a model's gates have switched off: its select weights, read without torch (SAT, figure 5)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from napari_skipseg.errors import ModelError
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.models.folder import DESCRIPTION_FILE, read_description, read_weights

SELECT = ".select"
"""Ending of the name of a gate's select step."""

LONG_SKIPS = ("gates", "joins")
"""Names of the lists of long skips in networks."""
DEEPEST_FIRST = ("joins", "up")
"""Lists of modules that begin with the deepest level: those of the expanding path, in the order in which it runs."""

Weights = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class GateSelection:
    """The select weights of one gate.

    name: of the gate's module, such as "gates.0". place: where it is, in words. weights: (C,) as stored when training
    ended. start: (C,) when it began; empty if that was not recorded.
    """

    name: str
    place: str
    weights: Weights
    start: Weights

    @property
    def truncated(self) -> Weights:
        """By what each channel is multiplied: `min(max(weight, 0), 1)` (SAT, eq. 1)."""
        return np.clip(self.weights, 0, 1)

    @property
    def fraction_off(self) -> float:
        """Share of channels that are switched off: weight at or below 0."""
        return float((self.weights <= 0).mean())

    @property
    def fraction_off_at_start(self) -> float | None:
        """The same when training began; None if that was not recorded."""
        return float((self.start <= 0).mean()) if self.start.size else None


def read_selection(folder: Path) -> tuple[GateSelection, ...]:
    """Return the select weights of every gate that has some, finest long skip first; none for a model without.

    Raises:
        ModelError: the folder is no model, its hash is wrong, or its weights cannot be read.
    """
    description = read_description(folder)
    try:
        arrays = load(read_weights(folder, description))
    except SafetensorError as error:
        raise ModelError(
            f"The weights of model '{description.name}' are not those its {DESCRIPTION_FILE} describes."
        ) from error
    ending = f"{SELECT}.weight"
    names = [name.removesuffix(ending) for name in arrays if name.endswith(ending)]
    start = description.training.select_start
    return tuple(
        GateSelection(
            name,
            gate_place(name, description),
            arrays[name + ending].astype(np.float32),
            np.array(start.get(name + SELECT, ()), np.float32),
        )
        for name in sorted(names, key=lambda name: gate_order(name, description))
    )


def gate_place(name: str, description: ModelDescription) -> str:
    """Return where the gate of a module's name is, in words: "long skip 1" is the finest."""
    group, level = _place(name, description)
    if group in LONG_SKIPS:
        return f"long skip {level}"
    return f"dense block {group} {level}" if level else f"dense block at the {group}"


def gate_order(name: str, description: ModelDescription) -> tuple[bool, int, str]:
    """Return the key to sort gates by: long skips first, and of them the finest level first."""
    group, level = _place(name, description)
    return group not in LONG_SKIPS, level or description.spec.levels + 1, group


def _place(name: str, description: ModelDescription) -> tuple[str, int]:
    """Return the list of modules that a gate is in and its level, 1 being the finest; 0 if it is in none."""
    group, *rest = name.removeprefix("body.").split(".")  # the network inside one with pixel heads
    if not rest or not rest[0].isdecimal():
        return group, 0
    number = int(rest[0])
    return group, description.spec.levels - number if group in DEEPEST_FIRST else number + 1
