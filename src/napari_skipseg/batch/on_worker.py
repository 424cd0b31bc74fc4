"""What a process of a cluster does of a batch: one call, JSON in and JSON out, that any worker can answer.

Dask calls `answer` by its name, so that nothing of ours is ever pickled. Beside it there is only the disk that all
machines share.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict
from typing import Any

from napari_skipseg.batch.blocks import count_parts, iter_block, iter_level
from napari_skipseg.batch.engine import Engine
from napari_skipseg.batch.entry import Outcome, iter_blocks_of_entry, segment_entry
from napari_skipseg.batch.faults import fault_of_folder, reason_of
from napari_skipseg.batch.inputs import UNFINISHED, Entry
from napari_skipseg.batch.lanes import LANES
from napari_skipseg.batch.place import RunPlace
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.batch.worker_engine import UnfitError, asked_of, engine_of, take_cores, use_threads
from napari_skipseg.errors import SkipsegError
from napari_skipseg.inference.memory_share import MemoryShare
from napari_skipseg.inference.outputs import Written
from napari_skipseg.locks import is_held
from napari_skipseg.objects.whole import Finding
from napari_skipseg.progress import Progress

EVERY = 0.2
"""Seconds between two messages of one file, at the least."""
AT_WORK = ("running", "paused", "closing_gracefully")
"""What Dask says of a worker whose results somebody waits for."""
SHARED: dict[str, tuple[type, ...]] = {"begin": (Written, Finding), "segment": (Finding,), "file": ()}
"""What a task leaves to be shared out, by the progress that tells of it."""
PATIENCE = 90.0
"""Seconds for which a file is waited for that another process, given up by the cluster, may still hold."""

_ALONE = threading.Semaphore(1)
_TOGETHER = threading.Semaphore(LANES)
_SEARCHING = threading.Semaphore(1)
_COUNTS: dict[str, int] = {}


def answer(told: str) -> str:
    """Return as JSON what became of a task, told as JSON; nothing is raised, as every fault is an answer.

    The task "settle" says what computes here, "file" is one file from the image to its record, "begin" and "segment"
    are as much of it as comes before what others can help with: tiles or objects, or objects only. Of one begun,
    "block" is the units `start` to `stop`, "level" parts of a level of its pyramids, "objects" blocks to find them in.
    """
    asked = json.loads(told)
    post = Post(asked)
    _COUNTS[post.topic] = _COUNTS.get(post.topic, 0) + 1
    try:
        return json.dumps(_answer(asked, post))
    except UnfitError as error:
        return json.dumps({"reply": "fault", "reason": f"The worker {post.address} cannot help: {error}"})
    except SkipsegError as error:
        return json.dumps({"reply": "fault", "reason": str(error)})
    except Exception as error:
        return json.dumps({"reply": "failed", "reason": reason_of(error)})
    finally:
        _COUNTS[post.topic] -= 1


def at_work(topic: str) -> int:
    """Return how many tasks of a batch are at work in this process."""
    return _COUNTS.get(topic, 0)


class Post:
    """What ties a task to the one who asked for it: news go there, and it says whether they are wanted still."""

    def __init__(self, asked: dict[str, Any]) -> None:
        from distributed import get_worker
        from distributed.worker import thread_state

        self.topic, self._ticket = str(asked["topic"]), asked["ticket"]
        self._worker, self._key, self._last = get_worker(), thread_state.key, 0.0
        self.address: str = self._worker.address
        self.name = str(self._worker.name)
        self.threads: int = self._worker.state.nthreads
        self.memory = int(self._worker.memory_manager.memory_limit or 0)

    @property
    def is_wanted(self) -> bool:
        """Whether nobody gave the task up meanwhile: who asked for it, or the scheduler, which may be gone."""
        state = self._worker.state.tasks.get(self._key)
        return state is not None and state.state != "cancelled" and self._worker.status.name in AT_WORK

    def tell(self, progress: Progress) -> None:
        """Send news, unless the last ones are quite new."""
        now = time.monotonic()
        if now - self._last >= EVERY:
            self._last = now
            told = [self._ticket, progress.done, progress.total, progress.message]
            self._worker.log_event(self.topic, told)


def _answer(asked: dict[str, Any], post: Post) -> dict[str, Any]:
    if asked["cores"]:
        take_cores(post.name, asked["cores"])
    else:
        use_threads(post.threads)
    settings, place = asked_of(asked)
    with _lane(settings):
        engine = engine_of(asked, settings, place, share_of(asked, post.memory))
        if engine is None:
            return {"reply": "no model", "address": post.address}
        if asked["task"] == "settle":
            return {"reply": "settled", "computes": engine.natural}
        entry = Entry(*asked["entry"])
        units, begun = range(asked["start"], asked["stop"]), (settings, entry, place, engine)
        if asked["task"] == "block":
            return _fill(iter_block(*begun, units), place, post)
        if asked["task"] == "level":
            return _fill(iter_level(*begun, asked["level"], units), place, post)
        if asked["task"] == "objects":
            with _SEARCHING:
                return _fill(iter_blocks_of_entry(*begun, units), place, post)
        return _file(settings, entry, place, engine, post, SHARED[asked["task"]])


def share_of(asked: dict[str, Any], memory: int) -> MemoryShare:
    """Return what a worker counts as its own of its machine's memory.

    Workers of this machine share what is free, and those with the same GPU what that has. Those of a cluster have
    `memory` bytes, which Dask gives each (0 = no limit); a GPU is theirs alone.
    """
    workers = max(1, len(asked["cores"]))
    return MemoryShare(workers, memory, -(-workers // max(1, asked.get("gpus", 1))))


@contextlib.contextmanager
def _lane(settings: BatchSettings) -> Iterator[None]:
    """Wait until there are few enough at work here; samples are drawn for one file at a time."""
    with _TOGETHER:
        if settings.request.options.samples:
            with _ALONE:
                yield
        else:
            yield


def _file(
    settings: BatchSettings, entry: Entry, place: RunPlace, engine: Engine, post: Post, shared: tuple[type, ...]
) -> dict[str, Any]:
    """Segment a file, or leave it as a batch does that is stopped, where it comes to what is `shared` out."""
    _await_others(place, entry, post)
    with contextlib.closing(segment_entry(settings, entry, place, engine)) as work:
        came = _follow(work, post, shared)
    if isinstance(came, Outcome):
        return {"reply": "outcome", "state": came.state, "record": asdict(came.record)}
    if came is None or not post.is_wanted:
        return {"reply": "stopped"}
    if isinstance(came, Finding):
        return {"reply": "segmented", "units": came.total}
    return {"reply": "begun", **count_parts(settings, entry, place, engine)._asdict()}


def _follow(
    work: Generator[Progress, None, Outcome], post: Post, shared: tuple[type, ...]
) -> Outcome | Progress | None:
    """Return what became of a file, or what is to be shared out first; None where it is not wanted any more."""
    while post.is_wanted:
        try:
            progress = next(work)
        except StopIteration as stop:
            outcome: Outcome = stop.value
            return outcome
        post.tell(progress)
        if isinstance(progress, shared) and progress.done < progress.total:
            return progress
    return None


def _fill(filling: Generator[Progress, None, None], place: RunPlace, post: Post) -> dict[str, Any]:
    """Do a part of a large file."""
    try:
        with contextlib.closing(filling) as work:
            for progress in work:
                post.tell(progress)
                if not post.is_wanted:
                    return {"reply": "stopped"}
    except Exception as error:
        fault = fault_of_folder(error, place.path)
        if fault is not None:
            raise fault from error
        return {"reply": "failed", "reason": reason_of(error)}
    return {"reply": "filled"}


def _await_others(place: RunPlace, entry: Entry, post: Post) -> None:
    """Wait while a process holds the file that was thought to be gone, and is about to notice."""
    until = time.monotonic() + PATIENCE
    while is_held(place.results(entry) / f"{entry.name}{UNFINISHED}") and post.is_wanted and time.monotonic() < until:
        time.sleep(EVERY)
