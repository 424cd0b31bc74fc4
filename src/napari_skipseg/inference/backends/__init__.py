"""What runs a network over tiles: OpenVINO or torch, on the device that is fastest, behind one small interface."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from napari_skipseg.devices import UNTESTED, ChosenPrecision, Device, best_precision, cpu_title, has_openvino
from napari_skipseg.errors import DeviceError, SkipsegError
from napari_skipseg.inference.backends import openvino_backend
from napari_skipseg.inference.backends.fallback import FallbackBackend, notes_of
from napari_skipseg.inference.backends.folding import Probabilities
from napari_skipseg.inference.backends.halving import Choice, OutOfMemoryError
from napari_skipseg.inference.backends.interface import Backend, Pixels, TileOutput
from napari_skipseg.inference.backends.openvino_backend import OpenVINOBackend
from napari_skipseg.inference.backends.torch_backend import TorchBackend
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
    "Pinned",
    "Pixels",
    "Probabilities",
    "TileOutput",
    "TorchBackend",
    "choose_backends",
    "fastest_precision",
    "make_backend",
    "notes_of",
    "try_backend",
]


class Pinned(NamedTuple):
    """What a run was begun with: a backend's name and its precision."""

    name: str
    precision: str


def make_backend(model: Model, device: Device, shape: tuple[int, ...], pinned: Pinned | None = None) -> FallbackBackend:
    """Return the fastest backend for `model` on `device` and tiles of `shape`; where it fails, the next takes over.

    pinned: what a run that is being resumed was begun with; nothing else is taken, but where that fails in the run.

    Raises:
        DeviceError: what is pinned cannot be had here.
    """
    choices = choose_backends(device)
    if pinned is None:
        return FallbackBackend(choices, model, shape)
    own = _choose_pinned(device, pinned)
    titles = {choice.title for choice in own}
    later = tuple(choice for choice in choices if choice.title not in titles)
    fault = DeviceError(
        f"This run was begun with {pinned.name} in {pinned.precision}, which cannot be had here: begin it anew."
    )
    if not own:
        raise fault
    try:
        return FallbackBackend(own, model, shape, later)
    except SkipsegError:
        raise
    except Exception as error:
        raise fault from error


def choose_backends(device: Device) -> tuple[Choice, ...]:
    """Return what can run a network on `device`, the fastest first, and then what takes over where it fails."""
    cpu = Device("cpu", cpu_title(), "")
    choices = []
    if device.name != "cpu":
        choices.append(_torch_choice(device, device.title, f"{device.reason}; {UNTESTED}"))
        if best_precision(device.name).name == "f16":  # GPU
            choices.append(_torch_choice(device, device.title, f"half precision failed; {UNTESTED}", "f32"))
    if has_openvino():
        choices.append(_openvino_choice("the fastest on a CPU"))
    why = "what takes over where the others fail" if choices else "OpenVINO, which is faster, is not installed"
    return (*choices, _torch_choice(cpu, "the CPU", why))


def fastest_precision(device: Device, openvino: bool = True) -> ChosenPrecision:
    """Return in which precision the first of `choose_backends` computes. openvino: whether it may be that one."""
    if device.name == "cpu" and openvino and has_openvino():
        return openvino_backend.compiled_precision()
    return best_precision(device.name)


def try_backend(device: Device) -> FallbackBackend:
    """Return what runs a tiny network on `device` at this moment, having run it; its notes say what failed."""
    spec = UNetSpec(widths=(4, 8))
    description = ModelDescription("trial", spec, (ClassLabel("anything", 1),), margin=0, weights_sha256="")
    backend = make_backend(Model(description, build(spec).eval()), device, (32, 32))
    backend.run(np.zeros((1, 1, 32, 32), np.float32))
    return backend


def _choose_pinned(device: Device, pinned: Pinned) -> tuple[Choice, ...]:
    """Return what could give the pinned backend in its precision; making it says whether it can."""
    reason = "what this run was begun with"
    if pinned.name == OpenVINOBackend.name:
        return (_openvino_choice(reason, pinned.precision),)
    if pinned.name != TorchBackend.name:
        return ()
    places = {device.name: (device, device.title), "cpu": (Device("cpu", cpu_title(), ""), "the CPU")}
    return tuple(_torch_choice(*place, reason, pinned.precision) for place in places.values())


def _torch_choice(device: Device, place: str, reason: str, precision: str | None = None) -> Choice:
    at_once = 1 if device.name == "cpu" else None
    return Choice(f"torch on {place}", reason, partial(_make_torch, device, precision), at_once)


def _openvino_choice(reason: str, precision: str | None = None) -> Choice:
    return Choice("OpenVINO on the CPU", reason, partial(_make_openvino, precision), 1)


def _make_torch(device: Device, precision: str | None, model: Model, shape: tuple[int, ...]) -> Backend:
    _check(precision, best_precision(device.name).name)
    return TorchBackend(model, device, precision)


def _make_openvino(precision: str | None, model: Model, shape: tuple[int, ...]) -> Backend:
    _check(precision, openvino_backend.compiled_precision().name)
    return OpenVINOBackend(model, shape, precision)


def _check(precision: str | None, best: str) -> None:
    """Raise where the processor does not compute in `precision` itself."""
    if precision not in (None, "f32", best):
        raise RuntimeError(f"this processor computes in {best} and f32, not in {precision}")
