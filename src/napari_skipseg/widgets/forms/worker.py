"""Long work in a thread: a worker that relays a generator of progress, and its value or fault, never a traceback."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from napari.qt.threading import GeneratorWorker, create_worker
from qtpy.QtCore import QObject, QTimer
from superqt.utils import create_worker as create_quiet_worker

from napari_skipseg.errors import SkipsegError
from napari_skipseg.progress import Progress

Work = Callable[[], Generator[Progress, Any, Any]]


@dataclass(frozen=True)
class WorkOutcome:
    """The value of finished work, or its fault in one sentence."""

    value: Any = None
    fault: str = ""


class ClosingWorker(GeneratorWorker):  # type: ignore[misc]
    """A worker that closes its generator in its own thread when it quits, so that the engine stops the job."""

    def work(self) -> Any:
        """Return what the generator returns."""
        try:
            return super().work()
        finally:
            self._gen.close()


class _Listener(QObject):  # type: ignore[misc]
    """Calls functions in the GUI thread, until its owner is deleted."""

    def __init__(
        self,
        owner: QObject,
        on_progress: Callable[[Progress], None],
        on_outcome: Callable[[WorkOutcome], None],
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(owner)
        self._on_progress, self._on_outcome, self._on_end = on_progress, on_outcome, on_end

    # methods of a QObject of the GUI thread: Qt queues the signals of the worker's thread for them
    def on_progress(self, progress: Progress) -> None:
        """Pass progress on."""
        self._on_progress(progress)

    def on_outcome(self, outcome: WorkOutcome | None) -> None:
        """Pass the outcome on; a worker that was cancelled has none."""
        if outcome is not None:
            self._on_outcome(outcome)

    def on_end(self) -> None:
        """Pass on that the work ended."""
        self._on_end()
        self.deleteLater()


def start_work(
    owner: QObject,
    work: Work,
    description: str,
    on_progress: Callable[[Progress], None],
    on_outcome: Callable[[WorkOutcome], None],
    on_end: Callable[[], None],
    is_quiet: bool = False,
) -> ClosingWorker:
    """Start `work` in a thread; return its worker, whose `quit` cancels and whose `send` sends a value to the work.

    The functions are called in the GUI thread, as long as `owner` exists. on_outcome: not called if the work was
    cancelled. on_end: called last, in any case. is_quiet: napari does not count it as work when it closes.
    """

    def relay() -> Generator[Progress, Any, WorkOutcome]:
        try:
            value = yield from work()
        except SkipsegError as error:
            return WorkOutcome(fault=str(error))
        except Exception as error:
            # superqt swallows a RuntimeError of a generator, so nothing but an outcome may leave it
            logging.getLogger(__name__).exception("%s failed", description)
            return WorkOutcome(
                fault=f"{description} failed ({type(error).__name__}: {first_line_of(error)}). Try again."
            )
        return WorkOutcome(value)

    relay.__name__ = relay.__qualname__ = description
    listener = _Listener(owner, on_progress, on_outcome, on_end)
    # no progress bar of napari: the animation in its status bar repaints the whole window 30 times a second
    create = create_quiet_worker if is_quiet else create_worker
    worker: ClosingWorker = create(
        relay,
        _start_thread=True,
        _worker_class=ClosingWorker,
        _connect={
            "yielded": listener.on_progress,
            "returned": listener.on_outcome,
            "finished": listener.on_end,
        },
    )
    return worker


def first_line_of(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")


_PAUSE = 1.0
"""Seconds between two repaints, which take 2 % of a processor core if the window is drawn without a GPU."""


class PacedSignal(QObject):  # type: ignore[misc]
    """Collects values and passes them on in lists: the first one at once, the rest after pauses of `pause` seconds."""

    def __init__(self, owner: QObject, on_values: Callable[[list[Any]], None]) -> None:
        super().__init__(owner)
        self._on_values = on_values
        self._values: list[Any] = []
        self.pause = _PAUSE
        self._flushed = 0.0
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.flush)

    def put(self, value: Any) -> None:
        """Add a value, which is passed on at once or soon."""
        self._values.append(value)
        if not self._timer.isActive():
            rest = self.pause - (time.monotonic() - self._flushed)
            self._timer.start(max(0, round(1000 * rest)))

    def flush(self) -> None:
        """Pass on the collected values now."""
        self._timer.stop()
        values, self._values = self._values, []
        if values:
            self._flushed = time.monotonic()
            self._on_values(values)
