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
from napari_skipseg.images.normalize import measure
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.outputs import Prediction
from napari_skipseg.jobs.child import WAKE, Child, error_of
from napari_skipseg.jobs.inspection import Inspection, Part, cut_part, open_inspection
from napari_skipseg.jobs.protocol import (
    INPUT_FILE,
    NO_JOB,
    Cancelled,
    DeviceReport,
    DevicesFound,
    DevicesJob,
    End,
    Failed,
    Inspected,
    InspectJob,
    Job,
    ProgressMade,
    Segmented,
    SegmentJob,
)
from napari_skipseg.jobs.workspace import copy_stack, make_run_folder, make_session_folder, open_prediction
from napari_skipseg.models.catalog import locate_model
from napari_skipseg.models.folder import read_description
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

    @property
    def is_busy(self) -> bool:
        """Whether a call is at work, so that another one would be refused."""
        return self._alone.locked()

    def segment(
        self, stack: Stack, model_folder: Path | str, options: SegmentOptions, whole: Stack | None = None
    ) -> Generator[Progress, None, Prediction]:
        """Return the prediction of the model (a folder, or a name in the catalog); its arrays are memory-mapped files.

        whole: what `stack` is a part of, so that its grey values are normalised as the whole's are.
        The files live as long as the arrays do, whatever is run next (see `jobs.workspace`).

        Raises:
            SkipsegError: the error of the engine; EngineError where its process ended or another call is at work.
        """
        model = locate_model(str(model_folder)).resolve()
        description = read_description(model)
        if options.channel is not None and description.spec.in_channels == 1:
            stack = stack.channel(options.channel)
            whole = None if whole is None else whole.channel(options.channel)
        with self._busy():
            child = yield from self._start()
            run = self._session.new_run()
            with _removed_on_failure(run):
                yield Progress(0, 1, "measuring the grey values")
                normalization = None if whole is None else measure(whole)
                yield from copy_stack(stack, run / INPUT_FILE)
                named = (str(model), description.weights_sha256)
                place = (stack.axes, stack.voxel_size, stack.unit, stack.origin, stack.name)
                job = SegmentJob(next(self._numbers), str(run), *place, *named, options, normalization)
                result = yield from self._ask(child, job)
                if not isinstance(result, Segmented):
                    raise _unexpected(result)
                with contextlib.suppress(OSError):
                    (run / INPUT_FILE).unlink()
                return open_prediction(result, run)

    def inspect(
        self, stack: Stack, model_folder: Path | str, place: str, part: Part, channel: int | None = None
    ) -> Generator[Progress, None, Inspection]:
        """Return what the model's gates make of `part` of the stack; its arrays are memory-mapped files.

        place: of the gate whose features are wanted, such as "long skip 1". part: of what size may be had from
        `inspection.choose_part`. Grey values are normalised as the whole stack's are.

        Raises:
            SkipsegError: as for `segment`; ModelError where there is no such gate.
        """
        model = locate_model(str(model_folder)).resolve()
        description = read_description(model)
        if channel is not None and description.spec.in_channels == 1:
            stack = stack.channel(channel)
        with self._busy():
            child = yield from self._start()
            run = self._session.new_run()
            with _removed_on_failure(run):
                yield Progress(0, 1, "measuring the grey values")
                normalization = measure(stack)
                yield Progress(0, 1, "reading the image")
                cut = cut_part(stack, part, "ZYX"[-description.spec.dimensions :])
                yield from copy_stack(cut, run / INPUT_FILE)
                start = {axis: places.start for axis, places in part.items()}
                named = (str(model), description.weights_sha256)
                number = next(self._numbers)
                job = InspectJob(number, str(run), cut.axes, start, cut.name, *named, place, normalization)
                result = yield from self._ask(child, job)
                if not isinstance(result, Inspected):
                    raise _unexpected(result)
                with contextlib.suppress(OSError):
                    (run / INPUT_FILE).unlink()
                return open_inspection(job, result)

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

    def _start(self) -> Generator[Progress, None, Child]:
        while self._settling is not None and self._settling.is_alive():
            yield Progress(0, 1, "stopping the last run")
            self._settling.join(WAKE)
        return self._session.start()

    def _ask(self, child: Child, job: Job) -> Generator[Progress, None, End]:
        """Return the job's result; closed in mid-run, tell the engine to stop and see to it in the background."""
        shown = Progress(0, 1, "starting the engine")
        child.send(job)
        try:
            while True:
                event = child.next_event(WAKE)
                if isinstance(event, ProgressMade) and event.number == job.number:
                    shown = Progress(event.done, event.total, event.message)
                elif isinstance(event, Failed) and event.number in (job.number, NO_JOB):
                    raise error_of(event)
                elif isinstance(event, Segmented | Inspected | DevicesFound | Cancelled) and event.number == job.number:
                    return event
                yield shown
        except EngineError:
            child.end()
            raise
        except (GeneratorExit, KeyboardInterrupt):
            folder = None if isinstance(job, DevicesJob) else Path(job.folder)
            self._settling = threading.Thread(target=_settle, args=(child, job.number, folder), daemon=True)
            self._settling.start()
            raise


class _Session:
    """The process and the folder of an engine, apart from it: they must end with it, and after it was forgotten."""

    def __init__(self) -> None:
        self.child: Child | None = None
        self.folder: Path | None = None
        self.closed = False
        self._changing = threading.Lock()

    def start(self) -> Child:
        with self._changing:
            if self.closed:
                raise EngineError("The engine was closed: make a new one.")
            if self.child is not None and self.child.has_ended():
                self.child.end()
                self.child = None
            self.child = self.child or Child()
            return self.child

    def new_run(self) -> Path:
        with self._changing:
            if self.closed:
                raise EngineError("The engine was closed: make a new one.")
            if self.folder is None or not self.folder.is_dir():
                self.folder = make_session_folder()
            return make_run_folder(self.folder)

    def close(self) -> None:
        with self._changing:
            self.closed = True
            if self.child is not None:
                self.child.end()
            if self.folder is not None:
                shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(shutil.rmtree, folder, ignore_errors=True)
        yield
        on_failure.pop_all()


def _settle(child: Child, number: int, folder: Path | None) -> None:
    child.cancel(number)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _unexpected(end: End) -> EngineError:
    return EngineError(f"The engine answered with something unexpected ({end.kind}): try again.")
