"""One file of a batch, from the image to its record: a call that any process can make, with no state but the disk."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_skipseg.batch.crash_guard import GuardedFile, StoppedError, fault_of_folder, reason_of
from napari_skipseg.batch.engine import DeviceTurn, NetworkRunner
from napari_skipseg.batch.inputs import UNFINISHED, BatchInput, read_input
from napari_skipseg.batch.place import RunPlace, write_bytes
from napari_skipseg.batch.records import (
    FileRecord,
    describe_voxels,
    is_known_input,
    is_of_another,
    outputs_of,
    read_file_record,
    read_sizes,
    remarks_on,
    still_holds,
    write_file_record,
)
from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.batch.truths import find_truth, score_result
from napari_skipseg.errors import FileError, SkipsegError
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.images.files import read_recipe, read_stack
from napari_skipseg.images.formats import Format
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.prediction import Focus, TileWritten
from napari_skipseg.objects.block_cache import BLOCKS_FOLDER, search_folder
from napari_skipseg.objects.classes import ClassImage, tells_of_padding
from napari_skipseg.objects.files import describe_padding, iter_write_objects
from napari_skipseg.objects.find_in_blocks import ObjectsTarget, iter_find_blocks
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import Progress

if TYPE_CHECKING:
    from napari_skipseg.inference.to_folder import FolderTarget


_SIDE = 128
"""Of a thumbnail, in pixels, at the most."""
SEEN = 512
"""Pixels of the slice that it shows along each axis, at the most: a whole large slice would take its time to read."""
_COLOURS = np.array(((255, 140, 0), (0, 170, 255), (0, 200, 90), (230, 60, 200), (240, 220, 0)), np.float32)
"""Of the classes, in their order, then again from the first."""
STRENGTH = 0.75
QUALITY = 80
"""Of JPEG: 5 kB a picture, where PNG takes 30, so that the report of a thousand files opens quickly."""


def draw_thumbnail(stack: Stack, probability: Path, channel: int) -> bytes:
    """Return a JPEG of `stack` with the probability of our file `probability` over it.

    Raises:
        SkipsegError: one of them cannot be read.
    """
    values = _middle(stack.channel(min(channel, stack.length("C") - 1)))[0]
    low, high = np.percentile(values, (1, 99))
    grey = 255 * np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    found = read_stack(probability)
    shares = _middle(found) / (255 if np.dtype(found.data.dtype).kind in "ui" else 1)
    picture = np.repeat(grey[..., None], 3, axis=-1)
    for number, share in enumerate(shares):
        weight = STRENGTH * np.clip(share, 0, 1)[..., None]
        picture = (1 - weight) * picture + weight * _COLOURS[number % len(_COLOURS)]
    file = io.BytesIO()
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _middle(stack: Stack) -> NDArray[np.float32]:
    """Return (C, Y, X): the middle of the middle slice, made smaller by the mean of whole blocks."""
    index: list[int | slice] = []
    for axis, length in zip(stack.space.axes, stack.shape, strict=True):
        if axis in "YX":
            start = max(0, (length - SEEN) // 2)
            index.append(slice(start, start + min(SEEN, length)))
        else:
            index.append(slice(None) if axis == "C" else length // 2)
    values = stack.read(tuple(index))
    axes = "".join(axis for axis in stack.space.axes if axis in "CYX")
    if "C" not in axes:
        values, axes = values[None], f"C{axes}"
    values = values.transpose([axes.index(axis) for axis in "CYX"])
    step = max(1, -(-max(values.shape[1:]) // _SIDE))
    height, width = (max(1, length // step) for length in values.shape[1:])
    blocks = values[:, : height * step, : width * step].astype(np.float32)
    if blocks.shape[1:] != (height * step, width * step):  # thinner than a block
        return blocks[:, ::step, ::step]
    means: NDArray[np.float32] = blocks.reshape(len(blocks), height, step, width, step).mean(axis=(2, 4))
    return means


def iter_objects(
    image: Stack, probability: Path, class_names: Sequence[str], options: ObjectOptions, name: str, form: Format
) -> Generator[Progress, None, dict[str, Path]]:
    """Yield while objects are found in our file `probability`, and measured in it and in `image`; return the files.

    These are `<name>_objects.tif` (or .ome.zarr) with the recipe, and `<name>_objects.csv`, beside the probability;
    both appear when both are whole. Stopped or killed, it continues after the last block that was found.

    Raises:
        SkipsegError: there is no such class, or nothing can be written.
    """
    target = _target(probability, name, form)
    with search_folder(target.folder):
        found = yield from iter_write_objects(_source(probability, class_names, target), options, target, image)
        files = {"objects": found.labels, "objects table": found.table}
        return {result: _moved(file, probability.parent) for result, file in files.items()}


def iter_blocks_of_objects(
    probability: Path, class_names: Sequence[str], options: ObjectOptions, name: str, form: Format, numbers: range
) -> Generator[Progress, None, None]:
    """Yield while blocks of these numbers are found, for `iter_objects` to continue with: it was begun and stopped.

    Raises:
        SkipsegError: as `iter_objects`.
    """
    target = _target(probability, name, form)
    yield from iter_find_blocks(_source(probability, class_names, target), options, target, numbers)


def _source(probability: Path, class_names: Sequence[str], target: ObjectsTarget) -> ClassImage:
    return ClassImage(read_stack(probability), tuple(class_names), False, tells_of_padding(target.recipe))


def _target(probability: Path, name: str, form: Format) -> ObjectsTarget:
    recipe = {**(read_recipe(probability) or {}), "layer": "labels"}
    place = probability.parent / f"{name}.objects{UNFINISHED}"
    return ObjectsTarget(place, name, form, recipe, place / BLOCKS_FOLDER)


def _moved(file: Path, folder: Path) -> Path:
    target = folder / file.name
    with file_errors_as(target):
        if file.is_dir() and target.exists():
            shutil.rmtree(target)
        return file.replace(target)


_GOES_ON = "gone on with"
"""What is said of a file that was begun before."""


class FileOutcome(NamedTuple):
    """What became of a file now: "skipped" where its record holds already."""

    state: Literal["done", "skipped", "failed"]
    record: FileRecord


def segment_file(
    settings: BatchSettings, entry: BatchInput, place: RunPlace, engine: NetworkRunner
) -> Generator[Progress, Focus | None, FileOutcome]:
    """Yield while a file is segmented, its objects are found and it is scored; return what became of it.

    Whatever is wrong with the file becomes the reason in its record. Closed or killed, the same call continues from its
    last tile.

    Raises:
        FileError: nothing can be written to the run's folder any more.
        StoppedError: the engine was closed meanwhile.
    """
    begun = read_file_record(place.record(entry))
    try:
        if begun is not None and not still_holds(begun, place.path, entry.file):
            if is_of_another(begun, place.path, entry.file):
                reason = (
                    f"The results of another image of this name lie there ('{begun.file}'): choose another output "
                    "folder."
                )
                # not written: the record that is there belongs to the other image
                refused = FileRecord(entry.file, entry.relative, entry.name, "failed", reason=reason)
                return FileOutcome("failed", refused)
            begun = None
        if begun is not None:
            entry = entry._replace(name=begun.name)  # a file that came since may have changed what it would be called
        if begun is not None and begun.state == "done":
            return FileOutcome("skipped", _score_again(begun, settings, entry, place, engine))
        record = yield from _iter_work(settings, entry, place, engine, begun)
    except StoppedError:
        raise
    except Exception as error:
        fault = fault_of_folder(error, place.path)
        if fault is not None:
            raise fault from error
        record = _failed(entry, place, error)
    record = replace(record, ended=datetime.now().astimezone().isoformat(timespec="seconds"))
    write_file_record(place.record(entry), record, place.path)
    return FileOutcome("done" if record.state == "done" else "failed", record)


def _failed(entry: BatchInput, place: RunPlace, error: Exception) -> FileRecord:
    """Return the record of a file that failed; where it failed after it was segmented, that is kept."""
    begun = read_file_record(place.record(entry))
    if begun is not None and begun.state != "done" and still_holds(begun, place.path, entry.file):
        return replace(begun, state="failed", reason=reason_of(error))
    return FileRecord(
        entry.file, entry.relative, entry.name, "failed", is_known_input(entry.file), reason=reason_of(error)
    )


def _iter_work(
    settings: BatchSettings, entry: BatchInput, place: RunPlace, engine: NetworkRunner, begun: FileRecord | None
) -> Generator[Progress, Focus | None, FileRecord]:
    """Yield while what is left of a file is done; return its record. begun: of one that is segmented already."""
    request, opening = settings.request, engine.openings.look_at(entry)
    if opening.note.is_hopeless:
        raise FileError(opening.note.reason)
    with opening:
        stack = read_input(settings, entry)
        record = begun or (yield from _iter_segmented(stack, settings, entry, place, engine, opening))
        opening.passed()
    results = {_result_of(file, entry): file for file in record.files(place.path)}
    seconds = dict(record.seconds)
    if request.objects is not None:
        since = time.perf_counter()
        taken, names = engine.taken(stack, request.options), engine.model.description.class_names
        asked = (names, request.objects, entry.name, request.form)
        results |= yield from iter_objects(taken, results["probability"], *asked)
        sizes = read_sizes(results["objects table"])
        record = replace(record, objects=sizes.count, mean_size=sizes.mean, size_unit=sizes.unit)
        seconds["objects"] = time.perf_counter() - since
    yield Progress(1, 1, "its picture and scores")
    since = time.perf_counter()
    picture = _picture(stack, results["probability"], settings, entry, place)
    files = outputs_of(list(results.values()), place.path)
    seconds["picture"] = time.perf_counter() - since
    record = replace(record, state="done", reason="", outputs=files, seconds=seconds, thumbnail=picture)
    record = _scored(record, settings, entry, place, engine)
    parts = ("segmenting", "objects", "picture", "scores")
    return replace(record, seconds=record.seconds | {"all": sum(record.seconds.get(part, 0.0) for part in parts)})


def iter_blocks_of_file(
    settings: BatchSettings, entry: BatchInput, place: RunPlace, engine: NetworkRunner, numbers: range
) -> Generator[Progress, None, None]:
    """Yield while blocks of these numbers are looked at for objects, in a file that is segmented; `segment_file` was
    closed when it began with that, and continues from there.

    Raises:
        SkipsegError: it is not segmented any more, or nothing can be written.
    """
    record, objects = read_file_record(place.record(entry)), settings.request.objects
    if record is None or objects is None:
        raise FileError(f"'{entry.relative}' is not segmented any more: start the batch again.")
    entry = entry._replace(name=record.name)
    results = {_result_of(file, entry): file for file in record.files(place.path)}
    asked = (engine.model.description.class_names, objects, entry.name, settings.request.form)
    yield from iter_blocks_of_objects(results["probability"], *asked, numbers)


def _iter_segmented(
    stack: Stack,
    settings: BatchSettings,
    entry: BatchInput,
    place: RunPlace,
    engine: NetworkRunner,
    opening: GuardedFile,
) -> Generator[Progress, Focus | None, FileRecord]:
    """Yield while a file is segmented; return a record of that, written where more than moments are still to come."""
    from napari_skipseg.inference.to_folder import FolderTarget

    start, request = time.perf_counter(), settings.request
    before = is_known_input(entry.file)
    outdated = _is_outdated(place, entry, before)
    how = (request.depth, request.form, outdated, request.objects)
    goes_on = not outdated and _unfinished(place, entry).is_file()
    turn = engine.turn(opening)
    try:
        target = FolderTarget(place.results(entry), entry.name, *how)
        said = f"{_GOES_ON}, " if goes_on else ""
        files = yield from _iter_segment(stack, settings, target, engine, turn, opening, said)
    finally:
        turn.end()
    outputs, size = outputs_of(files, place.path), math.prod(stack.shape) * np.dtype(stack.data.dtype).itemsize
    seconds = {"segmenting": time.perf_counter() - start - turn.waited, "network": turn.seconds}
    image = (stack.shape, stack.space.axes, size)
    record = FileRecord(entry.file, entry.relative, entry.name, "segmented", before, outputs, seconds, *image)
    remarks = remarks_on(stack, engine.model.description, request.options)
    recipe = _recipe_of(target)
    if request.objects is not None and (padding := describe_padding(tells_of_padding(recipe), request.objects)):
        remarks += (padding,)
    record = replace(record, findings=tuple(recipe["findings"]), voxel_size=describe_voxels(stack), remarks=remarks)
    if request.objects is not None or settings.truth:
        write_file_record(place.record(entry), record, place.path)
    return record


def _iter_segment(
    stack: Stack,
    settings: BatchSettings,
    target: FolderTarget,
    engine: NetworkRunner,
    turn: DeviceTurn,
    opening: GuardedFile,
    said: str,
) -> Generator[Progress, Focus | None, list[Path]]:
    """Yield as `to_folder.iter_segment` does, with `said` before each message; the network is free for the next file
    once the last tile is written."""
    from napari_skipseg.inference.to_folder import iter_segment

    work = iter_segment(stack, engine.model, settings.request.options, target, turn, engine.chosen)
    focus: Focus | None = None
    with contextlib.closing(work):
        while True:
            try:
                progress = work.send(focus)
            except StopIteration as stop:
                files: list[Path] = stop.value
                return files
            if progress.done:
                opening.passed()
            if isinstance(progress, TileWritten) and progress.done >= progress.total:
                turn.end()
            focus = yield replace(progress, message=said + progress.message) if said else progress


def _recipe_of(target: FolderTarget) -> dict[str, Any]:
    """Return the recipe beside the results."""
    from napari_skipseg.inference.recipes.recipe import RECIPE_FILE

    recipe: dict[str, Any] = json.loads(target.sidecar(RECIPE_FILE).read_bytes())
    return recipe


def _is_outdated(place: RunPlace, entry: BatchInput, before: dict[str, Any] | None) -> bool:
    """Return whether an unfinished run lies there that is of what the file held before: it is thrown away."""
    try:
        facts = json.loads(_unfinished(place, entry).read_bytes())
        return bool(facts["key"]["input"] != before)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _unfinished(place: RunPlace, entry: BatchInput) -> Path:
    """Return the facts of a run of the file that was begun."""
    return place.results(entry) / f"{entry.name}{UNFINISHED}" / "run.json"


def _result_of(file: Path, entry: BatchInput) -> str:
    """Return "probability" for NAME_probability.tif, and "objects table" for NAME_objects.csv."""
    name = file.name.removeprefix(f"{entry.name}_").partition(".")[0]
    return f"{name} table" if file.suffix == ".csv" else name


def _picture(stack: Stack, probability: Path, settings: BatchSettings, entry: BatchInput, place: RunPlace) -> str:
    """Return where the thumbnail lies within the run's folder, "" if none could be drawn."""
    try:
        content = draw_thumbnail(stack, probability, settings.request.options.channel or 0)
    except (SkipsegError, ValueError, MemoryError):
        return ""
    write_bytes(place.thumbnail(entry), content)
    return place.thumbnail(entry).relative_to(place.path).as_posix()


def _score_again(
    record: FileRecord, settings: BatchSettings, entry: BatchInput, place: RunPlace, engine: NetworkRunner
) -> FileRecord:
    """Return the record of a file that is done, scored where its truth is another than it was."""
    scored = _scored(record, settings, entry, place, engine)
    if scored != record:
        write_file_record(place.record(entry), scored, place.path)
    return scored


def _scored(
    record: FileRecord, settings: BatchSettings, entry: BatchInput, place: RunPlace, engine: NetworkRunner
) -> FileRecord:
    """Return `record` with scores, or a note why there are none; a fault of the truth is none of the file."""
    if not settings.truth:
        return record
    try:
        truth = find_truth(settings, entry)
        if truth is None:
            return replace(record, scores={}, truth=None, note="no truth of its name")
        found = (is_known_input(str(truth)) or {}) | {"label": settings.truth_label}
        if record.scores and found == record.truth:
            return record
        start = time.perf_counter()
        results = {_result_of(file, entry): file for file in record.files(place.path)}
        scores, note = score_result(results, truth, engine.model.description, settings.truth_label)
        seconds = record.seconds | {"scores": time.perf_counter() - start}
        return replace(record, scores=scores, truth=found, note=note, seconds=seconds)
    except (SkipsegError, ValueError, MemoryError) as error:
        return replace(record, scores={}, truth=None, note=f"Not scored: {reason_of(error)}")
