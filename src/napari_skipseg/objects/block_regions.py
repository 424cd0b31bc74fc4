"""The regions of one block, components or basins: as labels, as a graph, and what joins them with other blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Literal, NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.elevation import Probability, elevation_map, marker_depth, mask_threshold
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.region_graph import MarkerRules, RegionGraph, empty_edges, join_maxima, shift_graph
from napari_skipseg.objects.watershed import (
    Nodes,
    WatershedWindow,
    boundary_strength,
    climb_to_maxima,
    describe_basins,
    region_contacts,
)
from napari_skipseg.scores.table import compiled

VoxelSpacing = tuple[float, float, float]

_MARGIN = 16.0
"""Voxels of X around a block within which basins of noise are joined. Without it every block face would leave thousands
of them to the graph of the whole image, which has to fit into memory."""


class BlockRegions(NamedTuple):
    """The graph of the labels 1, 2, … of a block, and what joins it with the blocks beside it.

    The label n is the node n - 1. faces: by axis and end, 0 or -1, if the image continues beyond the block. contacts:
    by axis, if the image continues before the block; none where contacts do not matter.
    """

    graph: RegionGraph
    faces: dict[tuple[int, int], Face]
    contacts: dict[int, BlockFaceContacts]


class Face(NamedTuple):
    """The outermost plane of a block. ways: up from its voxels, as `climb_to_maxima`; 0 for components."""

    labels: NDArray[np.uint32]
    ways: NDArray[np.int8]


class BlockFaceContacts(NamedTuple):
    """Heights, and strengths as `boundary_strength`, of two planes: the last before a block, and its first."""

    height: NDArray[np.float32]
    strength: NDArray[np.uint16]


class _Surroundings(NamedTuple):
    """Heights and strengths of a block and around it; the block begins there at `low`.

    padding: where it is, None if the image has none; known one voxel around the block, as far as the image goes.
    """

    height: NDArray[np.float32]
    strength: NDArray[np.uint16]
    padding: NDArray[np.bool_] | None
    low: tuple[int, int, int]

    def at(self, place: tuple[slice, ...]) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
        return self.height[place], self.strength[place]


def find_block_regions(
    probability: Probability,
    low: tuple[int, int, int],
    window: WatershedWindow,
    options: ObjectOptions,
    spacing: VoxelSpacing,
) -> tuple[NDArray[np.uint32], BlockRegions]:
    """Return the labels of a block, shape (Z, Y, X), and its regions.

    probability: of the block and of all around it that its heights depend on; the block begins there at `low`.
    spacing: (z, y, x) in voxels of X; 0 along z if each slice has objects of its own.
    """
    if options.method == "components":
        return _find_components(probability, low, window, options)
    wide, begin = _with_margin(window, low, probability.shape, spacing)
    # Basins depend on nothing farther than one voxel around the wide window: the rest may leave memory.
    first = _difference(begin, [min(1, start) for start in begin])
    z, y, x = (slice(a, b + length + 1) for a, b, length in zip(first, begin, wide.shape, strict=True))
    around = _Surroundings(
        elevation_map(probability, options, spacing)[z, y, x].copy(),
        boundary_strength(probability, z, y, x),
        _padding_of(probability, z, y, x),
        _difference(low, first),
    )
    begin = _difference(begin, first)
    labels, ways = climb_to_maxima(around.height, np.array(begin), wide)
    inner = _place(_difference(around.low, begin), window)
    outermost = {place: np.take(ways[inner], place[1], place[0]) for place in _open_faces(window)}
    del ways
    groups = _groups_without_noise(labels, around.at(_place(begin, wide)), wide, options)
    labels, count = join_labels(labels[inner], groups)
    labels, graph = _with_graph(labels, count, around, window, options)
    faces = {place: Face(_outermost(labels, place), ways) for place, ways in outermost.items()}
    return labels, BlockRegions(graph, faces, _face_contacts(around, window))


def _find_components(
    probability: Probability, low: tuple[int, int, int], window: WatershedWindow, options: ObjectOptions
) -> tuple[NDArray[np.uint32], BlockRegions]:
    values, everything = probability[...], (slice(None), slice(None), slice(None))
    labels, count = _components(values[_place(low, window)] > options.chosen_threshold, window)
    padding = _padding_of(probability, *everything)
    if options.fill_holes:
        around = _Surroundings(values, boundary_strength(probability, *everything), padding, low)
        labels, graph = _with_graph(labels, count, around, window, options)
        contacts = _face_contacts(around, window)
    else:
        graph, contacts = RegionGraph(describe_basins(labels, None, count, window), empty_edges()), {}
        _mark_border(graph.nodes, labels, padding, low, window)
    planes = {place: _outermost(labels, place) for place in _open_faces(window)}
    faces = {place: Face(plane, np.zeros(plane.shape, np.int8)) for place, plane in planes.items()}
    return labels, BlockRegions(graph, faces, contacts)


def _outermost(labels: NDArray[np.uint32], place: tuple[int, int]) -> NDArray[np.uint32]:
    """Return a copy of the plane at the end of an axis, so that the block may leave memory."""
    axis, end = place
    return np.ascontiguousarray(np.take(labels, end, axis))


def _padding_of(probability: Probability, z: slice, y: slice, x: slice) -> NDArray[np.bool_] | None:
    """Return where padding is in a part of a block, None if the image has none."""
    if not probability.has_padding:
        return None
    planes = range(probability.shape[0])[z]
    return np.stack([probability[place, y, x] == 0 for place in planes])


def _mark_border(
    nodes: Nodes,
    labels: NDArray[np.uint32],
    padding: NDArray[np.bool_] | None,
    low: Sequence[int],
    window: WatershedWindow,
) -> None:
    """Mark all nodes with a voxel beside padding as touching the border: the tissue ends there.

    padding: known around the block, which begins there at `low`.
    """
    if padding is None:
        return
    beside = np.zeros(window.shape, np.bool_)
    for axis, step in product(window.spatial, (-1, 1)):
        there, here = [slice(a, a + length) for a, length in zip(low, window.shape, strict=True)], [slice(None)] * 3
        begin, end = low[axis] + step, low[axis] + step + window.shape[axis]
        there[axis] = slice(max(begin, 0), min(end, padding.shape[axis]))
        here[axis] = slice(there[axis].start - begin, there[axis].stop - begin)
        beside[tuple(here)] |= padding[tuple(there)]
    nodes.border[labels[beside & (labels > 0)] - 1] = True


def _place(start: tuple[int, int, int], window: WatershedWindow) -> tuple[slice, ...]:
    return tuple(slice(first, first + length) for first, length in zip(start, window.shape, strict=True))


def _difference(places: tuple[int, int, int], subtracted: Sequence[int]) -> tuple[int, int, int]:
    z, y, x = (place - less for place, less in zip(places, subtracted, strict=True))
    return z, y, x


def _face_contacts(around: _Surroundings, window: WatershedWindow) -> dict[int, BlockFaceContacts]:
    contacts = {}
    for axis in window.spatial:
        if not window.begins(axis):
            two = list(_place(around.low, window))
            two[axis] = slice(around.low[axis] - 1, around.low[axis] + 1)
            height, strength = around.at(tuple(two))
            contacts[axis] = BlockFaceContacts(height.copy(), strength.copy())
    return contacts


def margin_of(spacing: VoxelSpacing) -> tuple[int, int, int]:
    """Return how far around a block, in voxels, basins are looked at to join those of noise."""
    z, y, x = (math.ceil(_MARGIN / side) if side else 0 for side in spacing)
    return z, y, x


def _with_margin(
    window: WatershedWindow, low: tuple[int, int, int], known: tuple[int, ...], spacing: VoxelSpacing
) -> tuple[WatershedWindow, tuple[int, int, int]]:
    """Return the window with a margin, as far as the image goes, and where it begins in the known voxels."""
    before, after = [0, 0, 0], [0, 0, 0]
    for axis, margin in enumerate(margin_of(spacing)):
        before[axis] = 0 if window.begins(axis) else min(margin, low[axis])
        beyond = known[axis] - low[axis] - window.shape[axis]
        after[axis] = 0 if window.ends(axis) else min(margin, beyond)
    z, y, x = (length + b + a for length, b, a in zip(window.shape, before, after, strict=True))
    return window._replace(start=_difference(window.start, before), shape=(z, y, x)), _difference(low, before)


def _groups_without_noise(
    labels: NDArray[np.uint32],
    values: tuple[NDArray[np.float32], NDArray[np.uint16]],
    wide: WatershedWindow,
    options: ObjectOptions,
) -> NDArray[np.int64]:
    """Return the group of each label, from label 1 on: basins of noise are joined. values: heights and strengths."""
    count = int(labels.max(initial=0))
    nodes = describe_basins(labels, values[0], count, wide)
    edges = region_contacts(labels, *values, wide)
    noise = MarkerRules(mask_threshold(options), marker_depth(options), 0.0)
    is_open = np.zeros(count + 1, np.bool_)
    for axis, end in _open_faces(wide):
        is_open[np.take(labels, end, axis)] = True
    return join_maxima(RegionGraph(nodes, shift_graph(edges, -1)), noise, (1.0, 1.0, 1.0), wide.whole, is_open[1:])[1]


def _with_graph(
    labels: NDArray[np.uint32], count: int, around: _Surroundings, window: WatershedWindow, options: ObjectOptions
) -> tuple[NDArray[np.uint32], RegionGraph]:
    """Return the labels, with components of the background added if holes are to be filled, and the graph of all."""
    solid = count
    if options.fill_holes and options.method != "cells":
        empty = labels == 0
        if around.padding is not None:
            empty &= ~around.padding[_place(around.low, window)]
        background, more = _components(empty, window)
        labels = np.where(empty, background + np.uint32(solid), labels)
        count += more
    values = around.at(_place(around.low, window))
    nodes = describe_basins(labels, None if options.method == "components" else values[0], count, window)
    nodes.hollow[solid:] = True
    _mark_border(nodes, labels, around.padding, around.low, window)
    return labels, RegionGraph(nodes, shift_graph(region_contacts(labels, *values, window), -1))


def _components(mask: NDArray[np.bool_], window: WatershedWindow) -> tuple[NDArray[np.uint32], int]:
    """Return the components of a mask by face neighbours, and how many there are."""
    if window.linked and mask.shape[0] > 1:
        return _numbered(mask, 6)
    labels = np.zeros(mask.shape, np.uint32)
    count = 0
    for z, plane in enumerate(mask):
        found, more = _numbered(plane, 4)
        labels[z] = np.where(found, found + np.uint32(count), np.uint32(0))
        count += more
    return labels, count


def _numbered(mask: NDArray[np.bool_], connectivity: Literal[4, 6]) -> tuple[NDArray[np.uint32], int]:
    labels, count = cc3d.connected_components(
        np.ascontiguousarray(mask), connectivity=connectivity, return_N=True, out_dtype=np.uint32
    )
    return labels.astype(np.uint32, copy=False), int(count)


def _open_faces(window: WatershedWindow) -> list[tuple[int, int]]:
    """Return the faces of a block, by axis and end, beyond which the image continues."""
    closed = {0: window.begins, -1: window.ends}
    return [(axis, end) for axis in window.spatial for end in (0, -1) if not closed[end](axis)]


def relabel(labels: NDArray[np.uint32], numbers: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the new number of each label, `numbers[0]` for label 1; 0 stays 0. Shape: (Z, Y, X) -> (Z, Y, X)."""
    renumbered = np.empty(labels.shape, np.uint32)
    _relabel(labels, np.concatenate([np.zeros(1, np.uint32), numbers]), renumbered)
    return renumbered


@compiled
def _relabel(labels: NDArray[np.uint32], numbers: NDArray[np.uint32], renumbered: NDArray[np.uint32]) -> None:
    depth, rows, columns = labels.shape
    for z in range(depth):
        for y in range(rows):
            for x in range(columns):
                renumbered[z, y, x] = numbers[labels[z, y, x]]


def shift_labels(labels: NDArray[np.uint32], before: int) -> NDArray[np.uint32]:
    """Return labels, raised by `before` in place; 0 stays 0."""
    return np.add(labels, np.uint32(before), out=labels, where=labels > 0)


def join_labels(labels: NDArray[np.uint32], groups: NDArray[np.int64]) -> tuple[NDArray[np.uint32], int]:
    """Return each voxel's group as a label, 1, 2, … for the groups that occur, in their order, and how many these are.

    groups: the number of each label's group, from label 1 on.
    """
    numbers = np.concatenate([np.zeros(1, np.int64), groups + 1])
    occurs = np.zeros(numbers.max() + 1, np.bool_)
    _mark(labels, numbers, occurs)
    places = np.cumsum(occurs, dtype=np.uint32)
    return relabel(labels, places[numbers[1:]]), int(places[-1])


@compiled
def _mark(labels: NDArray[np.uint32], numbers: NDArray[np.int64], occurs: NDArray[np.bool_]) -> None:
    depth, rows, columns = labels.shape
    for z in range(depth):
        for y in range(rows):
            for x in range(columns):
                if labels[z, y, x] > 0:
                    occurs[numbers[labels[z, y, x]]] = True
