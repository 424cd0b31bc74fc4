"""Objects of a probability in memory, such as the slab on screen; a changed option repeats only the steps behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import ArrayLike, Stack
from napari_skipseg.objects.agglomerate import iter_objects_by_contacts
from napari_skipseg.objects.block_regions import VoxelSpacing, find_block_regions, relabel, shift_labels
from napari_skipseg.objects.classes import ClassImage, ClassProbability, in_box, probability_of_class, with_threshold
from napari_skipseg.objects.elevation import mask_threshold, smoothing_radius
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.region_graph import (
    MarkerRules,
    RegionGraph,
    combine_graphs,
    join_maxima,
    join_weak,
    number_objects,
    shift_graph,
)
from napari_skipseg.objects.watershed import WatershedWindow
from napari_skipseg.progress import run_to_end


class JoinedGraph(NamedTuple):
    """A graph, and which of its nodes each label, from 1 on, belongs to."""

    graph: RegionGraph
    places: NDArray[np.int64]


def find_objects_in_array(
    probability: ArrayLike,
    space: Space,
    class_names: Sequence[str] = (),
    options: ObjectOptions | None = None,
    labels: bool = False,
    has_padding: bool = False,
) -> NDArray[np.uint32]:
    """Return the objects in a probability: 0 = none, then 1, 2, … in the order of their first voxels.

    Shape: that of `probability` without C. Floats lie in [0, 1]; unsigned integers are scaled by the largest of their
    type; booleans are a mask. Each time is an image of its own. The rest as `ClassImage`.

    Raises:
        InputError: there is no such class, or the values are no probabilities.
    """
    image = ClassImage(Stack(probability, space), tuple(class_names), labels, has_padding)
    return ObjectSearch(image).find(options or ObjectOptions())


@dataclass
class ObjectSearch:
    """Finds objects in one image in memory, as often as the options change.

    It keeps the result of each step (regions, markers, merged cells) until an option changes that the step depends on.
    """

    image: ClassImage
    _kept: dict[str, tuple[Any, Any]] = field(default_factory=dict, repr=False)

    def find(self, options: ObjectOptions) -> NDArray[np.uint32]:
        """Return the objects, as `find_objects_in_array` does."""
        options = with_threshold(self.image, options)
        image = in_box(self.image, options)
        stack, chosen = image.stack, probability_of_class(image, options)
        time, depth, rows, columns = chosen.shape
        spacing, whole = spacing_of(stack, options), (time * depth, rows, columns)
        causes: tuple[Any, ...] = (chosen.channel, chosen.value, options.method, options.threshold, options.seeds)
        causes += (options.box, options.mask, options.planes, options.fill_holes, smoothing_radius(options))
        labels, graph = self._once("regions", causes, lambda: regions_of_all_times(chosen, options, spacing))
        if options.contacts:
            regions = labels.reshape(chosen.shape)
            numbers = run_to_end(iter_objects_by_contacts(regions, graph, chosen, options))
            return _in_axes_of(stack, relabel(labels, numbers).reshape(chosen.shape))
        causes += (options.seed_distance,)
        marked = self._once("markers", causes, lambda: join_markers(graph, options, spacing, whole))
        causes += (options.merge,)
        merged = self._once("cells", causes, lambda: join_cells(marked, options))
        objects = relabel(labels, number_objects(merged.graph, options)[merged.places]).reshape(chosen.shape)
        return _in_axes_of(stack, objects)

    def _once(self, step: str, causes: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
        known, result = self._kept.get(step, (None, None))
        if known != causes:
            result = compute()
            self._kept[step] = causes, result
        return result


def _in_axes_of(stack: Stack, objects: NDArray[np.uint32]) -> NDArray[np.uint32]:
    axes = stack.space.axes.replace("C", "")
    absent = tuple(place for place, axis in enumerate("TZYX") if axis not in axes)
    left = [axis for axis in "TZYX" if axis in axes]
    return objects.squeeze(absent).transpose([left.index(axis) for axis in axes])


def spacing_of(stack: Stack, options: ObjectOptions) -> VoxelSpacing:
    """Return the sides of a voxel in units of its side along X; 0 along Z if each slice has objects of its own."""
    z, y, x = stack.space.voxel_size
    return (z / x if options.planes == "volume" else 0.0), y / x, 1.0


def join_markers(
    graph: RegionGraph, options: ObjectOptions, spacing: VoxelSpacing, whole: tuple[int, int, int]
) -> JoinedGraph:
    """Return the graph with markers joined that are closer than `options.seed_distance`."""
    if options.method == "components":
        return JoinedGraph(graph, np.arange(len(graph.nodes.size)))
    rules = MarkerRules(mask_threshold(options), -1.0, options.seed_distance)
    return JoinedGraph(*join_maxima(graph, rules, spacing, whole))


def join_cells(marked: JoinedGraph, options: ObjectOptions) -> JoinedGraph:
    """Return the graph with cells joined whose boundary is weak."""
    if options.method != "cells":
        return marked
    graph, places = join_weak(marked.graph, options.merge)
    return JoinedGraph(graph, places[marked.places])


def objects_of_regions(
    graph: RegionGraph, options: ObjectOptions, spacing: VoxelSpacing, whole: tuple[int, int, int]
) -> NDArray[np.uint32]:
    """Return the number of each node's object, 0 = none. graph: of regions without noise. whole: shape of the image."""
    merged = join_cells(join_markers(graph, options, spacing, whole), options)
    return number_objects(merged.graph, options)[merged.places]


def regions_of_all_times(
    chosen: ClassProbability, options: ObjectOptions, spacing: VoxelSpacing
) -> tuple[NDArray[np.uint32], RegionGraph]:
    """Return the regions of all times, as labels, shape (T·Z, Y, X), and as one graph."""
    times, depth, rows, columns = chosen.shape
    labels = np.empty((times * depth, rows, columns), np.uint32)
    graphs: list[RegionGraph] = []
    before = 0
    everything = slice(None)
    for time in range(times):
        window = WatershedWindow(
            start=(time * depth, 0, 0),
            shape=(depth, rows, columns),
            whole=labels.shape,
            depth=depth,
            linked=options.planes == "volume",
        )
        block = chosen.look_at(time, everything, everything, everything)
        found, regions = find_block_regions(block, (0, 0, 0), window, options, spacing)
        labels[time * depth : (time + 1) * depth] = shift_labels(found, before)
        graphs.append(RegionGraph(regions.graph.nodes, shift_graph(regions.graph.edges, before)))
        before += len(regions.graph.nodes.size)
    return labels, combine_graphs(graphs)
