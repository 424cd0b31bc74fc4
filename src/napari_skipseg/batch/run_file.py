"""One file of a batch, from the image to its record. Any process can do this: all state is on the disk."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
import time
from collections.abc import Generator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_skipseg.batch.companions import find_mask_of, find_truth_of
from napari_skipseg.batch.crash_guard import GuardedFile, StoppedError, fault_of_folder, reason_of
from napari_skipseg.batch.engine import DeviceTurn, FileJob
from napari_skipseg.batch.inputs import read_input
from napari_skipseg.batch.place import write_bytes
from napari_skipseg.batch.records import (
    FileRecord,
    describe_voxels,
    fingerprint_of,
    is_of_another,
    outputs_of,
    read_file_record,
    read_sizes,
    remarks_on,
    still_holds,
    write_file_record,
)
from napari_skipseg.batch.truths import score_result
from napari_skipseg.errors import FileError, SkipsegError
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.images.files import read_recipe, read_stack
from napari_skipseg.images.formats import UNFINISHED
from napari_skipseg.images.mask import cut_to_results
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.prediction import Focus, TileWritten
from napari_skipseg.objects.block_cache import BLOCKS_FOLDER, search_folder
from napari_skipseg.objects.classes import ClassImage, records_padding, thresholds_in
from napari_skipseg.objects.files import describe_padding, iter_write_objects
from napari_skipseg.objects.find_in_blocks import ObjectsTarget, iter_find_blocks
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import Progress

_SIDE = 128
"""Longest side of a thumbnail in pixels."""
SEEN = 512
"""Most pixels of the slice that it shows along each axis: reading a large slice whole would take too long."""
_COLOURS = np.array(((255, 140, 0), (0, 170, 255), (0, 200, 90), (230, 60, 200), (240, 220, 0)), np.float32)
"""Colours of the classes in their order, then again from the first."""
STRENGTH = 0.75
QUALITY = 80
"""JPEG quality: a picture has 5 kB (as PNG 30 kB), so that the report of a thousand files opens quickly."""


def draw_thumbnail(stack: Stack, probability: Path, channel: int) -> bytes:
    """Return a JPEG of `stack` with the probability in the file `probability` over it.

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
    """Return the middle of the middle slice, shape (C, Y, X), reduced to the means of blocks."""
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


class FileOutcome(NamedTuple):
    """The result of a file: "skipped" if an earlier record is still valid."""

    state: Literal["done", "skipped", "failed"]
    record: FileRecord


def segment_file(job: FileJob) -> Generator[Progress, Focus | None, FileOutcome]:
    """Segment a file, find its objects and score it; yield the progress, and return the outcome.

    A fault of the file becomes the reason in its record. Closed or killed, the same call continues from the last tile.

    Raises:
        FileError: nothing more can be written to the run's folder.
        StoppedError: the engine was closed meanwhile.
    """
    entry, place = job.entry, job.place
    begun = read_file_record(place.record(entry))
    try:
        mask = find_mask_of(job.settings, entry)
        if begun is not None and not still_holds(begun, place.path, entry.file, mask):
            if is_of_another(begun, place.path, entry.file):
                reason = (
                    f"The results of a different image with this name lie there ('{begun.file}'): choose a different "
                    "output folder."
                )
                # not written: the record that is there belongs to the other image
                refused = FileRecord(entry.file, entry.relative, entry.name, "failed", reason=reason)
                return FileOutcome("failed", refused)
            begun = None
        if begun is not None:
            # a file that was added to the inputs since may have changed the name that this one would get
            job = replace(job, entry=entry._replace(name=begun.name))
        if begun is not None and begun.state == "done":
            return FileOutcome("skipped", _score_again(begun, job))
        record = yield from _iter_work(job, begun, mask)
    except StoppedError:
        raise
    except Exception as error:
        fault = fault_of_folder(error, place.path)
        if fault is not None:
            raise fault from error
        record = _failed(job, error)
    record = replace(record, ended=datetime.now().astimezone().isoformat(timespec="seconds"))
    write_file_record(place.record(entry), record, place.path)
    return FileOutcome("done" if record.state == "done" else "failed", record)


def _failed(job: FileJob, error: Exception) -> FileRecord:
    """Return the record of a file that failed; if that was after its segmentation, the segmentation is kept."""
    entry, place = job.entry, job.place
    begun = read_file_record(place.record(entry))
    with contextlib.suppress(SkipsegError):  # without its mask nothing holds
        mask = find_mask_of(job.settings, entry)
        if begun is not None and begun.state != "done" and still_holds(begun, place.path, entry.file, mask):
            return replace(begun, state="failed", reason=reason_of(error))
    return FileRecord(
        entry.file, entry.relative, entry.name, "failed", fingerprint_of(entry.file), reason=reason_of(error)
    )


def _iter_work(
    job: FileJob, begun: FileRecord | None, mask: Path | None
) -> Generator[Progress, Focus | None, FileRecord]:
    """Do all that is left of a file, and return its record. begun: the record of an earlier segmentation."""
    request, opening = job.settings.request, job.engine.crash_guard.guard(job.entry)
    if opening.note.is_hopeless:
        raise FileError(opening.note.reason)
    with opening:
        stack = read_input(job.settings, job.entry)
        record = begun or (yield from _iter_segmented(stack, job, mask, opening))
        opening.passed()
    stack = cut_to_results(stack, request.options.box, None if mask is None else str(mask))
    results = _results_of(record, job)
    seconds = dict(record.seconds)
    if request.objects is not None:
        since = time.perf_counter()
        results |= yield from _iter_objects(stack, results["probability"], request.objects, job)
        sizes = read_sizes(results["objects table"])
        record = replace(record, objects=sizes.count, mean_size=sizes.mean, size_unit=sizes.unit)
        seconds["objects"] = time.perf_counter() - since
    yield Progress(1, 1, "its picture and scores")
    since = time.perf_counter()
    picture = _write_thumbnail(stack, results["probability"], job)
    files = outputs_of(list(results.values()), job.place.path)
    seconds["picture"] = time.perf_counter() - since
    record = replace(record, state="done", reason="", outputs=files, seconds=seconds, thumbnail=picture)
    record = _scored(record, job)
    parts = ("segmenting", "objects", "picture", "scores")
    return replace(record, seconds=record.seconds | {"all": sum(record.seconds.get(part, 0.0) for part in parts)})


def _iter_objects(
    stack: Stack, probability: Path, options: ObjectOptions, job: FileJob
) -> Generator[Progress, None, dict[str, Path]]:
    """Find objects in the file `probability`, measure them in it and in `stack`, and return the files by result.

    These are `<name>_objects.tif` (or .ome.zarr) with the recipe, and `<name>_objects.csv`, beside the probability;
    both appear when both are whole. Stopped or killed, it continues after the last block that was found.
    """
    from napari_skipseg.inference.predict import select_channel

    image = select_channel(stack, job.engine.model, job.settings.request.options)
    target = _objects_target(probability, job)
    with search_folder(target.folder):
        source = _objects_source(probability, target, job)
        found = yield from iter_write_objects(source, options, target, image)
        moved = {}
        for result, file in {"objects": found.labels, "objects table": found.table}.items():
            final = moved[result] = probability.parent / file.name
            with file_errors_as(final):
                if file.is_dir() and final.exists():
                    shutil.rmtree(final)
                file.replace(final)
        return moved


def iter_blocks_of_file(job: FileJob, numbers: range) -> Generator[Progress, None, None]:
    """Find the objects in blocks of these numbers, in a segmented file; yield after each.

    `segment_file` was closed when it began to find objects, and continues from these blocks.

    Raises:
        SkipsegError: the file is not segmented any more, or nothing can be written.
    """
    entry, options = job.entry, job.settings.request.objects
    record = read_file_record(job.place.record(entry))
    if record is None or options is None:
        raise FileError(f"'{entry.relative}' is not segmented any more: start the batch again.")
    job = replace(job, entry=entry._replace(name=record.name))
    probability = _results_of(record, job)["probability"]
    target = _objects_target(probability, job)
    yield from iter_find_blocks(_objects_source(probability, target, job), options, target, numbers)


def _objects_source(probability: Path, target: ObjectsTarget, job: FileJob) -> ClassImage:
    names = job.engine.model.description.class_names
    has_padding, own = records_padding(target.recipe), thresholds_in(target.recipe)
    return ClassImage(read_stack(probability), names, False, has_padding, thresholds=own)


def _objects_target(probability: Path, job: FileJob) -> ObjectsTarget:
    recipe = {**(read_recipe(probability) or {}), "layer": "labels"}
    place = probability.parent / f"{job.entry.name}.objects{UNFINISHED}"
    return ObjectsTarget(place, job.entry.name, job.settings.request.form, recipe, place / BLOCKS_FOLDER)


def _iter_segmented(
    stack: Stack, job: FileJob, mask: Path | None, opening: GuardedFile
) -> Generator[Progress, Focus | None, FileRecord]:
    """Segment a file and return the record of that; write the record if objects or scores follow."""
    from napari_skipseg.inference.recipes.recipe import RECIPE_FILE
    from napari_skipseg.inference.run_spec import RunSpec
    from napari_skipseg.inference.to_folder import FolderTarget, iter_segment

    start, request, entry, place = time.perf_counter(), job.settings.request, job.entry, job.place
    before, masked = fingerprint_of(entry.file), None if mask is None else fingerprint_of(str(mask))
    is_outdated = _is_outdated(job, before, masked)
    continues = not is_outdated and _run_file(job).is_file()
    turn = job.engine.turn(opening)
    try:
        target = FolderTarget(
            place.results(entry),
            entry.name,
            request.depth,
            request.form,
            restart=is_outdated,
            objects=request.objects,
        )
        options = request.options if mask is None else replace(request.options, mask=str(mask))
        spec = RunSpec(stack, job.engine.model, options, backend_maker=turn, pinned=job.engine.chosen)
        work = iter_segment(spec, target)
        files = yield from _iter_tiles(work, turn, opening, "continued, " if continues else "")
    finally:
        turn.end()
    recipe = json.loads(target.sidecar(RECIPE_FILE).read_bytes())
    remarks = remarks_on(stack, job.engine.model.description, request.options)
    if request.objects is not None and (padding := describe_padding(records_padding(recipe), request.objects)):
        remarks += (padding,)
    record = FileRecord(
        entry.file,
        entry.relative,
        entry.name,
        "segmented",
        before,
        outputs_of(files, place.path),
        {"segmenting": time.perf_counter() - start - turn.waited, "network": turn.seconds},
        shape=stack.shape,
        axes=stack.space.axes,
        bytes=math.prod(stack.shape) * np.dtype(stack.data.dtype).itemsize,
        findings=tuple(recipe["findings"]),
        voxel_size=describe_voxels(stack),
        remarks=remarks,
        mask=masked,
    )
    if request.objects is not None or job.settings.truth:
        write_file_record(place.record(entry), record, place.path)
    return record


def _iter_tiles(
    work: Generator[Progress, Focus | None, list[Path]], turn: DeviceTurn, opening: GuardedFile, prefix: str
) -> Generator[Progress, Focus | None, list[Path]]:
    """Yield like `to_folder.iter_segment`, which is `work`, with `prefix` before each message; return the files.

    The network is released for the next file once the last tile is written.
    """
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
            focus = yield replace(progress, message=prefix + progress.message)


def _is_outdated(job: FileJob, before: dict[str, Any] | None, masked: dict[str, Any] | None) -> bool:
    """Return whether an unfinished run was begun with an earlier content of the file or of its mask."""
    try:
        key = json.loads(_run_file(job).read_bytes())["key"]
        return bool((key["input"], key.get("content of the mask")) != (before, masked))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _run_file(job: FileJob) -> Path:
    """Return the file with the facts of an unfinished run."""
    return job.unfinished / "run.json"


def _results_of(record: FileRecord, job: FileJob) -> dict[str, Path]:
    """Return the files by result: "probability" for NAME_probability.tif, "objects table" for NAME_objects.csv."""
    results = {}
    for file in record.files(job.place.path):
        name = file.name.removeprefix(f"{job.entry.name}_").partition(".")[0]
        results[f"{name} table" if file.suffix == ".csv" else name] = file
    return results


def _write_thumbnail(stack: Stack, probability: Path, job: FileJob) -> str:
    """Return the path of the thumbnail within the run's folder, "" if none could be drawn."""
    try:
        content = draw_thumbnail(stack, probability, job.settings.request.options.channel or 0)
    except (SkipsegError, ValueError, MemoryError):
        return ""
    file = job.place.thumbnail(job.entry)
    write_bytes(file, content)
    return file.relative_to(job.place.path).as_posix()


def _score_again(record: FileRecord, job: FileJob) -> FileRecord:
    """Return the record of a file that is done; score the file if its truth has changed."""
    scored = _scored(record, job)
    if scored != record:
        write_file_record(job.place.record(job.entry), scored, job.place.path)
    return scored


def _scored(record: FileRecord, job: FileJob) -> FileRecord:
    """Return `record` with scores, or with a note why there are none; a fault of the truth does not fail the file."""
    settings = job.settings
    if not settings.truth:
        return record
    try:
        truth = find_truth_of(settings, job.entry)
        if truth is None:
            return replace(record, scores={}, truth=None, note="no truth of its name")
        found = (fingerprint_of(str(truth)) or {}) | {"label": settings.truth_label}
        if record.scores and found == record.truth:
            return record
        start = time.perf_counter()
        description = job.engine.model.description
        scores, note = score_result(_results_of(record, job), truth, description, settings.truth_label)
        seconds = record.seconds | {"scores": time.perf_counter() - start}
        return replace(record, scores=scores, truth=found, note=note, seconds=seconds)
    except (SkipsegError, ValueError, MemoryError) as error:
        return replace(record, scores={}, truth=None, note=f"Not scored: {reason_of(error)}")
