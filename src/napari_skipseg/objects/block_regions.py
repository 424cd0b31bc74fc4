"""What one block says of the objects: its components or basins, as labels and as a graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Literal, NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.elevation import Probability, elevation_map, marker_depth, mask_threshold
from napari_skipseg.objects.graph import MarkerRules, RegionGraph, empty_edges, join_maxima, shift_graph
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.region_graph import contact_strength, region_contacts
from napari_skipseg.objects.relabel import join_labels
from napari_skipseg.objects.watershed import Nodes, WatershedWindow, climb_to_maxima, describe_basins

VoxelSpacing = tuple[float, float, float]

_MARGIN = 16.0
"""Voxels of X around a block within which basins are joined that noise has made: else every face would leave thousands
of them to the graph of the whole, which has to fit into memory."""


class BlockRegions(NamedTuple):
    """What is known of the labels 1, 2, … of a block: their graph, and what joins it with the blocks beside it.

    The label n is the node n - 1. faces: by axis and end, 0 or -1, where the image goes on beyond the block. seams: by
    axis, where it goes on before the block; none where contacts do not matter.
    """

    graph: RegionGraph
    faces: dict[tuple[int, int], Face]
    seams: dict[int, BlockFaceContacts]


class Face(NamedTuple):
    """The outermost plane of a block. ways: up from its voxels, as `watershed.climb` says; 0 for components."""

    labels: NDArray[np.uint32]
    ways: NDArray[np.int8]


class BlockFaceContacts(NamedTuple):
    """Heights and strengths, as `region_graph.strength_of`, of two planes: the last before a block, and its first."""

    height: NDArray[np.float32]
    strength: NDArray[np.uint16]


class _Ground(NamedTuple):
    """Heights and strengths of a block and of what matters around it; the block begins there at `low`.

    padding: where it is, None for nowhere; known one voxel around the block, as far as the image goes.
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
    """Return the labels of a block, shape (Z, Y, X), and what is known of them.

    probability: of the block and of what its heights depend on around it; the block begins there at `low`.
    spacing: (z, y, x) in voxels of X; 0 along z where slices are looked at one by one.
    """
    if options.method == "components":
        return _find_components(probability, low, window, options)
    wide, begin = _widened(window, low, probability.shape, spacing)
    ground, begin = _look(elevation_map(probability, options, spacing), probability, low, (wide, begin))
    labels, ways = climb_to_maxima(ground.height, np.array(begin), wide)
    inner = _place(_less(ground.low, begin), window)
    outermost = {place: np.take(ways[inner], place[1], place[0]) for place in _open_faces(window)}
    del ways
    groups = _join_noise(labels, ground.at(_place(begin, wide)), wide, options)
    labels, count = join_labels(labels[inner], groups)
    labels, graph = _with_graph(labels, count, ground, window, options)
    faces = {place: Face(_outermost(labels, place), ways) for place, ways in outermost.items()}
    return labels, BlockRegions(graph, faces, _seams(ground, window))


def _find_components(
    probability: Probability, low: tuple[int, int, int], window: WatershedWindow, options: ObjectOptions
) -> tuple[NDArray[np.uint32], BlockRegions]:
    values, everything = probability[...], (slice(None), slice(None), slice(None))
    labels, count = _components(values[_place(low, window)] > options.threshold, window)
    padding = _padding_of(probability, *everything)
    if options.fill_holes:
        ground = _Ground(values, contact_strength(probability, *everything), padding, low)
        labels, graph = _with_graph(labels, count, ground, window, options)
        seams = _seams(ground, window)
    else:
        graph, seams = RegionGraph(describe_basins(labels, None, count, window), empty_edges()), {}
        _mark_edges(graph.nodes, labels, padding, low, window)
    planes = {place: _outermost(labels, place) for place in _open_faces(window)}
    faces = {place: Face(plane, np.zeros(plane.shape, np.int8)) for place, plane in planes.items()}
    return labels, BlockRegions(graph, faces, seams)


def _outermost(labels: NDArray[np.uint32], place: tuple[int, int]) -> NDArray[np.uint32]:
    """Return the plane at the end of an axis, without the rest of the block."""
    axis, end = place
    return np.ascontiguousarray(np.take(labels, end, axis))


def _look(
    height: NDArray[np.float32],
    probability: Probability,
    low: tuple[int, int, int],
    wide: tuple[WatershedWindow, tuple[int, int, int]],
) -> tuple[_Ground, tuple[int, int, int]]:
    """Return what basins in the wide window depend on, one voxel around it, and where it begins in that.

    height, probability: known farther around; the block begins there at `low`, the wide window at `wide[1]`.
    """
    window, begin = wide
    first = _less(begin, [min(1, start) for start in begin])
    z, y, x = (slice(a, b + length + 1) for a, b, length in zip(first, begin, window.shape, strict=True))
    height = height[z, y, x].copy()  # all there was around may go now
    strength, padding = contact_strength(probability, z, y, x), _padding_of(probability, z, y, x)
    return _Ground(height, strength, padding, _less(low, first)), _less(begin, first)


def _padding_of(probability: Probability, z: slice, y: slice, x: slice) -> NDArray[np.bool_] | None:
    """Return where padding is in a part of a block, None if the image has none."""
    if not probability.has_padding:
        return None
    planes = range(probability.shape[0])[z]
    return np.stack([probability[place, y, x] == 0 for place in planes])


def _mark_edges(
    nodes: Nodes,
    labels: NDArray[np.uint32],
    padding: NDArray[np.bool_] | None,
    low: Sequence[int],
    window: WatershedWindow,
) -> None:
    """Note of all nodes with a voxel beside padding that they touch the border: the tissue ends there.

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


def _less(places: tuple[int, int, int], before: Sequence[int]) -> tuple[int, int, int]:
    z, y, x = (place - less for place, less in zip(places, before, strict=True))
    return z, y, x


def _seams(ground: _Ground, window: WatershedWindow) -> dict[int, BlockFaceContacts]:
    seams = {}
    for axis in window.spatial:
        if not window.begins(axis):
            two = list(_place(ground.low, window))
            two[axis] = slice(ground.low[axis] - 1, ground.low[axis] + 1)
            height, strength = ground.at(tuple(two))
            seams[axis] = BlockFaceContacts(height.copy(), strength.copy())
    return seams


def margin_of(spacing: VoxelSpacing) -> tuple[int, int, int]:
    """Return how far around a block basins are looked at, in voxels, to join those that noise has made."""
    z, y, x = (math.ceil(_MARGIN / side) if side else 0 for side in spacing)
    return z, y, x


def _widened(
    window: WatershedWindow, low: tuple[int, int, int], known: tuple[int, ...], spacing: VoxelSpacing
) -> tuple[WatershedWindow, tuple[int, int, int]]:
    """Return the window with a margin, as far as the image goes, and where it begins in what is known."""
    before, after = [0, 0, 0], [0, 0, 0]
    for axis, margin in enumerate(margin_of(spacing)):
        before[axis] = 0 if window.begins(axis) else min(margin, low[axis])
        beyond = known[axis] - low[axis] - window.shape[axis]
        after[axis] = 0 if window.ends(axis) else min(margin, beyond)
    start = [place - more for place, more in zip(window.start, before, strict=True)]
    shape = [length + b + a for length, b, a in zip(window.shape, before, after, strict=True)]
    wide = window._replace(start=(start[0], start[1], start[2]), shape=(shape[0], shape[1], shape[2]))
    return wide, (low[0] - before[0], low[1] - before[1], low[2] - before[2])


def _join_noise(
    labels: NDArray[np.uint32],
    values: tuple[NDArray[np.float32], NDArray[np.uint16]],
    wide: WatershedWindow,
    options: ObjectOptions,
) -> NDArray[np.int64]:
    """Return the group of each label, from label 1 on: basins that noise has made are joined. values: as in
    `BlockFaceContacts`.
    """
    count = int(labels.max(initial=0))
    nodes = describe_basins(labels, values[0], count, wide)
    edges = region_contacts(labels, *values, wide)
    noise = MarkerRules(mask_threshold(options), marker_depth(options), 0.0)
    open_ = _open_nodes(labels, count, wide)
    return join_maxima(RegionGraph(nodes, shift_graph(edges, -1)), noise, (1.0, 1.0, 1.0), wide.whole, open_)[1]


def _with_graph(
    labels: NDArray[np.uint32],
    count: int,
    ground: _Ground,
    window: WatershedWindow,
    options: ObjectOptions,
) -> tuple[NDArray[np.uint32], RegionGraph]:
    """Return the labels with those of the background added where its holes matter, and the graph of all."""
    solid = count
    if options.fill_holes and options.method != "cells":
        empty = labels == 0
        if ground.padding is not None:
            empty &= ~ground.padding[_place(ground.low, window)]
        background, more = _components(empty, window)
        labels = np.where(empty, background + np.uint32(solid), labels)
        count += more
    values = ground.at(_place(ground.low, window))
    nodes = describe_basins(labels, None if options.method == "components" else values[0], count, window)
    nodes.hollow[solid:] = True
    _mark_edges(nodes, labels, ground.padding, ground.low, window)
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


def _open_nodes(labels: NDArray[np.uint32], count: int, window: WatershedWindow) -> NDArray[np.bool_]:
    """Return which nodes reach a face of the block beyond which the image goes on."""
    open_ = np.zeros(count + 1, np.bool_)
    for axis, end in _open_faces(window):
        open_[np.take(labels, end, axis)] = True
    return open_[1:]


def _open_faces(window: WatershedWindow) -> list[tuple[int, int]]:
    """Return the faces of a block, by axis and end, beyond which the image goes on."""
    closed = {0: window.begins, -1: window.ends}
    return [(axis, end) for axis in window.spatial for end in (0, -1) if not closed[end](axis)]
