"""What runs a network over one tile: OpenVINO or torch, on the device that is fastest, behind one small interface."""

from __future__ import annotations

from functools import partial

import numpy as np

from napari_skipseg.devices import UNTESTED, Device, cpu_title, has_openvino
from napari_skipseg.inference.backends.fallback import Choice, FallbackBackend, OutOfMemoryError, notes_of
from napari_skipseg.inference.backends.folding import Probabilities
from napari_skipseg.inference.backends.interface import Backend, Pixels, TileOutput
from napari_skipseg.inference.backends.openvino_backend import OpenVINOBackend
from napari_skipseg.inference.backends.torch_backend import TorchBackend, best_precision
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.models.model import Model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.specs import UNetSpec

__all__ = [
    "Backend",
    "Choice",
    "FallbackBackend",
    "OpenVINOBackend",
    "OutOfMemoryError",
    "Pixels",
    "Probabilities",
    "TileOutput",
    "TorchBackend",
    "choose_backends",
    "make_backend",
    "notes_of",
    "try_backend",
]


def make_backend(model: Model, device: Device, shape: tuple[int, ...]) -> FallbackBackend:
    """Return the fastest backend for `model` on `device` and tiles of `shape`; where it fails, the next takes over."""
    return FallbackBackend(choose_backends(device), model, shape)


def choose_backends(device: Device) -> tuple[Choice, ...]:
    """Return what can run a network on `device`, the fastest first, and then what takes over where it fails."""
    cpu = Device("cpu", cpu_title(), "")
    choices = []
    if device.name != "cpu":
        choices.append(_torch_choice(device, device.title, f"{device.reason}; {UNTESTED}"))
        if best_precision(device.name) == "f16":  # GPU
            choices.append(_torch_choice(device, device.title, f"half precision failed; {UNTESTED}", "f32"))
    if has_openvino():
        choices.append(Choice("OpenVINO on the CPU", "the fastest on a CPU", _make_openvino))
    why = "what takes over where the others fail" if choices else "OpenVINO, which is faster, is not installed"
    return (*choices, _torch_choice(cpu, "the CPU", why))


def try_backend(device: Device) -> FallbackBackend:
    """Return what runs a tiny network on `device` at this moment, having run it; its notes say what failed."""
    spec = UNetSpec(widths=(4, 8))
    description = ModelDescription("trial", spec, (ClassLabel("anything", 1),), margin=0, weights_sha256="")
    backend = make_backend(Model(description, build(spec).eval()), device, (32, 32))
    backend.run(np.zeros((1, 32, 32), np.float32))
    return backend


def _torch_choice(device: Device, place: str, reason: str, precision: str | None = None) -> Choice:
    return Choice(f"torch on {place}", reason, partial(_make_torch, device, precision))


def _make_torch(device: Device, precision: str | None, model: Model, shape: tuple[int, ...]) -> Backend:
    return TorchBackend(model, device, precision)


def _make_openvino(model: Model, shape: tuple[int, ...]) -> Backend:
    return OpenVINOBackend(model, shape)
