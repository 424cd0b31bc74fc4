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
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

import numpy as np
import psutil

from napari_skipseg.devices import MEMORY_FAULTS, choose_device, has_openvino, why_no_cuda, why_no_mps
from napari_skipseg.errors import EngineError, InputError, SkipsegError
from napari_skipseg.images.files import read_stack
from napari_skipseg.images.stack import ArrayLike, Stack
from napari_skipseg.inference.outputs import Focus, Opened, Prediction, Written
from napari_skipseg.jobs import protocol
from napari_skipseg.jobs.inspection import iter_inspect
from napari_skipseg.jobs.protocol import End, Event, InspectJob, Job, Look, PlanJob, SegmentJob
from napari_skipseg.jobs.warm import ModelJob, WarmModel
from napari_skipseg.progress import Progress

NICENESS = 10
OUT_OF_MEMORY_SCORE = 500
"""Of 1000: when the system runs out of memory, the engine goes first and the viewer stays."""


class Worker:
    """Runs jobs one after the other on the thread that calls `work`, while another one listens."""

    def __init__(self, events: BinaryIO) -> None:
        self._events = events
        self._writing = threading.Lock()
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._cancelled = protocol.NO_JOB
        self._look: Look | None = None
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
            elif isinstance(request, Look):
                self._look = request
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
            if isinstance(job, PlanJob):
                return self._follow(self._plan(job), job.number)
            if isinstance(job, InspectJob):
                return self._follow(self._inspect(job), job.number)
            return protocol.DevicesFound(job.number, look_at_devices())
        except Exception as error:
            shown = explain(error)
            return protocol.Failed(job.number, type(shown).__name__, str(shown), traceback.format_exc())

    def _follow(self, work: Generator[Progress, Focus | None, End], number: int) -> End:
        focus: Focus | None = None
        while number != self._cancelled:
            try:
                progress = work.send(focus)
            except StopIteration as stop:
                end: End = stop.value
                return end
            self._send(_event_of(progress, number))
            look, self._look = self._look, None
            focus = Focus(look.view) if look is not None and look.number == number else None
        work.close()
        return protocol.Cancelled(number)

    def _warm_up(self, job: ModelJob) -> Generator[Progress, Focus | None, WarmModel]:
        if self._warm is None or not self._warm.serves(job):
            yield Progress(0, 1, "reading the model")
            self._warm = None
            self._warm = WarmModel(job)
        return self._warm

    def _segment(self, job: SegmentJob) -> Generator[Progress, Focus | None, End]:
        from napari_skipseg.inference.predict import iter_predict

        warm = yield from self._warm_up(job)
        folder = Path(job.folder)
        values = _open_input(job)
        stack = Stack(values, job.axes, job.voxel_size, job.unit, job.origin, job.name)
        prepared = (folder, warm.backend, job.normalization, job.preview)
        prediction = yield from iter_predict(stack, warm.model, job.options, *prepared)
        return protocol.Segmented(job.number, prediction.recipe)

    def _plan(self, job: PlanJob) -> Generator[Progress, Focus | None, End]:
        from napari_skipseg.inference.planning import iter_plan

        warm = yield from self._warm_up(job)
        stack = Stack(NoVoxels(job.shape, np.dtype(job.dtype)), job.axes, job.voxel_size, job.unit, name=job.name)
        folder = Path(job.folder)
        plan = yield from iter_plan(stack, warm.model, job.options, folder, None, backend_maker=warm.backend)
        return protocol.Planned(job.number, plan)

    def _inspect(self, job: InspectJob) -> Generator[Progress, Focus | None, End]:
        warm = yield from self._warm_up(job)
        return (yield from iter_inspect(job, warm.model))


@dataclass(frozen=True)
class NoVoxels:
    """An image of which only shape and type are known."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: Any) -> Any:
        raise ValueError("there are no voxels to read")


def _open_input(job: SegmentJob) -> ArrayLike:
    """Return the voxels of a job, those of its file where it names one.

    Raises:
        FileError: the file is gone.
        InputError: it holds another image now than the viewer shows.
    """
    if not job.file:
        copied: ArrayLike = np.load(Path(job.folder) / protocol.INPUT_FILE, mmap_mode="r")
        return copied
    found = read_stack(job.file, axes=job.axes).data
    if tuple(found.shape) != job.shape:
        raise InputError(f"'{job.file}' is another image now than the viewer shows: open it again.")
    return found


def _event_of(progress: Progress, number: int) -> Event:
    if isinstance(progress, Opened) and progress.prediction is not None:
        return _describe(progress.prediction, number)
    if isinstance(progress, Written):
        return protocol.TileWritten(number, progress.done, progress.total, progress.message, progress.region)
    return protocol.ProgressMade(number, progress.done, progress.total, progress.message)


def _describe(prediction: Prediction, number: int) -> protocol.ResultsOpened:
    attentions = tuple(
        protocol.AttentionFile(attention.level, attention.stride, f"attention_{attention.level}.npy")
        for attention in prediction.attentions
    )
    return protocol.ResultsOpened(
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
