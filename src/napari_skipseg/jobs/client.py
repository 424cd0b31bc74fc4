"""The engine as the viewer sees it: generators of `Progress`, run by a child process. Never imports torch.

The viewer survives whatever happens to the engine: it says in one sentence what happened, and the next call starts a
new process. Everything raised is a `SkipsegError`, fit for a generator worker of napari.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_skipseg.errors import EngineError
from napari_skipseg.images.intensity.normalize import GreyStatistics, iter_measure_greys
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.estimate import RunPlan
from napari_skipseg.inference.guards import iter_measure_for, probe_grid, read_probes
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.prediction import Focus, Opened, Prediction, Written
from napari_skipseg.inference.scale import lengths_of
from napari_skipseg.jobs.batching_calls import BatchingCalls
from napari_skipseg.jobs.calls import expected, removed_on_failure
from napari_skipseg.jobs.child import Child
from napari_skipseg.jobs.events import (
    DeviceReport,
    DevicesFound,
    Event,
    Inspected,
    Planned,
    Reported,
    ResultsOpened,
    Segmented,
    TileWritten,
)
from napari_skipseg.jobs.finding_calls import FindingCalls
from napari_skipseg.jobs.inspection import Inspection, Part, cut_part, open_inspection
from napari_skipseg.jobs.requests import INPUT_FILE, PROBES_FILE, DevicesJob, InspectJob, PlanJob, ReportJob, SegmentJob
from napari_skipseg.jobs.teaching_calls import TeachingCalls
from napari_skipseg.jobs.workspace import copy_stack, open_prediction
from napari_skipseg.models.catalog import locate_model
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.models.folder import read_description
from napari_skipseg.progress import Progress


class Engine(BatchingCalls, FindingCalls, TeachingCalls):
    """The engine process: started by the first call, kept warm between calls, ended by `close` or with the viewer.

    A call is a generator: it yields at least every 0.1 s and returns its result. Closing it cancels the job and returns
    at once: the engine is told to stop, and killed where it has not after `child.GRACE` seconds. One call at a time.
    A context manager, too.
    """

    def segment(
        self,
        stack: Stack,
        model_folder: Path | str,
        options: SegmentOptions,
        whole: Stack | None = None,
        greys: GreyStatistics | None = None,
        preview: bool = False,
        pinned: dict[str, int | str] | None = None,
    ) -> Generator[Progress, Focus | None, Prediction]:
        """Return the prediction of the model (a folder, or a name in the catalog); its arrays are memory-mapped files.

        Before that `Opened` brings it while it is still empty, and `Written` tells which part has come; a `Focus` sent
        back puts what is left in another order.

        whole: what `stack` is a part of, so that its grey values are normalised as the whole's are. greys: these,
        measured before. preview, pinned: as in `iter_predict`. A stack that lies in a file is read there; another
        one is copied first. The files live as long as the arrays do, whatever is run next (see `jobs.workspace`).

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
            with removed_on_failure(run):
                if whole is not None and greys is None:
                    greys = yield from iter_measure_for(whole, description, options)
                if not stack.file:
                    yield from copy_stack(stack, run / INPUT_FILE)
                job = SegmentJob(
                    number=next(self._numbers),
                    folder=str(run),
                    file=stack.file,
                    shape=stack.shape,
                    space=stack.space,
                    name=stack.name,
                    model=str(model),
                    model_sha256=description.weights_sha256,
                    options=options,
                    greys=greys,
                    preview=preview,
                    pinned=pinned,
                    notes=stack.notes,
                    title=stack.title,
                    slice_names=stack.slice_names,
                )
                return (yield from self._fill(child, job, run))

    def _fill(self, child: Child, job: SegmentJob, run: Path) -> Generator[Progress, Focus | None, Prediction]:
        """Return the prediction of a job whose results come into the folder `run`."""
        opened: list[Prediction] = []

        def hear(event: Event) -> Progress | None:
            if isinstance(event, ResultsOpened):
                opened.append(open_prediction(event, run))
                return Opened(0, 1, "the first tile", opened[0])
            if isinstance(event, TileWritten):
                return Written(event.done, event.total, event.message, event.region)
            return None

        result = expected((yield from self._ask(child, job, hear, (run,))), Segmented)
        if not opened:
            raise EngineError("The engine gave no results: try again.")
        with contextlib.suppress(OSError):
            (run / INPUT_FILE).unlink()
        return replace(opened[0], recipe=result.recipe)

    def plan(
        self, stack: Stack, model_folder: Path | str, options: SegmentOptions, whole: Stack | None = None
    ) -> Generator[Progress, None, RunPlan]:
        """Return what segmenting the stack would take, measured on one tile, and what was found about it.

        whole: as in `segment`.

        Raises:
            SkipsegError: as for `segment`.
        """
        model = locate_model(str(model_folder)).resolve()
        description = read_description(model)
        measured = whole or stack
        if options.channel is not None and description.spec.in_channels == 1:
            measured = measured.channel(options.channel)
        with self._busy():
            child = yield from self._start()
            greys = yield from iter_measure_for(measured, description, options)
            run = self._session.new_run()
            try:
                yield Progress(0, 1, "looking at some patches")
                probes = _write_probes(measured, description, options, greys, run / PROBES_FILE)
                job = PlanJob(
                    number=next(self._numbers),
                    folder=tempfile.gettempdir(),
                    shape=stack.shape,
                    dtype=str(np.dtype(stack.data.dtype)),
                    space=stack.space,
                    name=stack.name,
                    model=str(model),
                    model_sha256=description.weights_sha256,
                    options=options,
                    greys=greys,
                    notes=stack.notes,
                    file=stack.file,
                    probes=probes,
                )
                return expected((yield from self._ask(child, job, leftovers=(run,))), Planned).plan
            finally:
                shutil.rmtree(run, ignore_errors=True)

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
            with removed_on_failure(run):
                greys = yield from iter_measure_greys(stack, padding=description.padding)
                yield Progress(0, 1, "reading the image")
                cut = cut_part(stack, part, "ZYX"[-description.spec.dimensions :])
                yield from copy_stack(cut, run / INPUT_FILE)
                start = {axis: places.start for axis, places in part.items()}
                named = (str(model), description.weights_sha256)
                number = next(self._numbers)
                job = InspectJob(number, str(run), cut.space.axes, start, cut.name, *named, place, greys.normalization)
                result = expected((yield from self._ask(child, job, leftovers=(run,))), Inspected)
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
            return expected((yield from self._ask(child, DevicesJob(next(self._numbers)))), DevicesFound).report

    def ask_report(self) -> Generator[Progress, None, dict[str, str]]:
        """Return what a bug report needs to say of this machine, by names; a small network is tried for it.

        Raises:
            EngineError: the engine's process ended, or another call is at work.
        """
        with self._busy():
            child = yield from self._start()
            return expected((yield from self._ask(child, ReportJob(next(self._numbers)))), Reported).facts

    def __enter__(self) -> Engine:
        return self


def _write_probes(
    stack: Stack, description: ModelDescription, options: SegmentOptions, greys: GreyStatistics, file: Path
) -> str:
    """Return the file with patches of an image that the network is asked about, "" if there is nothing to ask."""
    lengths = lengths_of(stack, description, options)
    grid = probe_grid(stack, description, lengths) if greys.asks_network else None
    probes = None if grid is None else read_probes(stack, grid, greys.normalization)
    if probes is None:
        return ""
    np.save(file, probes)
    return str(file)
