"""What the files of a batch share in one process: the model, read once, and what runs it, made once a size of tile."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from napari_skipseg.batch.crash_guard import CrashGuard, GuardedFile, StoppedError
from napari_skipseg.batch.place import RunPlace, write_run_text
from napari_skipseg.devices import WHOLE_MEMORY, Device, MemoryShare, choose_device
from napari_skipseg.errors import ModelError
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.options import SegmentOptions, SegmentRequest
from napari_skipseg.models.catalog import locate_model

if TYPE_CHECKING:
    from napari_skipseg.inference.backends.choose import BackendChoice, BackendMaker
    from napari_skipseg.inference.backends.interface import Backend, Pixels, TileOutput
    from napari_skipseg.inference.backends.views import NetworkView
    from napari_skipseg.inference.ensemble import AveragingBackend
    from napari_skipseg.models.model import Model

_KEPT = 8
"""Backends that are kept ready: one for each size of tile, and where tiles are turned, for each turn."""
_CHOSEN = {"side": int, "batch": int, "device": str}
"""What of a recipe all files of a run share, so that it does not hang on the memory that is free when each begins."""

Result = TypeVar("Result")
Key = tuple[str, tuple[int, ...], "BackendChoice | None"]


class NetworkRunner:
    """The model that `request` names, and its backends. Threads share it: the network computes for one file at a time,
    from its first tile to its last, so that others read and write meanwhile. share: of the memory of its machine.

    Raises:
        ModelError: there is no such model, or it has other weights than those named.
        DeviceError: the device asked for is not there.
        FileError: nothing can be written to the run's folder.
    """

    def __init__(self, request: SegmentRequest, place: RunPlace, share: MemoryShare = WHOLE_MEMORY) -> None:
        self.model = _read_model(request)
        self.chosen = _chosen(self.model, request.options, place, share)
        self._share = share
        self._backends: dict[Key, Backend] = {}
        self._making = threading.Lock()
        self._changed = threading.Condition()
        self._holder: DeviceTurn | None = None
        self._closed = False
        self.openings = CrashGuard(place, lambda: self._closed)

    def taken(self, stack: Stack, options: SegmentOptions) -> Stack:
        """Return what the model looks at: the channel that was chosen, or all of them.

        Raises:
            InputError: the image has other channels than the network takes.
        """
        from napari_skipseg.inference.predict import select_channel

        return select_channel(stack, self.model, options)

    def turn(self, opening: GuardedFile | None = None) -> DeviceTurn:
        """Return what runs the network for one file, which it may be that is being opened."""
        return DeviceTurn(self, opening)

    def close(self) -> None:
        """Let the network compute no more: who waits for it, or asks for it, gets a StoppedError."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def is_free_for(self, turn: DeviceTurn) -> bool:
        """Return whether a file need not wait for the network at this moment."""
        return self._holder in (None, turn)

    def take(self, turn: DeviceTurn) -> None:
        """Wait until the network is free, or this file's already."""
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
        """Return a backend, a kept one if there is one in which none had to take over from another."""
        from napari_skipseg.inference.backends.choose import make_backend
        from napari_skipseg.inference.backends.fallback import notes_of

        key = (device.name, shape, pinned)
        with self._making:
            if key in self._backends and notes_of(self._backends[key]):
                del self._backends[key]
            if key not in self._backends:
                while len(self._backends) >= _KEPT:
                    del self._backends[next(iter(self._backends))]
                self._backends[key] = make_backend(model, device, shape, pinned, self._share)
            return self._backends[key]


class DeviceTurn:
    """What runs the network for one file: a `BackendMaker` whose backends wait until the network is free.

    seconds: in which the network computed. waited: until it was free.
    """

    def __init__(self, engine: NetworkRunner, opening: GuardedFile | None = None) -> None:
        self._engine, self._opening = engine, opening
        self.seconds = 0.0
        self.waited = 0.0

    def __call__(self, model: Model, device: Device, shape: tuple[int, ...]) -> Backend:
        """Return a backend for tiles of `shape`."""
        return WaitingBackend(self._engine.backend(model, device, shape, None), self)

    def pinned(self, pinned: BackendChoice) -> BackendMaker:
        """Return a maker of what a run was begun with."""

        def make(model: Model, device: Device, shape: tuple[int, ...]) -> Backend:
            return WaitingBackend(self._engine.backend(model, device, shape, pinned), self)

        return make

    def run(self, compute: Callable[[], Result]) -> Result:
        """Return what `compute` gives when it is this file's turn."""
        asked = time.perf_counter()
        opening = None if self._engine.is_free_for(self) else self._opening
        with contextlib.nullcontext() if opening is None else opening.waiting():
            self._engine.take(self)
        start = time.perf_counter()
        self.waited += start - asked
        try:
            return compute()
        finally:
            self.seconds += time.perf_counter() - start

    def iter_steps(self, work: Generator[None, None, Result]) -> Generator[None, None, Result]:
        """Yield where `work` yields, each of its steps computed when it is this file's turn; return its result."""
        with contextlib.closing(work):
            while True:
                try:
                    self.run(lambda: next(work))
                except StopIteration as stop:
                    result: Result = stop.value
                    return result
                yield

    def end(self) -> None:
        """Let another file have the network: this one needs it no more."""
        self._engine.release(self)


class WaitingBackend:
    """A backend that computes when it is a file's turn."""

    def __init__(self, backend: Backend, turn: DeviceTurn) -> None:
        self._backend, self._turn = backend, turn

    @property
    def name(self) -> str:
        """What computes now."""
        return self._backend.name

    @property
    def precision(self) -> str:
        """The precision it computes in now."""
        return self._backend.precision

    @property
    def notes(self) -> list[str]:
        """A sentence for each backend that failed before this one took over."""
        from napari_skipseg.inference.backends.fallback import notes_of

        return list(notes_of(self._backend))

    @property
    def attention(self) -> bool:
        """Whether attention maps are wanted; all files of a run want the same."""
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


def _read_model(request: SegmentRequest) -> Model:
    from napari_skipseg.models.model import read_model

    model = read_model(locate_model(request.model))
    if model.description.weights_sha256 != request.model_sha256:
        raise ModelError(f"The model '{request.model}' has other weights than those asked for: start the batch anew.")
    return model


def _chosen(model: Model, options: SegmentOptions, place: RunPlace, share: MemoryShare) -> dict[str, Any]:
    """Return the tile and the device that all files of the run take: those it was begun with, else the best now."""
    from napari_skipseg.inference.predict import best_choice

    try:
        begun = json.loads(place.choice.read_bytes())
        if isinstance(begun, dict) and all(isinstance(begun.get(name), kind) for name, kind in _CHOSEN.items()):
            return {name: begun[name] for name in _CHOSEN}
    except (OSError, ValueError):
        pass  # nothing was chosen yet, or it cannot be read
    device = choose_device(options.device)
    tile = best_choice(model, device, options, share)
    chosen = {"side": tile.side, "batch": tile.batch, "device": device.name}
    write_run_text(place.choice, json.dumps(chosen) + "\n")
    return chosen
