"""Long work in a thread, paced progress, and the queue for the engine, which runs one request at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

from napari.qt.threading import GeneratorWorker, create_worker
from qtpy.QtCore import QObject, QTimer, Signal
from superqt.utils import create_worker as create_quiet_worker

from napari_skipseg.errors import SkipsegError
from napari_skipseg.jobs.messages import Call, Request, Result
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


class EngineLike(Protocol):
    """What the tabs need of an engine; `jobs.client.Engine` is one."""

    @property
    def is_busy(self) -> bool:
        """Whether a request runs, so that another one would be refused."""
        ...

    def run(self, request: Request[Result]) -> Call[Result]:
        """Yield the progress of a request, and return its result; a value that is sent is a command to the job."""
        ...


_CHECK_INTERVAL = 0.05
"""Seconds between two checks whether the engine has stopped its last run."""


class QueueEntry:
    """A place in the queue. waiting_text: shown by the jobs behind it, such as "waits for the fine-tuning"."""

    def __init__(self, queue: EngineQueue, waiting_text: str) -> None:
        self._queue, self._waiting_text = queue, waiting_text
        self.begin: Callable[[], None] | None = None

    def describe_wait(self) -> str:
        """Return the text of the entry that uses the engine; "" if it is this one."""
        first = self._queue.first()
        return "" if first is None or first is self else first._waiting_text

    def start_when_first(self, begin: Callable[[], None]) -> None:
        """Call `begin` as soon as this entry is the first, which may be at once."""
        self.begin = begin
        self._queue.start_first()

    def release(self) -> None:
        """Leave the queue; do nothing if this entry is no longer in it."""
        self._queue.remove(self)


class EngineQueue(QObject):  # type: ignore[misc]
    """All entries, in the GUI thread; the first one uses the engine.

    job_added: a job was added, so a request for an estimate should stop. entry_removed: a job or request is over.
    """

    # no thread waits in the queue: napari's workers share as many threads as there are cores, and waiting jobs would
    # block all others

    job_added = Signal()
    entry_removed = Signal()

    def __init__(self, engine: EngineLike) -> None:
        super().__init__()
        self._engine = engine
        self._entries: list[QueueEntry] = []

    @property
    def is_empty(self) -> bool:
        """Whether the engine is free and nothing waits for it."""
        return not self._entries and not self._engine.is_busy

    def add(self, waiting_text: str, is_job: bool = True) -> QueueEntry:
        """Return a new entry at the end of the queue."""
        entry = QueueEntry(self, waiting_text)
        self._entries.append(entry)
        if is_job:
            self.job_added.emit()
        return entry

    def first(self) -> QueueEntry | None:
        """Return the entry that uses the engine, None if it is free."""
        return self._entries[0] if self._entries else None

    def describe_wait(self) -> str:
        """Return the text of the entry that uses the engine; "" if there is none."""
        return self._entries[0]._waiting_text if self._entries else ""

    def remove(self, entry: QueueEntry) -> None:
        """Remove an entry, and start the next one."""
        if entry in self._entries:
            self._entries.remove(entry)
            self.entry_removed.emit()
            self.start_first()

    def start_first(self) -> None:
        """Start the first entry, unless it has started."""
        if self._entries and (begin := self._entries[0].begin) is not None:
            self._entries[0].begin = None
            begin()

    def after_last_run(self, work: Work) -> Work:
        """Return `work` that first waits until the engine has stopped its last run, which may take seconds."""

        def wait_and_work() -> Generator[Progress, Any, Any]:
            while self._engine.is_busy:
                yield Progress(0, 1, "stopping the last run")
                time.sleep(_CHECK_INTERVAL)
            return (yield from work())

        return wait_and_work
