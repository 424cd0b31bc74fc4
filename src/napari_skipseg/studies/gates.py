"""Features before and after the gates of a network, recorded during one pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from napari_skipseg.inference.backends.interface import Pixels, TileOutput
from napari_skipseg.models.model import Model
from napari_skipseg.models.selection import gate_order, gate_place
from napari_skipseg.networks.gates import Gate, Select, truncated_relu
from napari_skipseg.networks.specs import ATTENDING, MAPPING, SELECTING


@dataclass(frozen=True, eq=False)
class GateFeatures:
    """The features at one gate.

    name: of the gate's module. place: where it is, in words. stride: image pixels per pixel. before: the features that
    enter, (C, *space / stride). weights: the factor of each channel, (C,) in [0, 1]; ones if the gate does not select.
    attentions: its maps in [0, 1], each (*space / stride).
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
    """The output of the network for one image, and the features of each gate: long skips, then dense blocks, each
    finest first."""

    output: TileOutput
    gates: tuple[GateFeatures, ...]


def run_with_gates(model: Model, image: Pixels) -> GateRun:
    """Return output and gates for `image`, (C, *space) in standard units, in float32 on the CPU, nothing folded.

    Gates are those of long skips and inside dense blocks; a plain sum or concatenation is no gate.
    """
    kinds = (*SELECTING, *MAPPING, *ATTENDING)
    modules = model.network.named_modules()
    gates = {name: module for name, module in modules if isinstance(module, Gate) and module.skip in kinds}
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    with _watching(gates, seen), torch.inference_mode():
        result = model.network(torch.from_numpy(image)[None])
        probability = model.network.probability(result.logits)[0].numpy()
    output = TileOutput(probability, tuple(attention[0, 0].numpy() for attention in result.attentions))
    names = sorted(seen, key=lambda name: gate_order(name, model.description))
    size = image.shape[1:]
    return GateRun(output, tuple(_features(model, name, gates[name], seen[name], size) for name in names))


def gate_features(model: Model, image: Pixels) -> tuple[GateFeatures, ...]:
    """Return the features of each gate, as `run_with_gates`."""
    return run_with_gates(model, image).gates


@contextmanager
def _watching(gates: Mapping[str, nn.Module], seen: dict[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Record in `seen` the input and the output of each gate."""
    # A gate is called through `cross`, which runs no hooks, so the hooks are on its steps: `attend` is always called,
    # `select` by all but the additive gate.
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
