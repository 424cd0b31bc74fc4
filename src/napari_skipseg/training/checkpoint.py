"""Checkpoints: tensors and numbers of a training in one safetensors file, which is replaced as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from napari_skipseg.durable import write_durably
from napari_skipseg.errors import FileError, SpecError

CHECKPOINT = "checkpoint.safetensors"
"""Name of the file in the folder of an unfinished training."""
Curves = dict[str, list[tuple[int, float]]]
NUMBERS = ("step", "curves", "recent", "best_loss", "stale", "updates", "select_start", "ended", "is_due")
"""Fields of `FitState` that are stored as JSON and end with the same values if a fit is resumed."""
PRECISION = "computed_in"
"""Key of the precision that the fit computes in, beside the settings in a checkpoint."""
_TIMES = ("seconds",)
"""Fields stored as JSON that differ from run to run; all other fields are tensors."""


@dataclass
class FitState:
    """The state of a fit: steps done, curves, and the weights with the lowest held-out loss.

    recent: training losses since the last point of their curve. stale: validations since a lower held-out loss.
    updates, select_start: as in `TrainingRecord`. epoch_begin: the kernels when this epoch began. ended: whether a
    `KeepBest` or the time limit ended it. is_due: whether this step still has to be validated; a fit may be stopped in
    the middle of a validation. seconds: its time so far.
    """

    step: int = 0
    curves: Curves = field(default_factory=dict)
    recent: list[float] = field(default_factory=list)
    best_loss: float = float("inf")
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    stale: int = 0
    updates: dict[str, list[float]] = field(default_factory=dict)
    epoch_begin: dict[str, Tensor] = field(default_factory=dict)
    select_start: dict[str, tuple[float, ...]] = field(default_factory=dict)
    ended: bool = False
    is_due: bool = False
    seconds: float = 0.0

    def record(self, curve: str, value: float) -> None:
        """Add `value` to `curve` at the current step."""
        self.curves.setdefault(curve, []).append((self.step, value))

    def record_recent(self) -> None:
        """Add the mean of the recent training losses to their curve."""
        self.record("training loss", sum(self.recent) / len(self.recent))
        self.recent.clear()


def write_checkpoint(
    file: Path, settings: dict[str, Any], state: FitState, network: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write all that an exact resume needs; the old file stays until the new one is complete.

    settings: the record that identifies this run, as values that JSON can hold.

    Raises:
        FileError: the disk is full or the folder cannot be written.
    """
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best_weights.items()}
    tensors |= {f"begin.{name}": tensor for name, tensor in state.epoch_begin.items()}
    for number, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{slot}": torch.as_tensor(value) for slot, value in slots.items()}
    numbers = {name: getattr(state, name) for name in NUMBERS + _TIMES} | {"settings": settings}
    try:
        contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        write_durably(file, save(contiguous, metadata={"fit": json.dumps(numbers)}))
    except (OSError, SafetensorError) as error:
        raise FileError(f"The checkpoint {file} cannot be written ({error}): free some space and resume.") from error


def precision_in(file: Path) -> str:
    """Return the precision that the checkpoint in `file` was computed in; "" if there is no such checkpoint."""
    try:
        with safe_open(file, framework="pt") as opened:
            return str(json.loads((opened.metadata() or {})["fit"])["settings"].get(PRECISION, ""))
    except (SafetensorError, OSError, KeyError, ValueError, AttributeError):
        return ""


def belongs_to(file: Path, is_same_run: Callable[[dict[str, Any]], bool]) -> bool:
    """Return whether `file` is a checkpoint that this run can resume from.

    is_same_run: whether a written record is that of this run.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            return is_same_run(json.loads((opened.metadata() or {})["fit"])["settings"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return False


def read_checkpoint(
    file: Path, is_same_run: Callable[[dict[str, Any]], bool], network: nn.Module, optimizer: torch.optim.Optimizer
) -> FitState:
    """Return the state in `file` after loading it into `network` and `optimizer`; a new state if there is no file.

    is_same_run: whether a written record is that of this run.

    Raises:
        SpecError: the checkpoint belongs to other settings, or is damaged.
    """
    if not file.exists():
        return FitState()
    try:
        with safe_open(file, framework="pt") as opened:
            numbers = json.loads((opened.metadata() or {})["fit"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise SpecError(f"The checkpoint {file} is damaged; delete it to start again.") from error
    if not is_same_run(numbers["settings"]):
        raise SpecError(f"The checkpoint {file} belongs to other settings; choose a different name or delete it.")
    network.load_state_dict(_under(tensors, "network."))
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under(tensors, "optimizer.").items():
        number, slot = name.split(".", 1)
        slots.setdefault(int(number), {})[slot] = tensor
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    state = FitState(best_weights=_under(tensors, "best."), epoch_begin=_under(tensors, "begin."))
    for name in NUMBERS + _TIMES:
        setattr(state, name, numbers.get(name, getattr(state, name)))
    state.curves = {name: [(int(step), value) for step, value in curve] for name, curve in state.curves.items()}
    state.select_start = {name: tuple(weights) for name, weights in state.select_start.items()}
    return state


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
