"""The regions that objects are made of, and where each lies. Edits change which object a region belongs to.

Objects that were found in a probability have basins (or components), with a graph of their contacts. Labels of another
program have one region per object, and no graph.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import LazyArray, Stack
from napari_skipseg.objects.agglomerate import objects_by_contacts
from napari_skipseg.objects.block_regions import VoxelSpacing, relabel
from napari_skipseg.objects.classes import ClassImage, ClassProbability, in_mask, probability_of_class, read_block
from napari_skipseg.objects.contact_statistics import READ_AT_ONCE, ContactStatistics, iter_contact_statistics
from napari_skipseg.objects.find import objects_of_regions, regions_of_all_times, spacing_of
from napari_skipseg.objects.find_in_blocks import iter_find_regions
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.region_graph import RegionGraph
from napari_skipseg.objects.watershed import FULL
from napari_skipseg.progress import Progress
from napari_skipseg.scores.table import compiled

IN_MEMORY = 2**27
"""Voxels up to which regions are found in memory: 0.5 GiB of labels, and some 3 GiB while they are found."""

_SPARSE = 2**24
"""Labels of another program may have any numbers. From this number on they are looked up instead of used as places."""

_FAR = np.iinfo(np.int32).max


@dataclass(frozen=True, eq=False)
class Regions:
    """Regions 1, 2, … of an image, 0 = none.

    labels: the region at each voxel, (T, Z, Y, X). objects: the object of each region, from region 0 on, which has
    none. boxes: of each region, (time, z start, z stop, y start, y stop, x start, x stop). space: of the image, without
    C. graph: region n is the node n - 1; None for labels of another program. options: how the objects were found.
    statistics: of contacts, if there is a graph with contacts. probability: in which the regions were found, if there
    is a graph.
    """

    labels: Any
    objects: NDArray[np.uint32]
    boxes: NDArray[np.int32]
    space: Space
    graph: RegionGraph | None = None
    options: ObjectOptions = field(default_factory=ObjectOptions)
    statistics: ContactStatistics | None = None
    probability: ClassProbability | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The lengths along T, Z, Y and X."""
        t, z, y, x = self.labels.shape
        return t, z, y, x

    @property
    def known_graph(self) -> RegionGraph:
        """The graph of regions of a probability.

        Raises:
            ValueError: these are labels of another program.
        """
        if self.graph is None:
            raise ValueError("labels of another program have no graph")
        return self.graph

    @property
    def spacing(self) -> VoxelSpacing:
        """The sides of a voxel in units of its side along X, 0 along Z if objects are of each slice on its own."""
        z, y, x = self.space.voxel_size
        return (z / x if self.are_linked else 0.0), y / x, 1.0

    @property
    def are_linked(self) -> bool:
        """Whether objects go through the slices, and are not of each slice on its own."""
        return self.options.planes == "volume"


def iter_regions_of_probability(
    image: ClassImage, options: ObjectOptions, folder: Path | None = None, block: tuple[int, int, int] | None = None
) -> Generator[Progress, None, Regions]:
    """Yield while the regions of a probability are found; return them.

    folder: where the labels of a large image lie, block by block; it must stay. Without it, all is in memory. Both give
    the same regions.

    Raises:
        FileError, InputError: as `iter_find_objects`.
    """
    image = in_mask(image, options)
    space, labels = image.stack.space.without("C"), None
    chosen = probability_of_class(image, options)
    if folder is not None:
        found = yield from iter_find_regions(image, options, folder, block)
        labels, graph, objects = found.labels, found.graph, found.objects
    else:
        yield Progress(0, 2, "finding regions")
        spacing = spacing_of(image.stack, options)
        flat, graph = regions_of_all_times(chosen, options, spacing)
        objects = objects_of_regions(graph, options, spacing, (flat.shape[0], flat.shape[1], flat.shape[2]))
        if options.method == "components":  # numbered in the order of their first voxels, as blocks are
            graph, places = graph.joined(np.arange(len(graph.nodes.size)))
            flat, objects = relabel(flat, places.astype(np.uint32) + np.uint32(1)), objects[np.argsort(places)]
        labels = flat.reshape(chosen.shape)
    boxes = yield from _iter_boxes(labels, len(objects))
    statistics = None
    if options.method != "components":
        is_volume = options.planes == "volume"
        statistics = yield from iter_contact_statistics(labels, chosen, graph, boxes, is_volume)
        if options.contacts:
            objects = objects_by_contacts(graph, statistics, options)
    return Regions(labels, _with_none(objects), boxes, space, graph, options, statistics, chosen)


def iter_regions_of_labels(stack: Stack, are_linked: bool = True) -> Generator[Progress, None, Regions]:
    """Yield while labels of any program are looked through; return each label as a region. Labels stay where they lie.

    Raises:
        InputError: the labels are no whole numbers from 0 to 4,294,967,294.
    """
    if stack.data.dtype.kind not in "bui" or "C" in stack.space.axes:
        raise InputError(f"'{stack.name}' holds no labels: objects are whole numbers along T, Z, Y and X, 0 = none.")
    labels: Any = _InOrder(stack)
    found = np.empty(0, np.uint32)
    for done, (time, z) in enumerate(slabs := list(_slabs(labels.shape)), start=1):
        values = np.unique(labels[time, z])
        if values.size and (int(values[0]) < 0 or int(values[-1]) >= np.iinfo(np.uint32).max):
            raise InputError(f"'{stack.name}' holds numbers that are no labels: they must be 0 to 4,294,967,294.")
        found = np.union1d(found, values.astype(np.uint32))
        yield Progress(done, 2 * len(slabs), "looking through the labels")
    objects = found[found > 0]
    if objects.size and int(objects[-1]) > max(_SPARSE, 4 * len(objects)):
        labels = _Numbered(labels, objects)
    else:
        objects = np.arange(1, int(objects.max(initial=0)) + 1, dtype=np.uint32)
    boxes = yield from _iter_boxes(labels, len(objects))
    options = ObjectOptions(planes="volume" if are_linked else "slices")
    return Regions(labels, _with_none(objects), boxes, stack.space, None, options)


def contact_strengths(
    graph: RegionGraph, options: ObjectOptions, rows: NDArray[np.intp] | slice = slice(None)
) -> NDArray[np.float64]:
    """Return how strongly contacts separate their two regions, 0 to 1. rows: of the contacts, by default all.

    Of cells it is the mean probability of a boundary over the contact. Of other objects it is how far the pass lies
    below the lower of both maxima: 0 = no neck, 1 = they do not touch inside.
    """
    nodes, edges = graph
    if options.method == "cells":
        return np.asarray(edges.strength[rows] / np.maximum(edges.contacts[rows], 1) / FULL, np.float64)
    lower = np.minimum(nodes.peak[edges.one[rows]], nodes.peak[edges.other[rows]]).astype(np.float64)
    return np.clip(1.0 - edges.saddle[rows] / np.where(lower > 0, lower, 1.0), 0.0, 1.0)


def _with_none(objects: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return np.concatenate([np.zeros(1, np.uint32), objects.astype(np.uint32, copy=False)])


def _slabs(shape: tuple[int, ...]) -> Generator[tuple[int, slice], None, None]:
    deep = max(1, READ_AT_ONCE // max(1, shape[2] * shape[3]))
    for time in range(shape[0]):
        for z in range(0, shape[1], deep):
            yield time, slice(z, min(z + deep, shape[1]))


def _iter_boxes(labels: Any, count: int) -> Generator[Progress, None, NDArray[np.int32]]:
    """Return the box of each region, from region 0 on, as in `Regions`."""
    boxes = np.zeros((count + 1, 7), np.int32)
    boxes[:, 1::2] = _FAR
    for done, (time, z) in enumerate(slabs := list(_slabs(labels.shape)), start=1):
        values = np.ascontiguousarray(labels[time, z], np.uint32)
        add_boxes(values, time, np.array([z.start, 0, 0], np.int64), boxes)
        yield Progress(done, len(slabs), "measuring regions")
    return boxes


@compiled
def add_boxes(labels: NDArray[np.uint32], time: int, start: NDArray[np.int64], boxes: NDArray[np.int32]) -> None:
    """Enlarge the boxes of labels by the voxels of a block that begins at `start`; the row of a label is its number."""
    depth, rows, columns = labels.shape
    for k in range(depth):
        for j in range(rows):
            z, y = start[0] + k, start[1] + j
            for i in range(columns):
                label = labels[k, j, i]
                if label > 0:
                    box = boxes[label]
                    x = start[2] + i
                    box[0] = time
                    box[1], box[2] = min(box[1], z), max(box[2], z + 1)
                    box[3], box[4] = min(box[3], y), max(box[4], y + 1)
                    box[5], box[6] = min(box[5], x), max(box[6], x + 1)


class _InOrder(LazyArray):
    """Labels as a lazy view of shape (T, Z, Y, X)."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.shape = tuple(stack.length(axis) for axis in "TZYX")
        self.dtype = stack.data.dtype

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        time, *space = index
        if not isinstance(time, int):
            return np.stack([self._read((each, *space)) for each in range(self.shape[0])[time]])
        parts = [part if isinstance(part, slice) else slice(part, part + 1) for part in space]
        block = read_block(self._stack, time=time, channel=0, z=parts[0], y=parts[1], x=parts[2])
        return block[tuple(slice(None) if isinstance(part, slice) else 0 for part in space)]


class _Numbered(LazyArray):
    """Labels of any numbers as their places among all that occur, from 1 on."""

    def __init__(self, labels: LazyArray, values: NDArray[np.uint32]) -> None:
        self._labels, self._values = labels, values
        self.shape, self.dtype = labels.shape, np.dtype(np.uint32)

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        found = np.asarray(self._labels[index])
        return np.where(found > 0, np.searchsorted(self._values, found) + 1, 0).astype(np.uint32)
