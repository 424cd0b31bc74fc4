"""The engine for the viewer: each request is a generator of `Progress` that a child process runs. Loads without torch.

The viewer survives all failures of the engine: it shows one sentence about the failure, and the next request starts a
new process. Only `SkipsegError`s are raised, which suits the generator workers of napari.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import weakref
from collections.abc import Generator, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from napari_skipseg.batch.table import BatchOpened, FileChanged
from napari_skipseg.errors import EngineError, OutOfMemoryError
from napari_skipseg.inference.prediction import ResultsOpened
from napari_skipseg.jobs.child import ENGINE_WAKE, Child, EngineEndedError, Session, error_of
from napari_skipseg.jobs.encoding import Envelope
from napari_skipseg.jobs.messages import (
    NO_JOB,
    Call,
    Cancelled,
    Failed,
    Finetune,
    GiveWay,
    Ready,
    Request,
    Result,
    RunBatch,
    Train,
)
from napari_skipseg.jobs.preparation import iter_prepare_request
from napari_skipseg.jobs.workspace import INPUT, remove_folder
from napari_skipseg.progress import STARTING, Progress
from napari_skipseg.training.progress import TrainingProgress


class Engine:
    """The engine process. The first request starts it; it is kept between requests, and ends at `close` or with its
    owner. It is a context manager, too."""

    def __init__(self) -> None:
        self._session = Session()
        self._alone = threading.Lock()
        self._settling: threading.Thread | None = None
        self._jobs = count(NO_JOB + 1)
        self._finalize = weakref.finalize(self, self._session.close)

    @property
    def pid(self) -> int | None:
        """The engine process, None if it does not run."""
        child = self._session.child
        return None if child is None or child.has_ended() else child.pid

    @property
    def is_busy(self) -> bool:
        """Whether a request is running, so that another one would be refused."""
        return self._alone.locked()

    def close(self) -> None:
        """End the engine process, also during a job, and remove the temporary folder."""
        self._finalize()

    def leave(self, is_leaving: bool = True) -> None:
        """Note that the viewer is about to close: a training that is closed from now on keeps its checkpoint.

        is_leaving: False if the viewer stays open after all.
        """
        self._session.is_leaving = is_leaving

    def give_way(self, seconds: float) -> None:
        """Let long work begin no further step for so many seconds: the user paints. Never waits; 0 ends it.

        A step that has begun goes on: about a third of a second of a fine-tuning, or a tile.
        """
        child = self._session.child
        if child is not None and self.is_busy:
            child.send(Envelope(NO_JOB, GiveWay(seconds)))

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, request: Request[Result]) -> Call[Result]:
        """Run one request at a time; yield `Progress` at least every 0.1 s, and return the result.

        Closing the generator cancels the job and returns at once; the engine is killed if it has not stopped after
        `child.GRACE` seconds. The engine reads a stack from its file; a stack in memory is copied to a file first.
        Returned arrays are memory-mapped files, which exist as long as the arrays. If the engine's process ends during
        a batch or a training, a new one continues, as long as each process makes progress.

        Raises:
            SkipsegError: the error of the engine; EngineError if its process ended or a different request is running.
        """
        if not self._alone.acquire(blocking=False):
            raise EngineError("The engine is busy: wait until it is done, or cancel its job.")
        try:
            yield from self._start()
            with self._run_folder(request) as folder:
                prepared = yield from iter_prepare_request(request, folder / INPUT)
                answer = yield from self._run_to_end(prepared, folder)
            if not isinstance(answer, request.result_type()):
                raise EngineError(
                    f"The engine answered with something unexpected ({type(answer).__name__}): try again."
                )
            return answer
        finally:
            self._alone.release()

    def _start(self) -> Generator[Progress, None, Child]:
        while self._settling is not None and self._settling.is_alive():
            yield Progress(0, 1, "stopping the last run")
            self._settling.join(ENGINE_WAKE)
        return self._session.start()

    @contextlib.contextmanager
    def _run_folder(self, request: Request[Any]) -> Iterator[Path]:
        """Yield the folder of a run. Remove its inputs at the end, or the whole folder if the run fails."""
        if request.folder == "none":
            yield Path()
            return
        folder = self._session.new_run(request.folder == "own")
        try:
            (folder / INPUT).mkdir()
            yield folder
        except BaseException:
            # while the engine stops, its last messages still name files there: `_cancel_and_clean` removes them
            if self._settling is None or not self._settling.is_alive():
                remove_folder(folder)
            raise
        shutil.rmtree(folder / INPUT, ignore_errors=True)
        with contextlib.suppress(OSError):  # it still contains results
            folder.rmdir()

    def _run_to_end(self, request: Any, folder: Path) -> Call[Any]:
        """Return the result of a request; if the process ends, continue in a new one, unless it made no progress."""
        point = ResumePoint()
        while True:
            child = yield from self._start()
            begun = point.reached
            try:
                return (yield from self._request_result(child, request, folder, point))
            except EngineEndedError:
                if point.reached <= begun or self._session.closed:
                    raise
            request = point.resume(request)
            yield Progress(0, 1, "the engine ended: continuing in a new one")

    def _request_result(self, child: Child, request: Any, folder: Path, point: ResumePoint) -> Call[Any]:
        """Return the job's result; if closed before, stop the engine's job in the background.

        The engine is kept after a job that failed, unless that ran out of memory: the C library and OpenVINO do not
        return memory to the system, so a new process has more for the next try.
        """
        job, shown = next(self._jobs), Progress(0, 1, STARTING)
        child.send(Envelope(job, request, str(folder)))
        try:
            while True:
                try:
                    envelope = child.next_line(ENGINE_WAKE)
                except EngineError:  # it has ended, or its line is not understood
                    child.end()
                    raise
                value = envelope.value if envelope is not None and envelope.job in (job, NO_JOB) else None
                if isinstance(value, Failed):
                    error = error_of(value)
                    if isinstance(error, OutOfMemoryError):
                        child.end()
                    raise error
                if isinstance(value, Progress):
                    point.note(value)
                    shown = value
                elif value is None or isinstance(value, Ready):
                    shown = Progress(shown.done, shown.total, shown.message)
                elif isinstance(value, Cancelled):  # not cancelled from here: the process got a signal to end
                    child.end()
                    raise EngineEndedError("The engine was stopped: try again.")
                else:
                    return value
                command = yield shown
                if command is not None:
                    child.send(Envelope(job, command))
        except (GeneratorExit, KeyboardInterrupt):
            leftovers = [] if request.folder == "none" else [folder]
            if isinstance(request, Finetune | Train) and not self._session.is_leaving:
                leftovers.append(request.target / f"{request.settings.name}.training")
            self._settling = threading.Thread(target=_cancel_and_clean, args=(child, job, leftovers), daemon=True)
            self._settling.start()
            raise


class ResumePoint:
    """The progress of a request, so that a new process can resume it after an engine ended.

    reached: training steps, or steps of a batch; 0 for requests that cannot be resumed.
    """

    def __init__(self) -> None:
        self.reached = 0
        self._wanted: set[str] = set()  # the files to process, also those that are done by now
        self._opened: Progress | None = None  # its arrays must stay the same until the end

    def note(self, progress: Progress) -> None:
        """Note a message of the engine."""
        if isinstance(progress, ResultsOpened):
            self._opened = progress
        elif isinstance(progress, TrainingProgress):
            self.reached = max(self.reached, progress.step)
        elif isinstance(progress, BatchOpened):
            self.reached = max(self.reached, progress.done)
            self._wanted.update(progress.to_process)
        elif isinstance(progress, FileChanged):
            self.reached = max(self.reached, progress.done)
            if progress.row.state == "waiting":
                self._wanted.add(progress.row.relative)

    def resume(self, request: Any) -> Any:
        """Return the request that continues after what is done."""
        if isinstance(request, Train):
            return replace(request, restart=False)
        if isinstance(request, RunBatch) and (request.retry or request.only is not None):
            # some of the failed files are done by now, so a new search for failed files would miss them
            return replace(request, retry=False, only=tuple(sorted(self._wanted)))
        return request


def _cancel_and_clean(child: Child, job: int, leftovers: list[Path]) -> None:
    child.cancel(job)
    for folder in leftovers:
        remove_folder(folder)
