"""Long work in a thread, paced progress, and the queue for the engine, which runs one request at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from napari.qt.threading import GeneratorWorker, create_worker
from qtpy.QtCore import QObject, QTimer, Signal
from superqt.utils import create_worker as create_quiet_worker

from napari_skipseg.errors import SkipsegError
from napari_skipseg.jobs.messages import Call, Request, Result
from napari_skipseg.progress import Progress

Work = Callable[[], Generator[Progress, Any, Any]]


def in_one_step(message: str, act: Callable[[], Any]) -> Work:
    """Return work without steps to count: it shows a message, and returns what `act` returns."""

    def work() -> Generator[Progress, Any, Any]:
        yield Progress(0, 1, message)
        return act()

    return work


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


def _ignore(*_: object) -> None:
    """Do nothing."""


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
        """Handle progress."""
        self._on_progress(progress)

    def on_outcome(self, outcome: WorkOutcome | None) -> None:
        """Handle the outcome; a worker that was cancelled has none."""
        if outcome is not None:
            self._on_outcome(outcome)

    def on_end(self) -> None:
        """Handle the end of the work."""
        self._on_end()
        self.deleteLater()


def start_work(
    owner: QObject,
    work: Work,
    description: str,
    on_progress: Callable[[Progress], None] = _ignore,
    on_outcome: Callable[[WorkOutcome], None] = _ignore,
    on_end: Callable[[], None] = _ignore,
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
    """Collects values and emits them as lists: the first one at once, the rest after pauses of `pause` seconds."""

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
        """Add a value, which is emitted at once or soon."""
        self._values.append(value)
        if not self._timer.isActive():
            rest = self.pause - (time.monotonic() - self._flushed)
            self._timer.start(max(0, round(1000 * rest)))

    def flush(self) -> None:
        """Emit the collected values now."""
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

    def give_way(self, seconds: float) -> None:
        """Let long work wait for so many seconds."""
        ...

    def run(self, request: Request[Result]) -> Call[Result]:
        """Yield the progress of a request, and return its result; a value that is sent is a command to the job."""
        ...


_CHECK_INTERVAL = 0.05
"""Seconds between two checks whether the engine has stopped its last run."""


class EngineQueue(QObject):  # type: ignore[misc]
    """All tasks, in the GUI thread, in the order of the clicks; the first one uses the engine.

    job_added: a job was added, so a request for an estimate should stop. task_removed: a job or request is over.
    """

    # no thread waits in the queue: napari's workers share as many threads as there are cores, and waiting jobs would
    # block all others

    job_added = Signal()
    task_removed = Signal()

    def __init__(self, engine: EngineLike) -> None:
        super().__init__()
        self._engine = engine
        self._tasks: list[EngineTask] = []

    @property
    def is_empty(self) -> bool:
        """Whether the engine is free and nothing waits for it."""
        return not self._tasks and not self._engine.is_busy

    def add(self, task: EngineTask, is_job: bool) -> None:
        """Add a task at the end, and start it if it is the first."""
        self._tasks.append(task)
        if is_job:
            self.job_added.emit()
        self._start_first()

    def describe_wait(self, task: EngineTask | None = None) -> str:
        """Return the text of the task that uses the engine; "" if there is none, or if it is this one."""
        return "" if not self._tasks or self._tasks[0] is task else self._tasks[0].waiting_text

    def remove(self, task: EngineTask) -> None:
        """Remove a task that is over, and start the next one."""
        if task in self._tasks:
            self._tasks.remove(task)
            self.task_removed.emit()
            self._start_first()

    def _start_first(self) -> None:
        if self._tasks and self._tasks[0].start_time is None:
            self._tasks[0].start()

    def after_last_run(self, work: Work) -> Generator[Progress, Any, Any]:
        """Wait until the engine has stopped its last run, which may take seconds; then run `work`."""
        while self._engine.is_busy:
            yield Progress(0, 1, "stopping the last run")
            time.sleep(_CHECK_INTERVAL)
        return (yield from work())


class EngineTask:
    """Work in a thread that first waits in the queue for the engine; without a queue it starts at once.

    The functions are called as those of `start_work`; on_end also if the task is cancelled while it waits.
    waiting_text: shown by the tasks behind it, such as "waits for the fine-tuning". start_time: by `time.monotonic`,
    None while it waits.
    """

    def __init__(
        self,
        owner: QObject,
        work: Work,
        description: str,
        *,
        queue: EngineQueue | None,
        waiting_text: str = "",
        is_job: bool = False,
        is_quiet: bool = True,
        on_progress: Callable[[Progress], None] = _ignore,
        on_outcome: Callable[[WorkOutcome], None] = _ignore,
        on_end: Callable[[], None] = _ignore,
    ) -> None:
        self.waiting_text, self.is_over = waiting_text, False
        self.start_time: float | None = None
        self._queue, self._on_end = queue, on_end
        self._worker: ClosingWorker | None = None
        whole = work if queue is None else partial(queue.after_last_run, work)
        self._start = partial(start_work, owner, whole, description, on_progress, on_outcome, self._finish, is_quiet)
        if queue is None:
            self.start()
        else:
            queue.add(self, is_job)

    @property
    def has_worker(self) -> bool:
        """Whether the work runs."""
        return self._worker is not None and not self.is_over

    def start(self) -> None:
        """Start the work."""
        self.start_time = time.monotonic()
        self._worker = self._start()

    def send(self, value: object) -> None:
        """Send a value to the work that runs."""
        if self._worker is not None and not self.is_over:
            self._worker.send(value)

    def cancel(self) -> None:
        """Leave the queue, or stop the work, which then ends soon."""
        if self._worker is not None:
            self._worker.quit()
        elif not self.is_over:
            self._finish()

    def _finish(self) -> None:
        self.is_over = True
        if self._queue is not None:
            self._queue.remove(self)
        self._on_end()
