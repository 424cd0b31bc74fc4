"""What a viewer asks of the engine to teach models: plan a lesson, fine-tune, train. Never imports torch."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.corrections.saved import Snapshot
from napari_skipseg.errors import EngineError, InputError
from napari_skipseg.images.files import write_ome_tiff
from napari_skipseg.images.stack import LazyArray, Stack
from napari_skipseg.jobs.calls import Calls, Command, expected, removed_on_failure
from napari_skipseg.jobs.child import EngineEndedError
from napari_skipseg.jobs.events import CurvesMoved, End, Event, LessonPlanned, Taught, TilePictured, Trained
from napari_skipseg.jobs.requests import CorrectedImage, FinetuneJob, LessonJob, TrainJob
from napari_skipseg.jobs.workspace import copy_stack
from napari_skipseg.models.catalog import locate_model
from napari_skipseg.models.folder import read_description
from napari_skipseg.progress import Progress
from napari_skipseg.training.progress import Finetuned, Keep, Learned, Lesson, Pictured
from napari_skipseg.training.settings import FinetuneSettings, TrainSettings

TeachingJob = TypeVar("TeachingJob", FinetuneJob, TrainJob)


@dataclass(frozen=True)
class CorrectedStack:
    """An image and what corrects it.

    write_labels: writes the corrections as they are now under a path, and returns where they lie. values:
    what their values from 2 on stand for in the settings' classes, where not the same; 1 for a class that is not
    learnt. channel: the one to learn from; None where the image has no others.
    """

    stack: Stack
    write_labels: Callable[[Path], Snapshot]
    values: Mapping[int, int] = field(default_factory=dict)
    channel: int | None = None


class TeachingCalls(Calls):
    """The calls that teach."""

    def plan_lesson(
        self, settings: FinetuneSettings, images: Sequence[CorrectedStack], device: str = "auto"
    ) -> Generator[Progress, None, Lesson]:
        """Return what fine-tuning would learn from and hold out; no voxel of an image in memory is read.

        Raises:
            SkipsegError: nothing can be learnt from these corrections, with the cure; or as for `finetune`.
        """
        with self._busy():
            child = yield from self._start()
            run = self._session.new_run()
            try:
                described = []
                for number, image in enumerate(images):
                    yield Progress(0, 1, "reading the corrections")
                    described.append(_describe(image, "", image.write_labels(run / f"labels_{number}")))
                job = LessonJob(next(self._numbers), settings, tuple(described), device)
                return expected((yield from self._ask(child, job, leftovers=(run,))), LessonPlanned).lesson
            finally:
                shutil.rmtree(run, ignore_errors=True)

    def finetune(
        self,
        settings: FinetuneSettings,
        images: Sequence[CorrectedStack],
        target: Path,
        device: str = "auto",
    ) -> Generator[Progress, Keep | None, Finetuned]:
        """Return the new model, which lies in `target`, and how it compares with the old one.

        Yields `Learned` where its curves move and `Pictured` with what it makes of one tile; a `Keep` sent back ends
        training with the best weights so far. What is painted meanwhile does not count. Where the engine's process
        ends, a new one goes on from the last checkpoint, as does a call of the same settings and corrections after
        the viewer's end; closed, the call leaves nothing.

        Raises:
            SkipsegError: the error of the engine; EngineError where its process ended before it had learnt anything.
        """
        model = locate_model(settings.model).resolve()
        description = read_description(model)
        with self._busy():
            yield from self._start()
            run = self._session.new_run()
            with removed_on_failure(run):
                described = []
                for number, image in enumerate(images):
                    yield Progress(0, 1, "saving the corrections")
                    labels = image.write_labels(run / f"labels_{number}")
                    described.append((yield from _copy(image, run / f"image_{number}.npy", labels)))
                named = (str(target), device, str(model), description.weights_sha256)
                job = FinetuneJob(next(self._numbers), str(run), settings, tuple(described), *named)
                taught = expected((yield from self._teach(job, run)), Taught)
            shutil.rmtree(run, ignore_errors=True)
            return Finetuned(Path(taught.folder), taught.report)

    def train(
        self,
        settings: TrainSettings,
        target: Path,
        device: str = "auto",
        written: Mapping[str, Stack] | None = None,
        restart: bool = False,
    ) -> Generator[Progress, Keep | None, Path]:
        """Return the folder of a model trained from scratch, which lies in `target`; the rest is as in `finetune`.

        restart: throw away the checkpoint that an earlier call of such settings left.
        written: images and labels that lie in no file; those that the settings name by these names are written first.

        Raises:
            SkipsegError: as for `finetune`.
        """
        with self._busy():
            yield from self._start()
            run = self._session.new_run()
            with removed_on_failure(run):
                files = {}
                for number, (name, stack) in enumerate((written or {}).items()):
                    yield Progress(0, 1, f"writing {stack.name}")
                    files[name] = write_layer(stack, run / f"{number}.ome.tif")
                images, labels = (
                    tuple(files.get(name, name) for name in names) for names in (settings.images, settings.labels)
                )
                placed = replace(settings, images=images, labels=labels)
                job = TrainJob(next(self._numbers), str(run), placed, str(target), device, restart)
                trained = expected((yield from self._teach(job, run)), Trained)
            shutil.rmtree(run, ignore_errors=True)
            return Path(trained.folder)

    def _teach(self, job: TeachingJob, run: Path) -> Generator[Progress, Command | None, End]:
        """Return the end of a training; where the process ends, go on in a new one as long as that gets further."""
        scratch = Path(job.target) / f"{job.settings.name}.training"
        reached = begun = 0

        def hear(event: Event) -> Progress | None:
            nonlocal reached
            if isinstance(event, CurvesMoved):
                reached = max(reached, event.step)
                return Learned(event.done, event.total, event.message, event.step, event.values)
            return _picture(event, run) if isinstance(event, TilePictured) else None

        while True:
            child = yield from self._start()
            try:
                return (yield from self._ask(child, job, hear, (run, scratch)))
            except EngineEndedError:
                if reached <= begun or self._session.closed:
                    raise
            begun = reached
            job = replace(job, number=next(self._numbers))
            if isinstance(job, TrainJob):
                job = replace(job, restart=False)
            yield Progress(0, 1, "the engine ended: going on from the last checkpoint")


def _describe(image: CorrectedStack, copy: str, labels: Snapshot) -> CorrectedImage:
    stack, channel = image.stack, image.channel
    if not stack.file and channel is not None:
        stack, channel = stack.channel(channel), None
    return CorrectedImage(
        stack.file,
        copy,
        stack.shape,
        str(np.dtype(stack.data.dtype)),
        stack.space,
        stack.name,
        channel,
        str(labels.labels),
        str(labels.strokes or ""),
        dict(image.values),
    )


def _copy(image: CorrectedStack, file: Path, labels: Snapshot) -> Generator[Progress, None, CorrectedImage]:
    """Return what the engine is told of an image, after copying it where it lies in no file."""
    if image.stack.file:
        return _describe(image, "", labels)
    stack = image.stack if image.channel is None else image.stack.channel(image.channel)
    yield from copy_stack(stack, file)
    return _describe(image, str(file), labels)


def write_layer(stack: Stack, file: Path) -> str:
    """Return the path of `file` after the stack was written there as OME-TIFF.

    Raises:
        FileError: it cannot be written.
        InputError: OME-TIFF cannot hold such values.
    """
    wide = np.dtype(stack.data.dtype).name in ("int64", "uint64")
    data = Narrowed(stack) if wide else stack.data
    write_ome_tiff(file, data, stack.space)
    return str(file)


class Narrowed(LazyArray):
    """Whole numbers of 64 bits as 32 bits, which OME-TIFF can hold."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.shape, self.dtype = stack.shape, np.dtype(np.int32)

    def _read(self, index: tuple[int | slice, ...]) -> NDArray[np.int32]:
        values, limits = self._stack.read(index), np.iinfo(np.int32)
        if values.size and (values.min() < limits.min or values.max() > limits.max):
            raise InputError(f"'{self._stack.name}' holds labels above {limits.max}: give its classes smaller numbers.")
        return values.astype(np.int32)


def _picture(event: TilePictured, run: Path) -> Pictured:
    arrays = [_take(run / name) if name else None for name in (event.image, event.probability, event.target)]
    return Pictured(event.done, event.total, event.message, *arrays)


def _take(file: Path) -> NDArray[Any]:
    """Return the array in a file that is read once.

    Raises:
        EngineError: it is missing or damaged.
    """
    try:
        values: NDArray[Any] = np.load(file)
    except (OSError, ValueError) as error:
        raise EngineError(f"The engine's picture {file.name} cannot be read: try again.") from error
    with contextlib.suppress(OSError):
        file.unlink()
    return values
