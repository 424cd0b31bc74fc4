"""Files at work in many processes: tasks of a Dask cluster, with news of them as of one process."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from functools import cache
from queue import Empty
from typing import Literal

from pydantic import TypeAdapter

from napari_skipseg.batch import blocks
from napari_skipseg.batch.crash_guard import clear_crashes
from napari_skipseg.batch.dask_client import open_cluster
from napari_skipseg.batch.dask_tasks import DaskReply, DaskTask, TaskSubmitter
from napari_skipseg.batch.inputs import BatchInput
from napari_skipseg.batch.place import RunPlace
from napari_skipseg.batch.records import FileRecord, is_known_input, write_file_record
from napari_skipseg.batch.run_file import FileOutcome
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.batch.threads import LANES, THREADS_WAKE, ThreadMessage, waiting_for
from napari_skipseg.errors import EngineError
from napari_skipseg.progress import Progress

MOST_TRIES = 3
"""How often a block is tried before its file fails."""
IN_BLOCKS = ("block", "level", "objects")
"""Tasks that are parts of a file."""
_ASIDE = "put aside until nothing else is left, as workers ended while having it"


def iter_cluster(
    settings: BatchSettings, waiting: deque[BatchInput], place: RunPlace
) -> Generator[ThreadMessage | None, None, None]:
    """Yield what is new of the files that are `waiting`, as `threads.iter_lanes` does; workers of a cluster do them.

    A worker that dies has its file continued by another. Closed, it stops each file at its next tile.

    Raises:
        SkipsegError: there is no such cluster, it goes away, a worker cannot help, or nothing can be written any more.
    """
    yield waiting_for("connecting to the cluster" if settings.scheduler else "starting the workers")
    with open_cluster(settings) as cluster:
        desk = TaskSubmitter(cluster, settings, place)
        try:
            yield from _iter_choose_backend(desk)
            yield from _Batch(desk, waiting).iter_work()
        finally:
            desk.stop()
            clear_crashes(place)


def _iter_choose_backend(desk: TaskSubmitter) -> Generator[ThreadMessage | None, None, None]:
    """Yield until one worker has settled what all of them compute with, and on which tile."""
    yield waiting_for("waiting for a worker to start the network")
    desk.submit(DaskTask("settle"))
    while desk.computes is None:
        try:
            reply = desk.next_reply(THREADS_WAKE)
        except Empty:
            yield _what_lacks(desk)
            continue
        if reply is not None and isinstance(reply.news, dict):
            if reply.news["reply"] != "settled":
                raise EngineError(f"No worker could begin: {reply.news['reason']}")
            desk.computes = reply.news["computes"]


def _what_lacks(desk: TaskSubmitter) -> ThreadMessage | None:
    """Return what is said where a cluster has no workers, None if it has."""
    lacking = desk.lacking()
    return waiting_for(lacking) if lacking else None


@dataclass
class _Large:
    """A file in parts. total: tiles, parts of a level or blocks of objects, as `kind` says. levels: parts of the levels
    of its pyramids that are to come. level: the one made now. left: tasks that are not done. reached: what is, by task.
    """

    total: int
    levels: deque[int]
    kind: Literal["block", "level", "objects"] = "block"
    level: int = 0
    left: int = 0
    reached: dict[range, int] = field(default_factory=dict)

    def cut(self, entry: BatchInput, workers: int) -> list[DaskTask]:
        """Return what is to be done, all at once, before anything else can be."""
        found = list(blocks.cut(self.total, workers))
        self.left, self.reached = len(found), {}
        return [DaskTask(self.kind, entry, block, self.level) for block in found]

    @property
    def progress(self) -> Progress:
        """How far it is."""
        done = sum(self.reached.values())
        what = {"block": "tile", "level": f"pyramid, level {self.level}, part", "objects": "finding objects, part"}
        return Progress(done, self.total, f"{what[self.kind]} {done} of {self.total}, in blocks")


class _Batch:
    """Which task comes next, and what follows from those that are done.

    A worker that ends takes with it whatever else it had, so that nobody knows of what it ended. Tasks at which several
    did are put aside, and done when nothing else is left, one at a time: what ends workers then is to blame.
    """

    def __init__(self, desk: TaskSubmitter, waiting: deque[BatchInput]) -> None:
        self._desk, self._waiting = desk, waiting
        self._ready: deque[DaskTask] = deque()
        self._aside: deque[DaskTask] = deque()
        self._larges: dict[BatchInput, _Large] = {}
        self._moving: set[BatchInput] = set()

    def iter_work(self) -> Generator[ThreadMessage | None, None, None]:
        """Yield news until nothing waits and all is done."""
        while True:
            self._submit_tasks()
            if not self._desk.working:
                return
            try:
                reply = self._desk.next_reply(THREADS_WAKE)
            except Empty:
                yield _what_lacks(self._desk)
                continue
            message = None if reply is None else self._on_reply(reply)
            if message is not None:
                yield message

    def _submit_tasks(self) -> None:
        """Give out as many tasks as keep the workers busy, or one of those that are done alone."""
        if any(task.alone for task in self._desk.working.values()):
            return
        room = (1 if self._desk.settings.request.options.samples else LANES) * self._desk.workers
        while len(self._desk.working) < room and (self._ready or self._waiting):
            if self._ready:
                self._desk.submit(self._ready.popleft())
                continue
            entry = self._waiting.popleft()
            is_large = blocks.is_large(self._desk.settings, entry)
            self._desk.submit(DaskTask("begin" if is_large else "file", entry))
        if self._aside and not self._desk.working:
            self._desk.submit(self._aside.popleft())

    def _on_reply(self, reply: DaskReply) -> ThreadMessage | None:
        task, news = reply
        if task.entry is None:
            return None
        if isinstance(news, Progress):
            return ThreadMessage(task.entry, self._moved(task, task.entry, news))
        if news["reply"] == "outcome":
            return self._ended(task.entry, FileOutcome(news["state"], _adapter().validate_python(news["record"])))
        if news["reply"] in ("begun", "segmented"):
            kind: Literal["block", "objects"] = "block" if news["reply"] == "begun" else "objects"
            large = _Large(news["units"], deque(news.get("levels", ())), kind)
            self._larges[task.entry] = large
            self._ready.extend(large.cut(task.entry, self._desk.workers))
            return ThreadMessage(task.entry, large.progress)
        if news["reply"] == "filled":
            return self._filled(task, task.entry)
        if news["reply"] == "failed" and task.kind in IN_BLOCKS and task.tries + 1 < MOST_TRIES:
            self._put_back(replace(task, tries=task.tries + 1))
            return None
        if news["reply"] == "stopped":  # the scheduler gave it up, and nobody asked for that
            self._put_back(task)
            return None
        if news["reply"] == "killed" and not task.alone:
            self._put_back(replace(task, alone=True))
            return ThreadMessage(task.entry, Progress(0, 1, _ASIDE))
        return self._failed(task.entry, news["reason"])

    def _put_back(self, task: DaskTask) -> None:
        (self._aside if task.alone else self._ready).append(task)

    def _ended(self, entry: BatchInput, outcome: FileOutcome) -> ThreadMessage:
        """Say what became of a file; one that a worker ended over after it was written is found done by the next."""
        self._larges.pop(entry, None)
        is_new = outcome.state == "skipped" and entry in self._moving
        self._moving.discard(entry)
        return ThreadMessage(entry, outcome._replace(state="done") if is_new else outcome)

    def _moved(self, task: DaskTask, entry: BatchInput, progress: Progress) -> Progress:
        self._moving.add(entry)
        large = self._larges.get(entry)
        if large is None or task.kind not in IN_BLOCKS:
            return progress
        large.reached[task.units] = max(progress.done, large.reached.get(task.units, 0))
        return large.progress

    def _filled(self, task: DaskTask, entry: BatchInput) -> ThreadMessage | None:
        large = self._larges.get(entry)
        if large is None:
            return None
        if task.kind == "block":
            blocks.note_block(entry, self._desk.place, task.units)
        large.reached[task.units] = len(task.units)
        large.left -= 1
        message = ThreadMessage(entry, large.progress)
        if not large.left:
            self._submit_next_level(entry, large)
        return message

    def _submit_next_level(self, entry: BatchInput, large: _Large) -> None:
        """Have the next level made, of which each part needs all of the one before; or what follows, by one worker."""
        if not large.levels:
            self._ready.append(DaskTask("file" if large.kind == "objects" else "segment", entry))
            return
        large.kind = "level"
        large.level, large.total = large.level + 1, large.levels.popleft()
        self._ready.extend(large.cut(entry, self._desk.workers))

    def _failed(self, entry: BatchInput, reason: str) -> ThreadMessage:
        """Say of a file that it failed, where no worker could; what was begun of it stays."""
        self._larges.pop(entry, None)
        self._desk.forget(entry)
        self._moving.discard(entry)
        self._ready = deque(task for task in self._ready if task.entry != entry)
        self._aside = deque(task for task in self._aside if task.entry != entry)
        record = FileRecord(entry.file, entry.relative, entry.name, "failed", is_known_input(entry.file), reason=reason)
        write_file_record(self._desk.place.record(entry), record, self._desk.place.path)
        return ThreadMessage(entry, FileOutcome("failed", record))


@cache
def _adapter() -> TypeAdapter[FileRecord]:
    return TypeAdapter(FileRecord)
