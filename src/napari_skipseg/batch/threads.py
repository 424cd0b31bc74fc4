"""Several files at work in one process: while the network computes one, the next is read and the last one written."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Generator
from queue import Empty, SimpleQueue
from typing import NamedTuple

from napari_skipseg.batch.crash_guard import StoppedError, crash_reports
from napari_skipseg.batch.engine import NetworkRunner
from napari_skipseg.batch.inputs import BatchInput
from napari_skipseg.batch.place import RunPlace
from napari_skipseg.batch.run_file import FileOutcome, segment_file
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.progress import Progress

LANES = 2
"""Files at work: one has the network, the other one is prepared for it or written after it."""
THREADS_WAKE = 0.1
"""Seconds after which the caller is asked at the latest whether it continues."""


class ThreadMessage(NamedTuple):
    """What is new of a file: how far it is, or what became of it; without one, what the whole waits for."""

    entry: BatchInput | None
    news: Progress | FileOutcome


def waiting_for(what: str) -> ThreadMessage:
    """Return what is said until a file moves again."""
    return ThreadMessage(None, Progress(0, 0, what))


def iter_lanes(
    settings: BatchSettings, waiting: deque[BatchInput], place: RunPlace
) -> Generator[ThreadMessage | None, None, None]:
    """Yield what is new of the files that are `waiting`, None if nothing is, until there are none and all are done.

    Files may be put there meanwhile. Closed, it stops each file at its next tile, from where it continues another time.

    Raises:
        SkipsegError: the model cannot be had, or nothing can be written any more.
    """
    with crash_reports(place):
        yield from _iter_lanes(settings, waiting, place)


def _iter_lanes(
    settings: BatchSettings, waiting: deque[BatchInput], place: RunPlace
) -> Generator[ThreadMessage | None, None, None]:
    yield waiting_for("starting the network")
    engine = NetworkRunner(settings.request, place)
    news: SimpleQueue[ThreadMessage | Exception] = SimpleQueue()
    lanes = [
        _Lane(settings, waiting, place, engine, news) for _ in range(1 if settings.request.options.samples else LANES)
    ]
    try:
        for lane in lanes:
            lane.start()
        while True:
            idle = not waiting and all(lane.idle.is_set() or not lane.is_alive() for lane in lanes)
            try:
                found = news.get(timeout=0 if idle else THREADS_WAKE)
            except Empty:
                if idle and not waiting:
                    return
                yield None
                continue
            if isinstance(found, Exception):
                raise found
            yield found
    finally:
        for lane in lanes:
            lane.stopped.set()
        engine.close()
        for lane in lanes:
            lane.join()


class _Lane(threading.Thread):
    """Takes one file after the other, as long as there are any or more may come."""

    def __init__(
        self,
        settings: BatchSettings,
        waiting: deque[BatchInput],
        place: RunPlace,
        engine: NetworkRunner,
        news: SimpleQueue[ThreadMessage | Exception],
    ) -> None:
        super().__init__(name="batch", daemon=True)
        self._settings, self._waiting, self._place, self._engine, self._news = settings, waiting, place, engine, news
        self.stopped, self.idle = threading.Event(), threading.Event()

    def run(self) -> None:
        """Work until it is stopped."""
        try:
            while not self.stopped.is_set():
                self.idle.clear()
                try:
                    entry = self._waiting.popleft()
                except IndexError:
                    self.idle.set()
                    self.stopped.wait(THREADS_WAKE / 10)
                    continue
                self._run_file(entry)
        except StoppedError:
            return
        except Exception as error:
            self._news.put(error)

    def _run_file(self, entry: BatchInput) -> None:
        work = segment_file(self._settings, entry, self._place, self._engine)
        with contextlib.closing(work):
            while not self.stopped.is_set():
                try:
                    progress = next(work)
                except StopIteration as stop:
                    self._news.put(ThreadMessage(entry, stop.value))
                    return
                self._news.put(ThreadMessage(entry, progress))
