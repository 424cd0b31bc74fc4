"""The line of those who want the engine, which takes one call at a time: in the order of their clicks."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_skipseg.progress import Progress
from napari_skipseg.widgets.engine import BusyEngine
from napari_skipseg.widgets.work import Work

LOOK = 0.05
"""Seconds between two looks at whether the engine is free."""
STOPPING = "stopping the last run"


class Turn:
    """A place in the line. waiting: what those behind it say while they wait, such as "waits for the fine-tuning"."""

    def __init__(self, line: EngineLine, waiting: str) -> None:
        self._line, self.waiting = line, waiting

    def awaited(self) -> str:
        """Return what is waited for, in words; "" where the engine is free for this turn. Any thread may ask."""
        return self._line.awaited_by(self)

    def leave(self) -> None:
        """Leave the line; a turn that has left already stays away."""
        self._line.drop(self)

    def begin(self, work: Work) -> Work:
        """Return `work` such that it begins when the engine is free and all who asked for it before are done."""

        def wait_and_work() -> Generator[Progress, Any, Any]:
            while awaited := self.awaited():
                yield Progress(0, 1, awaited)
                time.sleep(LOOK)
            return (yield from work())

        return wait_and_work


class EngineLine(QObject):  # type: ignore[misc]
    """All turns, the one that has the engine first. Turns join and leave in the GUI thread.

    joined: a job has joined, so what only asks for an estimate should give way.
    """

    joined = Signal()

    def __init__(self, engine: BusyEngine) -> None:
        super().__init__()
        self._engine = engine
        self._turns: tuple[Turn, ...] = ()  # replaced as a whole, as other threads read it

    def join(self, waiting: str, is_job: bool = True) -> Turn:
        """Return a new turn at the end of the line."""
        turn = Turn(self, waiting)
        self._turns = (*self._turns, turn)
        if is_job:
            self.joined.emit()
        return turn

    @property
    def is_empty(self) -> bool:
        """Whether nobody uses the engine or waits for it."""
        return not self._turns and not self._engine.is_busy

    def awaited_by(self, turn: Turn) -> str:
        """Return what a turn waits for, in words; "" where the engine is free for it."""
        turns = self._turns
        if turn in turns and turns[0] is not turn:
            return turns[0].waiting
        return STOPPING if self._engine.is_busy else ""

    def drop(self, turn: Turn) -> None:
        """Take a turn out of the line."""
        self._turns = tuple(each for each in self._turns if each is not turn)
