"""What every call of the engine needs: the process, one call at a time, a question and its answer. No torch."""

from __future__ import annotations

import contextlib
import json
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from napari_skipseg.batch.table import Retry
from napari_skipseg.errors import EngineError, OutOfMemoryError
from napari_skipseg.inference.prediction import Focus
from napari_skipseg.jobs.child import WAKE, Child, Session, error_of
from napari_skipseg.jobs.events import NO_JOB, End, Event, Failed, FoundAboutImage, ProgressMade
from napari_skipseg.jobs.requests import Job, KeepBest, Look, Request, RetryFailed
from napari_skipseg.jobs.workspace import remove_folder
from napari_skipseg.progress import STARTING, Found, Progress
from napari_skipseg.training.progress import Keep

Command = Focus | Keep | Retry
Answer = TypeVar("Answer", bound=End)


class Calls:
    """The engine process: started by the first call, kept warm between calls, ended by `close` or with its owner.

    A call is a generator: it yields at least every 0.1 s and returns its result. Closing it cancels the job and returns
    at once: the engine is told to stop, and killed where it has not after `child.GRACE` seconds. One call at a time.
    A context manager, too.
    """

    def __init__(self) -> None:
        self._session = Session()
        self._alone = threading.Lock()
        self._settling: threading.Thread | None = None
        self._numbers = count(1)
        self._finalize = weakref.finalize(self, self._session.close)

    @property
    def pid(self) -> int | None:
        """The engine process, None where it does not run."""
        child = self._session.child
        return None if child is None or child.has_ended() else child.pid

    @property
    def is_busy(self) -> bool:
        """Whether a call is at work, so that another one would be refused."""
        return self._alone.locked()

    def close(self) -> None:
        """End the engine process, in the middle of a job too, and remove the temporary folder."""
        self._finalize()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        if not self._alone.acquire(blocking=False):
            raise EngineError("The engine is at work: wait until it is done, or cancel it first.")
        try:
            yield
        finally:
            self._alone.release()

    def _start(self) -> Generator[Progress, None, Child]:
        while self._settling is not None and self._settling.is_alive():
            yield Progress(0, 1, "stopping the last run")
            self._settling.join(WAKE)
        return self._session.start()

    def _ask(
        self,
        child: Child,
        job: Job,
        hear: Callable[[Event], Progress | None] = lambda _: None,
        leftovers: tuple[Path, ...] = (),
    ) -> Generator[Progress, Command | None, End]:
        """Return the job's result; closed in mid-run, tell the engine to stop and see to it in the background.

        A job that fails leaves the engine warm. Only one that ran out of memory has it end: the C library and OpenVINO
        keep what they once had, and a new process has all of it for the next try.

        hear: says what to yield for an event of this job, None for nothing new. leftovers: folders that go when the
        engine has stopped.
        """
        shown = Progress(0, 1, STARTING)
        child.send(job)
        try:
            while True:
                event = _next_event(child)
                if isinstance(event, Failed) and event.number in (job.number, NO_JOB):
                    error = error_of(event)
                    if isinstance(error, OutOfMemoryError):
                        child.end()
                    raise error
                if isinstance(event, End) and event.number == job.number:
                    return event
                heard = None if event is None or getattr(event, "number", NO_JOB) != job.number else _heard(event, hear)
                shown = heard or Progress(shown.done, shown.total, shown.message)
                command = yield shown
                if command is not None:
                    child.send(_request_of(command, job.number))
        except (GeneratorExit, KeyboardInterrupt):
            self._settling = threading.Thread(target=_settle, args=(child, job.number, leftovers), daemon=True)
            self._settling.start()
            raise


def _next_event(child: Child) -> Event | None:
    """Return the next event; end the process if it ended by itself, or answered with what is no event."""
    try:
        return child.next_event(WAKE)
    except EngineError:
        child.end()
        raise


def _heard(event: Event, hear: Callable[[Event], Progress | None]) -> Progress | None:
    """Return what an event says of how far its job is; None where it says nothing."""
    if isinstance(event, ProgressMade):
        return Progress(event.done, event.total, event.message)
    if isinstance(event, FoundAboutImage):
        return Found(event.done, event.total, event.message, event.findings, event.seems_inverted)
    return hear(event)


def _request_of(command: Command, number: int) -> Request:
    """Return what tells the engine a command for job `number`."""
    if isinstance(command, Focus):
        return Look(number, command.view)
    if isinstance(command, Retry):
        return RetryFailed(number, json.dumps(command.relatives))
    return KeepBest(number)


def _settle(child: Child, number: int, leftovers: tuple[Path, ...]) -> None:
    child.cancel(number)
    for folder in leftovers:
        remove_folder(folder)


@contextlib.contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """Remove `folder` where what is done meanwhile fails."""
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(remove_folder, folder)
        yield
        on_failure.pop_all()


def expected(end: End, kind: type[Answer]) -> Answer:
    """Return the end of a job as the kind that it must be.

    Raises:
        EngineError: it is another one.
    """
    if not isinstance(end, kind):
        raise EngineError(f"The engine answered with something unexpected ({end.kind}): try again.")
    return end
