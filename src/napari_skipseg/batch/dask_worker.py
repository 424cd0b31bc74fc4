"""What a worker process of a cluster does for a batch: one call with JSON in and out, which any worker can answer.

Dask calls `run_dask_task` by its name, so that nothing of ours is ever pickled. Beside it there is only the disk that
all machines share.
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
from napari_skipseg.batch.engine import NetworkRunner
from napari_skipseg.batch.inputs import SETTINGS_FILE, UNFINISHED, BatchInput
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
    """Return the description and the weights of the model in `folder`, as they lie on the disk.

    Raises:
        ModelError: there is none, or its weights are not those that its description names.
    """
    description = read_description(folder)
    return (folder / DESCRIPTION_FILE).read_bytes(), read_weights(folder, description)


def hash_of_model_files(folder: Path) -> str:
    """Return the SHA-256 of a model's description, which names that of its weights; "" if there is none."""
    try:
        return hashlib.sha256((folder / DESCRIPTION_FILE).read_bytes()).hexdigest()
    except OSError:
        return ""


def find_received_model(name: str, sha256: str) -> Path | None:
    """Return the folder of the model whose description has this hash: that called `name`, one that was sent, or any of
    this machine's; None if it has no such model."""
    try:
        named = [locate_model(name)]
    except SkipsegError:
        named = []
    for folder in (*named, _place(sha256), *find_models().values()):
        if hash_of_model_files(folder) == sha256:
            return folder
    return None


def store_received_model(description: bytes, weights: bytes) -> str:
    """Return the folder in which a model that was sent is kept; it appears whole or not at all.

    Raises:
        ModelError: the weights are not those that the description names.
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
    """Rename `draft`; another worker of this machine may have been quicker."""
    try:
        replace(draft, folder)
        sync_folder(folder.parent)
    except OSError:
        if hash_of_model_files(folder) != sha256:
            raise


def _place(sha256: str) -> Path:
    if len(sha256) != hashlib.sha256().digest_size * 2 or not sha256.isalnum():
        raise ModelError(f"'{sha256[:80]}' is no hash of a model: start the batch anew.")
    return cache_folder("models", SENT_MODELS_VARIABLE) / sha256


_KEPT = 2
"""Engines that are kept: of this run, and of one before."""
THREADS = Path("/proc/self/task")
"""Where Linux lists the threads of a process: each has its own cores."""
_IGNORED = ("napari",)
"""Versions that may differ: no results depend on them."""

_engines: OrderedDict[str, WorkerEngine] = OrderedDict()
_making = threading.Lock()
_settled = threading.Event()


class UnfitError(SkipsegError):
    """A worker whose results would differ from those of the others."""


class WorkerEngine(NetworkRunner):
    """An engine that computes with what the run was settled on, if this machine would choose differently.

    settled: a backend's name and its precision; None: what this machine chooses is to be settled on. share: of this
    machine's memory, as other workers are here too.

    Raises:
        SkipsegError: as `NetworkRunner`.
        UnfitError: this machine cannot compute so.
    """

    def __init__(self, request: SegmentRequest, place: RunPlace, settled: list[str] | None, share: MemoryShare) -> None:
        super().__init__(request, place, share)
        choose_device(self.chosen["device"])
        self.natural = _natural(self.chosen["device"], bool(request.options.samples))
        self._pinned: BackendChoice | None = None
        if settled is not None and settled != self.natural:
            self._pinned = _pinned(settled, self.natural)

    def backend(self, model: Model, device: Device, shape: tuple[int, ...], pinned: BackendChoice | None) -> Backend:
        """Return a backend as `NetworkRunner` does, of the kind that the run was settled on."""
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


def settings_of_task(asked: dict[str, Any]) -> tuple[BatchSettings, RunPlace]:
    """Return settings and folder of the run that a task is of.

    Raises:
        UnfitError: versions differ here, or the folder is not the one that the others see.
    """
    mine, wanted = versions(), asked["versions"]
    for name in sorted({*mine, *wanted} - {*_IGNORED}):
        if mine.get(name) != wanted.get(name):
            raise UnfitError(
                f"it has {name} {mine.get(name, 'not at all')} and this machine {wanted.get(name, 'not at all')}: "
                "install the same versions on both."
            )
    place, settings = RunPlace(Path(asked["folder"])), batch_settings_from_json(asked["settings"])
    try:
        seen = (place.path / SETTINGS_FILE).read_text(encoding="utf-8")
    except OSError:
        seen = ""
    if seen != asked["settings"]:
        raise UnfitError(
            f"it does not see '{place.path}': put images and results where all machines see them at the same path."
        )
    return settings, place


def runner_of_task(
    asked: dict[str, Any], settings: BatchSettings, place: RunPlace, share: MemoryShare
) -> WorkerEngine | None:
    """Return this process's engine for a run, made for its first task; None if the model is not here.

    Raises:
        SkipsegError: as `WorkerEngine`.
    """
    key = f"{place.path}\n{asked['model']}\n{asked['computes']}\n{asked['settings']}"
    with _making:
        if key not in _engines:
            folder = find_received_model(settings.request.model, asked["model"])
            if folder is None:
                return None
            request = dataclasses.replace(settings.request, model=str(folder))
            report_crashes(place)
            _engines[key] = WorkerEngine(request, place, asked["computes"], share)
            while len(_engines) > _KEPT:
                _engines.popitem(last=False)
        _engines.move_to_end(key)
        return _engines[key]


def take_cores(name: str, shares: list[list[int]]) -> None:
    """Compute on the cores of the worker called `name` only, one of `shares`, and with as many threads."""
    cores = shares[int(name) % len(shares)]
    if not _settled.is_set() and hasattr(os, "sched_setaffinity"):
        for thread in THREADS.iterdir() if THREADS.is_dir() else [Path("0")]:
            os.sched_setaffinity(int(thread.name), cores)
    use_threads(len(cores))


def use_threads(count: int) -> None:
    """Compute with so many threads: Dask gives a worker's libraries one, whatever its options say."""
    if not _settled.is_set():
        import torch

        torch.set_num_threads(max(1, count))
        _settled.set()


_EVERY = 0.2
"""Seconds between two messages of one file, at the least."""
_AT_WORK = ("running", "paused", "closing_gracefully")
"""What Dask says of a worker whose results somebody waits for."""
SHARED: dict[str, tuple[type, ...]] = {"begin": (TileWritten, BlockSearch), "segment": (BlockSearch,), "file": ()}
"""What a task leaves to be shared out, by the progress that reports it."""
_PATIENCE = 90.0
"""Seconds for which a file is waited for that another process, given up by the cluster, may still hold."""

_ALONE = threading.Semaphore(1)
_TOGETHER = threading.Semaphore(LANES)
_SEARCHING = threading.Semaphore(1)
_COUNTS: dict[str, int] = {}


def run_dask_task(told: str) -> str:
    """Do a task given as JSON and return the answer as JSON; nothing is raised, as every fault is an answer.

    The task "settle" says what computes here, "file" is one file from the image to its record, "begin" and "segment"
    are as much of it as comes before what others can help with: tiles or objects, or objects only. Of one begun,
    "block" is the units `start` to `stop`, "level" parts of a level of its pyramids, "objects" blocks to find them in.
    """
    asked = json.loads(told)
    post = ProgressReporter(asked)
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


def run_task(topic: str) -> int:
    """Return how many tasks of a batch are at work in this process."""
    return _COUNTS.get(topic, 0)


class ProgressReporter:
    """The connection of a task to the batch: it sends progress and says whether the task is still wanted."""

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
        """Whether the task is still wanted: neither the batch nor the scheduler has cancelled it."""
        state = self._worker.state.tasks.get(self._key)
        return state is not None and state.state != "cancelled" and self._worker.status.name in _AT_WORK

    def send(self, progress: Progress) -> None:
        """Send progress, unless some was sent just now."""
        now = time.monotonic()
        if now - self._last >= _EVERY:
            self._last = now
            told = [self._ticket, progress.done, progress.total, progress.message]
            self._worker.log_event(self.topic, told)


def _answer(asked: dict[str, Any], post: ProgressReporter) -> dict[str, Any]:
    if asked["cores"]:
        take_cores(post.name, asked["cores"])
    else:
        use_threads(post.threads)
    settings, place = settings_of_task(asked)
    with _lane(settings):
        engine = runner_of_task(asked, settings, place, share_of(asked, post.memory))
        if engine is None:
            return {"reply": "no model", "address": post.address}
        if asked["task"] == "settle":
            return {"reply": "settled", "computes": engine.natural}
        entry = BatchInput(*asked["entry"])
        units, begun = range(asked["start"], asked["stop"]), (settings, entry, place, engine)
        if asked["task"] == "block":
            return _fill(iter_block(*begun, units), place, post)
        if asked["task"] == "level":
            return _fill(iter_level(*begun, asked["level"], units), place, post)
        if asked["task"] == "objects":
            with _SEARCHING:
                return _fill(iter_blocks_of_file(*begun, units), place, post)
        return _file(settings, entry, place, engine, post, SHARED[asked["task"]])


def share_of(asked: dict[str, Any], memory: int) -> MemoryShare:
    """Return a worker's share of its machine's memory.

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
    settings: BatchSettings,
    entry: BatchInput,
    place: RunPlace,
    engine: NetworkRunner,
    post: ProgressReporter,
    shared: tuple[type, ...],
) -> dict[str, Any]:
    """Segment a file, or leave it as a batch does that is stopped, where it comes to what is `shared` out."""
    _await_others(place, entry, post)
    with contextlib.closing(segment_file(settings, entry, place, engine)) as work:
        came = _run_task(work, post, shared)
    if isinstance(came, FileOutcome):
        return {"reply": "outcome", "state": came.state, "record": dataclasses.asdict(came.record)}
    if came is None or not post.is_wanted:
        return {"reply": "stopped"}
    if isinstance(came, BlockSearch):
        return {"reply": "segmented", "units": came.total}
    return {"reply": "begun", **count_parts(settings, entry, place, engine)._asdict()}


def _run_task(
    work: Generator[Progress, None, FileOutcome], post: ProgressReporter, shared: tuple[type, ...]
) -> FileOutcome | Progress | None:
    """Return what became of a file, or what is to be shared out first; None if it is not wanted any more."""
    while post.is_wanted:
        try:
            progress = next(work)
        except StopIteration as stop:
            outcome: FileOutcome = stop.value
            return outcome
        post.send(progress)
        if isinstance(progress, shared) and progress.done < progress.total:
            return progress
    return None


def _fill(filling: Generator[Progress, None, None], place: RunPlace, post: ProgressReporter) -> dict[str, Any]:
    """Do one part of a large file."""
    try:
        with contextlib.closing(filling) as work:
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


def _await_others(place: RunPlace, entry: BatchInput, post: ProgressReporter) -> None:
    """Wait while a process that was thought to be gone still has the file locked; it is about to notice."""
    until = time.monotonic() + _PATIENCE
    while is_held(place.results(entry) / f"{entry.name}{UNFINISHED}") and post.is_wanted and time.monotonic() < until:
        time.sleep(_EVERY)
