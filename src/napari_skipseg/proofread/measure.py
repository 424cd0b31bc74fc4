"""Measurements that follow the edits: objects that were changed are measured again in their boxes, all others stay."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.classes import ClassImage, ClassProbability, probability_of_class
from napari_skipseg.objects.measure import measure_objects
from napari_skipseg.objects.table import ObjectTable
from napari_skipseg.proofread.state import ObjectsUnderEdit, VoxelBox


@dataclass(frozen=True, eq=False)
class MeasuredImages:
    """What is measured in each object: grey values of an image, and the probability; None = not measured."""

    image: Stack | None = None
    probability: ClassProbability | None = None


def measured_images(objects: ObjectsUnderEdit, source: ClassImage | Stack, image: Stack | None) -> MeasuredImages:
    """Return what is measured in objects of a source, as when they were found."""
    if isinstance(source, Stack) or source.labels:
        return MeasuredImages(image)
    return MeasuredImages(image, probability_of_class(source, objects.regions.options))


def measure_changed(
    objects: ObjectsUnderEdit, table: ObjectTable, changed: Collection[int], measured: MeasuredImages
) -> ObjectTable:
    """Return the table with the rows of changed objects measured anew; it equals the table of all objects.

    Raises:
        EditRefusedError: the box of a changed object is too large.
    """
    labels = table.column("label")
    kept = ~np.isin(labels, list(changed))
    columns = [[column[kept]] for column in table.columns]
    for label in sorted(changed):
        row = _measure_one(objects, label, measured)
        if row is None:
            continue
        for name, parts in zip(table.names, columns, strict=True):
            parts.append(row.column(name) if name in row.names else np.full(1, np.nan))
    whole = [np.concatenate(parts) for parts in columns]
    order = np.argsort(whole[table.names.index("label")], kind="stable")
    return ObjectTable(table.names, tuple(column[order] for column in whole))


def _measure_one(objects: ObjectsUnderEdit, label: int, measured: MeasuredImages) -> ObjectTable | None:
    """Return the row of an object, None if it has no voxels."""
    regions = objects.regions_of(label)
    if not regions.size:
        return None
    time, (deep, high, wide) = objects.box_of(regions)
    if deep.stop - deep.start == 1 < objects.shape[1]:  # a single slice would be measured as a plane
        deep = slice(deep.start, deep.stop + 1) if deep.stop < objects.shape[1] else slice(deep.start - 1, deep.stop)
    box = deep, high, wide
    mask: NDArray[np.bool_] = objects.read_objects(time, box) == label
    if not mask.any():
        return None
    # The mask holds 1, not the label: tables of sums have a row for each number up to the largest.
    space = objects.regions.space
    axes = "".join(axis for axis in "TZYX" if axis in space.axes)
    cut = mask.astype(np.uint32)[(None,) if "T" in axes else ()]
    stack = Stack(cut if "Z" in axes else cut[..., 0, :, :], _shifted(space.with_axes(axes), box), "object")
    image = None if measured.image is None else _cut(measured.image, time, box)
    probability = measured.probability
    if probability is not None:
        tissue = None if probability.tissue is None else _cut(probability.tissue, time, box)
        probability = replace(probability, stack=_cut(probability.stack, time, box), tissue=tissue)
    row = measure_objects(stack, image, probability, objects.regions.options.planes)
    offsets = {"time": time, "label": label - 1}
    for name, side in zip("zyx", box, strict=True):
        offsets |= {f"bounding box {name} start": side.start, f"bounding box {name} end": side.start}
    columns = tuple(
        column + offsets.get(name, 0) if name in offsets else column
        for name, column in zip(row.names, row.columns, strict=True)
    )
    return ObjectTable(row.names, columns)


def _cut(stack: Stack, time: int, box: VoxelBox) -> Stack:
    """Return the part of a stack in a box at a time, in memory."""
    places: dict[str, Any] = {"T": slice(time, time + 1), "C": slice(None), **dict(zip("ZYX", box, strict=True))}
    values = stack.read(tuple(places[axis] for axis in stack.space.axes))
    return Stack(values, _shifted(stack.space, box), stack.name)


def _shifted(space: Space, box: VoxelBox) -> Space:
    return space.shifted({axis: side.start for axis, side in zip("ZYX", box, strict=True)})
