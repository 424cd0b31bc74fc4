"""Long work beside the window: a thin worker that relays a generator of progress, and never a traceback."""

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
    """How work ended: with a value, or with a fault in one sentence."""

    value: Any = None
    fault: str = ""


class ClosingWorker(GeneratorWorker):  # type: ignore[misc]
    """A worker that closes its generator when it is told to quit, in its own thread: so the engine hears of it."""

    def work(self) -> Any:
        """Return what the generator returns."""
        try:
            return super().work()
        finally:
            self._gen.close()


class _Listener(QObject):  # type: ignore[misc]
    """Hears of a worker in the GUI thread, and no more once its owner has gone."""

    def __init__(
        self,
        owner: QObject,
        on_progress: Callable[[Progress], None],
        on_outcome: Callable[[WorkOutcome], None],
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(owner)
        self._on_progress, self._on_outcome, self._on_end = on_progress, on_outcome, on_end

    def hear_progress(self, progress: Progress) -> None:
        """Pass on how far the work is."""
        self._on_progress(progress)

    def hear_outcome(self, outcome: WorkOutcome | None) -> None:
        """Pass on how the work ended."""
        if outcome is not None:
            self._on_outcome(outcome)

    def hear_end(self) -> None:
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
    """Start `work` in a thread; return its worker, whose `quit` cancels.

    What is sent to it, once it was heard of, comes to the work. on_outcome: called unless it was cancelled. on_end:
    called in any case, last. All in the GUI thread, while `owner` lives. is_quiet: shown nowhere, and not asked about.
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
    # without napari's own progress bar: its moving picture in the status bar draws the whole window 30 times a second
    create = create_quiet_worker if is_quiet else create_worker
    worker: ClosingWorker = create(
        relay,
        _start_thread=True,
        _worker_class=ClosingWorker,
        _connect={
            "yielded": listener.hear_progress,
            "returned": listener.hear_outcome,
            "finished": listener.hear_end,
        },
    )
    return worker


def first_line_of(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")


_PAUSE = 1.0
"""Seconds between two drawings: of a processor core that is 2 % where the window is drawn without a GPU."""


class PacedSignal(QObject):  # type: ignore[misc]
    """Gathers what it hears, and hands it on together: the first at once, the rest after pauses of `pause` seconds."""

    def __init__(self, owner: QObject, hand_on: Callable[[list[Any]], None]) -> None:
        super().__init__(owner)
        self._hand_on = hand_on
        self._heard: list[Any] = []
        self.pause = _PAUSE
        self._handed_on = 0.0
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.flush)

    def hear(self, value: Any) -> None:
        """Hand this on, at once or soon."""
        self._heard.append(value)
        if not self._timer.isActive():
            rest = self.pause - (time.monotonic() - self._handed_on)
            self._timer.start(max(0, round(1000 * rest)))

    def flush(self) -> None:
        """Hand on now what was heard."""
        self._timer.stop()
        heard, self._heard = self._heard, []
        if heard:
            self._handed_on = time.monotonic()
            self._hand_on(heard)
