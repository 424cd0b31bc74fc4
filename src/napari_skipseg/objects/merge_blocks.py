"""The graph of a large image, gathered block by block in little more memory than the graph of the whole needs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.objects.block_regions import BlockFaceContacts, BlockRegions, VoxelSpacing
from napari_skipseg.objects.elevation import marker_depth, mask_threshold
from napari_skipseg.objects.find import find_markers, merge_regions
from napari_skipseg.objects.graph import (
    MarkerRules,
    RegionGraph,
    empty_graph,
    join_edges,
    join_maxima,
    join_parts,
    shift_graph,
)
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.region_graph import region_contacts
from napari_skipseg.objects.selection import number_objects
from napari_skipseg.objects.watershed import Edges, Nodes, WatershedWindow

_DOWN = (1, 2, 3)
_UP = (6, 5, 4)
"""The ways of `watershed.climb` along -z, -y, -x and +z, +y, +x."""


class _Side(NamedTuple):
    """The outermost plane of a block: labels among those of all blocks, which climb on, which are hollow."""

    labels: NDArray[np.uint32]
    leaves: NDArray[np.bool_]
    hollow: NDArray[np.bool_]


class BlockFaces:
    """Joins blocks that are given in C order; it keeps only the faces that are still to meet another block."""

    def __init__(self, are_components: bool, with_edges: bool) -> None:
        self._open: dict[tuple[int, tuple[int, ...]], _Side] = {}
        self._are_components, self._with_edges = are_components, with_edges

    def join(self, parts: BlockRegions, before: int, window: WatershedWindow) -> tuple[NDArray[np.int64], list[Edges]]:
        """Return the pairs of labels, shape (n, 2), that are one across the block's faces, and contacts of others.

        before: how many labels the blocks before have.
        """
        pairs: list[NDArray[np.int64]] = [np.empty((0, 2), np.int64)]
        edges: list[Edges] = []
        for axis in window.spatial:
            if not window.begins(axis):
                side = self._open.pop((axis, window.start))
                mine = _side(parts, before, axis, 0, _DOWN)
                pairs.append(_pairs(side, mine, self._are_components))
                if self._with_edges:
                    edges.append(_edges(side, mine, axis, parts.seams[axis], window))
            if not window.ends(axis):
                place = list(window.start)
                place[axis] += window.shape[axis]
                self._open[axis, tuple(place)] = _side(parts, before, axis, -1, _UP)
        return np.unique(np.concatenate(pairs), axis=0), edges


def _side(parts: BlockRegions, before: int, axis: int, end: int, leaving: tuple[int, int, int]) -> _Side:
    own, ways = parts.faces[axis, end]
    hollow = np.concatenate([np.zeros(1, np.bool_), parts.graph.nodes.hollow])[own]
    return _Side(np.where(own > 0, own + np.uint32(before), np.uint32(0)), ways == leaving[axis], hollow)


def _pairs(side: _Side, mine: _Side, are_components: bool) -> NDArray[np.int64]:
    """Return the pairs of labels that are one."""
    both = (side.labels > 0) & (mine.labels > 0) & (side.hollow == mine.hollow)
    one = both & (side.hollow | side.leaves | mine.leaves | are_components)
    return np.unique(np.stack([side.labels[one], mine.labels[one]], axis=1).astype(np.int64), axis=0)


def _edges(side: _Side, mine: _Side, axis: int, seam: BlockFaceContacts, window: WatershedWindow) -> Edges:
    start, shape = list(window.start), list(window.shape)
    start[axis], shape[axis] = start[axis] - 1, 2
    two = window._replace(start=(start[0], start[1], start[2]), shape=(shape[0], shape[1], shape[2]))
    labels = np.stack([side.labels, mine.labels], axis=axis)
    return region_contacts(labels, *seam, two, across=axis)


MOST_PARTS = 2**32 - 2

MOST_NEW = 2**20
"""Nodes and edges that are gathered, beside a quarter of those that are joined already, before they are joined too."""


class RegionGraphMerger:
    """The graph of all blocks so far; they are added in C order.

    The label n of a block stands behind those of the blocks before it; firsts: how many these are, for each block, and
    in the end how many there are. Whenever it is due, `join` makes parts of one basin in several blocks one node, so
    that memory holds little more than the joined graph.
    """

    def __init__(self, options: ObjectOptions, spacing: VoxelSpacing, name: str) -> None:
        """Begin with nothing. name: of the image, as errors tell it."""
        self._options, self._spacing, self._name = options, spacing, name
        are_components = options.method == "components"
        self._seams = BlockFaces(are_components, not are_components or options.fill_holes)
        self._joined = empty_graph()
        self.firsts = [0]
        self._places: NDArray[np.uint32] = np.empty(0, np.uint32)
        self._nodes: list[Nodes] = []
        self._edges: list[Edges] = []
        self._pairs: list[NDArray[np.int64]] = []
        self._new = 0

    def add(self, parts: BlockRegions, window: WatershedWindow) -> None:
        """Add the parts of the next block.

        Raises:
            InputError: there are more parts than labels.
        """
        count = len(parts.graph.nodes.size)
        if self.firsts[-1] + count > MOST_PARTS:
            raise InputError(f"'{self._name}' falls into too many parts: raise the threshold, or smooth it.")
        pairs, edges = self._seams.join(parts, self.firsts[-1], window)
        self._pairs.append(pairs - 1)
        for each, before in [*((seam, -1) for seam in edges), (parts.graph.edges, self.firsts[-1])]:
            self._edges.append(_compact(shift_graph(each, before)))
            self._new += len(each.one)
        self._nodes.append(parts.graph.nodes)
        self.firsts.append(self.firsts[-1] + count)
        self._new += count

    @property
    def is_due(self) -> bool:
        """Whether so much is new that it should be joined; that takes several times the memory of what is new."""
        return self._new > max(MOST_NEW, (len(self._joined.nodes.size) + len(self._joined.edges.one)) // 4)

    def settle(self, whole: tuple[int, int, int]) -> NDArray[np.uint32]:
        """Return the number of the object of each label, from label 1 on. whole: the shape of the image."""
        self.join()
        options, graph, self._joined = self._options, self._joined, empty_graph()
        steps = np.arange(len(graph.nodes.size))
        if options.method != "components":
            noise = MarkerRules(mask_threshold(options), marker_depth(options), 0.0)
            graph, steps = join_maxima(graph, noise, self._spacing, whole)
        merged = merge_regions(find_markers(graph, options, self._spacing, whole), options)
        numbers: NDArray[np.uint32] = number_objects(merged.graph, options)[merged.places][steps]
        return numbers[self._places]

    def join(self) -> None:
        """Join the parts that are one by all pairs so far."""
        known = len(self._joined.nodes.size)
        fresh = np.arange(known, known + self.firsts[-1] - len(self._places), dtype=np.uint32)
        self._places = np.concatenate([self._places, fresh])
        pairs = self._places[np.concatenate([np.empty((0, 2), np.int64), *self._pairs])]
        (nodes, edges), step = join_parts(self._take(), pairs)
        self._joined = RegionGraph(nodes, _compact(edges))
        places: NDArray[np.uint32] = step.astype(np.uint32)
        self._places = places[self._places]

    def _take(self) -> RegionGraph:
        """Return the graph of what is joined and all that came since; of these, nothing is kept."""
        joined, nodes, edges = self._joined, self._nodes, self._edges
        self._joined, self._nodes, self._edges, self._pairs, self._new = empty_graph(), [], [], [], 0
        there = [each._replace(one=self._places[each.one], other=self._places[each.other]) for each in edges]
        return RegionGraph(join_edges([joined.nodes, *nodes]), join_edges([joined.edges, *there]))


def _compact(edges: Edges) -> Edges:
    """Return edges in three quarters of the memory; there are millions in a volume of many cells."""
    one, other = edges.one.astype(np.uint32), edges.other.astype(np.uint32)
    return edges._replace(one=one, other=other, contacts=edges.contacts.astype(np.uint32))
