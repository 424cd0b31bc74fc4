"""The queue for the engine, which runs one request at a time, in the order of the clicks."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any, Protocol

from qtpy.QtCore import QObject, Signal

from napari_skipseg.jobs.messages import Call, Request, Result
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.forms.worker import Work


class EngineLike(Protocol):
    """What the tabs need of an engine; `jobs.client.Engine` is one."""

    @property
    def is_busy(self) -> bool:
        """Whether a request runs, so that another one would be refused."""
        ...

    def run(self, request: Request[Result]) -> Call[Result]:
        """Yield the progress of a request, and return its result; a value that is sent is a command to the job."""
        ...


_LOOK = 0.05
"""Seconds between two checks whether the engine has stopped its last run."""


class EngineTurn:
    """A place in the queue. waiting: the text of those behind it, such as "waits for the fine-tuning"."""

    def __init__(self, line: EngineLine, waiting: str) -> None:
        self._line, self.waiting = line, waiting
        self.begin: Callable[[], None] | None = None

    def awaited(self) -> str:
        """Return the text of the turn that has the engine; "" if it is this one."""
        first = self._line.first()
        return "" if first is None or first is self else first.waiting

    def call(self, begin: Callable[[], None]) -> None:
        """Call `begin` as soon as this turn is the first, which may be at once."""
        self.begin = begin
        self._line.advance()

    def leave(self) -> None:
        """Leave the queue; do nothing if this turn has left."""
        self._line.drop(self)


class EngineLine(QObject):  # type: ignore[misc]
    """All turns in the GUI thread; the first one has the engine.

    joined: a job has joined, so a request for an estimate should stop. moved: a turn has left.
    """

    # no thread waits for its turn: napari's workers share as many threads as there are cores, and waiting jobs would
    # block all others

    joined = Signal()
    moved = Signal()

    def __init__(self, engine: EngineLike) -> None:
        super().__init__()
        self._engine = engine
        self._turns: list[EngineTurn] = []

    @property
    def is_empty(self) -> bool:
        """Whether the engine is free and no turn waits for it."""
        return not self._turns and not self._engine.is_busy

    def join(self, waiting: str, is_job: bool = True) -> EngineTurn:
        """Return a new turn at the end of the queue."""
        turn = EngineTurn(self, waiting)
        self._turns.append(turn)
        if is_job:
            self.joined.emit()
        return turn

    def first(self) -> EngineTurn | None:
        """Return the turn that has the engine, None if it is free."""
        return self._turns[0] if self._turns else None

    def drop(self, turn: EngineTurn) -> None:
        """Remove a turn; the next one begins."""
        if turn in self._turns:
            self._turns.remove(turn)
            self.moved.emit()
            self.advance()

    def advance(self) -> None:
        """Let the first turn begin, unless it has."""
        if self._turns and (begin := self._turns[0].begin) is not None:
            self._turns[0].begin = None
            begin()

    def when_free(self, work: Work) -> Work:
        """Return `work` that first waits until the engine has stopped its last run, which may take seconds."""

        def wait_and_work() -> Generator[Progress, Any, Any]:
            while self._engine.is_busy:
                yield Progress(0, 1, "stopping the last run")
                time.sleep(_LOOK)
            return (yield from work())

        return wait_and_work
