"""Several files at once in one process: while the network computes one, the next is read and the last one written."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator
from queue import Empty, SimpleQueue
from typing import NamedTuple

from napari_skipseg.batch.crash_guard import StoppedError, crash_reports
from napari_skipseg.batch.engine import FileJob, NetworkRunner
from napari_skipseg.batch.inputs import BatchInput
from napari_skipseg.batch.place import RunPlace
from napari_skipseg.batch.run_file import FileOutcome, segment_file
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.progress import Progress

LANES = 2
"""Files that are processed at once: one uses the network, the other one is prepared before or written after it."""
THREADS_WAKE = 0.1
"""Most seconds without a yield, so that the caller can stop the work."""


class ThreadMessage(NamedTuple):
    """Progress or outcome of a file. Without a file: what the whole batch waits for."""

    entry: BatchInput | None
    news: Progress | FileOutcome


def waiting_for(what: str) -> ThreadMessage:
    """Return the message that is shown until a file is processed again."""
    return ThreadMessage(None, Progress(0, 0, what))


def iter_lanes(
    settings: BatchSettings, waiting: deque[BatchInput], place: RunPlace
) -> Generator[ThreadMessage | None, None, None]:
    """Process the files in `waiting`; yield messages, or None if nothing is new; end when no file is left.

    The caller may append to `waiting` meanwhile. If the generator is closed, it stops each file at its next tile; a
    later run continues there.

    Raises:
        SkipsegError: the model cannot be read, or nothing more can be written.
    """
    with crash_reports(place):
        yield waiting_for("starting the network")
        engine = NetworkRunner(settings.request, place)

        def make_job(entry: BatchInput) -> FileJob:
            return FileJob(settings, entry, place, engine)

        messages: SimpleQueue[ThreadMessage | Exception] = SimpleQueue()
        lanes = [_Lane(waiting, make_job, messages) for _ in range(1 if settings.request.options.samples else LANES)]
        try:
            for lane in lanes:
                lane.start()
            while True:
                idle = not waiting and all(lane.idle.is_set() or not lane.is_alive() for lane in lanes)
                try:
                    message = messages.get(timeout=0 if idle else THREADS_WAKE)
                except Empty:
                    if idle and not waiting:
                        return
                    yield None
                    continue
                if isinstance(message, Exception):
                    raise message
                yield message
        finally:
            for lane in lanes:
                lane.stopped.set()
            engine.close()
            for lane in lanes:
                lane.join()


class _Lane(threading.Thread):
    """Processes one file after the other until it is stopped."""

    def __init__(
        self,
        waiting: deque[BatchInput],
        make_job: Callable[[BatchInput], FileJob],
        messages: SimpleQueue[ThreadMessage | Exception],
    ) -> None:
        super().__init__(name="batch", daemon=True)
        self._waiting, self._make_job, self._messages = waiting, make_job, messages
        self.stopped, self.idle = threading.Event(), threading.Event()

    def run(self) -> None:
        """Process files until this thread is stopped."""
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
            self._messages.put(error)

    def _run_file(self, entry: BatchInput) -> None:
        with contextlib.closing(segment_file(self._make_job(entry))) as work:
            while not self.stopped.is_set():
                try:
                    progress = next(work)
                except StopIteration as stop:
                    self._messages.put(ThreadMessage(entry, stop.value))
                    return
                self._messages.put(ThreadMessage(entry, progress))
