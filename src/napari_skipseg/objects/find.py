"""Objects of a probability in memory, such as the slab that is viewed; a changed option redoes only what follows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import ArrayLike, Stack
from napari_skipseg.objects.block_regions import VoxelSpacing, find_block_regions
from napari_skipseg.objects.classes import ClassProbability, probability_of_class
from napari_skipseg.objects.elevation import mask_threshold, smoothing_radius
from napari_skipseg.objects.graph import MarkerRules, RegionGraph, combine_graphs, join_maxima, join_weak, shift_graph
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.relabel import relabel, shift_labels
from napari_skipseg.objects.selection import number_objects
from napari_skipseg.objects.watershed import WatershedWindow


class SearchSettings(NamedTuple):
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

    Shape: that of `probability` without C. probability: float in [0, 1], or unsigned integers, 0 to the largest of
    their type; booleans are a mask. labels: it holds labels instead, 1, 2, … in the order of `class_names`. space:
    where it lies; each time is an image of its own. class_names: of the channels. has_padding: exactly 0 means areas
    without tissue, which are no objects; what touches them touches the border.

    Raises:
        InputError: there is no such class, or the values are no probabilities.
    """
    stack = Stack(probability, space)
    return ObjectSearch(stack, tuple(class_names), labels, has_padding).find(options or ObjectOptions())


@dataclass
class ObjectSearch:
    """Finds objects in one image in memory, again and again with other options.

    What the threshold (and the kind of seeds), the seeds' distance, merging and selection give is kept, each of them
    until something changes on which it depends. has_padding: exactly 0 means padding in the probability.
    """

    stack: Stack
    class_names: tuple[str, ...] = ()
    labels: bool = False
    has_padding: bool = False
    _kept: dict[str, tuple[Any, Any]] = field(default_factory=dict, repr=False)

    def find(self, options: ObjectOptions) -> NDArray[np.uint32]:
        """Return the objects, as `find_objects_in_array` does."""
        chosen = probability_of_class(self.stack, self.class_names, options, self.labels, self.has_padding)
        time, depth, rows, columns = chosen.shape
        spacing, whole = spacing_of(self.stack, options), (time * depth, rows, columns)
        grounds: tuple[Any, ...] = (
            chosen.channel,
            chosen.value,
            options.method,
            options.threshold,
            options.seeds,
            options.planes,
        )
        grounds += (options.fill_holes, smoothing_radius(options))
        found, raw = self._once("parts", grounds, lambda: _all_parts(chosen, options, spacing))
        seeded = self._once(
            "seeds", (*grounds, options.seed_distance), lambda: find_markers(raw, options, spacing, whole)
        )
        merged = self._once(
            "cells", (*grounds, options.seed_distance, options.merge), lambda: merge_regions(seeded, options)
        )
        result = relabel(found, number_objects(merged.graph, options)[merged.places]).reshape(chosen.shape)
        return _in_axes(result, self.stack.space.axes)

    def _once(self, step: str, grounds: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
        known, result = self._kept.get(step, (None, None))
        if known != grounds:
            result = compute()
            self._kept[step] = grounds, result
        return result


def spacing_of(stack: Stack, options: ObjectOptions) -> VoxelSpacing:
    """Return the sides of a voxel in those of X; 0 along z where slices are looked at one by one."""
    z, y, x = stack.space.voxel_size
    return (z / x if options.planes == "volume" else 0.0), y / x, 1.0


def find_markers(
    graph: RegionGraph, options: ObjectOptions, spacing: VoxelSpacing, whole: tuple[int, int, int]
) -> SearchSettings:
    """Return the graph with seeds joined that are closer than the distance asked for."""
    if options.method == "components":
        return SearchSettings(graph, np.arange(len(graph.nodes.size)))
    return SearchSettings(
        *join_maxima(graph, MarkerRules(mask_threshold(options), -1.0, options.seed_distance), spacing, whole)
    )


def merge_regions(seeded: SearchSettings, options: ObjectOptions) -> SearchSettings:
    """Return the graph with cells joined whose boundary is weak."""
    if options.method != "cells":
        return seeded
    graph, places = join_weak(seeded.graph, options.merge)
    return SearchSettings(graph, places[seeded.places])


def _all_parts(
    chosen: ClassProbability, options: ObjectOptions, spacing: VoxelSpacing
) -> tuple[NDArray[np.uint32], RegionGraph]:
    """Return the parts of all times, as labels, shape (T·Z, Y, X), and as one graph."""
    times, depth, rows, columns = chosen.shape
    labels = np.empty((times * depth, rows, columns), np.uint32)
    graphs: list[RegionGraph] = []
    before = 0
    everything = slice(None)
    for time in range(times):
        start = (time * depth, 0, 0)
        window = WatershedWindow(start, (depth, rows, columns), labels.shape, depth, options.planes == "volume")
        block = chosen.look_at(time, everything, everything, everything)
        found, parts = find_block_regions(block, (0, 0, 0), window, options, spacing)
        labels[time * depth : (time + 1) * depth] = shift_labels(found, before)
        graphs.append(RegionGraph(parts.graph.nodes, shift_graph(parts.graph.edges, before)))
        before += len(parts.graph.nodes.size)
    return labels, combine_graphs(graphs)


def _in_axes(objects: NDArray[np.uint32], axes: str) -> NDArray[np.uint32]:
    """Return an array (T, Z, Y, X) with the axes that an image has, in its order."""
    wanted = [axis for axis in axes if axis != "C"]
    absent = tuple(place for place, axis in enumerate("TZYX") if axis not in wanted)
    left = [axis for axis in "TZYX" if axis in wanted]
    return objects.squeeze(absent).transpose([left.index(axis) for axis in wanted])
