"""The line of those who want the engine, which takes one call at a time: in the order of their clicks."""

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
        """Whether a request is at work, so that another one would be refused."""
        ...

    def run(self, request: Request[Result]) -> Call[Result]:
        """Yield how far a request is, and return what the engine answers; what is sent back commands the job."""
        ...


_LOOK = 0.05
"""Seconds between two looks at whether the engine has stopped its last run."""


class EngineTurn:
    """A place in the line. waiting: what those behind it say while they wait, such as "waits for the fine-tuning"."""

    def __init__(self, line: EngineLine, waiting: str) -> None:
        self._line, self.waiting = line, waiting
        self.begin: Callable[[], None] | None = None

    def awaited(self) -> str:
        """Return what is waited for, in words; "" where this turn is the first."""
        first = self._line.first()
        return "" if first is None or first is self else first.waiting

    def call(self, begin: Callable[[], None]) -> None:
        """Call `begin` as soon as this turn is the first, at once where it is."""
        self.begin = begin
        self._line.advance()

    def leave(self) -> None:
        """Leave the line; a turn that has left already stays away."""
        self._line.drop(self)


class EngineLine(QObject):  # type: ignore[misc]
    """All turns, the one that has the engine first; all of it in the GUI thread.

    No thread waits for its turn: napari's workers share as many threads as there are cores, and two jobs that wait in
    them would keep everything else from being done.

    joined: a job has joined, so what only asks for an estimate should give way. moved: somebody has left.
    """

    joined = Signal()
    moved = Signal()

    def __init__(self, engine: EngineLike) -> None:
        super().__init__()
        self._engine = engine
        self._turns: list[EngineTurn] = []

    @property
    def is_empty(self) -> bool:
        """Whether nobody uses the engine or waits for it."""
        return not self._turns and not self._engine.is_busy

    def join(self, waiting: str, is_job: bool = True) -> EngineTurn:
        """Return a new turn at the end of the line."""
        turn = EngineTurn(self, waiting)
        self._turns.append(turn)
        if is_job:
            self.joined.emit()
        return turn

    def first(self) -> EngineTurn | None:
        """Return the turn that has the engine, None where nobody has it."""
        return self._turns[0] if self._turns else None

    def drop(self, turn: EngineTurn) -> None:
        """Take a turn out of the line; the next one begins."""
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
        """Return `work` such that it begins when the engine has stopped its last run, which may take it seconds."""

        def wait_and_work() -> Generator[Progress, Any, Any]:
            while self._engine.is_busy:
                yield Progress(0, 1, "stopping the last run")
                time.sleep(_LOOK)
            return (yield from work())

        return wait_and_work
