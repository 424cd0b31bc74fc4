"""What one block says of the objects: its components or basins, as labels and as a graph."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.basins import Window, climb, describe
from napari_skipseg.objects.contacts import contacts
from napari_skipseg.objects.graph import Graph, Seeding, join_maxima, no_edges
from napari_skipseg.objects.landscape import landscape, level_of, tolerance_of
from napari_skipseg.objects.options import ObjectOptions

Spacing = tuple[float, float, float]

MARGIN = 16.0
"""Voxels of X around a block within which basins are joined that noise has made: else every face would leave thousands
of them to the graph of the whole, which has to fit into memory."""


class Parts(NamedTuple):
    """Labels 1, 2, … of a block, its voxels' heights and probabilities, and the graph of the labels.

    The label n is the node n - 1. ways: where climbs leave the block, as `basins.climb` says; None for components.
    around: the heights of the block and what is known around it, where `low` is the block's begin.
    """

    labels: NDArray[np.uint32]
    graph: Graph
    ways: NDArray[np.int8] | None
    around: NDArray[np.float32]
    low: tuple[int, int, int]


def find_parts(
    probability: NDArray[np.float32],
    low: tuple[int, int, int],
    window: Window,
    options: ObjectOptions,
    spacing: Spacing,
) -> Parts:
    """Return the parts of a block.

    probability: of the block and of what its heights depend on around it; the block begins there at `low`.
    spacing: (z, y, x) in voxels of X; 0 along z where slices are looked at one by one.
    """
    core = tuple(slice(start, start + length) for start, length in zip(low, window.shape, strict=True))
    if options.method == "components":
        labels, count = _components(probability[core] > options.threshold, window)
        parts = _with_graph(labels, count, None, probability[core], window, options)
        return Parts(*parts, None, probability, low)
    height = landscape(probability, options, spacing)
    wide, begin = _widened(window, low, probability.shape, spacing)
    labels, ways = climb(height, np.array(begin), wide)
    inner = tuple(
        slice(start - first, start - first + length)
        for start, first, length in zip(low, begin, window.shape, strict=True)
    )
    labels, count = _joined(labels, height, probability, begin, wide, options, inner)
    labels, graph = _with_graph(labels, count, height[core], probability[core], window, options)
    return Parts(labels, graph, ways[inner], height, low)


def margin_of(spacing: Spacing) -> tuple[int, int, int]:
    """Return how far around a block basins are looked at, in voxels, to join those that noise has made."""
    z, y, x = (math.ceil(MARGIN / side) if side else 0 for side in spacing)
    return z, y, x


def _widened(
    window: Window, low: tuple[int, int, int], known: tuple[int, ...], spacing: Spacing
) -> tuple[Window, tuple[int, int, int]]:
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


def _joined(
    labels: NDArray[np.uint32],
    height: NDArray[np.float32],
    probability: NDArray[np.float32],
    begin: tuple[int, int, int],
    wide: Window,
    options: ObjectOptions,
    inner: tuple[slice, ...],
) -> tuple[NDArray[np.uint32], int]:
    """Return the labels of the inner part, 1, 2, … without gaps, with noise joined, and how many they are."""
    part = tuple(slice(start, start + length) for start, length in zip(begin, wide.shape, strict=True))
    count = int(labels.max(initial=0))
    nodes = describe(labels, height[part], count, wide)
    edges = contacts(labels, height[part], probability[part], wide)
    graph = Graph(nodes, edges._replace(one=edges.one - 1, other=edges.other - 1))
    noise = Seeding(level_of(options), tolerance_of(options), 0.0)
    _, places = join_maxima(graph, noise, (1.0, 1.0, 1.0), wide.whole, _open_nodes(labels, count, wide))
    joined = relabel(labels[inner], places.astype(np.uint32) + 1)
    there = np.zeros(count + 1, np.bool_)
    there[joined] = True
    numbers = np.cumsum(there[1:], dtype=np.uint32)
    return relabel(joined, numbers), int(numbers[-1]) if count else 0


def relabel(labels: NDArray[np.uint32], numbers: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the number of each label, `numbers[0]` for label 1; 0 stays 0."""
    return np.concatenate([np.zeros(1, np.uint32), numbers]).take(labels)


def _with_graph(
    labels: NDArray[np.uint32],
    count: int,
    height: NDArray[np.float32] | None,
    probability: NDArray[np.float32],
    window: Window,
    options: ObjectOptions,
) -> tuple[NDArray[np.uint32], Graph]:
    """Return the labels with those of the background added where its holes matter, and the graph of all."""
    solid = count
    if options.fill_holes and options.method != "cells":
        background, more = _components(labels == 0, window)
        labels = np.where(labels == 0, background + np.uint32(solid), labels)
        count += more
    nodes = describe(labels, height, count, window)
    nodes.hollow[solid:] = True
    if options.method == "components" and not options.fill_holes:
        return labels, Graph(nodes, no_edges())
    edges = contacts(labels, probability if height is None else height, probability, window)
    return labels, Graph(nodes, edges._replace(one=edges.one - 1, other=edges.other - 1))


def _components(mask: NDArray[np.bool_], window: Window) -> tuple[NDArray[np.uint32], int]:
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


def _open_nodes(labels: NDArray[np.uint32], count: int, window: Window) -> NDArray[np.bool_]:
    """Return which nodes reach a face of the block beyond which the image goes on."""
    open_ = np.zeros(count + 1, np.bool_)
    for axis in window.spatial:
        for face, closed in ((0, window.begins(axis)), (-1, window.ends(axis))):
            if not closed:
                open_[np.take(labels, face, axis)] = True
    return open_[1:]
