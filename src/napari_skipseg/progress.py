"""Long work is a generator of `Progress`; the caller owns the loop, the bar and the cancel."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Progress:
    """How far a long operation is: `done` of `total` steps, and what is being done now."""

    done: int
    total: int
    message: str = ""

    @property
    def fraction(self) -> float:
        """Share of the work that is done, in [0, 1]."""
        return self.done / self.total if self.total else 1.0


@dataclass(frozen=True)
class Found(Progress):
    """What was found about an image, one sentence each: shown once, and no step of the work.

    seems_inverted: one of them says that dark and light seem to be the other way round, and an offer may be made.
    """

    findings: tuple[str, ...] = ()
    seems_inverted: bool = False


def run_to_end(
    work: Generator[Progress, None, Result], on_progress: Callable[[Progress], None] | None = None
) -> Result:
    """Return the result of `work`, calling `on_progress` with each `Progress` on the way."""
    while True:
        try:
            progress = next(work)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        if on_progress is not None:
            on_progress(progress)


class TimeLeft:
    """How long work still takes, at the speed it had since its steps were counted anew: what was there before, as of a
    run that is gone on with, took no time."""

    def __init__(self) -> None:
        self._since, self._first, self._total, self._reached = time.monotonic(), 0, -1, 0

    def after(self, progress: Progress) -> float | None:
        """Return the seconds left as of `progress`; None where that is not known yet, or nothing is left."""
        if progress.total != self._total or progress.done < self._reached:
            self._since, self._first, self._total = time.monotonic(), progress.done, progress.total
        self._reached = progress.done
        done, rest = progress.done - self._first, progress.total - progress.done
        return (time.monotonic() - self._since) * rest / done if done > 0 and rest > 0 else None


def about_left(seconds: float | None) -> str:
    """Return a time left as it stands behind what is done, such as ", about 3 min left"; "" where it is not known."""
    return f", about {in_words(seconds)} left" if seconds else ""


def in_words(seconds: float) -> str:
    """Return a duration in words: 12 s, 3 min, 1 h 20 min, 3 days."""
    if seconds < 59.5:
        return f"{max(1, -int(-seconds // 1))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{round(hours / 24)} days"
