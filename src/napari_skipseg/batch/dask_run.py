"""A batch in many processes: files are tasks of a Dask cluster, with the same messages as in one process."""

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
from napari_skipseg.batch.records import FileRecord, fingerprint_of, write_file_record
from napari_skipseg.batch.run_file import FileOutcome
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.batch.threads import LANES, THREADS_WAKE, ThreadMessage, waiting_for
from napari_skipseg.errors import EngineError
from napari_skipseg.progress import Progress

MOST_TRIES = 3
"""Tries of a block before its file fails."""
IN_BLOCKS = ("block", "level", "objects")
"""Tasks that are parts of a file."""
_POSTPONED = "postponed until nothing else is left, because workers ended during its task"


def iter_cluster(
    settings: BatchSettings, waiting: deque[BatchInput], place: RunPlace
) -> Generator[ThreadMessage | None, None, None]:
    """Process the files in `waiting` on the workers of a cluster; yield messages like `threads.iter_lanes`.

    If a worker dies, another one continues its file. If the generator is closed, each file stops at its next tile.

    Raises:
        SkipsegError: there is no such cluster, it goes away, a worker is not suitable, or nothing more can be written.
    """
    yield waiting_for("connecting to the cluster" if settings.scheduler else "starting the workers")
    with open_cluster(settings) as cluster:
        submitter = TaskSubmitter(cluster, settings, place)
        try:
            yield from _iter_choose_backend(submitter)
            yield from _Batch(submitter, waiting).iter_work()
        finally:
            submitter.stop()
            clear_crashes(place)


def _iter_choose_backend(submitter: TaskSubmitter) -> Generator[ThreadMessage | None, None, None]:
    """Wait until one worker has chosen the backend, precision and tile that all workers use."""
    yield waiting_for("waiting for a worker to start the network")
    submitter.submit(DaskTask("settle"))
    while submitter.computes is None:
        try:
            reply = submitter.next_reply(THREADS_WAKE)
        except Empty:
            yield _describe_missing_workers(submitter)
            continue
        if reply is not None and isinstance(reply.news, dict):
            if reply.news["reply"] != "settled":
                raise EngineError(f"No worker could begin: {reply.news['reason']}")
            submitter.computes = reply.news["computes"]


def _describe_missing_workers(submitter: TaskSubmitter) -> ThreadMessage | None:
    """Return a message if the cluster has no workers, None if it has some."""
    missing = submitter.describe_missing()
    return waiting_for(missing) if missing else None


@dataclass
class _LargeFile:
    """A file in parts. total: number of tiles, parts of a level or blocks of objects, depending on `kind`. levels:
    numbers of parts of the next levels of its pyramids. level: the current one. left: tasks that are not done. reached:
    how many parts are done, by task."""

    total: int
    levels: deque[int]
    kind: Literal["block", "level", "objects"] = "block"
    level: int = 0
    left: int = 0
    reached: dict[range, int] = field(default_factory=dict)

    def cut(self, entry: BatchInput, workers: int) -> list[DaskTask]:
        """Return the tasks that have to be done before the next step; they can run at the same time."""
        found = list(blocks.cut(self.total, workers))
        self.left, self.reached = len(found), {}
        return [DaskTask(self.kind, entry, block, self.level) for block in found]

    @property
    def progress(self) -> Progress:
        """The progress of the file."""
        done = sum(self.reached.values())
        what = {"block": "tile", "level": f"pyramid, level {self.level}, part", "objects": "finding objects, part"}
        return Progress(done, self.total, f"{what[self.kind]} {done} of {self.total}, in blocks")


class _Batch:
    """Chooses the next tasks, and processes the replies to them.

    If a worker ends, several tasks may have been running on it, and none of them is known to be the cause. Tasks during
    which several workers ended are postponed, and run when nothing else is left, one at a time: a task that ends
    workers then is the cause.
    """

    def __init__(self, submitter: TaskSubmitter, waiting: deque[BatchInput]) -> None:
        self._submitter, self._waiting = submitter, waiting
        self._ready: deque[DaskTask] = deque()
        self._postponed: deque[DaskTask] = deque()
        self._large_files: dict[BatchInput, _LargeFile] = {}
        self._in_progress: set[BatchInput] = set()

    def iter_work(self) -> Generator[ThreadMessage | None, None, None]:
        """Submit tasks and yield messages until all files are done."""
        while True:
            self._submit_tasks()
            if not self._submitter.working:
                return
            try:
                reply = self._submitter.next_reply(THREADS_WAKE)
            except Empty:
                yield _describe_missing_workers(self._submitter)
                continue
            message = None if reply is None else self._on_reply(reply)
            if message is not None:
                yield message

    def _submit_tasks(self) -> None:
        """Submit enough tasks to keep the workers busy, or one of the postponed ones."""
        if any(task.alone for task in self._submitter.working.values()):
            return
        room = (1 if self._submitter.settings.request.options.samples else LANES) * self._submitter.workers
        while len(self._submitter.working) < room and (self._ready or self._waiting):
            if self._ready:
                self._submitter.submit(self._ready.popleft())
                continue
            entry = self._waiting.popleft()
            is_large = blocks.is_large(self._submitter.settings, entry)
            self._submitter.submit(DaskTask("begin" if is_large else "file", entry))
        if self._postponed and not self._submitter.working:
            self._submitter.submit(self._postponed.popleft())

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
            large = _LargeFile(news["units"], deque(news.get("levels", ())), kind)
            self._large_files[task.entry] = large
            self._ready.extend(large.cut(task.entry, self._submitter.workers))
            return ThreadMessage(task.entry, large.progress)
        if news["reply"] == "filled":
            return self._filled(task, task.entry)
        if news["reply"] == "failed" and task.kind in IN_BLOCKS and task.tries + 1 < MOST_TRIES:
            self._put_back(replace(task, tries=task.tries + 1))
            return None
        if news["reply"] == "stopped":  # the scheduler cancelled the task by itself
            self._put_back(task)
            return None
        if news["reply"] == "killed" and not task.alone:
            self._put_back(replace(task, alone=True))
            return ThreadMessage(task.entry, Progress(0, 1, _POSTPONED))
        return self._failed(task.entry, news["reason"])

    def _put_back(self, task: DaskTask) -> None:
        (self._postponed if task.alone else self._ready).append(task)

    def _ended(self, entry: BatchInput, outcome: FileOutcome) -> ThreadMessage:
        """Return the message of an outcome. A file whose worker ended after writing it was done now, not skipped."""
        self._large_files.pop(entry, None)
        is_new = outcome.state == "skipped" and entry in self._in_progress
        self._in_progress.discard(entry)
        return ThreadMessage(entry, outcome._replace(state="done") if is_new else outcome)

    def _moved(self, task: DaskTask, entry: BatchInput, progress: Progress) -> Progress:
        self._in_progress.add(entry)
        large = self._large_files.get(entry)
        if large is None or task.kind not in IN_BLOCKS:
            return progress
        large.reached[task.units] = max(progress.done, large.reached.get(task.units, 0))
        return large.progress

    def _filled(self, task: DaskTask, entry: BatchInput) -> ThreadMessage | None:
        large = self._large_files.get(entry)
        if large is None:
            return None
        if task.kind == "block":
            blocks.note_block(entry, self._submitter.place, task.units)
        large.reached[task.units] = len(task.units)
        large.left -= 1
        message = ThreadMessage(entry, large.progress)
        if not large.left:
            self._submit_next_level(entry, large)
        return message

    def _submit_next_level(self, entry: BatchInput, large: _LargeFile) -> None:
        """Submit the next level, as each of its parts needs all of the level before; after the last one, the rest."""
        if not large.levels:
            self._ready.append(DaskTask("file" if large.kind == "objects" else "segment", entry))
            return
        large.kind = "level"
        large.level, large.total = large.level + 1, large.levels.popleft()
        self._ready.extend(large.cut(entry, self._submitter.workers))

    def _failed(self, entry: BatchInput, reason: str) -> ThreadMessage:
        """Record the failure of a file whose worker could not do so; its unfinished results stay."""
        self._large_files.pop(entry, None)
        self._submitter.forget(entry)
        self._in_progress.discard(entry)
        self._ready = deque(task for task in self._ready if task.entry != entry)
        self._postponed = deque(task for task in self._postponed if task.entry != entry)
        record = FileRecord(entry.file, entry.relative, entry.name, "failed", fingerprint_of(entry.file), reason=reason)
        write_file_record(self._submitter.place.record(entry), record, self._submitter.place.path)
        return ThreadMessage(entry, FileOutcome("failed", record))


@cache
def _adapter() -> TypeAdapter[FileRecord]:
    return TypeAdapter(FileRecord)
