"""Several backends in a row: if one fails, the next takes over, and the run continues."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from napari_skipseg.device_faults import fault_kind, gist_of, is_out_of_memory
from napari_skipseg.devices import release_memory
from napari_skipseg.errors import OutOfMemoryError, SkipsegError
from napari_skipseg.inference.backends.halving import BackendOption, HalvingBackend
from napari_skipseg.inference.backends.interface import Backend, Draw, NetworkView, Pixels, TileOutput
from napari_skipseg.models.model import Model


class FallbackBackend:
    """The first backend of `choices` that works. If it fails, the next one is prepared and computes the same tiles.

    If memory is short, each one first continues with fewer images at once and with smaller tiles. Backends in `later`
    take over only during a run; none of them is the first.

    notes: a sentence for each failure, and for each reduction. attention: whether attention maps are computed.

    Raises:
        OutOfMemoryError: (also by `run`) the last one has no memory for the smallest tile. Its other errors are raised
            unchanged.
    """

    def __init__(
        self,
        choices: tuple[BackendOption, ...],
        model: Model,
        shape: tuple[int, ...],
        later: tuple[BackendOption, ...] = (),
    ) -> None:
        self.notes: list[str] = []
        self.attention = True
        self._left = list(choices)
        self._model, self._shape = model, shape
        self._draw: Draw | None = None
        self._backend = self._prepare()
        self._left += later

    @property
    def name(self) -> str:
        """What computes now."""
        return self._backend.name

    @property
    def precision(self) -> str:
        """The precision in which it computes now."""
        return self._backend.precision

    @property
    def reason(self) -> str:
        """The present backend, its device and precision, and the reason."""
        return f"{self._left[0].title} in {self.precision}: {self._left[0].reason}"

    @property
    def averages(self) -> bool:
        """Whether the device averages over views or planes by itself, with `iter_average` and `iter_planes`."""
        return self._backend.averages

    def draw(self, seed: int, sample: int, places: Sequence[tuple[int, ...]]) -> None:
        """Choose the dropout masks of the next runs, for one image at each place; as `DropoutBackend.draw`."""
        self._draw = Draw(seed, sample, tuple(places))

    def run(self, images: Pixels) -> TileOutput:
        """Return the output for `images` (N, C, *space)."""
        while True:
            try:
                self._backend.attention = self.attention
                self._backend.draw(self._draw)
                return self._backend.run(images)
            except Exception as error:
                if not self._pass_over(error):
                    raise
            del self._backend
            release_memory()
            self._backend = self._prepare()

    def iter_average(self, images: Pixels, views: Sequence[NetworkView]) -> Generator[None, None, TileOutput | None]:
        """Yield between views; return the mean over them with the deviation, averaged on the device.

        Return None if the device could not: running the views one after the other then meets its error again.
        """
        return (yield from self._iter_on_device(lambda: self._backend.iter_average(images, views)))

    def iter_planes(self, volumes: Pixels, at_once: int) -> Generator[None, None, TileOutput | None]:
        """Yield between batches of slices; return the mean over three directions, or None as `iter_average`."""
        return (yield from self._iter_on_device(lambda: self._backend.iter_planes(volumes, at_once)))

    def _iter_on_device(
        self, begin: Callable[[], Generator[None, None, TileOutput]]
    ) -> Generator[None, None, TileOutput | None]:
        try:
            self._backend.attention = self.attention
            return (yield from begin())
        except SkipsegError:
            raise
        except Exception as error:
            self._backend.stop_averaging()
            # a lost device and overflow occur again in the first of the passes, and are noted then
            if fault_kind(error) != "lost" and not isinstance(error, FloatingPointError):
                self.notes.append(f"{self._left[0].title} {_what(error)}; it computes one pass after the other.")
        release_memory()
        return None

    def _prepare(self) -> HalvingBackend:
        while True:
            choice = self._left[0]
            try:
                backend = HalvingBackend(choice, self._model, self._shape, self.notes)
                if choice.own_tile is not None and backend.tile != self._shape:
                    self.notes.append(f"{choice.title} takes tiles of {' × '.join(map(str, backend.tile))}.")
                return backend
            except Exception as error:
                if not self._pass_over(error, is_made=False):
                    raise
            release_memory()

    def _pass_over(self, error: Exception, is_made: bool = True) -> bool:
        """Note that the present choice failed and take the next; return False if it is the last, or not the cause."""
        failed, *rest = self._left
        kind = fault_kind(error)
        if not is_made or kind in ("memory", "lost"):  # other precisions on that device fail too
            rest = [choice for choice in rest if choice.title != failed.title]
        if not rest or (isinstance(error, SkipsegError) and not isinstance(error, OutOfMemoryError)):
            return False
        self._left = rest
        self.notes.append(f"{failed.title} {_what(error)}; {rest[0].title} takes over.")
        return True


def _what(error: Exception) -> str:
    return "ran out of memory" if is_out_of_memory(error) else f"failed ({type(error).__name__}: {gist_of(error)})"


def notes_of(backend: Backend) -> tuple[str, ...]:
    """Return a sentence for each backend that failed before `backend` took over."""
    return tuple(getattr(backend, "notes", ()))
