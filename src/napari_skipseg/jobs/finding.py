"""Objects of a whole stack, found and measured in the engine process; and what the viewer makes of the results.

Loads without torch.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_skipseg.errors import EngineError, FileError
from napari_skipseg.images.files import read_recipe, read_stack
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.outputs import Stored
from napari_skipseg.jobs import events
from napari_skipseg.jobs.inputs import open_voxels
from napari_skipseg.jobs.requests import ObjectsJob, PlacedImage
from napari_skipseg.objects.files import ProbabilityFile
from napari_skipseg.objects.table import Table
from napari_skipseg.progress import Progress

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
    from napari_skipseg.objects.measure import iter_measure
    from napari_skipseg.objects.whole import ObjectsTarget, iter_find_objects

    probability = open_placed(job.probability)
    image = None if job.image is None else open_placed(job.image)
    yield Progress(0, 1, "reading the image")
    source = ProbabilityFile(probability, tuple(job.class_names), job.labels)
    recipe = describe_objects(ObjectsAsked(source, job.options, image, "ome-zarr"))
    target = ObjectsTarget(Path(job.folder), NAME, "ome-zarr", {**recipe, **job.recipe})
    found = yield from iter_find_objects(probability, job.class_names, job.options, target, job.labels)
    chosen = class_probability(probability, job.class_names, job.options, job.labels)
    axes = "".join(axis for axis in "TZYX" if axis in probability.axes)
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
        values = open_voxels(image.file, Path(image.copy), image.axes, image.shape)
    else:
        values = np.load(image.copy, mmap_mode="r")[image.part]
    if image.depth is not None:
        values = Stored(values, image.depth)
    return Stack(values, image.axes, image.voxel_size, image.unit, image.origin, image.name, image.file)


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
