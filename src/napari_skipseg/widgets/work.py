"""Long work beside the window: a thin worker that relays a generator of progress, and never a traceback."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from napari.qt.threading import GeneratorWorker, create_worker

from napari_skipseg.errors import SkipsegError
from napari_skipseg.progress import Progress

Work = Callable[[], Generator[Progress, None, Any]]


@dataclass(frozen=True)
class Outcome:
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


def start_work(
    work: Work,
    description: str,
    on_progress: Callable[[Progress], None],
    on_outcome: Callable[[Outcome], None],
    on_end: Callable[[], None],
) -> ClosingWorker:
    """Start `work` in a thread, shown in napari's activity dock; return its worker, whose `quit` cancels.

    on_outcome: called unless the work was cancelled. on_end: called in any case, last. All in the GUI thread.
    """

    def relay() -> Generator[Progress, None, Outcome]:
        try:
            value = yield from work()
        except SkipsegError as error:
            return Outcome(fault=str(error))
        except Exception as error:
            # superqt swallows a RuntimeError of a generator, so nothing but an outcome may leave it
            logging.getLogger(__name__).exception("%s failed", description)
            return Outcome(fault=f"{description} failed ({type(error).__name__}: {first_line(error)}). Try again.")
        return Outcome(value)

    relay.__name__ = description
    return create_worker(
        relay,
        _start_thread=True,
        _progress={"desc": description},
        _worker_class=ClosingWorker,
        _connect={"yielded": on_progress, "returned": on_outcome, "finished": on_end},
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")


class TimeLeft:
    """What is left to wait, from the pace of the steps since the first one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[int, float] | None = None

    def describe(self, progress: Progress) -> str:
        """Return the progress in words, such as "tile 3 of 40, about 12 s left"."""
        now = self._clock()
        if progress.done < 1:
            return progress.message
        if self._first is None:
            self._first = progress.done, now
        done, since = self._first
        if progress.done <= done or progress.done >= progress.total:
            return progress.message
        left = (now - since) / (progress.done - done) * (progress.total - progress.done)
        return f"{progress.message}, about {in_words(left)} left"


def in_words(seconds: float) -> str:
    """Return a duration in words: 12 s, 3 min, 1 h 20 min."""
    if seconds < 59.5:
        return f"{max(1, math.ceil(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
