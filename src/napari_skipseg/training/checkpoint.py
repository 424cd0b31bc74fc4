"""A training run on disk at one moment: tensors and numbers in one safetensors file, replaced whole."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from napari_skipseg.errors import FileError, SpecError

Curves = dict[str, list[tuple[int, float]]]


@dataclass
class FitState:
    """Where a fit stands: steps done, curves, and the best weights seen on the held-out slices."""

    step: int = 0
    curves: Curves = field(default_factory=dict)
    best_loss: float = float("inf")
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def record(self, curve: str, value: float) -> None:
        """Add `value` to `curve` at the present step."""
        self.curves.setdefault(curve, []).append((self.step, value))


def write_checkpoint(
    file: Path,
    settings: dict[str, Any],
    state: FitState,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write everything that an exact resume needs; the file of before stays until the new one is whole.

    Raises:
        FileError: the disk is full or the folder cannot be written.
    """
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best_weights.items()}
    for number, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{slot}": torch.as_tensor(value) for slot, value in slots.items()}
    numbers = {"step": state.step, "curves": state.curves, "best_loss": state.best_loss, "settings": settings}
    draft = file.with_name(file.name + ".part")
    try:
        contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(contiguous, draft, metadata={"fit": json.dumps(numbers)})
        draft.replace(file)
    except (OSError, SafetensorError) as error:
        draft.unlink(missing_ok=True)
        raise FileError(f"The checkpoint {file} cannot be written ({error}): free some space and resume.") from error


def read_checkpoint(
    file: Path, settings: dict[str, Any], network: nn.Module, optimizer: torch.optim.Optimizer
) -> FitState:
    """Return the state in `file` after loading it into `network` and `optimizer`; a new state where there is none.

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
        raise SpecError(f"The checkpoint {file} is damaged; delete it to start anew.") from error
    if numbers["settings"] != json.loads(json.dumps(settings)):
        raise SpecError(f"The checkpoint {file} belongs to other settings; choose another name or delete it.")
    network.load_state_dict(_under(tensors, "network."))
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under(tensors, "optimizer.").items():
        number, slot = name.split(".", 1)
        slots.setdefault(int(number), {})[slot] = tensor
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    curves = {name: [(int(step), float(value)) for step, value in curve] for name, curve in numbers["curves"].items()}
    return FitState(numbers["step"], curves, float(numbers["best_loss"]), _under(tensors, "best."))


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
