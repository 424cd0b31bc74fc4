"""Fine-tuning and training in the engine process: from jobs to the training room, and what they tell on the way.

Loads without torch; what the jobs call needs it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.batch.run import BatchResult, iter_batch
from napari_skipseg.batch.table import BatchOpened, FileChanged, Retry, Row
from napari_skipseg.errors import EngineError, FileError, InputError
from napari_skipseg.images.files import read_recipe, read_stack
from napari_skipseg.images.stack import ArrayLike, LazyArray, Stack
from napari_skipseg.images.zarr.array import ZarrArray
from napari_skipseg.inference.prediction import Opened, Prediction, Stored, Written
from napari_skipseg.jobs import events
from napari_skipseg.jobs.events import Event, LessonPlanned, Taught, Trained
from napari_skipseg.jobs.requests import (
    BatchJob,
    CorrectedImage,
    FinetuneJob,
    Job,
    LessonJob,
    ObjectsJob,
    PlacedImage,
    TrainJob,
)
from napari_skipseg.objects.files import ProbabilityFile
from napari_skipseg.objects.table import Table
from napari_skipseg.progress import Found, Progress
from napari_skipseg.training.progress import Keep, Learned, Pictured

if TYPE_CHECKING:
    from napari_skipseg.models.model import Model
    from napari_skipseg.training.finetune.labels import Corrected


def iter_batch_for(job: BatchJob) -> Generator[Progress, Retry | None, events.BatchEnded]:
    """Yield as `iter_batch` does; return what became of all files.

    Raises:
        SkipsegError: as for `iter_batch`.
    """
    only = json.loads(job.only) if job.only else None
    with _leaving_crashes_to_the_batch(), contextlib.closing(iter_batch(job.settings, job.retry, only=only)) as work:
        result = yield from work
    return events.BatchEnded(job.number, result_to_text(result))


@contextlib.contextmanager
def _leaving_crashes_to_the_batch() -> Iterator[None]:
    """Have the batch note in its folder where this process crashes, and not standard error."""
    was_on = faulthandler.is_enabled()
    faulthandler.disable()
    try:
        yield
    finally:
        if was_on:
            faulthandler.enable()


def event_of_batch(progress: Progress, number: int) -> events.BatchStarted | events.RowChanged | None:
    """Return the event that tells of a change in the table of job `number`; None where `progress` tells of none."""
    how_far = (number, progress.done, progress.total, progress.message)
    if isinstance(progress, BatchOpened):
        left_out = (progress.others, progress.ours)
        asked = json.dumps(progress.asked)
        return events.BatchStarted(*how_far, rows_to_text(progress.rows), progress.folder, *left_out, asked)
    if isinstance(progress, FileChanged):
        return events.RowChanged(*how_far, rows_to_text([progress.row]), progress.seconds_left)
    return None


def progress_of_batch(event: events.Event) -> BatchOpened | FileChanged | None:
    """Return what an event tells of the table, as `iter_batch` yielded it; None where it tells nothing of one."""
    if isinstance(event, events.BatchStarted):
        how_far = (event.done, event.total, event.message)
        asked = tuple(json.loads(event.asked))
        return BatchOpened(*how_far, rows_from_text(event.rows), event.folder, event.others, event.ours, asked)
    if isinstance(event, events.RowChanged):
        (row,) = rows_from_text(event.row)
        return FileChanged(event.done, event.total, event.message, row, event.seconds_left)
    return None


def rows_to_text(rows: Sequence[Row]) -> str:
    """Return rows as JSON in ASCII: so names of files that are no text cross, and scores that are no numbers."""
    return json.dumps([asdict(row) for row in rows])


def rows_from_text(text: str) -> tuple[Row, ...]:
    """Return the rows in `text`."""
    return tuple(Row(**{**values, "outputs": tuple(values["outputs"])}) for values in json.loads(text))


def result_to_text(result: BatchResult) -> str:
    """Return a result as JSON in ASCII."""
    return json.dumps(asdict(result), default=str)


def result_from_text(text: str) -> BatchResult:
    """Return the result in `text`."""
    values: dict[str, Any] = json.loads(text)
    for name in ("folder", "summary", "report"):
        values[name] = Path(values[name])
    return BatchResult(**{**values, "rows": rows_from_text(json.dumps(values["rows"]))})


@dataclass(frozen=True)
class NoVoxels:
    """An image of which only shape and type are known."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: Any) -> Any:
        raise ValueError("there are no voxels to read")


def open_voxels(file: str, copy: Path, axes: str, shape: Sequence[int]) -> ArrayLike:
    """Return the voxels of an image, those of its file where it names one, else those of its copy.

    Raises:
        FileError: the file is gone.
        InputError: it holds another image now than the viewer shows.
    """
    if not file:
        copied: ArrayLike = np.load(copy, mmap_mode="r")
        return copied
    found = _read_as_shown(file, axes)
    if tuple(found.shape) != tuple(shape):
        raise InputError(f"'{file}' is another image now than the viewer shows: open it again.")
    return found


def _read_as_shown(file: str, axes: str) -> ArrayLike:
    """Return the voxels of a file as the reader gave them to the viewer: turned, where the file has other axes.

    `axes` are those of the layer; as names for the file's own axes they count only if the file has none.
    """
    try:
        return read_stack(file).data
    except InputError:
        return read_stack(file, axes=axes).data


def open_labels(image: CorrectedImage) -> ArrayLike:
    """Return the corrections of an image, with the values that the settings' classes have.

    Raises:
        FileError: they are gone.
    """
    labels = read_stack(image.labels, axes=image.space.axes.replace("C", "")).data
    moved = {value: meant for value, meant in image.values.items() if value != meant}
    return Recoded(labels, moved) if moved and isinstance(labels, ZarrArray) else labels


def open_strokes(image: CorrectedImage) -> ArrayLike | None:
    """Return those of the corrections that were painted, which are not 0; None where all were.

    Raises:
        FileError: they are gone.
    """
    return read_stack(image.strokes, axes=image.space.axes.replace("C", "")).data if image.strokes else None


class Recoded(LazyArray):
    """Labels with other values: each that is named by the one it stands for."""

    def __init__(self, labels: ZarrArray, values: Mapping[int, int]) -> None:
        self._labels = labels
        self._table = np.arange(256, dtype=np.uint8)
        self._table[list(values)] = list(values.values())
        self.shape, self.dtype = tuple(labels.shape), np.dtype(np.uint8)

    def written(self) -> Iterator[tuple[slice, ...]]:
        """Yield the parts in which something may be; the labels are 0 elsewhere."""
        yield from self._labels.written()

    def _read(self, index: tuple[int | slice, ...]) -> NDArray[np.uint8]:
        recoded: NDArray[np.uint8] = self._table[np.asarray(self._labels[index])]
        return recoded


def open_corrected(image: CorrectedImage) -> Stack:
    """Return an image as a stack; without voxels where it lies neither in a file nor in a copy.

    Raises:
        SkipsegError: as `open_voxels`; it has no such channel.
    """
    values: ArrayLike = NoVoxels(image.shape, np.dtype(image.dtype))
    if image.file or image.copy:
        values = open_voxels(image.file, Path(image.copy), image.space.axes, image.shape)
    stack = Stack(values, image.space, image.name, image.file)
    return stack if image.channel is None else stack.channel(image.channel)


_PICTURES = count(1)


def iter_lesson_for(job: LessonJob) -> Generator[Progress, Keep | None, LessonPlanned]:
    """Yield while the corrections are looked through; return what would be learnt from them.

    Raises:
        SkipsegError: nothing can be learnt from them, with the cure.
    """
    from napari_skipseg.training.finetune.estimate import iter_plan_lesson

    return LessonPlanned(job.number, (yield from iter_plan_lesson(job.settings, _corrected(job), job.device)))


def iter_finetune_for(job: FinetuneJob, parent: Model) -> Generator[Progress, Keep | None, Taught]:
    """Yield as fine-tuning goes on; return what came of it.

    Raises:
        SkipsegError: as `training.finetune.run.iter_finetune`.
    """
    from napari_skipseg.training.finetune.run import iter_finetune

    _make(Path(job.target))
    where = (Path(job.target), job.device)
    done = yield from iter_finetune(job.settings, _corrected(job), *where, parent=parent, afresh=True)
    return Taught(job.number, str(done.folder), done.report)


def iter_train_for(job: TrainJob) -> Generator[Progress, Keep | None, Trained]:
    """Yield as training goes on; return the new model's folder.

    Raises:
        SkipsegError: as `training.train.iter_train`.
    """
    from napari_skipseg.training.train import iter_train

    _make(Path(job.target))
    if job.restart:
        shutil.rmtree(Path(job.target) / f"{job.settings.name}.training", ignore_errors=True)
    return Trained(job.number, str((yield from iter_train(job.settings, Path(job.target), job.device))))


def _corrected(job: FinetuneJob | LessonJob) -> tuple[Corrected, ...]:
    from napari_skipseg.training.finetune.labels import Corrected

    return tuple(
        Corrected(open_corrected(image), open_labels(image), image.name, open_strokes(image)) for image in job.images
    )


def _make(target: Path) -> None:
    """Make the folder of the models."""
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"The folder '{target}' cannot be made: {error.strerror}. Choose another one.") from error


def write_picture(picture: Pictured, folder: Path) -> tuple[str, str, str]:
    """Return the names of the files in `folder` that hold image, probability and target; "" for what there is not.

    Raises:
        FileError: the folder cannot be written.
    """
    number, names = next(_PICTURES), ["", "", ""]
    arrays = (picture.image, picture.probability, picture.target)
    try:
        for place, (what, values) in enumerate(zip(("image", "probability", "target"), arrays, strict=True)):
            if values is not None:
                names[place] = f"tile_{what}_{number}.npy"
                np.save(folder / names[place], values)
    except OSError as error:
        raise FileError(f"No picture can be written to {folder} ({error.strerror}): free some space there.") from error
    return names[0], names[1], names[2]


def event_of(progress: Progress, job: Job) -> Event:
    """Return what tells the viewer of `progress` in `job`; pictures are written into the job's folder."""
    number, how_far = job.number, (job.number, progress.done, progress.total, progress.message)
    if isinstance(progress, Opened) and progress.prediction is not None:
        return _describe(progress.prediction, number)
    if isinstance(progress, Found):
        return events.FoundAboutImage(*how_far, progress.findings, progress.seems_inverted)
    if isinstance(progress, Written):
        return events.TileWritten(*how_far, progress.region)
    if isinstance(progress, Learned):
        return events.CurvesMoved(*how_far, progress.step, progress.values)
    if isinstance(progress, Pictured) and isinstance(job, FinetuneJob | TrainJob):
        return events.TilePictured(*how_far, *write_picture(progress, Path(job.folder)))
    return event_of_batch(progress, number) or events.ProgressMade(*how_far)


def _describe(prediction: Prediction, number: int) -> events.ResultsOpened:
    attentions = tuple(
        events.AttentionFile(attention.level, attention.stride, f"attention_{attention.level}.npy")
        for attention in prediction.attentions
    )
    return events.ResultsOpened(
        number,
        prediction.space,
        prediction.class_names,
        attentions,
        prediction.recipe,
        prediction.uncertainty is not None,
    )


NAME = "found"
"""Of the files in the job's folder."""


@dataclass(frozen=True, eq=False)
class FoundObjects:
    """The objects of an image: where the labels lie, as `read_levels` opens them, their measurements, the recipe."""

    labels: Path
    count: int
    table: Table
    recipe: dict[str, Any]


def iter_find_for(job: ObjectsJob) -> Generator[Progress, None, events.ObjectsFound]:
    """Yield block by block; return what lies in the job's folder: an OME-Zarr of labels, and the table.

    Raises:
        SkipsegError: there is no such class, the values are no probabilities, the disk is full.
    """
    from napari_skipseg.inference.objects_to_folder import ObjectsAsked, describe_objects
    from napari_skipseg.objects.classes import class_probability
    from napari_skipseg.objects.find_in_blocks import ObjectsTarget, iter_find_objects
    from napari_skipseg.objects.measure import iter_measure

    probability = open_placed(job.probability)
    image = None if job.image is None else open_placed(job.image)
    yield Progress(0, 1, "reading the image")
    source = ProbabilityFile(probability, tuple(job.class_names), job.labels)
    recipe = describe_objects(ObjectsAsked(source, job.options, image, "ome-zarr"))
    target = ObjectsTarget(Path(job.folder), NAME, "ome-zarr", {**recipe, **job.recipe})
    found = yield from iter_find_objects(probability, job.class_names, job.options, target, job.labels)
    chosen = class_probability(probability, job.class_names, job.options, job.labels)
    axes = "".join(axis for axis in "TZYX" if axis in probability.space.axes)
    known = None if job.labels else chosen
    table = yield from iter_measure(read_stack(found.file, axes), image, known, job.options.planes)
    _write_table(table, Path(job.folder) / events.TABLE_FILE)
    return events.ObjectsFound(job.number, found.count, found.file.name, table.names, read_recipe(found.file) or {})


def open_placed(image: PlacedImage) -> Stack:
    """Return an image of a job.

    Raises:
        SkipsegError: as `open_voxels`.
    """
    values: Any
    if image.part is None:
        values = open_voxels(image.file, Path(image.copy), image.space.axes, image.shape)
    else:
        values = np.load(image.copy, mmap_mode="r")[image.part]
    if image.depth is not None:
        values = Stored(values, image.depth)
    return Stack(values, image.space, image.name, image.file)


def _write_table(table: Table, file: Path) -> None:
    try:
        np.savez(file, *table.columns)
    except OSError as error:
        raise FileError(
            f"The measurements cannot be written to {file.parent} ({error.strerror or error}): free some space there."
        ) from error


def open_found(folder: Path, result: events.ObjectsFound) -> FoundObjects:
    """Return the objects that lie in the job's folder.

    Raises:
        EngineError: a file is missing or damaged.
    """
    try:
        with np.load(folder / events.TABLE_FILE) as columns:
            table = Table(result.columns, tuple(columns[name] for name in columns.files))
    except (OSError, ValueError) as error:
        raise EngineError("The engine's table of objects cannot be read: try again.") from error
    return FoundObjects(folder / result.labels, result.count, table, result.recipe)
