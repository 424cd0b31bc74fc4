"""The engine process, `python -m napari_skipseg.jobs.worker`: jobs in by standard input, events out by standard output.

It runs one job at a time and keeps the last model warm between jobs. It takes its own standard streams away from the
libraries, so that a stray print cannot break the protocol; it steps back before the viewer in time and memory; and it
ends when its standard input does, that is with its parent. `jobs.client` is its other end.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator, Iterable
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import psutil

from napari_skipseg.devices import Device, choose_device, has_openvino, why_no_cuda, why_no_mps
from napari_skipseg.errors import EngineError, ModelError, SkipsegError
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.outputs import Prediction
from napari_skipseg.jobs import protocol
from napari_skipseg.jobs.inspection import iter_inspect
from napari_skipseg.jobs.protocol import End, Event, InspectJob, Job, SegmentJob
from napari_skipseg.models.folder import read_description
from napari_skipseg.progress import Progress

if TYPE_CHECKING:
    from napari_skipseg.inference.backends import FallbackBackend
    from napari_skipseg.models.model import Model

NICENESS = 10
OUT_OF_MEMORY_SCORE = 500
"""Of 1000: when the system runs out of memory, the engine goes first and the viewer stays."""
KEPT_BACKENDS = 2
MEMORY_FAULTS = ("out of memory", "can't allocate memory", "bad_alloc", "bad allocation")
"""How torch and OpenVINO say, in a RuntimeError, that memory is short."""


class WarmModel:
    """A model and the backends made for it, so that the next run of the same model and tile starts at once.

    Backends that sample with dropout are not among them: they are made for their run, in no time. Nor is one kept in
    which another had to take over: the next run begins with the fastest again.
    """

    def __init__(self, job: SegmentJob | InspectJob) -> None:
        from napari_skipseg.models.model import read_model

        self.model = read_model(Path(job.model))
        self._key = _warm_key(job)
        self._backends: dict[tuple[str, tuple[int, ...]], FallbackBackend] = {}

    def serves(self, job: SegmentJob | InspectJob) -> bool:
        """Return whether `job` asks for the same model, unchanged on disk."""
        return self._key == _warm_key(job)

    def backend(self, model: Model, device: Device, shape: tuple[int, ...]) -> FallbackBackend:
        """Return a backend for tiles of `shape`, a kept one where there is one that never failed."""
        from napari_skipseg.inference.backends import make_backend

        key = (device.name, shape)
        if key in self._backends and self._backends[key].notes:
            del self._backends[key]
        if key not in self._backends:
            while len(self._backends) >= KEPT_BACKENDS:
                del self._backends[next(iter(self._backends))]
            self._backends[key] = make_backend(model, device, shape)
        return self._backends[key]


def _warm_key(job: SegmentJob | InspectJob) -> tuple[object, ...]:
    description = read_description(Path(job.model))
    if description.weights_sha256 != job.model_sha256:
        raise ModelError(f"The model in '{job.model}' was changed just now: try again to use it as it is.")
    return job.model, description


class Worker:
    """Runs jobs one after the other on the thread that calls `work`, while another one listens."""

    def __init__(self, events: BinaryIO) -> None:
        self._events = events
        self._writing = threading.Lock()
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._cancelled = protocol.NO_JOB
        self._warm: WarmModel | None = None

    def listen(self, requests: Iterable[bytes]) -> None:
        """Take jobs and commands until the stream ends, then end the process, whatever it is doing."""
        for line in requests:
            try:
                request = protocol.request_from_line(line)
            except (ValueError, SkipsegError) as error:
                message = "The engine was asked for something it does not know: restart the viewer."
                self._send(protocol.Failed(protocol.NO_JOB, EngineError.__name__, message, str(error)))
                continue
            if isinstance(request, protocol.Quit):
                break
            if isinstance(request, protocol.Cancel):
                self._cancelled = request.number
            else:
                self._jobs.put(request)
        os._exit(0)

    def work(self) -> None:
        """Load the libraries, say `Ready`, then run jobs for ever."""
        import napari_skipseg.inference.predict  # noqa: F401

        self._send(protocol.Ready(os.getpid()))
        while True:
            self._send(self._run(self._jobs.get()))

    def _send(self, event: Event) -> None:
        with self._writing, contextlib.suppress(BrokenPipeError):
            self._events.write(protocol.event_to_line(event))
            self._events.flush()

    def _run(self, job: Job) -> End:
        try:
            if isinstance(job, SegmentJob):
                return self._follow(self._segment(job), job.number)
            if isinstance(job, InspectJob):
                return self._follow(self._inspect(job), job.number)
            return protocol.DevicesFound(job.number, look_at_devices())
        except Exception as error:
            shown = explain(error)
            return protocol.Failed(job.number, type(shown).__name__, str(shown), traceback.format_exc())

    def _follow(self, work: Generator[Progress, None, End], number: int) -> End:
        while number != self._cancelled:
            try:
                progress = next(work)
            except StopIteration as stop:
                end: End = stop.value
                return end
            self._send(protocol.ProgressMade(number, **asdict(progress)))
        work.close()
        return protocol.Cancelled(number)

    def _warm_up(self, job: SegmentJob | InspectJob) -> Generator[Progress, None, WarmModel]:
        if self._warm is None or not self._warm.serves(job):
            yield Progress(0, 1, "reading the model")
            self._warm = None
            self._warm = WarmModel(job)
        return self._warm

    def _segment(self, job: SegmentJob) -> Generator[Progress, None, End]:
        from napari_skipseg.inference.predict import iter_predict

        warm = yield from self._warm_up(job)
        folder = Path(job.folder)
        values = np.load(folder / protocol.INPUT_FILE, mmap_mode="r")
        stack = Stack(values, job.axes, job.voxel_size, job.unit, job.origin, job.name)
        prediction = yield from iter_predict(stack, warm.model, job.options, folder, warm.backend, job.normalization)
        return _describe(prediction, job.number)

    def _inspect(self, job: InspectJob) -> Generator[Progress, None, End]:
        warm = yield from self._warm_up(job)
        return (yield from iter_inspect(job, warm.model))


def _describe(prediction: Prediction, number: int) -> protocol.Segmented:
    attentions = tuple(
        protocol.AttentionFile(attention.level, attention.stride, f"attention_{attention.level}.npy")
        for attention in prediction.attentions
    )
    return protocol.Segmented(
        number,
        prediction.axes,
        prediction.voxel_size,
        prediction.unit,
        prediction.origin,
        prediction.class_names,
        attentions,
        prediction.recipe,
        prediction.uncertainty is not None,
    )


def explain(error: Exception) -> SkipsegError:
    """Return `error` as one that the user can act on."""
    if isinstance(error, SkipsegError):
        return error
    if isinstance(error, MemoryError) or any(fault in str(error).lower() for fault in MEMORY_FAULTS):
        return EngineError(
            "The engine ran out of memory: choose a smaller tile, such as 256 (64 for a volume), or crop the image."
        )
    said = (str(error).strip().splitlines() or [""])[0].rstrip(".:")
    return EngineError(
        f"The engine failed ({type(error).__name__}: {said}): try again, and report the details where it "
        "fails once more."
    )


def look_at_devices() -> protocol.DeviceReport:
    """Return what there is to compute on."""
    faults = {"cpu": "", "cuda": why_no_cuda(), "mps": why_no_mps()}
    available = tuple(name for name, fault in faults.items() if not fault)
    return protocol.DeviceReport(choose_device("auto"), available, has_openvino())


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
