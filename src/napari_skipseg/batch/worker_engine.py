"""What a process of a cluster makes ready once for all files of a run: its threads, the model, what computes."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_skipseg.batch.engine import Engine
from napari_skipseg.batch.inputs import SETTINGS_FILE
from napari_skipseg.batch.openings import tell_crashes
from napari_skipseg.batch.place import RunPlace
from napari_skipseg.batch.sent_models import find_sent
from napari_skipseg.batch.settings import BatchSettings, settings_from_json
from napari_skipseg.devices import Device, best_precision, choose_device, has_openvino, versions
from napari_skipseg.errors import SkipsegError
from napari_skipseg.inference.memory_share import MemoryShare
from napari_skipseg.inference.recipe import SegmentRequest

if TYPE_CHECKING:
    from napari_skipseg.inference.backends import Backend, Pinned
    from napari_skipseg.models.model import Model

KEPT = 2
"""Engines that are kept: of this run, and of one before."""
THREADS = Path("/proc/self/task")
"""Where Linux lists the threads of a process: each has its own cores."""
IGNORED = ("napari",)
"""Versions that may differ: no results depend on them."""

_engines: OrderedDict[str, WorkerEngine] = OrderedDict()
_making = threading.Lock()
_settled = threading.Event()


class UnfitError(SkipsegError):
    """A worker that would not give what the others give."""


class WorkerEngine(Engine):
    """An engine that computes with what the run was settled on, where this machine would choose otherwise.

    settled: a backend's name and its precision; None: what this machine chooses is to be settled on. share: of this
    machine's memory, as other workers are here too.

    Raises:
        SkipsegError: as `Engine`.
        UnfitError: this machine cannot compute so.
    """

    def __init__(self, request: SegmentRequest, place: RunPlace, settled: list[str] | None, share: MemoryShare) -> None:
        super().__init__(request, place, share)
        choose_device(self.chosen["device"])
        self.natural = _natural(self.chosen["device"], bool(request.options.samples))
        self._pinned: Pinned | None = None
        if settled is not None and settled != self.natural:
            self._pinned = _pinned(settled, self.natural)

    def backend(self, model: Model, device: Device, shape: tuple[int, ...], pinned: Pinned | None) -> Backend:
        """Return a backend as `Engine` does, of the kind that the run was settled on."""
        return super().backend(model, device, shape, pinned or self._pinned)


def _natural(device: str, samples: bool) -> list[str]:
    """Return the name and the precision of the backend that this machine would choose."""
    from napari_skipseg.inference.backends import OpenVINOBackend, TorchBackend, openvino_backend

    if device == "cpu" and has_openvino() and not samples:
        return [OpenVINOBackend.name, openvino_backend.compiled_precision().name]
    return [TorchBackend.name, best_precision(device).name]


def _pinned(settled: list[str], natural: list[str]) -> Pinned:
    from napari_skipseg.inference.backends import OpenVINOBackend, Pinned

    name, precision = settled
    if precision not in (natural[1], "f32") or (name == OpenVINOBackend.name and not has_openvino()):
        raise UnfitError(
            f"this run computes with {name} in {precision}, and this machine with {' in '.join(natural)}: leave it out "
            "of the cluster."
        )
    return Pinned(name, precision)


def asked_of(asked: dict[str, Any]) -> tuple[BatchSettings, RunPlace]:
    """Return settings and folder of the run that a task is of.

    Raises:
        UnfitError: versions differ here, or the folder is not the one that the others see.
    """
    mine, wanted = versions(), asked["versions"]
    for name in sorted({*mine, *wanted} - {*IGNORED}):
        if mine.get(name) != wanted.get(name):
            raise UnfitError(
                f"it has {name} {mine.get(name, 'not at all')} and this machine {wanted.get(name, 'not at all')}: "
                "install the same versions on both."
            )
    place, settings = RunPlace(Path(asked["folder"])), settings_from_json(asked["settings"])
    try:
        seen = (place.path / SETTINGS_FILE).read_text(encoding="utf-8")
    except OSError:
        seen = ""
    if seen != asked["settings"]:
        raise UnfitError(
            f"it does not see '{place.path}': put images and results where all machines see them at the same path."
        )
    return settings, place


def engine_of(
    asked: dict[str, Any], settings: BatchSettings, place: RunPlace, share: MemoryShare
) -> WorkerEngine | None:
    """Return this process's engine for a run, made for its first task; None where the model is not here.

    Raises:
        SkipsegError: as `WorkerEngine`.
    """
    key = f"{place.path}\n{asked['model']}\n{asked['computes']}\n{asked['settings']}"
    with _making:
        if key not in _engines:
            folder = find_sent(settings.request.model, asked["model"])
            if folder is None:
                return None
            request = replace(settings.request, model=str(folder))
            tell_crashes(place)
            _engines[key] = WorkerEngine(request, place, asked["computes"], share)
            while len(_engines) > KEPT:
                _engines.popitem(last=False)
        _engines.move_to_end(key)
        return _engines[key]


def take_cores(name: str, shares: list[list[int]]) -> None:
    """Compute on the cores of the worker called `name` only, one of `shares`, and with as many threads."""
    cores = shares[int(name) % len(shares)]
    if not _settled.is_set() and hasattr(os, "sched_setaffinity"):
        for thread in THREADS.iterdir() if THREADS.is_dir() else [Path("0")]:
            os.sched_setaffinity(int(thread.name), cores)
    use_threads(len(cores))


def use_threads(count: int) -> None:
    """Compute with so many threads: Dask gives a worker's libraries one, whatever it is told."""
    if not _settled.is_set():
        import torch

        torch.set_num_threads(max(1, count))
        _settled.set()
