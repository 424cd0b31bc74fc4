"""Objects from file to files: the labels and the table of their measurements beside each other."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from napari_skipseg.errors import InputError, SkipsegError
from napari_skipseg.images.box import box_from_text, cut_to_box
from napari_skipseg.images.files import holds_labels, read_recipe, read_stack
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.classes import (
    ClassImage,
    holds_few_values,
    in_box,
    probability_of_class,
    records_padding,
    thresholds_in,
)
from napari_skipseg.objects.find_in_blocks import ObjectsTarget, iter_find_objects
from napari_skipseg.objects.measure import iter_measure
from napari_skipseg.objects.options import THICK, ObjectOptions, ObjectPlanes
from napari_skipseg.objects.table import ObjectTable
from napari_skipseg.progress import Progress

OBJECTS_TYPE = np.dtype(np.uint32)
"""What objects are written as; images of classes have fewer bits."""


@dataclass(frozen=True)
class ObjectFiles:
    """The two files that were written, and how many objects there are."""

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
) -> ClassImage:
    """Return a probability, a binary image or labels of classes; voxels are read when they are looked at.

    A file of ours says which of them it is. Any other image of integers up to 31 is taken for labels.

    Raises:
        FileError: as `images.files.read_stack`.
        InputError: so too; or the file contains objects that were found before.
    """
    stack = read_stack(path, axes, voxel_size, unit)
    recipe = read_recipe(path) or {}
    if recipe.get("layer") == "labels" and stack.data.dtype == OBJECTS_TYPE:
        raise InputError(
            f"'{path}' contains objects, as they were found already: give the probability, or the binary image, that "
            "they are to be found in."
        )
    names = tuple(str(name) for name in recipe.get("classes", ()))
    labels = holds_labels(path) or (not names and holds_few_values(stack))
    return ClassImage(
        stack, names, labels, records_padding(recipe), read_tissue(path, stack, recipe), thresholds_in(recipe)
    )


def planes_of_objects(stack: Stack) -> ObjectPlanes:
    """Return what the objects of a label image were found in: "slices" if its file says so, else "volume".

    Raises:
        FileError: as `images.files.read_recipe`.
    """
    if not stack.file or stack.data.dtype != OBJECTS_TYPE:  # binary images name planes too, for a later search
        return "volume"
    return planes_in(read_recipe(stack.file) or {})


def planes_in(recipe: Mapping[str, Any]) -> ObjectPlanes:
    """Return the planes that the recipe of objects names, "volume" if it names none."""
    options = recipe.get("objects")
    return "slices" if isinstance(options, Mapping) and options.get("planes") == "slices" else "volume"


def read_tissue(path: str | PathLike[str], labels: Stack, recipe: Mapping[str, Any]) -> Stack | None:
    """Return the probability beside labels of ours, which is 0 exactly in the padding that the run left out.

    None if `path` contains no labels, the run left nothing out, or there is no probability of the same run.
    """
    head, mark, tail = fspath(path).rpartition("_binary")
    if not mark or recipe.get("layer") != "labels" or not records_padding(recipe):
        return None
    beside = f"{head}_probability{tail}"
    try:
        if {**(read_recipe(beside) or {}), "layer": "labels"} != recipe:
            return None
        tissue = read_stack(beside).channel(0)  # each class is 0 in the padding, and no class anywhere else
    except SkipsegError:
        return None
    return tissue if (tissue.shape, tissue.axes) == (labels.shape, labels.axes) else None


def doubt_about(found: ClassImage) -> str:
    """Return in a sentence what a file without a recipe of ours is taken for, if that may be wrong; else "".

    Values of 0 and 1, or of 0 and the largest of their type, and fractions leave no doubt.
    """
    stack = found.stack
    if stack.data.dtype.kind == "f" or (stack.file and read_recipe(stack.file) is not None):
        return ""
    largest = 1 if stack.data.dtype.kind == "b" else int(np.iinfo(stack.data.dtype).max)
    marks = (values[values != 0] for values in map(stack.read, stack.slices("YX")))
    if all(not of.size or ((of == of[0]).all() and int(of[0]) in (1, largest)) for of in marks):
        return ""
    if found.labels:
        return f"'{stack.name}' does not say what it holds. It is read as labels of classes: all above 0 is one class."
    return (
        f"'{stack.name}' does not say what it holds. It is read as probability × {largest}: if it is a raw image, "
        "segment it first."
    )


def doubt_about_planes(stack: Stack, options: ObjectOptions) -> str:
    """Return in a sentence that cells of each slice may be better, if cells are requested in thick slices; else ""."""
    z, _, x = stack.space.voxel_size
    if options.method != "cells" or options.planes == "slices" or "Z" not in stack.space.axes or z < THICK * x:
        return ""
    return (
        f"the slices of '{stack.name}' are {z / x:.3g} times as thick as its pixels are wide: cells of each slice, "
        "with --planes slices, are often better than those of the volume."
    )


def describe_padding(has_padding: bool, options: ObjectOptions, labels: bool = False) -> str:
    """Return in a sentence how areas without tissue are treated, "" if there are none or they do not matter.

    labels: objects are found in labels that do not show where these areas are.
    """
    if not has_padding or options.method != "cells":
        return ""
    if not labels:
        return "Areas without tissue that were left out are no cells."
    return (
        "Labels do not show which areas without tissue were left out, so these count as cells: find the cells in the "
        "probability of the same segmentation."
    )


def iter_write_objects(
    image: ClassImage, options: ObjectOptions, target: ObjectsTarget, grey: Stack | None = None
) -> Generator[Progress, None, ObjectFiles]:
    """Yield while objects are found and measured; return `<name>_objects.tif` (or .ome.zarr) and `<name>_objects.csv`.

    grey: values to measure. Memory holds a few blocks, and the table.

    Raises:
        FileError, InputError: as `iter_find_objects` and `iter_measure`.
    """
    found = yield from iter_find_objects(image, options, target)
    image = in_box(image, options)
    if grey is not None and options.box:
        grey = cut_to_box(grey, box_from_text(options.box))
    axes = "".join(axis for axis in "TZYX" if axis in image.stack.space.axes)
    chosen = None if image.labels else probability_of_class(image, options)
    measured = yield from iter_measure(read_stack(found.file, axes), grey, chosen, options.planes)
    table = target.folder / f"{target.name}_objects.csv"
    measured.write_csv(table)
    return ObjectFiles(found.file, table, found.count)
