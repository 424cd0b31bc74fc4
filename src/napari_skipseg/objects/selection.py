"""Which nodes of a graph are objects, and their numbers: holes filled, sizes and border considered."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.graph import RegionGraph
from napari_skipseg.objects.options import ObjectOptions


def number_objects(graph: RegionGraph, options: ObjectOptions) -> NDArray[np.uint32]:
    """Return the number of the object that each node belongs to, 1, 2, … by first voxels; 0 = none.

    A hole is background that reaches no border of the image and touches one object only; it counts for the object's
    size.
    """
    nodes = graph.nodes
    owner = np.where(nodes.hollow, -1, np.arange(len(nodes.size)))
    if options.fill_holes:
        _fill_holes(graph, owner)
    owned = owner >= 0
    size = np.zeros(len(owner), np.int64)
    np.add.at(size, owner[owned], nodes.size[owned])
    kept = ~nodes.hollow & (size >= options.smallest)
    if options.largest:
        kept &= size <= options.largest
    if options.border == "remove":
        kept &= ~nodes.border
    numbers = np.zeros(len(owner), np.uint32)
    chosen = np.flatnonzero(kept)
    numbers[chosen[np.argsort(nodes.first[chosen], kind="stable")]] = np.arange(1, len(chosen) + 1)
    return np.where(owned, numbers[owner], np.uint32(0)).astype(np.uint32)


def _fill_holes(graph: RegionGraph, owner: NDArray[np.int64]) -> None:
    nodes, edges = graph
    least = np.full(len(owner), np.iinfo(np.int64).max)
    most = np.full(len(owner), -1)
    for hole, solid in ((edges.one, edges.other), (edges.other, edges.one)):
        rows = nodes.hollow[hole] & ~nodes.hollow[solid]
        np.minimum.at(least, hole[rows], solid[rows])
        np.maximum.at(most, hole[rows], solid[rows])
    holes = nodes.hollow & ~nodes.border & (most >= 0) & (least == most)
    owner[holes] = most[holes]
