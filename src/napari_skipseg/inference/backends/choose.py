"""The choice of the backend that runs a network over tiles: OpenVINO or torch, on the fastest device.

Loads without torch, which is imported when its backend is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from napari_skipseg.devices import (
    UNTESTED,
    WHOLE_MEMORY,
    ChosenPrecision,
    Device,
    MemoryShare,
    best_precision,
    cpu_title,
    has_openvino,
)
from napari_skipseg.errors import DeviceError, SkipsegError
from napari_skipseg.inference.backends import openvino_backend
from napari_skipseg.inference.backends.fallback import FallbackBackend
from napari_skipseg.inference.backends.halving import BackendOption
from napari_skipseg.inference.backends.interface import Backend
from napari_skipseg.inference.backends.openvino_backend import OpenVINOBackend
from napari_skipseg.inference.memory import choose_tile
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.models.model import Model
from napari_skipseg.networks.specs import ImportedSpec, UNetSpec

TORCH = "torch"
"""Name of the torch backend."""


class BackendChoice(NamedTuple):
    """The backend of a run: its name and precision."""

    name: str
    precision: str


BackendMaker = Callable[[Model, Device, tuple[int, ...]], Backend]
TorchMaker = Callable[[Device, str | None, Model, tuple[int, ...]], Backend]
"""Makes a torch backend for a device and a precision (None = the best there), a model and a tile."""


def make_backend(
    model: Model,
    device: Device,
    shape: tuple[int, ...],
    pinned: BackendChoice | None = None,
    share: MemoryShare = WHOLE_MEMORY,
) -> FallbackBackend:
    """Return the fastest backend for `model` on `device` and tiles of `shape`; if it fails, the next one takes over.

    pinned: the backend of a run that is resumed; no other is used, unless this one fails during the run. share: of the
    computer's memory, which decides the tile of a CPU that takes over from a GPU.

    Raises:
        DeviceError: the pinned backend is not available here.
    """
    choices = choose_backends(device, share)
    if isinstance(model.description.spec, ImportedSpec):
        device, choices, pinned = *choose_imported(model.description.spec, device, share), None
    if pinned is None:
        return FallbackBackend(choices, model, shape)
    own = _choose_pinned(device, pinned, share)
    titles = {choice.title for choice in own}
    later = tuple(choice for choice in choices if choice.title not in titles)
    fault = DeviceError(
        f"This run was begun with {pinned.name} in {pinned.precision}, which is not available here: begin it again."
    )
    if not own:
        raise fault
    try:
        return FallbackBackend(own, model, shape, later)
    except SkipsegError:
        raise
    except Exception as error:
        raise fault from error


def choose_backends(device: Device, share: MemoryShare = WHOLE_MEMORY) -> tuple[BackendOption, ...]:
    """Return the backends for `device`, the fastest first; each takes over if those before fail."""
    choices = choose_torch(device, _make_torch, share)
    if not has_openvino():
        return choices
    on_gpu = [choice for choice in choices if choice.is_gpu]
    on_cpu = [choice for choice in choices if not choice.is_gpu]
    return (*on_gpu, _openvino_choice("the fastest on a CPU", None, own_tile_of_cpu(device, share)), *on_cpu)


def choose_imported(
    spec: ImportedSpec, device: Device, share: MemoryShare = WHOLE_MEMORY
) -> tuple[Device, tuple[BackendOption, ...]]:
    """Return where a network from somebody else's file is computed, and the backends: in float32, as it was tested."""
    if spec.runtime == "onnx":
        device = Device("cpu", cpu_title(), "onnxruntime computes ONNX files on the CPU")
    return device, choose_torch(device, _make_torch, share, "f32")


def choose_torch(
    device: Device, make: TorchMaker, share: MemoryShare, precision: str | None = None
) -> tuple[BackendOption, ...]:
    """Return the torch backends for `device`: in `precision` (None = the best there), in f32, and on the CPU."""
    choices = []
    own_tile = own_tile_of_cpu(device, share)
    if device.name != "cpu":
        choices.append(_torch_choice(make, device, f"{device.reason}; {UNTESTED}", precision))
        if (precision or best_precision(device.name).name) != "f32":  # GPU
            choices.append(_torch_choice(make, device, f"half precision failed; {UNTESTED}", "f32"))
    why = "it takes over if the others fail"
    if not choices and not has_openvino():
        why = "OpenVINO, which is faster, is not installed"
    cpu = Device("cpu", cpu_title(), "")
    wanted = precision if device.name == "cpu" else None
    choices.append(_torch_choice(make, cpu, why, wanted, own_tile))
    return tuple(choices)


def fastest_precision(device: Device, openvino: bool = True) -> ChosenPrecision:
    """Return the precision of the first of `choose_backends`. openvino: whether that may be OpenVINO."""
    if device.name == "cpu" and openvino and has_openvino():
        return openvino_backend.compiled_precision()
    return best_precision(device.name)


def try_backend(device: Device) -> FallbackBackend:
    """Run a tiny network on `device`, and return the backend that succeeded; its notes have the failures."""
    from napari_skipseg.networks.build import build

    spec = UNetSpec(widths=(4, 8))
    description = ModelDescription("trial", spec, (ClassLabel("anything", 1),), margin=0, weights_sha256="")
    backend = make_backend(Model(description, build(spec).eval()), device, (32, 32))
    backend.run(np.zeros((1, 1, 32, 32), np.float32))
    return backend


def _choose_pinned(device: Device, pinned: BackendChoice, share: MemoryShare) -> tuple[BackendOption, ...]:
    """Return the options for the pinned backend in its precision; making it shows whether it is available."""
    reason = "the backend of this run from the beginning"
    own_tile = own_tile_of_cpu(device, share)
    if pinned.name == OpenVINOBackend.name:
        return (_openvino_choice(reason, pinned.precision, own_tile),)
    if pinned.name != TORCH:
        return ()
    cpu = _torch_choice(_make_torch, Device("cpu", cpu_title(), ""), reason, pinned.precision, own_tile)
    if device.name == "cpu":
        return (cpu,)
    return (_torch_choice(_make_torch, device, reason, pinned.precision), cpu)


def _torch_choice(
    make: TorchMaker,
    device: Device,
    reason: str,
    precision: str | None,
    own_tile: Callable[[Model], tuple[int, ...]] | None = None,
) -> BackendOption:
    is_gpu = device.name != "cpu"
    title = f"torch on {device.title if is_gpu else 'the CPU'}"
    return BackendOption(title, reason, partial(make, device, precision), None if is_gpu else 1, own_tile, is_gpu)


def _openvino_choice(
    reason: str, precision: str | None, own_tile: Callable[[Model], tuple[int, ...]] | None
) -> BackendOption:
    return BackendOption("OpenVINO on the CPU", reason, partial(_make_openvino, precision), 1, own_tile)


def own_tile_of_cpu(device: Device, share: MemoryShare = WHOLE_MEMORY) -> Callable[[Model], tuple[int, ...]] | None:
    """Return a function that chooses a tile for the CPU if that of the run was chosen for a GPU, else None."""
    return None if device.name == "cpu" else partial(_tile_of_cpu, share)


def _tile_of_cpu(share: MemoryShare, model: Model) -> tuple[int, ...]:
    """Return the largest tile that fits the CPU's memory now, in f32, which needs the most."""
    tile = choose_tile(model, Device("cpu", cpu_title(), ""), "f32", 0, "xy", share)
    return (tile.side,) * model.description.spec.dimensions


def _make_torch(device: Device, precision: str | None, model: Model, shape: tuple[int, ...]) -> Backend:
    from napari_skipseg.inference.backends.torch_backend import TorchBackend

    _check(precision, best_precision(device.name).name)
    return TorchBackend(model, device, precision)


def _make_openvino(precision: str | None, model: Model, shape: tuple[int, ...]) -> Backend:
    _check(precision, openvino_backend.compiled_precision().name)
    return OpenVINOBackend(model, shape, precision)


def _check(precision: str | None, best: str) -> None:
    """Raise if the processor does not support `precision`."""
    if precision not in (None, "f32", best):
        raise RuntimeError(f"this processor computes in {best} and f32, not in {precision}")


@runtime_checkable
class ExactBackendMaker(Protocol):
    """A maker of backends that can also make a specific one."""

    def pinned(self, pinned: BackendChoice) -> BackendMaker:
        """Return a maker of only this backend."""
        ...


def require_backend(maker: BackendMaker, pinned: BackendChoice) -> BackendMaker:
    """Return a maker of only the pinned backend; a maker of one kind of backend is returned unchanged."""
    if isinstance(maker, ExactBackendMaker):
        return maker.pinned(pinned)
    return partial(make_backend, pinned=pinned) if maker is make_backend else maker


def prefer_backend(maker: BackendMaker, recipe: Mapping[str, Any] | None) -> BackendMaker:
    """Return a maker of the recipe's backend if it is available here, else of the backends of `maker`."""
    if recipe is None or not {"backend", "precision"} <= recipe.keys():
        return maker
    pinned = BackendChoice(recipe["backend"], recipe["precision"])

    def make(model: Model, device: Device, shape: tuple[int, ...]) -> Backend:
        made = maker(model, device, shape)
        if BackendChoice(made.name, made.precision) == pinned:
            return made
        try:
            return make_backend(model, device, shape, pinned)
        except DeviceError:
            return made

    return make
