"""Objects from file to files: the labels and the table of their measurements beside each other."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.files import holds_labels, read_recipe, read_stack
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.classes import holds_few_values, probability_of_class, tells_of_padding
from napari_skipseg.objects.find_in_blocks import ObjectsTarget, iter_find_objects
from napari_skipseg.objects.measure import iter_measure
from napari_skipseg.objects.options import THICK, ObjectOptions
from napari_skipseg.objects.table import ObjectTable
from napari_skipseg.progress import Progress

OBJECTS_TYPE = np.dtype(np.uint32)
"""What objects are written as; images of classes have fewer bits."""


class ProbabilityFile(NamedTuple):
    """An image in which objects can be found: its classes' names where it says them, and whether it holds labels.

    has_padding: it came of a segmentation that left areas without tissue out.
    """

    stack: Stack
    class_names: tuple[str, ...]
    labels: bool
    has_padding: bool = False


@dataclass(frozen=True)
class ObjectFiles:
    """What was written: the image of labels, the table of measurements; and how many objects there are."""

    labels: Path
    table: Path
    count: int


@dataclass(frozen=True, eq=False)
class FoundObjects:
    """The objects of an image: where the labels lie, as `read_levels` opens them, their measurements, the recipe."""

    labels: Path
    count: int
    table: ObjectTable
    recipe: dict[str, Any]


def read_probability(
    path: str | PathLike[str],
    axes: str | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    unit: str | None = None,
) -> ProbabilityFile:
    """Return a probability, a binary image or labels of classes, read only where they are looked at.

    A file of ours says which it is. Of others, whole numbers up to 31 throughout are labels.

    Raises:
        FileError: as `images.files.read_stack`.
        InputError: so too; it holds objects that were found already.
    """
    stack = read_stack(path, axes, voxel_size, unit)
    recipe = read_recipe(path) or {}
    if recipe.get("layer") == "labels" and stack.data.dtype == OBJECTS_TYPE:
        raise InputError(
            f"'{path}' holds objects, as they were found already: give the probability, or the binary image, that they "
            "are to be found in."
        )
    names = tuple(str(name) for name in recipe.get("classes", ()))
    labels = holds_labels(path) or (not names and holds_few_values(stack))
    return ProbabilityFile(stack, names, labels, tells_of_padding(recipe))


def doubt_about(found: ProbabilityFile) -> str:
    """Return in a sentence what a file without a recipe of ours is taken for, where that may be wrong; else "".

    What is sure: values of 0 and 1, or of 0 and the largest of their type, and fractions.
    """
    stack = found.stack
    if stack.data.dtype.kind == "f" or (stack.file and read_recipe(stack.file) is not None):
        return ""
    largest = 1 if stack.data.dtype.kind == "b" else int(np.iinfo(stack.data.dtype).max)
    if all(_is_mask(stack.read(place), largest) for place in stack.slices("YX")):
        return ""
    if found.labels:
        return f"'{stack.name}' says not what it holds, and is read as labels of classes: all above 0 is one class."
    return (
        f"'{stack.name}' says not what it holds, and is read as probability × {largest}: where it is a raw image, "
        "segment it first."
    )


def doubt_about_planes(stack: Stack, options: ObjectOptions) -> str:
    """Return in a sentence that objects are asked for in a volume whose slices are thick, where they are; else ""."""
    z, _, x = stack.space.voxel_size
    if options.method != "cells" or options.planes == "slices" or "Z" not in stack.space.axes or z < THICK * x:
        return ""
    return (
        f"the slices of '{stack.name}' are {z / x:.3g} times as thick as its pixels are wide: cells of each slice, "
        "with --planes slices, are often better than those of the volume."
    )


def describe_padding(has_padding: bool, options: ObjectOptions, labels: bool = False) -> str:
    """Return in a sentence what becomes of areas without tissue, "" if there are none or they do not matter."""
    if not has_padding or options.method != "cells":
        return ""
    if not labels:
        return "Areas without tissue that were left out are no cells."
    return (
        "Labels do not tell areas without tissue, which were left out, from cells: find the cells in the probability "
        "of the same segmentation."
    )


def _is_mask(values: NDArray[Any], largest: int) -> bool:
    low = values[values != 0]
    return bool(not low.size or ((low == low[0]).all() and int(low[0]) in (1, largest)))


def iter_write_objects(
    probability: Stack,
    class_names: Sequence[str],
    options: ObjectOptions,
    target: ObjectsTarget,
    image: Stack | None = None,
    labels: bool = False,
    has_padding: bool = False,
) -> Generator[Progress, None, ObjectFiles]:
    """Yield while objects are found and measured; return `<name>_objects.tif` (or .ome.zarr) and `<name>_objects.csv`.

    image: grey values to measure. The rest as `iter_find_objects`. Memory holds a block, and the table.

    Raises:
        FileError, InputError: as `iter_find_objects` and `iter_measure`.
    """
    found = yield from iter_find_objects(probability, class_names, options, target, labels, has_padding=has_padding)
    chosen = probability_of_class(probability, class_names, options, labels)
    measured = yield from iter_measure(read_stack(found.file, _axes_of(probability)), image, chosen, options.planes)
    table = target.folder / f"{target.name}_objects.csv"
    measured.write_csv(table)
    return ObjectFiles(found.file, table, found.count)


def _axes_of(stack: Stack) -> str:
    return "".join(axis for axis in "TZYX" if axis in stack.space.axes)
