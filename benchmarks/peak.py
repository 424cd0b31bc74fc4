"""The peak of this machine, the operations of a network, and the layers that fall short.

The peak is the best single 3×3 convolution that OpenVINO or torch does here in one precision: no tiling or reading can
raise the share of it that a run reaches above 1.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from napari_skipseg.inference.backends import openvino_backend
from napari_skipseg.inference.backends.folding import ready_for_inference
from napari_skipseg.models.model import Model

CHANNELS = (32, 64, 128, 256)
SIDES = (256, 512, 1024)
MOST = 4e11
"""Operations of the largest convolution that is tried."""

CHAIN = 4
"""Convolutions in a row, so that most of them read and write the precision itself."""

DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


class Convolution(NamedTuple):
    """The best convolution that was found."""

    backend: str
    channels: int
    side: int
    flops_per_second: float

    @property
    def title(self) -> str:
        """The convolution as text."""
        return f"{self.backend}, {self.channels} channels, {self.side}²"


def best_convolutions(precision: str, seconds: float = 1.0) -> list[Convolution]:
    """Return the best convolution of each backend, the best first; each is tried for so many seconds."""
    found = []
    for backend, measured in (("OpenVINO", openvino_seconds), ("torch", torch_seconds)):
        tried = [
            Convolution(
                backend, channels, side, operations(channels, side) / measured(channels, side, precision, seconds)
            )
            for channels in CHANNELS
            for side in SIDES
            if operations(channels, side) <= MOST
        ]
        found.append(max(tried, key=lambda each: each.flops_per_second))
    return sorted(found, key=lambda each: -each.flops_per_second)


def operations(channels: int, side: int) -> float:
    """Return the operations of a 3×3 convolution, two per multiplication with addition."""
    return 2.0 * 9 * channels**2 * side**2


def openvino_seconds(channels: int, side: int, precision: str, seconds: float) -> float:
    """Return the least time of one convolution by OpenVINO's own clock, conversions not counted."""
    openvino = openvino_backend._openvino()
    opset = openvino.opset13
    generator = np.random.default_rng(0)
    image = opset.parameter((1, channels, side, side), np.float32)
    last = image
    for _ in range(CHAIN):
        weight = generator.normal(0, 1 / math.sqrt(9 * channels), (channels, channels, 3, 3)).astype(np.float32)
        last = opset.convolution(last, opset.constant(weight), [1, 1], [1, 1], [1, 1], [1, 1])
    request = profiled_request(openvino.Model([last], [image]), precision)
    values = generator.normal(size=(1, channels, side, side)).astype(np.float32)
    times = []

    def once() -> None:
        request.infer({0: values}, share_inputs=True)
        times.extend(node.real_time.total_seconds() for node in executed(request) if node.node_type == "Convolution")

    least_seconds(once, seconds)
    return min(times)


def torch_seconds(channels: int, side: int, precision: str, seconds: float) -> float:
    """Return the least time of one convolution by torch, channels-last."""
    dtype = DTYPES[precision]
    layer = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(dtype, memory_format=torch.channels_last)
    values = torch.randn(1, channels, side, side).to(dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return least_seconds(lambda: layer(values), seconds)


def least_seconds(call: Callable[[], Any], seconds: float) -> float:
    """Return the least time of a call repeated for so many seconds, three times or more, after one to warm up."""
    call()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def profiled_request(network: Any, precision: str) -> Any:
    """Return a request of a network that counts the time of each layer."""
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision, "PERF_COUNT": True}
    return openvino_backend._core().compile_model(network, "CPU", options).create_infer_request()


def executed(request: Any) -> list[Any]:
    """Return OpenVINO's profile of the layers that it ran."""
    return [node for node in request.get_profiling_info() if node.status == node.Status.EXECUTED]


def flops_per_pixel(model: Model) -> float:
    """Return the operations that the network needs per output pixel of a whole image, without any margin."""
    spec = model.description.spec
    side = 4 * model.network.stride
    image = torch.zeros(1, spec.in_channels, *(side,) * spec.dimensions)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ready_for_inference(model)(image)
    return counter.get_total_flops() / side**spec.dimensions


def copy_bytes_per_second() -> float:
    """Return how many bytes this machine reads and writes per second when it copies memory with all its cores."""
    source = torch.zeros(2**26)
    target = torch.empty_like(source)
    return 2 * source.nbytes / least_seconds(lambda: target.copy_(source), 1.0)


@dataclass
class LayerKind:
    """All layers of one kind at one resolution: their time, operations, and bytes in and out at 2 per value."""

    seconds: float = 0.0
    flops: float = 0.0
    moved: float = 0.0


def layer_kinds(model: Model, side: int, precision: str, rounds: int = 5) -> dict[str, LayerKind]:
    """Return the layers of a network run over a tile by OpenVINO, by kind and level (0 = full resolution)."""
    shape = (side,) * model.description.spec.dimensions
    request = profiled_request(openvino_backend._convert(model, shape), precision)
    values = np.random.default_rng(0).normal(size=(1, model.description.spec.in_channels, *shape)).astype(np.float32)
    seconds: dict[str, float] = {}
    for _ in range(rounds):
        request.infer({0: values}, share_inputs=True)
        for node in executed(request):
            spent = node.real_time.total_seconds()
            seconds[node.node_name] = min(spent, seconds.get(node.node_name, spent))
    types = {node.node_name: node.node_type for node in executed(request)}
    kinds: dict[str, LayerKind] = defaultdict(LayerKind)
    for layer in request.get_compiled_model().get_runtime_model().get_ordered_ops():
        name = layer.get_friendly_name()
        if name in seconds:
            _count(kinds, types[name], layer, side, seconds.pop(name))
    for name, spent in seconds.items():
        kinds[types[name]].seconds += spent
    return dict(kinds)


def _count(kinds: dict[str, LayerKind], layer_type: str, layer: Any, side: int, seconds: float) -> None:
    """Add one layer to its kind."""
    read = [tuple(each.get_shape()) for each in layer.inputs()]
    written = tuple(layer.outputs()[0].get_shape())
    level = max(0, round(math.log2(side / written[-1])))
    title, flops = layer_type, 0.0
    if layer_type.startswith("Convolution"):
        weight = read[1]
        pixels = (read[0] if layer_type == "ConvolutionBackpropData" else written)[2:]
        flops = 2.0 * math.prod(weight) * math.prod(pixels)
        kernel = "×".join(map(str, weight[2:]))
        title = f"{kernel} {'up-convolution' if layer_type == 'ConvolutionBackpropData' else 'convolution'}"
        if 1 in weight[:2]:
            title += " of or to one channel"
        read = read[:1]
    kind = kinds[f"{title}, level {level}"]
    kind.seconds += seconds
    kind.flops += flops
    kind.moved += 2 * (math.prod(written) + sum(math.prod(each) for each in read))
