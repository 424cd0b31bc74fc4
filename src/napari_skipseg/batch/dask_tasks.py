"""Tasks on a Dask cluster: submitted, watched and answered, as JSON."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple

from napari_skipseg.batch.dask_client import DaskCluster
from napari_skipseg.batch.dask_worker import (
    count_running_tasks,
    hash_of_model_files,
    read_model_files,
    run_dask_task,
    store_received_model,
)
from napari_skipseg.batch.inputs import BatchInput
from napari_skipseg.batch.place import RunPlace
from napari_skipseg.batch.settings import BatchSettings, batch_settings_to_json
from napari_skipseg.devices import versions
from napari_skipseg.errors import EngineError, SkipsegError
from napari_skipseg.locks import is_held
from napari_skipseg.models.catalog import locate_model
from napari_skipseg.progress import Progress
from napari_skipseg.wording import counted

COUNTED = 2.0
"""Seconds between two counts of the workers."""
STOPPING = 20.0
"""Seconds in which workers have to finish their tiles when the batch is stopped."""
LACKING = 5.0
"""Seconds without any worker until this is reported."""
READY = "running"


@dataclass(frozen=True)
class DaskTask:
    """A task for one worker: see `dask_worker.run_dask_task`. units: of a block, parts of a level, or blocks of
    objects. tries: failed tries. alone: no other task runs meanwhile, so that this one is the cause if the worker ends.
    """

    kind: Literal["settle", "file", "begin", "block", "level", "segment", "objects"]
    entry: BatchInput | None = None
    units: range = range(0)
    level: int = 0
    tries: int = 0
    alone: bool = False


class DaskReply(NamedTuple):
    """A message of a task: its progress, or at the end the worker's answer."""

    task: DaskTask
    news: Progress | dict[str, Any]


@dataclass
class TaskSubmitter:
    """Gives tasks of one batch to a cluster and receives their results."""

    cluster: DaskCluster
    settings: BatchSettings
    place: RunPlace
    computes: list[str] | None = None
    working: dict[int, DaskTask] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._topic = f"skipseg-{uuid.uuid4().hex}"
        self._futures: dict[int, Any] = {}
        self._news: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        self._submitted, self._workers, self._counted = 0, 0, 0.0
        self._seen, self._begun = time.monotonic(), False
        self._sent: set[str] = set()
        self._model = locate_model(self.settings.request.model)
        self._request = {
            "topic": self._topic,
            "settings": batch_settings_to_json(self.settings),
            "folder": str(self.place.path),
            "model": hash_of_model_files(self._model),
            "versions": versions(),
            "cores": [list(share) for share in self.cluster.cores],
            "gpus": len(self.cluster.gpus),
        }
        self.cluster.client.subscribe_topic(self._topic, lambda event: self._news.put((event[1][0], event[1][1:])))

    @property
    def workers(self) -> int:
        """The number of workers, 1 if there are none yet."""
        self._count()
        return max(1, self._workers)

    def describe_missing(self) -> str:
        """Return a text if there have been no workers for some seconds, else ""."""
        self._count()
        if time.monotonic() - self._seen < LACKING:
            return ""
        place = self.settings.scheduler or "this machine"
        how = "none is left at" if self._begun else "none has come to"
        return f"waiting for workers: {how} {place}{'' if self._begun else ' yet'}"

    def _count(self) -> None:
        now = time.monotonic()
        if now - self._counted > COUNTED:
            self._counted = now
            with contextlib.suppress(OSError, TimeoutError):
                self._workers = len(self.cluster.client.nthreads())
        if self._workers:
            self._seen, self._begun = now, True

    def submit(self, task: DaskTask) -> None:
        """Submit a task to a worker; if the worker dies, another one does it again."""
        self._submitted += 1
        ticket = self._submitted
        request = {**self._request, "ticket": ticket, "task": task.kind, "computes": self.computes, "entry": task.entry}
        request |= {"start": task.units.start, "stop": task.units.stop, "level": task.level}
        key = f"{self._topic}-{ticket}"
        future = self.cluster.client.submit(run_dask_task, json.dumps(request), pure=False, key=key)
        self.working[ticket], self._futures[ticket] = task, future
        future.add_done_callback(lambda done: self._news.put((ticket, done)))

    def next_reply(self, seconds: float) -> DaskReply | None:
        """Wait up to so many seconds for a message; return None if its task is not wanted any more.

        Raises:
            Empty: there is no message.
            SkipsegError: the cluster is gone, or a worker reports why the batch cannot continue.
        """
        if self.cluster.client.status != READY:
            raise self.cluster.lost_error()
        ticket, message = self._news.get(timeout=seconds)
        if ticket not in self.working:
            return None
        if isinstance(message, (list, tuple)):
            return DaskReply(self.working[ticket], Progress(*message))
        task = self.working.pop(ticket)
        del self._futures[ticket]
        answer = self._answer_of(message)
        if answer["reply"] == "fault":
            raise EngineError(answer["reason"])
        if answer["reply"] == "no model":
            self._send_model(answer["address"])
            self.submit(task)
            return None
        return DaskReply(task, answer)

    def _answer_of(self, future: Any) -> dict[str, Any]:
        from distributed import KilledWorker

        if future.status == "cancelled" or future.status == "lost":
            raise self.cluster.lost_error()
        try:
            answer: dict[str, Any] = json.loads(future.result(timeout=STOPPING))
        except KilledWorker as error:
            ended = f"{counted(error.allowed_failures + 1, 'worker')} ended one after another while processing only it"
            cure = "choose a smaller tile, such as 256 (64 for a volume), or export the image again"
            return {"reply": "killed", "reason": f"{ended}, most likely for lack of memory: {cure}."}
        except (OSError, TimeoutError) as error:
            raise self.cluster.lost_error() from error
        except Exception as error:
            raise EngineError(
                f"A worker could not take its task ({type(error).__name__}: {error}): install the same napari-skipseg "
                "there as here."
            ) from error
        return answer

    def _send_model(self, address: str) -> None:
        """Send the model's files to a worker, once."""
        if address in self._sent:
            raise EngineError(
                f"The worker {address} cannot store the model: allow it to write to the cache folder of its user."
            )
        self._sent.add(address)
        files = read_model_files(self._model)
        try:
            self.cluster.client.run(store_received_model, *files, workers=[address], nanny=False)
        except SkipsegError as error:
            raise EngineError(f"The worker {address} cannot store the model: {error}") from error
        except (OSError, TimeoutError, KeyError, ValueError):
            self._sent.discard(address)  # it is gone

    def forget(self, entry: BatchInput) -> None:
        """Cancel all tasks of a file."""
        for ticket in [ticket for ticket, task in self.working.items() if task.entry == entry]:
            del self.working[ticket]
            self._cancel([self._futures.pop(ticket)])

    def stop(self) -> None:
        """Cancel all tasks, and wait until no worker runs one; if the cluster is gone, until no file is locked."""
        client, until = self.cluster.client, time.monotonic() + STOPPING
        begun = [self.place.unfinished(task.entry) for task in self.working.values() if task.entry is not None]
        if client.status != READY:
            while any(map(is_held, begun)) and time.monotonic() < until:
                time.sleep(0.1)
            return
        self._cancel(list(self._futures.values()))
        self.working.clear()
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            while time.monotonic() < until and any(self._count_running().values()):
                time.sleep(0.1)
            client.unsubscribe_topic(self._topic)

    def _count_running(self) -> dict[str, int]:
        """Return how many tasks run on each worker; do not wait for a worker that does not answer."""
        client, limit = self.cluster.client, STOPPING / 4
        found: dict[str, int] = client.sync(client._run, count_running_tasks, self._topic, callback_timeout=limit)
        return found

    def _cancel(self, futures: list[Any]) -> None:
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            self.cluster.client.cancel(futures, force=True)
