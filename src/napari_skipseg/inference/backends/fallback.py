"""Several backends in a row: where one fails, the next takes over, and the run goes on."""

from __future__ import annotations

from napari_skipseg.errors import SkipsegError
from napari_skipseg.inference.backends.halving import Choice, HalvingBackend, OutOfMemoryError, is_out_of_memory
from napari_skipseg.inference.backends.interface import Backend, Pixels, TileOutput
from napari_skipseg.inference.backends.torch_backend import release_memory
from napari_skipseg.models.model import Model


class FallbackBackend:
    """The first backend of `choices` that works. Where it fails the next one is prepared and takes the same tiles.

    Where memory is short, each first goes on with fewer images at once and with smaller tiles. Those of `later` take
    over in a run only: none of them is the first.

    notes: a sentence for each that failed, and for each step down.

    Raises:
        OutOfMemoryError: (by `run` too) the last one has no memory for the smallest tile. Its other faults are raised
            as they are.
    """

    def __init__(
        self, choices: tuple[Choice, ...], model: Model, shape: tuple[int, ...], later: tuple[Choice, ...] = ()
    ) -> None:
        self.notes: list[str] = []
        self._left = list(choices)
        self._model, self._shape = model, shape
        self._backend = self._prepare()
        self._left += later

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

    def run(self, images: Pixels) -> TileOutput:
        """Return the output for `images` (N, C, *space)."""
        while True:
            try:
                return self._backend.run(images)
            except Exception as error:
                self._pass_over(error)
            del self._backend
            release_memory()
            self._backend = self._prepare()

    def _prepare(self) -> HalvingBackend:
        while True:
            try:
                return HalvingBackend(self._left[0], self._model, self._shape, self.notes)
            except Exception as error:
                self._pass_over(error)
            release_memory()

    def _pass_over(self, error: Exception) -> None:
        """Note that the present choice failed and leave it behind; raise where it is the last, or not at fault."""
        failed, *rest = self._left
        short = is_out_of_memory(error)
        if short:  # in higher precision the same device would need more
            rest = [choice for choice in rest if choice.title != failed.title]
        if not rest or (isinstance(error, SkipsegError) and not isinstance(error, OutOfMemoryError)):
            raise error
        self._left = rest
        fault = "ran out of memory" if short else f"failed ({type(error).__name__}: {_gist(error)})"
        self.notes.append(f"{failed.title} {fault}; {rest[0].title} goes on.")


def _gist(error: Exception) -> str:
    """Return the first line of what went wrong; where OpenVINO says in which of its files, those come before it."""
    lines = str(error).strip().splitlines()
    said = [line for line in lines if not line.startswith("Exception from ")] or lines or [""]
    return said[0].rstrip(".:")[:200]


def notes_of(backend: Backend) -> tuple[str, ...]:
    """Return what failed before `backend` took over; nothing where it stands alone."""
    return tuple(getattr(backend, "notes", ()))
