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

    def give_way(self, seconds: float) -> None:
        """Let long work wait for so many seconds."""
        ...

    def run(self, request: Request[Result]) -> Call[Result]:
        """Yield the progress of a request, and return its result; a value that is sent is a command to the job."""
        ...


_CHECK_INTERVAL = 0.05
"""Seconds between two checks whether the engine has stopped its last run."""


class QueueEntry:
    """A place in the queue. waiting_text: shown by the jobs behind it, such as "waits for the fine-tuning"."""

    def __init__(self, queue: EngineQueue, waiting_text: str) -> None:
        self._queue, self._waiting_text = queue, waiting_text
        self.begin: Callable[[], None] | None = None

    def describe_wait(self) -> str:
        """Return the text of the entry that uses the engine; "" if it is this one."""
        first = self._queue.first()
        return "" if first is None or first is self else first._waiting_text

    def start_when_first(self, begin: Callable[[], None]) -> None:
        """Call `begin` as soon as this entry is the first, which may be at once."""
        self.begin = begin
        self._queue.start_first()

    def release(self) -> None:
        """Leave the queue; do nothing if this entry is no longer in it."""
        self._queue.remove(self)


class EngineQueue(QObject):  # type: ignore[misc]
    """All entries, in the GUI thread; the first one uses the engine.

    job_added: a job was added, so a request for an estimate should stop. entry_removed: a job or request is over.
    """

    # no thread waits in the queue: napari's workers share as many threads as there are cores, and waiting jobs would
    # block all others

    job_added = Signal()
    entry_removed = Signal()

    def __init__(self, engine: EngineLike) -> None:
        super().__init__()
        self._engine = engine
        self._entries: list[QueueEntry] = []

    @property
    def is_empty(self) -> bool:
        """Whether the engine is free and nothing waits for it."""
        return not self._entries and not self._engine.is_busy

    def add(self, waiting_text: str, is_job: bool = True) -> QueueEntry:
        """Return a new entry at the end of the queue."""
        entry = QueueEntry(self, waiting_text)
        self._entries.append(entry)
        if is_job:
            self.job_added.emit()
        return entry

    def first(self) -> QueueEntry | None:
        """Return the entry that uses the engine, None if it is free."""
        return self._entries[0] if self._entries else None

    def describe_wait(self) -> str:
        """Return the text of the entry that uses the engine; "" if there is none."""
        return self._entries[0]._waiting_text if self._entries else ""

    def remove(self, entry: QueueEntry) -> None:
        """Remove an entry, and start the next one."""
        if entry in self._entries:
            self._entries.remove(entry)
            self.entry_removed.emit()
            self.start_first()

    def start_first(self) -> None:
        """Start the first entry, unless it has started."""
        if self._entries and (begin := self._entries[0].begin) is not None:
            self._entries[0].begin = None
            begin()

    def after_last_run(self, work: Work) -> Work:
        """Return `work` that first waits until the engine has stopped its last run, which may take seconds."""

        def wait_and_work() -> Generator[Progress, Any, Any]:
            while self._engine.is_busy:
                yield Progress(0, 1, "stopping the last run")
                time.sleep(_CHECK_INTERVAL)
            return (yield from work())

        return wait_and_work
