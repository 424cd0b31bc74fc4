"""Several backends in a row: where one fails, the next takes over, and the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from napari_skipseg.errors import SkipsegError
from napari_skipseg.inference.backends.interface import Backend, Pixels, TileOutput
from napari_skipseg.inference.backends.torch_backend import release_memory
from napari_skipseg.models.model import Model

MEMORY_FAULTS = ("out of memory", "can't allocate memory", "bad_alloc", "bad allocation")
"""How torch and OpenVINO say, in a RuntimeError, that memory is short."""


class OutOfMemoryError(SkipsegError):
    """The last device there was has no memory for a tile."""


@dataclass(frozen=True)
class Choice:
    """A backend that could be made: what and where it is, why it stands at its place, and what makes it."""

    title: str
    reason: str
    make: Callable[[Model, tuple[int, ...]], Backend]


class FallbackBackend:
    """The first backend of `choices` that works. Where it fails the next one is prepared and takes the same tile.

    notes: a sentence for each that failed.

    Raises:
        OutOfMemoryError: (by `run` too) the last one has no memory for a tile. Its other faults are raised as they are.
    """

    def __init__(self, choices: tuple[Choice, ...], model: Model, shape: tuple[int, ...]) -> None:
        self.notes: list[str] = []
        self._left = list(choices)
        self._model, self._shape = model, shape
        self._backend = self._prepare()

    @property
    def name(self) -> str:
        """What computes now."""
        return self._backend.name

    @property
    def precision(self) -> str:
        """The precision it computes in now."""
        return self._backend.precision

    @property
    def reason(self) -> str:
        """What computes now, where, in which precision, and why."""
        return f"{self._left[0].title} in {self.precision}: {self._left[0].reason}"

    def run(self, image: Pixels) -> TileOutput:
        """Return the output for `image` (C, *space)."""
        while True:
            try:
                return self._backend.run(image)
            except SkipsegError:
                raise
            except Exception as error:
                self._note(error)
            del self._backend
            release_memory()
            self._backend = self._prepare()

    def _prepare(self) -> Backend:
        while True:
            try:
                return self._left[0].make(self._model, self._shape)
            except SkipsegError:
                raise
            except Exception as error:
                self._note(error)
            release_memory()

    def _note(self, error: Exception) -> None:
        """Note that the present choice failed and leave it behind; raise where it is the last."""
        failed, *rest = self._left
        if not rest:
            if is_out_of_memory(error):
                size = " × ".join(map(str, self._shape))
                raise OutOfMemoryError(
                    f"There is not enough memory for a tile of {size} voxels ({failed.title}): choose a smaller one, "
                    "in a shell with --tile 256 (64 for a volume)."
                ) from error
            raise error
        self._left = rest
        said = (str(error).strip().splitlines() or [""])[0].rstrip(".:")[:200]
        fault = "ran out of memory" if is_out_of_memory(error) else f"failed ({type(error).__name__}: {said})"
        self.notes.append(f"{failed.title} {fault}; {rest[0].title} goes on.")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that memory is short, on any device."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(fault in str(error).lower() for fault in MEMORY_FAULTS)


def notes_of(backend: Backend) -> tuple[str, ...]:
    """Return what failed before `backend` took over; nothing where it stands alone."""
    return tuple(backend.notes) if isinstance(backend, FallbackBackend) else ()
