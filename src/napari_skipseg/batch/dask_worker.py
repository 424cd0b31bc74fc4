"""The tasks of a batch in a worker process of a cluster: one function with JSON in and out, for any worker.

Dask finds `run_dask_task` by its name, so no object of ours is ever pickled. All other data are on a disk that all
machines share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_skipseg.batch.blocks import count_parts, iter_block, iter_level
from napari_skipseg.batch.crash_guard import fault_of_folder, reason_of, report_crashes
from napari_skipseg.batch.engine import FileJob, NetworkRunner
from napari_skipseg.batch.inputs import SETTINGS_FILE, BatchInput
from napari_skipseg.batch.place import RunPlace
from napari_skipseg.batch.run_file import FileOutcome, iter_blocks_of_file, segment_file
from napari_skipseg.batch.settings import BatchSettings, batch_settings_from_json
from napari_skipseg.batch.threads import LANES
from napari_skipseg.devices import Device, MemoryShare, best_precision, choose_device, has_openvino, versions
from napari_skipseg.durable import draft_folder, make_folders, put_files, replace, sync_folder
from napari_skipseg.errors import ModelError, SkipsegError
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.inference.options import SegmentRequest
from napari_skipseg.inference.prediction import TileWritten
from napari_skipseg.locks import is_held
from napari_skipseg.models.catalog import find_models, locate_model
from napari_skipseg.models.folder import DESCRIPTION_FILE, WEIGHTS_FILE, read_description, read_weights
from napari_skipseg.objects.find_in_blocks import BlockSearch
from napari_skipseg.progress import Progress
from napari_skipseg.user_folders import cache_folder

if TYPE_CHECKING:
    from napari_skipseg.inference.backends.choose import BackendChoice
    from napari_skipseg.inference.backends.interface import Backend
    from napari_skipseg.models.model import Model


SENT_MODELS_VARIABLE = "NAPARI_SKIPSEG_SENT_MODELS"


def read_model_files(folder: Path) -> tuple[bytes, bytes]:
    """Return the files of a model, its description and its weights.

    Raises:
        ModelError: there is no model, or its weights do not match its description.
    """
    description = read_description(folder)
    return (folder / DESCRIPTION_FILE).read_bytes(), read_weights(folder, description)


def hash_of_model_files(folder: Path) -> str:
    """Return the SHA-256 of a model's description, which contains that of its weights; "" without a description."""
    try:
        return hashlib.sha256((folder / DESCRIPTION_FILE).read_bytes()).hexdigest()
    except OSError:
        return ""


def find_received_model(name: str, sha256: str) -> Path | None:
    """Return the folder of a model whose description has this hash; None if this machine has none.

    It is the model called `name`, or one that was sent, or any other."""
    try:
        named = [locate_model(name)]
    except SkipsegError:
        named = []
    for folder in (*named, _place(sha256), *find_models().values()):
        if hash_of_model_files(folder) == sha256:
            return folder
    return None


def store_received_model(description: bytes, weights: bytes) -> str:
    """Store a model that was sent, whole or not at all; return its folder.

    Raises:
        ModelError: the weights do not match the description.
        FileError: it cannot be written.
    """
    sha256 = hashlib.sha256(description).hexdigest()
    folder = _place(sha256)
    if hash_of_model_files(folder) == sha256:
        return str(folder)
    with file_errors_as(folder):
        make_folders(folder.parent)
        with draft_folder(folder.parent) as draft:
            files = {DESCRIPTION_FILE: description, WEIGHTS_FILE: weights}
            put_files(draft / folder.name, files)
            read_weights(draft / folder.name, read_description(draft / folder.name))
            _publish(draft / folder.name, folder, sha256)
    return str(folder)


def _publish(draft: Path, folder: Path, sha256: str) -> None:
    """Rename `draft`; a different worker on this machine may have stored the model meanwhile."""
    try:
        replace(draft, folder)
        sync_folder(folder.parent)
    except OSError:
        if hash_of_model_files(folder) != sha256:
            raise


def _place(sha256: str) -> Path:
    if len(sha256) != hashlib.sha256().digest_size * 2 or not sha256.isalnum():
        raise ModelError(f"'{sha256[:80]}' is no hash of a model: start the batch again.")
    return cache_folder("models", SENT_MODELS_VARIABLE) / sha256


_KEPT = 2
"""Engines that are kept: that of this run, and one of an earlier run."""
THREADS = Path("/proc/self/task")
"""Linux lists the threads of a process here; the cores are set for each thread."""
_IGNORED = ("napari",)
"""Packages whose versions may differ: no results depend on them."""

_engines: OrderedDict[str, WorkerEngine] = OrderedDict()
_making = threading.Lock()
_settled = threading.Event()


class UnfitError(SkipsegError):
    """The results of this worker would differ from those of the others."""


class WorkerEngine(NetworkRunner):
    """An engine that computes with the backend of the run, even if this machine would choose a different one.

    settled: the backend's name and precision; None if this worker chooses for the run. share: of this machine's memory,
    which other workers use too.

    Raises:
        SkipsegError: as `NetworkRunner`.
        UnfitError: this machine cannot compute with the backend of the run.
    """

    def __init__(self, request: SegmentRequest, place: RunPlace, settled: list[str] | None, share: MemoryShare) -> None:
        super().__init__(request, place, share)
        choose_device(self.chosen["device"])
        self.natural = _natural(self.chosen["device"], bool(request.options.samples))
        self._pinned: BackendChoice | None = None
        if settled is not None and settled != self.natural:
            self._pinned = _pinned(settled, self.natural)

    def backend(self, model: Model, device: Device, shape: tuple[int, ...], pinned: BackendChoice | None) -> Backend:
        """Return a backend like `NetworkRunner`, with the backend and precision of the run."""
        return super().backend(model, device, shape, pinned or self._pinned)


def _natural(device: str, samples: bool) -> list[str]:
    """Return the name and the precision of the backend that this machine would choose."""
    from napari_skipseg.inference.backends import openvino_backend
    from napari_skipseg.inference.backends.openvino_backend import OpenVINOBackend
    from napari_skipseg.inference.backends.torch_backend import TorchBackend

    if device == "cpu" and has_openvino() and not samples:
        return [OpenVINOBackend.name, openvino_backend.compiled_precision().name]
    return [TorchBackend.name, best_precision(device).name]


def _pinned(settled: list[str], natural: list[str]) -> BackendChoice:
    from napari_skipseg.inference.backends.choose import BackendChoice
    from napari_skipseg.inference.backends.openvino_backend import OpenVINOBackend

    name, precision = settled
    if precision not in (natural[1], "f32") or (name == OpenVINOBackend.name and not has_openvino()):
        raise UnfitError(
            f"this run computes with {name} in {precision}, and this machine with {' in '.join(natural)}: leave it out "
            "of the cluster."
        )
    return BackendChoice(name, precision)


def settings_of_task(task: dict[str, Any]) -> tuple[BatchSettings, RunPlace]:
    """Return the settings and the folder of the run of a task.

    Raises:
        UnfitError: this machine has different versions, or does not see the folder.
    """
    mine, wanted = versions(), task["versions"]
    for name in sorted({*mine, *wanted} - {*_IGNORED}):
        if mine.get(name) != wanted.get(name):
            raise UnfitError(
                f"it has {name} {mine.get(name, 'not at all')} and this machine {wanted.get(name, 'not at all')}: "
                "install the same versions on both."
            )
    place, settings = RunPlace(Path(task["folder"])), batch_settings_from_json(task["settings"])
    try:
        seen = (place.path / SETTINGS_FILE).read_text(encoding="utf-8")
    except OSError:
        seen = ""
    if seen != task["settings"]:
        raise UnfitError(
            f"it does not see '{place.path}': put images and results where all machines see them at the same path."
        )
    return settings, place


def runner_of_task(
    task: dict[str, Any], settings: BatchSettings, place: RunPlace, share: MemoryShare
) -> WorkerEngine | None:
    """Return this process's engine for a run, made at its first task; None if this machine does not have the model.

    Raises:
        SkipsegError: as `WorkerEngine`.
    """
    key = f"{place.path}\n{task['model']}\n{task['computes']}\n{task['settings']}"
    with _making:
        if key not in _engines:
            folder = find_received_model(settings.request.model, task["model"])
            if folder is None:
                return None
            request = dataclasses.replace(settings.request, model=str(folder))
            report_crashes(place)
            _engines[key] = WorkerEngine(request, place, task["computes"], share)
            while len(_engines) > _KEPT:
                _engines.popitem(last=False)
        _engines.move_to_end(key)
        return _engines[key]


def take_cores(name: str, shares: list[list[int]]) -> None:
    """Compute only on the cores of the worker called `name`, with one thread per core. shares: the cores of each."""
    cores = shares[int(name) % len(shares)]
    if not _settled.is_set() and hasattr(os, "sched_setaffinity"):
        for thread in THREADS.iterdir() if THREADS.is_dir() else [Path("0")]:
            os.sched_setaffinity(int(thread.name), cores)
    use_threads(len(cores))


def use_threads(count: int) -> None:
    """Compute with so many threads; Dask sets one thread for the libraries of a worker, whatever its options are."""
    if not _settled.is_set():
        import torch

        torch.set_num_threads(max(1, count))
        _settled.set()


_EVERY = 0.2
"""Least seconds between two messages of one file."""
_RUNNING = ("running", "paused", "closing_gracefully")
"""Dask's states of a worker whose results are still wanted."""
SHARED: dict[str, tuple[type, ...]] = {"begin": (TileWritten, BlockSearch), "segment": (BlockSearch,), "file": ()}
"""The progress at which a task stops, so that several workers share the work that follows."""
_PATIENCE = 90.0
"""Most seconds to wait for a file that a different process may still lock, although the cluster has given it up."""

_ALONE = threading.Semaphore(1)
_TOGETHER = threading.Semaphore(LANES)
_SEARCHING = threading.Semaphore(1)
_COUNTS: dict[str, int] = {}


def run_dask_task(request: str) -> str:
    """Do a task given as JSON and return the answer as JSON; a fault is an answer, too, and nothing is raised.

    settle: report the backend of this machine. file: process one file from the image to its record. begin: process it
    up to its tiles, which other workers share. segment: up to its objects, which they share, too. The others are for a
    file that was begun. block: compute the units `start` to `stop`. level: write parts of a level of its pyramids.
    objects: find the objects in blocks.
    """
    task = json.loads(request)
    post = ProgressReporter(task)
    _COUNTS[post.topic] = _COUNTS.get(post.topic, 0) + 1
    try:
        return json.dumps(_run_task(task, post))
    except UnfitError as error:
        return json.dumps({"reply": "fault", "reason": f"The worker {post.address} cannot help: {error}"})
    except SkipsegError as error:
        return json.dumps({"reply": "fault", "reason": str(error)})
    except Exception as error:
        return json.dumps({"reply": "failed", "reason": reason_of(error)})
    finally:
        _COUNTS[post.topic] -= 1


def count_running_tasks(topic: str) -> int:
    """Return how many tasks of a batch run in this process."""
    return _COUNTS.get(topic, 0)


class ProgressReporter:
    """Sends the progress of a task to the batch, and checks whether the task is still wanted."""

    def __init__(self, task: dict[str, Any]) -> None:
        from distributed import get_worker
        from distributed.worker import thread_state

        self.topic, self._ticket = str(task["topic"]), task["ticket"]
        self._worker, self._key, self._last = get_worker(), thread_state.key, 0.0
        self.address: str = self._worker.address
        self.name = str(self._worker.name)
        self.threads: int = self._worker.state.nthreads
        self.memory = int(self._worker.memory_manager.memory_limit or 0)

    @property
    def is_wanted(self) -> bool:
        """Whether the task is still wanted: neither the batch nor the scheduler has cancelled it."""
        state = self._worker.state.tasks.get(self._key)
        return state is not None and state.state != "cancelled" and self._worker.status.name in _RUNNING

    def send(self, progress: Progress) -> None:
        """Send progress, unless some was sent just now."""
        now = time.monotonic()
        if now - self._last >= _EVERY:
            self._last = now
            message = [self._ticket, progress.done, progress.total, progress.message]
            self._worker.log_event(self.topic, message)


def _run_task(task: dict[str, Any], post: ProgressReporter) -> dict[str, Any]:
    if task["cores"]:
        take_cores(post.name, task["cores"])
    else:
        use_threads(post.threads)
    settings, place = settings_of_task(task)
    with _lane(settings):
        engine = runner_of_task(task, settings, place, share_of(task, post.memory))
        if engine is None:
            return {"reply": "no model", "address": post.address}
        if task["task"] == "settle":
            return {"reply": "settled", "computes": engine.natural}
        job = FileJob(settings, BatchInput(*task["entry"]), place, engine)
        units = range(task["start"], task["stop"])
        if task["task"] == "block":
            return _run_part(iter_block(job, units), place, post)
        if task["task"] == "level":
            return _run_part(iter_level(job, task["level"], units), place, post)
        if task["task"] == "objects":
            with _SEARCHING:
                return _run_part(iter_blocks_of_file(job, units), place, post)
        return _run_file(job, post, SHARED[task["task"]])


def share_of(task: dict[str, Any], memory: int) -> MemoryShare:
    """Return a worker's share of its machine's memory.

    Workers on this machine share its free memory, and those with the same GPU share the memory of that. A worker of a
    cluster has `memory` bytes, as set by Dask (0 = no limit), and a GPU of its own.
    """
    workers = max(1, len(task["cores"]))
    return MemoryShare(workers, memory, -(-workers // max(1, task.get("gpus", 1))))


@contextlib.contextmanager
def _lane(settings: BatchSettings) -> Iterator[None]:
    """Wait until few enough tasks run in this process; samples are drawn for one file at a time."""
    with _TOGETHER:
        if settings.request.options.samples:
            with _ALONE:
                yield
        else:
            yield


def _run_file(job: FileJob, post: ProgressReporter, shared: tuple[type, ...]) -> dict[str, Any]:
    """Process a file to its end, or up to the first progress of a type in `shared`, and stop it there."""
    # a process that the cluster has given up may still lock the file; it will notice soon
    until = time.monotonic() + _PATIENCE
    while is_held(job.unfinished) and post.is_wanted and time.monotonic() < until:
        time.sleep(_EVERY)
    reached: FileOutcome | Progress | None = None
    with contextlib.closing(segment_file(job)) as work:
        while reached is None and post.is_wanted:
            try:
                progress = next(work)
            except StopIteration as stop:
                reached = stop.value
                break
            post.send(progress)
            if isinstance(progress, shared) and progress.done < progress.total:
                reached = progress
    if isinstance(reached, FileOutcome):
        return {"reply": "outcome", "state": reached.state, "record": dataclasses.asdict(reached.record)}
    if reached is None or not post.is_wanted:
        return {"reply": "stopped"}
    if isinstance(reached, BlockSearch):
        return {"reply": "segmented", "units": reached.total}
    return {"reply": "begun", **count_parts(job)._asdict()}


def _run_part(part: Generator[Progress, None, None], place: RunPlace, post: ProgressReporter) -> dict[str, Any]:
    """Process one part of a large file."""
    try:
        with contextlib.closing(part) as work:
            for progress in work:
                post.send(progress)
                if not post.is_wanted:
                    return {"reply": "stopped"}
    except Exception as error:
        fault = fault_of_folder(error, place.path)
        if fault is not None:
            raise fault from error
        return {"reply": "failed", "reason": reason_of(error)}
    return {"reply": "filled"}
