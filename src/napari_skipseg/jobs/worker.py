"""The engine process, `python -m napari_skipseg.jobs.worker`: jobs in by standard input, events out by standard output.

It runs one job at a time and keeps the last model warm between jobs. It takes its own standard streams away from the
libraries, so that a stray print cannot break the protocol; it steps back before the viewer in time and memory; and it
ends when its standard input does, that is with its parent. `jobs.client` is its other end.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator, Iterable
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import psutil

from napari_skipseg.batch.table import Retry
from napari_skipseg.device_faults import is_out_of_memory
from napari_skipseg.devices import Device, best_precision, choose_device, has_openvino, why_no_cuda, why_no_mps
from napari_skipseg.errors import EngineError, ModelError, OutOfMemoryError, SkipsegError
from napari_skipseg.images.stack import ArrayLike, Stack
from napari_skipseg.inference.prediction import Focus
from napari_skipseg.jobs import events
from napari_skipseg.jobs.events import NO_JOB, End, Event
from napari_skipseg.jobs.inspection import iter_inspect
from napari_skipseg.jobs.operations import (
    event_of,
    iter_batch_for,
    iter_find_for,
    iter_finetune_for,
    iter_lesson_for,
    iter_train_for,
    open_voxels,
)
from napari_skipseg.jobs.requests import (
    INPUT_FILE,
    BatchJob,
    Cancel,
    DevicesJob,
    FinetuneJob,
    InspectJob,
    Job,
    KeepBest,
    LessonJob,
    Look,
    ObjectsJob,
    PlanJob,
    Quit,
    ReportJob,
    RetryFailed,
    SegmentJob,
    TrainJob,
    request_from_line,
)
from napari_skipseg.models.folder import read_description
from napari_skipseg.progress import Progress
from napari_skipseg.training.progress import Keep

if TYPE_CHECKING:
    from napari_skipseg.inference.backends.fallback import FallbackBackend
    from napari_skipseg.models.model import Model


KEPT_BACKENDS = 4
KEPT_MODELS = 2
"""A model that was fine-tuned, and the one that came of it."""


class WarmModel:
    """A model and the backends made for it, so that the next run of the same model and tile starts at once.

    Backends that sample with dropout are not among them: they are made for their run, in no time. Nor is one kept in
    which another had to take over: the next run begins with the fastest again. A turned tile, or a block in three
    planes, takes several at a time.

    key: what tells it from other models, and from itself after a change on disk.
    """

    def __init__(self, folder: str, weights_sha256: str) -> None:
        from napari_skipseg.models.model import read_model

        self.model = read_model(Path(folder))
        self.key = _warm_key(folder, weights_sha256)
        self._backends: dict[tuple[str, tuple[int, ...]], FallbackBackend] = {}

    def backend(self, model: Model, device: Device, shape: tuple[int, ...]) -> FallbackBackend:
        """Return a backend for tiles of `shape`, a kept one where there is one that never failed."""
        from napari_skipseg.inference.backends.choose import make_backend

        key = (device.name, shape)
        if key in self._backends and self._backends[key].notes:
            del self._backends[key]
        if key not in self._backends:
            while len(self._backends) >= KEPT_BACKENDS:
                del self._backends[next(iter(self._backends))]
            self._backends[key] = make_backend(model, device, shape)
        return self._backends[key]


class WarmModels:
    """The models that were asked for last."""

    def __init__(self) -> None:
        self._kept: list[WarmModel] = []

    def find(self, folder: str, weights_sha256: str) -> WarmModel | None:
        """Return the model in `folder` where it is kept, unchanged on disk.

        Raises:
            ModelError: the model there has other weights than those named.
        """
        key = _warm_key(folder, weights_sha256)
        self._kept.sort(key=lambda warm: warm.key != key)
        return self._kept[0] if self._kept and self._kept[0].key == key else None

    def read(self, folder: str, weights_sha256: str) -> WarmModel:
        """Return the model in `folder`, read anew and kept; the one that was not asked for the longest goes.

        Raises:
            ModelError: there is no such model, or it has other weights than those named.
        """
        del self._kept[KEPT_MODELS - 1 :]
        self._kept.insert(0, WarmModel(folder, weights_sha256))
        return self._kept[0]


def _warm_key(folder: str, weights_sha256: str) -> tuple[object, ...]:
    description = read_description(Path(folder))
    if description.weights_sha256 != weights_sha256:
        raise ModelError(f"The model in '{folder}' was changed just now: try again to use it as it is.")
    return folder, description


NICENESS = 10
OUT_OF_MEMORY_SCORE = 500
"""Of 1000: when the system runs out of memory, the engine goes first and the viewer stays."""

Work = Generator[Progress, Any, End]
Command = Focus | Keep | Retry


class Worker:
    """Runs jobs one after the other on the thread that calls `work`, while another one listens."""

    def __init__(self, events: BinaryIO) -> None:
        self._events = events
        self._writing = threading.Lock()
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._cancelled = NO_JOB
        self._look: Look | None = None
        self._keeping = NO_JOB
        self._retry: RetryFailed | None = None
        self._warm = WarmModels()

    def listen(self, requests: Iterable[bytes]) -> None:
        """Take jobs and commands until the stream ends, then end the process, whatever it is doing."""
        for line in requests:
            try:
                request = request_from_line(line)
            except (ValueError, SkipsegError) as error:
                message = "The engine was asked for something it does not know: restart the viewer."
                self._send(events.Failed(NO_JOB, EngineError.__name__, message, str(error)))
                continue
            if isinstance(request, Quit):
                break
            if isinstance(request, Cancel):
                self._cancelled = request.number
            elif isinstance(request, Look):
                self._look = request
            elif isinstance(request, KeepBest):
                self._keeping = request.number
            elif isinstance(request, RetryFailed):
                self._retry = request
            else:
                self._jobs.put(request)
        os._exit(0)

    def work(self) -> None:
        """Load the libraries, say `Ready`, then run jobs for ever."""
        import napari_skipseg.inference.predict  # noqa: F401
        from napari_skipseg.inference.backends.torch_backend import release_memory

        self._send(events.Ready(os.getpid()))
        while True:
            end = self._run(self._jobs.get())
            release_memory()  # an engine that waits leaves the GPU to napari and others
            self._send(end)

    def _send(self, event: Event) -> None:
        with self._writing, contextlib.suppress(BrokenPipeError):
            self._events.write(events.event_to_line(event))
            self._events.flush()

    def _run(self, job: Job) -> End:
        try:
            if isinstance(job, DevicesJob):
                return events.DevicesFound(job.number, look_at_devices())
            if isinstance(job, ReportJob):
                return events.Reported(job.number, report_system())
            return self._follow(self._work_on(job), job)
        except Exception as error:
            shown = explain(error)
            return events.Failed(job.number, type(shown).__name__, _text(str(shown)), _text(traceback.format_exc()))

    def _work_on(self, job: Job) -> Work:
        if isinstance(job, SegmentJob):
            return self._segment(job)
        if isinstance(job, PlanJob):
            return self._plan(job)
        if isinstance(job, InspectJob):
            return self._inspect(job)
        if isinstance(job, FinetuneJob):
            return self._finetune(job)
        if isinstance(job, TrainJob):
            return iter_train_for(job)
        if isinstance(job, LessonJob):
            return iter_lesson_for(job)
        if isinstance(job, ObjectsJob):
            return iter_find_for(job)
        if isinstance(job, BatchJob):
            return iter_batch_for(job)
        raise ValueError(f"{job.kind} is no job of many steps")

    def _follow(self, work: Work, job: Job) -> End:
        command: Command | None = None
        while job.number != self._cancelled:
            try:
                progress = work.send(command)
            except StopIteration as stop:
                end: End = stop.value
                return end
            self._send(event_of(progress, job))
            command = self._take_command(job.number)
        work.close()
        return events.Cancelled(job.number)

    def _take_command(self, number: int) -> Command | None:
        """Return what job `number` was told since it was asked last."""
        if self._keeping == number:
            self._keeping = NO_JOB
            return Keep()
        retry, self._retry = self._retry, None
        if retry is not None and retry.number == number:
            return Retry(tuple(json.loads(retry.relatives)))
        look, self._look = self._look, None
        return Focus(look.view) if look is not None and look.number == number else None

    def _warm_up(self, folder: str, weights_sha256: str) -> Generator[Progress, Any, WarmModel]:
        warm = self._warm.find(folder, weights_sha256)
        if warm is None:
            yield Progress(0, 1, "reading the model")
            warm = self._warm.read(folder, weights_sha256)
        return warm

    def _segment(self, job: SegmentJob) -> Work:
        from napari_skipseg.inference.predict import iter_predict

        warm = yield from self._warm_up(job.model, job.model_sha256)
        folder = Path(job.folder)
        values = open_voxels(job.file, folder / INPUT_FILE, job.space.axes, job.shape)
        stack = Stack(values, job.space, job.name, job.file, job.notes, job.title, job.slice_names)
        prepared = (folder, warm.backend, job.greys, job.preview, job.pinned)
        prediction = yield from iter_predict(stack, warm.model, job.options, *prepared)
        return events.Segmented(job.number, prediction.recipe)

    def _plan(self, job: PlanJob) -> Work:
        from napari_skipseg.inference.trial import iter_plan

        warm = yield from self._warm_up(job.model, job.model_sha256)
        voxels: ArrayLike = np.broadcast_to(np.zeros((), job.dtype), job.shape)  # as fast as a layer in memory
        if job.file:
            voxels = open_voxels(job.file, Path(), job.space.axes, job.shape)
        stack = Stack(voxels, job.space, job.name, notes=job.notes)
        folder = Path(job.folder)
        plan = yield from iter_plan(
            stack,
            warm.model,
            job.options,
            folder,
            None,
            backend_maker=warm.backend,
            greys=job.greys,
            probes=np.load(job.probes) if job.probes else None,
        )
        return events.Planned(job.number, plan)

    def _inspect(self, job: InspectJob) -> Work:
        warm = yield from self._warm_up(job.model, job.model_sha256)
        return (yield from iter_inspect(job, warm.model))

    def _finetune(self, job: FinetuneJob) -> Work:
        warm = yield from self._warm_up(job.model, job.model_sha256)
        taught = yield from iter_finetune_for(job, warm.model)
        yield from self._warm_up(taught.folder, read_description(Path(taught.folder)).weights_sha256)
        return taught


def explain(error: Exception) -> SkipsegError:
    """Return `error` as one that the user can act on."""
    if isinstance(error, SkipsegError):
        return error
    if is_out_of_memory(error):
        return OutOfMemoryError(
            "The engine ran out of memory: choose a smaller tile, such as 256 (64 for a volume), or crop the image."
        )
    said = (str(error).strip().splitlines() or [""])[0].rstrip(".:")
    return EngineError(
        f"The engine failed ({type(error).__name__}: {said}): try again, and report the details where it "
        "fails once more."
    )


def _text(said: str) -> str:
    """Return `said` such that it can be sent, whatever the files in it are called."""
    return said.encode("utf-8", "backslashreplace").decode()


def report_system() -> dict[str, str]:
    """Return what a bug report needs to say of this machine."""
    from napari_skipseg.inference.system_report import system_report

    return system_report()


def look_at_devices() -> events.DeviceReport:
    """Return what there is to compute on."""
    from napari_skipseg.inference.backends.choose import fastest_precision

    faults = {"cpu": "", "cuda": why_no_cuda(), "mps": why_no_mps()}
    available = tuple(name for name, fault in faults.items() if not fault)
    chosen = choose_device("auto")
    precisions = fastest_precision(chosen), best_precision(chosen.name, training=True)
    return events.DeviceReport(chosen, available, has_openvino(), *precisions)


def take_streams() -> tuple[BinaryIO, BinaryIO]:
    """Return the process's input and output for the protocol's use alone.

    What libraries print goes to standard error from now on, and what they read is empty. (On Windows a library that
    loads while another thread waits for standard input would hang: it no longer is standard input.)
    """
    requests, events = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return requests, events


def step_back() -> None:
    """Let the viewer go first: in processor time, and in what stays when memory runs out."""
    with contextlib.suppress(OSError, psutil.Error):
        if sys.platform == "win32":
            psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        else:
            os.nice(NICENESS)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(OUT_OF_MEMORY_SCORE), encoding="ascii")


def main() -> None:
    """Serve until standard input ends. An interrupt typed in the viewer's terminal is the viewer's to answer."""
    requests, events = take_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    step_back()
    worker = Worker(events)
    threading.Thread(target=worker.listen, args=(requests,), daemon=True).start()
    worker.work()


if __name__ == "__main__":
    main()
