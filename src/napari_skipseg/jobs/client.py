"""The engine as the viewer sees it: generators of `Progress`, run by a child process. Never imports torch.

The viewer survives whatever happens to the engine: it says in one sentence what happened, and the next call starts a
new process. Everything raised is a `SkipsegError`, fit for a generator worker of napari.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import weakref
from collections.abc import Generator, Iterator
from itertools import count
from pathlib import Path
from types import TracebackType

from napari_skipseg.errors import EngineError
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.outputs import Prediction
from napari_skipseg.jobs.child import WAKE, Child, error_of
from napari_skipseg.jobs.protocol import (
    INPUT_FILE,
    NO_JOB,
    DeviceReport,
    DevicesFound,
    DevicesJob,
    Failed,
    Job,
    ProgressMade,
    Ready,
    Segmented,
    SegmentJob,
)
from napari_skipseg.jobs.workspace import copy_stack, make_run_folder, make_session_folder, open_prediction
from napari_skipseg.models.folder import read_description
from napari_skipseg.models.library import locate_model
from napari_skipseg.progress import Progress


class Engine:
    """The engine process: started by the first call, kept warm between calls, ended by `close` or with the viewer.

    A call is a generator: it yields at least every 0.1 s and returns its result. Closing it cancels the job and returns
    at once: the engine is told to stop, and killed where it has not after `child.GRACE` seconds. One call at a time.
    A context manager, too.
    """

    def __init__(self) -> None:
        self._session = _Session()
        self._alone = threading.Lock()
        self._settling: threading.Thread | None = None
        self._numbers = count(1)
        self._finalize = weakref.finalize(self, self._session.close)

    @property
    def pid(self) -> int | None:
        """The engine process, None where it does not run."""
        child = self._session.child
        return None if child is None or child.has_ended() else child.pid

    def segment(
        self, stack: Stack, model_folder: Path | str, options: SegmentOptions
    ) -> Generator[Progress, None, Prediction]:
        """Return the prediction of the model (a folder, or a name in the library); its arrays are memory-mapped files.

        The files live as long as the arrays do, whatever is run next (see `jobs.workspace`).

        Raises:
            SkipsegError: the error of the engine; EngineError where its process ended or another call is at work.
        """
        model = locate_model(str(model_folder)).resolve()
        description = read_description(model)
        if options.channel is not None and description.spec.in_channels == 1:
            stack = stack.channel(options.channel)
        with self._busy():
            child = yield from self._start()
            run = make_run_folder(self._session.make_folder())
            with self._cleaned(run):
                yield from copy_stack(stack, run / INPUT_FILE)
                job = SegmentJob(
                    next(self._numbers),
                    str(run),
                    stack.axes,
                    stack.voxel_size,
                    stack.unit,
                    stack.origin,
                    stack.name,
                    str(model),
                    description.weights_sha256,
                    options,
                )
                result = yield from self._ask(child, job)
                if not isinstance(result, Segmented):
                    raise _unexpected(result)
                (run / INPUT_FILE).unlink(missing_ok=True)
                return open_prediction(result, run)

    def ask_devices(self) -> Generator[Progress, None, DeviceReport]:
        """Return what there is to compute on; warms the engine up, too.

        Raises:
            EngineError: the engine's process ended, or another call is at work.
        """
        with self._busy():
            child = yield from self._start()
            result = yield from self._ask(child, DevicesJob(next(self._numbers)))
            if not isinstance(result, DevicesFound):
                raise _unexpected(result)
            return result.report

    def close(self) -> None:
        """End the engine process, in the middle of a job too, and remove the temporary folder."""
        self._finalize()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        if not self._alone.acquire(blocking=False):
            raise EngineError("The engine is at work: wait until it is done, or cancel it first.")
        try:
            yield
        finally:
            self._alone.release()

    @contextlib.contextmanager
    def _cleaned(self, run: Path) -> Iterator[None]:
        """Remove the folder of a run that gives no result, once the engine has let go of it."""
        try:
            yield
        except BaseException:
            self._after_settling(shutil.rmtree, run, True)
            raise

    def _start(self) -> Generator[Progress, None, Child]:
        while self._settling is not None and self._settling.is_alive():
            yield Progress(0, 1, "stopping the last run")
            self._settling.join(WAKE)
        return self._session.start()

    def _ask(self, child: Child, job: Job) -> Generator[Progress, None, object]:
        """Return the job's result; when closed in mid-run, tell the engine to stop and see to it in the background."""
        answered = False
        shown = Progress(0, 1, "starting the engine")
        child.send(job)
        try:
            while True:
                event = child.next_event(WAKE)
                if isinstance(event, ProgressMade) and event.number == job.number:
                    shown = Progress(event.done, event.total, event.message)
                elif isinstance(event, Failed) and event.number in (job.number, NO_JOB):
                    answered = event.error != EngineError.__name__
                    raise error_of(event)
                elif event is not None and not isinstance(event, Ready) and event.number == job.number:
                    answered = True
                    return event
                yield shown
        except EngineError:
            child.end()
            answered = True
            raise
        finally:
            if not answered:
                self._settling = threading.Thread(target=child.settle, args=(job.number,), daemon=True)
                self._settling.start()
