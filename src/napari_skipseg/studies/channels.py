"""Channels turned off: what the select step of every gate lets through (SAT, section 3, figure 5)."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from napari_skipseg.errors import ModelError
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.backends import Pixels, TileOutput
from napari_skipseg.inference.saving import scratch_folder
from napari_skipseg.models.model import Model, read_model
from napari_skipseg.models.selection import GateSelection, gate_order, gate_place, read_selection
from napari_skipseg.networks.gates import Gate, Select, truncated_relu
from napari_skipseg.networks.network import class_probability
from napari_skipseg.networks.specs import ATTENDING, MAPPING, SELECTING
from napari_skipseg.progress import Progress
from napari_skipseg.studies.pictures import draw_channels, draw_features, write_figure
from napari_skipseg.studies.results import Row, StudyResult, move_into, write_table
from napari_skipseg.studies.views import View, read_view


@dataclass(frozen=True, eq=False)
class GateFeatures:
    """What entered one gate, and what it made of it.

    name: of the gate's module. place: where it is, in words. stride: image pixels per pixel. before: the features that
    enter, (C, *space / stride). weights: by what each channel is multiplied, (C,) in [0, 1]; ones where the gate does
    not select. attentions: its maps in [0, 1], each (*space / stride).
    """

    name: str
    place: str
    stride: int
    before: Pixels
    weights: Pixels
    attentions: tuple[Pixels, ...]

    @property
    def after(self) -> Pixels:
        """The features behind the select step, (C, *space / stride)."""
        return self.before * self.weights.reshape(-1, *[1] * (self.before.ndim - 1))


class GateRun(NamedTuple):
    """The network's own output for one image, and what every gate saw and made: long skips, then dense blocks,
    each finest first."""

    output: TileOutput
    gates: tuple[GateFeatures, ...]


def run_with_gates(model: Model, image: Pixels) -> GateRun:
    """Return output and gates for `image`, (C, *space) in standard units, in float32 on the CPU, nothing folded.

    Gates of long skips and those inside dense blocks are given; a long skip that is summed, concatenated as it is
    or absent is none.
    """
    gates = {name: module for name, module in model.network.named_modules() if _is_gate(module)}
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    with _watching(gates, seen), torch.inference_mode():
        result = model.network(torch.from_numpy(image)[None])
        probability = class_probability(result.logits)[0].numpy()
    output = TileOutput(probability, tuple(attention[0, 0].numpy() for attention in result.attentions))
    names = sorted(seen, key=lambda name: gate_order(name, model.description))
    size = image.shape[1:]
    return GateRun(output, tuple(_features(model, name, gates[name], seen[name], size) for name in names))


def gate_features(model: Model, image: Pixels) -> tuple[GateFeatures, ...]:
    """Return what every gate of `model` saw and made of `image`: `run_with_gates` without the output."""
    return run_with_gates(model, image).gates


def _is_gate(module: nn.Module) -> bool:
    return isinstance(module, Gate) and module.skip in (*SELECTING, *MAPPING, *ATTENDING)


@contextmanager
def _watching(gates: dict[str, nn.Module], seen: dict[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Keep in `seen` what enters every gate and what leaves it.

    A gate is crossed by a call of `cross`, on which no hook fires, so its steps are watched: `attend` is always called,
    `select` by all but the additive gate.
    """
    entered: dict[str, Tensor] = {}
    handles = []
    for name, gate in gates.items():

        def enter(module: nn.Module, inputs: tuple[Tensor, ...], key: str = name) -> None:
            entered[key] = inputs[0]

        def leave(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, key: str = name) -> None:
            seen[key] = (entered.pop(key, inputs[0]), output)

        handles.append(gate.get_submodule("select").register_forward_pre_hook(enter))
        handles.append(gate.get_submodule("attend").register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _features(
    model: Model, name: str, gate: nn.Module, seen: tuple[Tensor, Tensor], size: tuple[int, ...]
) -> GateFeatures:
    before, left = seen
    padded = -(-size[-1] // model.network.stride) * model.network.stride
    stride = padded // before.shape[-1]
    inside = (slice(None), *(slice(0, -(-length // stride)) for length in size))
    select = gate.get_submodule("select")
    weights = truncated_relu(select.weight.detach()) if isinstance(select, Select) else torch.ones(before.shape[1])
    attending = getattr(gate, "skip", "") in ATTENDING
    maps = tuple(left[0][inside].numpy()) if attending else ()
    place = gate_place(name, model.description)
    return GateFeatures(name, place, stride, before[0][inside].numpy(), weights.numpy(), maps)


def selection_rows(gates: Sequence[GateSelection]) -> list[Row]:
    """Return one row per gate: its channels, the percentage that is off at start and at end, and its weights."""
    return [
        {
            "gate": gate.name,
            "place": gate.place,
            "channels": len(gate.weights),
            "off_at_start_percent": _percent(gate.fraction_off_at_start),
            "off_at_end_percent": _percent(gate.fraction_off),
            "mean_weight": round(float(gate.weights.mean()), 4),
            "min_weight": round(float(gate.weights.min()), 4),
            "max_weight": round(float(gate.weights.max()), 4),
        }
        for gate in gates
    ]


def weight_rows(gates: Sequence[GateSelection]) -> list[Row]:
    """Return one row per channel: its gate, and its select weight at start (None where not recorded) and end."""
    return [
        {
            "gate": gate.name,
            "channel": channel,
            "start_weight": float(gate.start[channel]) if gate.start.size else None,
            "end_weight": round(float(weight), 5),
            "off": bool(weight <= 0),
        }
        for gate in gates
        for channel, weight in enumerate(gate.weights)
    ]


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else round(100 * fraction, 2)


def iter_channels(
    model_folder: Path, folder: Path, stack: Stack | None = None, number: int | None = None, channel: int | None = None
) -> Generator[Progress, None, StudyResult]:
    """Yield as the study goes on; return its table and the files in `folder`: channels.csv and .png, weights.csv.

    With a `stack` there is features.png too: a few channels of slice `number` (the middle one) before and after the
    select step of every gate.

    Raises:
        SkipsegError: the model has no select step, there is no such slice, or the folder cannot be written.
    """
    yield Progress(0, 3, "reading the select weights")
    gates = read_selection(model_folder)
    if not gates:
        raise ModelError(
            f"The gates of '{model_folder.name}' select no channels: choose a model whose skip is "
            f"{' or '.join(SELECTING)}."
        )
    rows = selection_rows(gates)
    with scratch_folder(folder) as scratch:
        drafts = [write_table(scratch / "channels.csv", rows), write_table(scratch / "weights.csv", weight_rows(gates))]
        drafts.append(write_figure(draw_channels(gates), scratch / "channels.png"))
        if stack is not None:
            yield Progress(1, 3, "running the network")
            view = read_view(stack, model := read_model(model_folder), number, channel)
            features = [gate for gate in gate_features(model, view.pixels) if gate.name in {g.name for g in gates}]
            yield Progress(2, 3, "drawing the features")
            planes = [_plane(gate, view) for gate in features]
            drafts.append(write_figure(draw_features(planes), scratch / "features.png"))
        return StudyResult(rows, move_into(drafts, folder))


def _plane(gate: GateFeatures, view: View) -> GateFeatures:
    """Return the features in the plane on view alone, (C, Y, X)."""
    if gate.before.ndim == 3:
        return gate
    depth = min(view.shown // gate.stride, gate.before.shape[1] - 1)
    maps = tuple(np.asarray(attention[depth]) for attention in gate.attentions)
    return GateFeatures(gate.name, gate.place, gate.stride, gate.before[:, depth], gate.weights, maps)
