"""The engine as the viewer sees it: generators of `Progress`, run by a child process. Never imports torch.

The viewer survives whatever happens to the engine: it says in one sentence what happened, and the next call starts a
new process. Everything raised is a `SkipsegError`, fit for a generator worker of napari.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import TracebackType

import numpy as np

from napari_skipseg.errors import EngineError
from napari_skipseg.images.normalize import Normalization, measure
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.outputs import Focus, Opened, Prediction, Written
from napari_skipseg.inference.run_plan import RunPlan
from napari_skipseg.inference.scale import lengths_of
from napari_skipseg.jobs.child import WAKE, Child, error_of
from napari_skipseg.jobs.inspection import Inspection, Part, cut_part, open_inspection
from napari_skipseg.jobs.protocol import (
    INPUT_FILE,
    NO_JOB,
    DeviceReport,
    DevicesFound,
    DevicesJob,
    End,
    Event,
    Failed,
    Inspected,
    InspectJob,
    Job,
    Look,
    PlanJob,
    Planned,
    ProgressMade,
    ResultsOpened,
    Segmented,
    SegmentJob,
    TileWritten,
)
from napari_skipseg.jobs.session import Session
from napari_skipseg.jobs.workspace import copy_stack, open_prediction
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
        self._session = Session()
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
        self,
        stack: Stack,
        model_folder: Path | str,
        options: SegmentOptions,
        whole: Stack | None = None,
        normalization: Normalization | None = None,
        preview: bool = False,
    ) -> Generator[Progress, Focus | None, Prediction]:
        """Return the prediction of the model (a folder, or a name in the catalog); its arrays are memory-mapped files.

        Before that `Opened` brings it while it is still empty, and `Written` tells which part has come; a `Focus` sent
        back puts what is left in another order.

        whole: what `stack` is a part of, so that its grey values are normalised as the whole's are. normalization: the
        same, measured before. preview: as in `iter_predict`. A stack that lies in a file is read there; another one is
        copied first.
        The files live as long as the arrays do, whatever is run next (see `jobs.workspace`).

        Raises:
            SkipsegError: the error of the engine; EngineError where its process ended or another call is at work.
        """
        model = locate_model(str(model_folder)).resolve()
        description = read_description(model)
        if options.channel is not None and description.spec.in_channels == 1 and not stack.file:
            stack = stack.channel(options.channel)
            whole = None if whole is None else whole.channel(options.channel)
        with self._busy():
            child = yield from self._start()
            run = self._session.new_run()
            with _removed_on_failure(run):
                if whole is not None and normalization is None:
                    yield Progress(0, 1, "measuring the grey values")
                    normalization = measure(whole, lengths=lengths_of(whole, description, options))
                if not stack.file:
                    yield from copy_stack(stack, run / INPUT_FILE)
                named = (str(model), description.weights_sha256)
                place = (stack.file, stack.shape, stack.axes, stack.voxel_size, stack.unit, stack.origin, stack.name)
                job = SegmentJob(next(self._numbers), str(run), *place, *named, options, normalization, preview)
                return (yield from self._fill(child, job, run))

    def _fill(self, child: Child, job: SegmentJob, run: Path) -> Generator[Progress, Focus | None, Prediction]:
        """Return the prediction of a job whose results come into the folder `run`."""
        opened: list[Prediction] = []

        def open_results(event: ResultsOpened) -> Progress:
            opened.append(open_prediction(event, run))
            return Opened(0, 1, "the first tile", opened[0])

        result = yield from self._ask(child, job, open_results)
        if not isinstance(result, Segmented) or not opened:
            raise _unexpected(result)
        with contextlib.suppress(OSError):
            (run / INPUT_FILE).unlink()
        return replace(opened[0], recipe=result.recipe)

    def plan(
        self, stack: Stack, model_folder: Path | str, options: SegmentOptions
    ) -> Generator[Progress, None, RunPlan]:
        """Return what segmenting the stack would take, measured on one tile of noise; no voxel is read.

        Raises:
            SkipsegError: as for `segment`.
        """
        model = locate_model(str(model_folder)).resolve()
        description = read_description(model)
        with self._busy():
            child = yield from self._start()
            image = (stack.shape, str(np.dtype(stack.data.dtype)), stack.axes, stack.voxel_size, stack.unit, stack.name)
            named = (str(model), description.weights_sha256)
            job = PlanJob(next(self._numbers), tempfile.gettempdir(), *image, *named, options)
            result = yield from self._ask(child, job)
            if not isinstance(result, Planned):
                raise _unexpected(result)
            return result.plan

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

    def _ask(
        self, child: Child, job: Job, on_opened: Callable[[ResultsOpened], Progress] | None = None
    ) -> Generator[Progress, Focus | None, End]:
        """Return the job's result; closed in mid-run, tell the engine to stop and see to it in the background."""
        shown = Progress(0, 1, "starting the engine")
        child.send(job)
        try:
            while True:
                event = child.next_event(WAKE)
                if isinstance(event, Failed) and event.number in (job.number, NO_JOB):
                    raise error_of(event)
                if isinstance(event, End) and event.number == job.number:
                    return event
                if isinstance(event, ResultsOpened) and event.number == job.number and on_opened is not None:
                    shown = on_opened(event)
                else:
                    shown = _shown(event, job.number) or Progress(shown.done, shown.total, shown.message)
                focus = yield shown
                if focus is not None:
                    child.send(Look(job.number, focus.view))
        except EngineError:
            child.end()
            raise
        except (GeneratorExit, KeyboardInterrupt):
            folder = Path(job.folder) if isinstance(job, SegmentJob | InspectJob) else None
            self._settling = threading.Thread(target=_settle, args=(child, job.number, folder), daemon=True)
            self._settling.start()
            raise


def _shown(event: Event | None, number: int) -> Progress | None:
    """Return what an event says of how far job `number` is; None where it says nothing."""
    if isinstance(event, ProgressMade) and event.number == number:
        return Progress(event.done, event.total, event.message)
    if isinstance(event, TileWritten) and event.number == number:
        return Written(event.done, event.total, event.message, event.region)
    return None


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
