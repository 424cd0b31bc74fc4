"""What runs a network over one tile: torch on any device, or OpenVINO on the CPU, behind one small interface."""

from __future__ import annotations

import copy
import sys
import warnings
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_skipseg.devices import Device, has_openvino
from napari_skipseg.models.model import Model
from napari_skipseg.networks.gates import fold_gates
from napari_skipseg.networks.network import Network, class_probability

Pixels = NDArray[np.float32]


class TileOutput(NamedTuple):
    """Of one tile: probability (classes, *space) and one attention map (*space / stride) per gate, all in [0, 1].

    uncertainty: the standard deviation of probability over samples, in its shape; None where nothing was sampled.
    """

    probability: Pixels
    attentions: tuple[Pixels, ...]
    uncertainty: Pixels | None = None


class Backend(Protocol):
    """A network made ready for one device, precision and tile size."""

    name: str
    precision: str

    def run(self, image: Pixels) -> TileOutput:
        """Return the output for `image` (C, *space), float32 in standard units."""
        ...


class Probabilities(nn.Module):
    """A network that ends in probabilities instead of logits, with its attention maps behind them."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return (N, classes, *space) and the attention maps."""
        output = self.network(image)
        return (class_probability(output.logits.float()), *(a.float() for a in output.attentions))


class TorchBackend:
    """torch on CPU, CUDA or MPS; bfloat16 autocast and channels-last where they are faster."""

    name = "torch"

    def __init__(self, model: Model, device: Device, precision: str | None = None) -> None:
        self._device = torch.device(device.name)
        self.precision = precision or ("bf16" if _torch_has_bf16(device.name) else "f32")
        dimensions = model.description.spec.dimensions
        self._format = torch.channels_last if dimensions == 2 else torch.channels_last_3d
        network = _ready(model).to(self._device)
        self._network = network.to(memory_format=self._format)  # type: ignore[call-overload]

    def run(self, image: Pixels) -> TileOutput:
        """Return the output for `image` (C, *space)."""
        tensor = torch.from_numpy(image)[None].to(self._device).contiguous(memory_format=self._format)
        bf16 = self.precision == "bf16"
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=bf16):
            probability, *attentions = (output[0].cpu().numpy() for output in self._network(tensor))
        return TileOutput(probability, tuple(attention[0] for attention in attentions))


class OpenVINOBackend:
    """OpenVINO on the CPU, compiled for one tile size; bfloat16 where the processor computes in it."""

    name = "openvino"

    def __init__(self, model: Model, shape: tuple[int, ...], precision: str | None = None) -> None:
        openvino = _openvino()
        core = openvino.Core()
        has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = precision or ("bf16" if has_bf16 else "f32")
        full_shape = (1, model.description.spec.in_channels, *shape)
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, about sizes that are fixed here
            converted = openvino.convert_model(_ready(model), example_input=torch.zeros(full_shape), input=[full_shape])
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": self.precision}
        self._request = core.compile_model(converted, "CPU", options).create_infer_request()

    def run(self, image: Pixels) -> TileOutput:
        """Return the output for `image` (C, *space)."""
        self._request.infer({0: np.ascontiguousarray(image[None])}, share_inputs=True)
        outputs = [tensor.data[0].copy() for tensor in self._request.output_tensors]
        return TileOutput(outputs[0], tuple(attention[0] for attention in outputs[1:]))


def _ready(model: Model) -> Probabilities:
    """Return a copy of the model's network, each gate folded into one convolution; the model keeps its own."""
    network = Probabilities(copy.deepcopy(model.network)).eval()
    fold_gates(network)
    return network


def make_backend(model: Model, device: Device, shape: tuple[int, ...]) -> Backend:
    """Return the fastest backend for `model` on `device` and tiles of `shape`."""
    if device.name == "cpu" and has_openvino():
        return OpenVINOBackend(model, shape)
    return TorchBackend(model, device)


def _openvino() -> Any:
    """Return OpenVINO with its telemetry off: without that package it falls back to a stub that sends nothing."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _torch_has_bf16(device: str) -> bool:
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
