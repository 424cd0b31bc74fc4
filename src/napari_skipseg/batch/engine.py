"""The model and the backends that all files of a batch share in one process."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from napari_skipseg.batch.crash_guard import CrashGuard, GuardedFile, StoppedError
from napari_skipseg.batch.inputs import BatchInput
from napari_skipseg.batch.place import RunPlace, write_run_text
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.devices import WHOLE_MEMORY, Device, MemoryShare, choose_device
from napari_skipseg.errors import ModelError
from napari_skipseg.inference.options import SegmentOptions, SegmentRequest
from napari_skipseg.models.catalog import locate_model

if TYPE_CHECKING:
    from napari_skipseg.inference.backends.choose import BackendChoice, BackendMaker
    from napari_skipseg.inference.backends.interface import Backend, NetworkView, Pixels, TileOutput
    from napari_skipseg.inference.ensemble import AveragingBackend
    from napari_skipseg.models.model import Model

_KEPT = 8
"""Backends that are kept ready: one for each shape of tile, and for each turn of a tile that is not a cube."""
_CHOSEN = {"side": int, "batch": int, "device": str}
"""Entries of a recipe that all files of a run share, so that they do not depend on the memory that is free at the
beginning of each file."""

Result = TypeVar("Result")


class NetworkRunner:
    """The model of `request` and its backends. Threads share it: the network computes for one file at a time, from its
    first tile to its last, while others read and write. share: of the machine's memory.

    Raises:
        ModelError: there is no such model, or its weights are different from those of the request.
        DeviceError: there is no such device.
        FileError: nothing can be written to the run's folder.
    """

    def __init__(self, request: SegmentRequest, place: RunPlace, share: MemoryShare = WHOLE_MEMORY) -> None:
        from napari_skipseg.inference.backends.warm import KeptBackends, open_model

        self.model = open_model(locate_model(request.model))
        if self.model.description.weights_sha256 != request.model_sha256:
            raise ModelError(f"The weights of the model '{request.model}' have changed: start the batch again.")
        self.chosen = _chosen(self.model, request.options, place, share)
        self._kept = KeptBackends(_KEPT, share)
        self._making = threading.Lock()
        self._changed = threading.Condition()
        self._holder: DeviceTurn | None = None
        self._closed = False
        self.crash_guard = CrashGuard(place, lambda: self._closed)

    def turn(self, opening: GuardedFile | None = None) -> DeviceTurn:
        """Return what runs the network for one file. opening: the guard of a file that is being opened."""
        return DeviceTurn(self, opening)

    def close(self) -> None:
        """Stop computing: threads that wait for the network, now or later, get a StoppedError."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def is_free_for(self, turn: DeviceTurn) -> bool:
        """Return whether a file gets the network without waiting."""
        return self._holder in (None, turn)

    def take(self, turn: DeviceTurn) -> None:
        """Wait until the network is free, unless this file has it already."""
        with self._changed:
            while not self._closed and self._holder not in (None, turn):
                self._changed.wait()
            if self._closed:
                raise StoppedError("The batch was stopped: start it again to continue.")
            self._holder = turn

    def release(self, turn: DeviceTurn) -> None:
        """Release the network for another file."""
        with self._changed:
            if self._holder is turn:
                self._holder = None
                self._changed.notify_all()

    def backend(self, model: Model, device: Device, shape: tuple[int, ...], pinned: BackendChoice | None) -> Backend:
        """Return a backend: one that was made before, unless a different one had to take over in it, else a new one."""
        with self._making:
            return self._kept.backend(model, device, shape, pinned)


@dataclass(frozen=True)
class FileJob:
    """One file of a batch with all that its processing needs. place: the folder of the run."""

    settings: BatchSettings
    entry: BatchInput
    place: RunPlace
    engine: NetworkRunner

    @property
    def unfinished(self) -> Path:
        """The folder of a segmentation that was begun and not finished."""
        return self.place.unfinished(self.entry)


class DeviceTurn:
    """Runs the network for one file: a `BackendMaker` whose backends wait until the network is free.

    seconds: the time in which the network computed. waited: the time until it was free.
    """

    def __init__(self, engine: NetworkRunner, opening: GuardedFile | None = None) -> None:
        self._engine, self._opening = engine, opening
        self.seconds = 0.0
        self.waited = 0.0

    def __call__(self, model: Model, device: Device, shape: tuple[int, ...]) -> Backend:
        """Return a backend for tiles of `shape`."""
        return WaitingBackend(self._engine.backend(model, device, shape, None), self)

    def pinned(self, pinned: BackendChoice) -> BackendMaker:
        """Return a maker of the backend that a run was begun with."""

        def make(model: Model, device: Device, shape: tuple[int, ...]) -> Backend:
            return WaitingBackend(self._engine.backend(model, device, shape, pinned), self)

        return make

    def run(self, compute: Callable[[], Result]) -> Result:
        """Wait for this file's turn, then return the result of `compute`."""
        requested = time.perf_counter()
        opening = None if self._engine.is_free_for(self) else self._opening
        with contextlib.nullcontext() if opening is None else opening.waiting():
            self._engine.take(self)
        start = time.perf_counter()
        self.waited += start - requested
        try:
            return compute()
        finally:
            self.seconds += time.perf_counter() - start

    def iter_steps(self, work: Generator[None, None, Result]) -> Generator[None, None, Result]:
        """Run each step of `work` when it is this file's turn; yield after each, and return its result."""
        with contextlib.closing(work):
            while True:
                try:
                    self.run(lambda: next(work))
                except StopIteration as stop:
                    result: Result = stop.value
                    return result
                yield

    def end(self) -> None:
        """Release the network for the next file."""
        self._engine.release(self)


class WaitingBackend:
    """A backend that computes when it is a file's turn."""

    def __init__(self, backend: Backend, turn: DeviceTurn) -> None:
        self._backend, self._turn = backend, turn

    @property
    def name(self) -> str:
        """The backend that computes now."""
        return self._backend.name

    @property
    def precision(self) -> str:
        """The precision in which it computes now."""
        return self._backend.precision

    @property
    def notes(self) -> list[str]:
        """A sentence for each backend that failed before this one took over."""
        from napari_skipseg.inference.backends.fallback import notes_of

        return list(notes_of(self._backend))

    @property
    def attention(self) -> bool:
        """Whether attention maps are computed; it is the same for all files of a run."""
        return bool(getattr(self._backend, "attention", True))

    @attention.setter
    def attention(self, wanted: bool) -> None:
        if hasattr(self._backend, "attention"):
            self._backend.attention = wanted

    @property
    def averages(self) -> bool:
        """Whether the device averages by itself, with `iter_average` and `iter_planes`."""
        return bool(getattr(self._backend, "averages", False))

    def run(self, images: Pixels) -> TileOutput:
        """Return the output for `images` (N, C, *space)."""
        return self._turn.run(lambda: self._backend.run(images))

    def iter_average(self, images: Pixels, views: Sequence[NetworkView]) -> Generator[None, None, TileOutput | None]:
        """Yield between views; return the mean over them, None if the device could not average."""
        return (yield from self._turn.iter_steps(cast("AveragingBackend", self._backend).iter_average(images, views)))

    def iter_planes(self, volumes: Pixels, at_once: int) -> Generator[None, None, TileOutput | None]:
        """Yield between batches of slices; return the mean over three directions, None as `iter_average`."""
        return (yield from self._turn.iter_steps(cast("AveragingBackend", self._backend).iter_planes(volumes, at_once)))


def _chosen(model: Model, options: SegmentOptions, place: RunPlace, share: MemoryShare) -> dict[str, Any]:
    """Return the tile and the device of all files of the run: those it was begun with, else the best ones now."""
    from napari_skipseg.inference.predict import best_choice

    try:
        begun = json.loads(place.choice.read_bytes())
        if isinstance(begun, dict) and all(isinstance(begun.get(name), kind) for name, kind in _CHOSEN.items()):
            return {name: begun[name] for name in _CHOSEN}
    except (OSError, ValueError):
        pass  # nothing has been chosen yet, or it cannot be read
    device = choose_device(options.device)
    tile = best_choice(model, device, options, share)
    chosen = {"side": tile.side, "batch": tile.batch, "device": device.name}
    write_run_text(place.choice, json.dumps(chosen) + "\n")
    return chosen
