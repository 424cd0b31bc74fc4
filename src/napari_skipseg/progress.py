"""Long work is a generator of `Progress`; the caller owns the loop, the bar and the cancel."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from napari_skipseg.wording import about_left

Result = TypeVar("Result")


STARTING = "starting the engine"
"""Message of a call of the engine until its process has started."""


@dataclass(frozen=True)
class Progress:
    """How far a long operation is: `done` of `total` steps, and the current activity."""

    done: int
    total: int
    message: str = ""

    @property
    def fraction(self) -> float:
        """Share of the work that is done, in [0, 1]."""
        return self.done / self.total if self.total else 1.0


@dataclass(frozen=True)
class ImageFindings(Progress):
    """Findings about an image, one sentence each: shown once, and no step of the work.

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


LEAP = 4
"""An advance of more than so many times the largest one before consists of steps that were done already."""


class TimeLeft:
    """How long work still takes, at the mean speed of its steps.

    The first step does not count: it loads and compiles. Nor do steps that took no time because they were done before:
    the first ones of a continued run, or finished files of a batch. If the count begins again, with a different total
    or from further back, so does the time. clock: seconds, `time.monotonic` by default.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or time.monotonic
        self._total = -1
        self._begin(0, 0.0)

    def _begin(self, done: int, now: float) -> None:
        """Count from `done` on; where that is 0, from the end of the first step on."""
        self._since: float | None = now if done else None
        self._reached, self._reached_at = done, now
        self._counted = self._largest = 0

    def after(self, progress: Progress) -> float | None:
        """Return the seconds left as of `progress`; None if that is not known yet, or nothing is left."""
        now, done = self._clock(), progress.done
        if progress.total != self._total or done < self._reached:
            self._total = progress.total
            self._begin(done, now)
        advance = done - self._reached
        if advance:
            self._advance(advance, now)
        rest = progress.total - done
        if self._since is None or not self._counted or rest < 1:
            return None
        pace = (self._reached_at - self._since) / self._counted
        # it counts down between two steps, but not beyond the next one
        return pace * rest - min(now - self._reached_at, pace)

    def _advance(self, steps: int, now: float) -> None:
        if self._since is None:
            self._since = now
        elif self._largest and steps > LEAP * self._largest:
            self._since += now - self._reached_at
        else:
            self._counted += steps
            self._largest = max(self._largest, steps)
        self._reached += steps
        self._reached_at = now

    def describe(self, progress: Progress) -> str:
        """Return the progress in words, such as "tile 3 of 40, about 12 s left"."""
        left = about_left(self.after(progress))
        return f"{progress.message}{left}" if progress.message else left.removeprefix(", ")
