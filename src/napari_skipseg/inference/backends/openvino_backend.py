"""OpenVINO on the CPU. Converting and compiling take seconds, so the compiled network is kept on disk.

Only converting takes torch: where the compiled network is on disk, it is not imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import sys
import warnings
from functools import cache
from typing import Any

import numpy as np

from napari_skipseg.devices import ChosenPrecision, best_precision, versions
from napari_skipseg.inference.backends import compiled
from napari_skipseg.inference.backends.interface import Pixels, TileOutput
from napari_skipseg.models.model import Model, network_facts


class OpenVINOBackend:
    """OpenVINO on the CPU, compiled for one tile size; in bfloat16 if the processor supports it.

    A model that lies in a folder is converted once per tile size and machine; a draft each time.

    attention: whether attention maps are returned; it may be changed between two runs.

    Raises:
        FloatingPointError: (by `run`) the network gives NaN.
    """

    name = "openvino"

    def __init__(self, model: Model, shape: tuple[int, ...], precision: str | None = None) -> None:
        self.precision = precision or compiled_precision().name
        options = _options(self.precision)
        kept = bool(model.description.weights_sha256)
        key = _key(model, shape, self.precision) if kept else ""
        network = _read(key, options) if kept else None
        if network is None:
            network = _core().compile_model(_convert(model, shape), "CPU", options)
            if kept:
                with contextlib.suppress(RuntimeError):  # a device that cannot export compiles again each time
                    exported = network.export_model()
                    content = exported.getvalue() if isinstance(exported, io.BytesIO) else bytes(exported)
                    compiled.write_compiled(key, content)
        self._request = network.create_infer_request()
        self.attention = True

    def run(self, images: Pixels) -> TileOutput:
        """Return the output for `images` (N, C, *space), computed one by one: a CPU gains nothing from several."""
        parts = []
        for number in range(len(images)):
            self._request.infer({0: np.ascontiguousarray(images[number : number + 1])}, share_inputs=True)
            wanted = self._request.output_tensors if self.attention else self._request.output_tensors[:1]
            parts.append([tensor.data.copy() for tensor in wanted])  # the next run overwrites them
        probability, *attentions = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        # one sum is the cheapest look at all values: probabilities cannot become infinite by adding, and NaN stays
        if not np.isfinite(probability.sum()):
            raise FloatingPointError(f"values that are not numbers came out in {self.precision}")
        return TileOutput(probability, tuple(attention[:, 0] for attention in attentions))


def compiled_precision() -> ChosenPrecision:
    """Return the fastest precision of OpenVINO on this processor: the processor's best one, if OpenVINO supports it."""
    has_bf16 = "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if not has_bf16 and "torch" not in sys.modules:  # torch, which is slow to import, cannot change this
        return ChosenPrecision("f32", "OpenVINO has no bf16 for this processor")
    best = best_precision("cpu")
    if best.name == "bf16" and not has_bf16:
        return ChosenPrecision("f32", "OpenVINO has no bf16 for this processor")
    return best


def _openvino() -> Any:
    """Return OpenVINO with its telemetry off: without the telemetry package it uses a stub that sends nothing."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _options(precision: str) -> dict[str, str]:
    """Return the options with which a network is compiled."""
    return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}


@cache
def _core() -> Any:
    return _openvino().Core()


def _convert(model: Model, shape: tuple[int, ...]) -> Any:
    """Return the network as an OpenVINO model.

    It is traced with a small image, which takes the same path as a whole tile if neither needs padding. The tracer's
    own check would run the network twice more and load torch.distributed: tests compare the outputs instead.
    """
    import torch

    from napari_skipseg.inference.backends import folding

    stride, channels = model.description.stride, model.description.spec.in_channels
    padded = any(length % stride for length in shape)
    example = torch.zeros(1, channels, *(shape if padded else (min(length, 2 * stride) for length in shape)))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about sizes, which are fixed here
        traced = torch.jit.trace(folding.ready_for_inference(model), example, check_trace=False)  # type: ignore[no-untyped-call]
        return _openvino().convert_model(traced, example_input=example, input=[(1, channels, *shape)])


def _read(key: str, options: dict[str, str]) -> Any:
    """Return the compiled network stored under `key`, None if there is none that can be loaded."""
    content = compiled.read_compiled(key)
    if content is not None:
        with contextlib.suppress(RuntimeError):
            return _core().import_model(io.BytesIO(content), "CPU", options)
    return None


def _key(model: Model, shape: tuple[int, ...], precision: str) -> str:
    """Return a hash of all that the compiled network depends on, with the real weights and not those described."""
    core = _core()
    facts = compiled.key_of(
        network=network_facts(model.description),
        shape=shape,
        precision=precision,
        options=_options(precision),
        versions=(_openvino().get_version(), versions().get("torch"), compiled.code_hash()),
        processor=[core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")],
    )
    digest = hashlib.sha256(facts.encode())
    for name, values in model.iter_weights():
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
