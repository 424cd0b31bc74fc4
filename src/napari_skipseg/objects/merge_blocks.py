"""The graph of a large image, joined block by block, in little more memory than the graph of the whole needs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.objects.block_regions import BlockFaceContacts, BlockRegions, VoxelSpacing
from napari_skipseg.objects.elevation import marker_depth, mask_threshold
from napari_skipseg.objects.find import objects_of_regions
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.region_graph import (
    MarkerRules,
    RegionGraph,
    empty_graph,
    join_edges,
    join_maxima,
    join_parts,
    shift_graph,
)
from napari_skipseg.objects.watershed import Edges, Nodes, WatershedWindow, region_contacts

_DOWN = (1, 2, 3)
_UP = (6, 5, 4)
"""The ways of `climb_to_maxima` along -z, -y, -x and +z, +y, +x."""


class _Side(NamedTuple):
    """The outermost plane of a block: labels numbered over all blocks, which voxels climb out, which are hollow."""

    labels: NDArray[np.uint32]
    leaves: NDArray[np.bool_]
    hollow: NDArray[np.bool_]


class BlockFaces:
    """Joins blocks that are given in C order. It keeps only faces whose other block is still to come."""

    def __init__(self, are_components: bool, with_edges: bool) -> None:
        self._open: dict[tuple[int, tuple[int, ...]], _Side] = {}
        self._are_components, self._with_edges = are_components, with_edges

    def join(
        self, regions: BlockRegions, before: int, window: WatershedWindow
    ) -> tuple[NDArray[np.int64], list[Edges]]:
        """Return the pairs of labels, shape (n, 2), that are one region across the block's faces, and other contacts.

        before: the number of labels in the blocks before.
        """
        pairs: list[NDArray[np.int64]] = [np.empty((0, 2), np.int64)]
        edges: list[Edges] = []
        for axis in window.spatial:
            if not window.begins(axis):
                side = self._open.pop((axis, window.start))
                mine = _side(regions, before, axis, 0, _DOWN)
                pairs.append(_pairs(side, mine, self._are_components))
                if self._with_edges:
                    edges.append(_edges(side, mine, axis, regions.contacts[axis], window))
            if not window.ends(axis):
                place = list(window.start)
                place[axis] += window.shape[axis]
                self._open[axis, tuple(place)] = _side(regions, before, axis, -1, _UP)
        return np.unique(np.concatenate(pairs), axis=0), edges


def _side(regions: BlockRegions, before: int, axis: int, end: int, leaving: tuple[int, int, int]) -> _Side:
    own, ways = regions.faces[axis, end]
    hollow = np.concatenate([np.zeros(1, np.bool_), regions.graph.nodes.hollow])[own]
    return _Side(np.where(own > 0, own + np.uint32(before), np.uint32(0)), ways == leaving[axis], hollow)


def _pairs(side: _Side, mine: _Side, are_components: bool) -> NDArray[np.int64]:
    both = (side.labels > 0) & (mine.labels > 0) & (side.hollow == mine.hollow)
    one = both & (side.hollow | side.leaves | mine.leaves | are_components)
    return np.unique(np.stack([side.labels[one], mine.labels[one]], axis=1).astype(np.int64), axis=0)


def _edges(side: _Side, mine: _Side, axis: int, contacts: BlockFaceContacts, window: WatershedWindow) -> Edges:
    start, shape = list(window.start), list(window.shape)
    start[axis], shape[axis] = start[axis] - 1, 2
    two = window._replace(start=(start[0], start[1], start[2]), shape=(shape[0], shape[1], shape[2]))
    labels = np.stack([side.labels, mine.labels], axis=axis)
    return region_contacts(labels, *contacts, two, across=axis)


MOST_PARTS = 2**32 - 2
"""Regions of all blocks: labels are uint32, and 0 is none."""

MOST_NEW = 2**20
"""Nodes and edges that are added before the next join, or a quarter of those joined already if that is more."""


class RegionGraphMerger:
    """The graph of all blocks so far, which are added in C order.

    firsts: the number of labels in the blocks before each block, and at the end in all. When `is_due`, `join` makes
    one node of a basin's parts in several blocks, so that memory holds little more than the joined graph.
    """

    def __init__(self, options: ObjectOptions, spacing: VoxelSpacing, name: str) -> None:
        """Make an empty graph. name: of the image, for errors."""
        self._options, self._spacing, self._name = options, spacing, name
        are_components = options.method == "components"
        self._faces = BlockFaces(are_components, not are_components or options.fill_holes)
        self._joined = empty_graph()
        self.firsts = [0]
        self._places: NDArray[np.uint32] = np.empty(0, np.uint32)
        self._nodes: list[Nodes] = []
        self._edges: list[Edges] = []
        self._pairs: list[NDArray[np.int64]] = []
        self._new = 0

    def add(self, regions: BlockRegions, window: WatershedWindow) -> None:
        """Add the regions of the next block.

        Raises:
            InputError: there are too many regions.
        """
        count = len(regions.graph.nodes.size)
        if self.firsts[-1] + count > MOST_PARTS:
            raise InputError(f"'{self._name}' falls into too many regions: raise the threshold, or smooth the image.")
        pairs, edges = self._faces.join(regions, self.firsts[-1], window)
        self._pairs.append(pairs - 1)
        for each, before in [*((across, -1) for across in edges), (regions.graph.edges, self.firsts[-1])]:
            self._edges.append(_compact(shift_graph(each, before)))
            self._new += len(each.one)
        self._nodes.append(regions.graph.nodes)
        self.firsts.append(self.firsts[-1] + count)
        self._new += count

    @property
    def is_due(self) -> bool:
        """Whether so much is new that it should be joined; a join takes several times the memory of what is new."""
        return self._new > max(MOST_NEW, (len(self._joined.nodes.size) + len(self._joined.edges.one)) // 4)

    def settle(self, whole: tuple[int, int, int]) -> NDArray[np.uint32]:
        """Return the number of each label's object, from label 1 on. whole: the shape of the image."""
        graph, places = self.settle_regions(whole)
        return objects_of_regions(graph, self._options, self._spacing, whole)[places]

    def settle_regions(self, whole: tuple[int, int, int]) -> tuple[RegionGraph, NDArray[np.uint32]]:
        """Return the graph of the whole image without noise, and the node of each label, from label 1 on.

        whole: the shape of the image.
        """
        self.join()
        options, graph, self._joined = self._options, self._joined, empty_graph()
        if options.method == "components":
            return graph, self._places
        noise = MarkerRules(mask_threshold(options), marker_depth(options), 0.0)
        graph, steps = join_maxima(graph, noise, self._spacing, whole)
        return graph, steps.astype(np.uint32)[self._places]

    def join(self) -> None:
        """Join all nodes that are one region by the pairs so far."""
        known = len(self._joined.nodes.size)
        fresh = np.arange(known, known + self.firsts[-1] - len(self._places), dtype=np.uint32)
        self._places = np.concatenate([self._places, fresh])
        pairs = self._places[np.concatenate([np.empty((0, 2), np.int64), *self._pairs])]
        joined, nodes_of, edges_of = self._joined, self._nodes, self._edges
        # Nothing else holds the old graph while the new one is made: there are millions of edges.
        self._joined, self._nodes, self._edges, self._pairs, self._new = empty_graph(), [], [], [], 0
        there = [each._replace(one=self._places[each.one], other=self._places[each.other]) for each in edges_of]
        graph = RegionGraph(join_edges([joined.nodes, *nodes_of]), join_edges([joined.edges, *there]))
        del joined, nodes_of, edges_of, there
        (nodes, edges), step = join_parts(graph, pairs)
        del graph
        self._joined = RegionGraph(nodes, _compact(edges))
        places: NDArray[np.uint32] = step.astype(np.uint32)
        self._places = places[self._places]


def _compact(edges: Edges) -> Edges:
    """Return edges in three quarters of the memory; a volume of many cells has millions."""
    one, other = edges.one.astype(np.uint32), edges.other.astype(np.uint32)
    return edges._replace(one=one, other=other, contacts=edges.contacts.astype(np.uint32))
