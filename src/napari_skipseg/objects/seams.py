"""What two blocks side by side have in common: parts that are one, and contacts between others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.basins import Edges, Window
from napari_skipseg.objects.contacts import contacts
from napari_skipseg.objects.parts import Parts, Seam

_DOWN = (1, 2, 3)
_UP = (6, 5, 4)
"""The ways of `basins.climb` along -z, -y, -x and +z, +y, +x."""


class _Side(NamedTuple):
    """The outermost plane of a block: labels among those of all blocks, which climb on, which are hollow."""

    labels: NDArray[np.uint32]
    leaves: NDArray[np.bool_]
    hollow: NDArray[np.bool_]


class Seams:
    """Joins blocks that are given in C order; it keeps only the faces that are still to meet another block."""

    def __init__(self, are_components: bool, with_edges: bool) -> None:
        self._open: dict[tuple[int, tuple[int, ...]], _Side] = {}
        self._are_components, self._with_edges = are_components, with_edges

    def join(self, parts: Parts, before: int, window: Window) -> tuple[NDArray[np.int64], list[Edges]]:
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


def _side(parts: Parts, before: int, axis: int, end: int, leaving: tuple[int, int, int]) -> _Side:
    own, ways = parts.faces[axis, end]
    hollow = np.concatenate([np.zeros(1, np.bool_), parts.graph.nodes.hollow])[own]
    return _Side(np.where(own > 0, own + np.uint32(before), np.uint32(0)), ways == leaving[axis], hollow)


def _pairs(side: _Side, mine: _Side, are_components: bool) -> NDArray[np.int64]:
    """Return the pairs of labels that are one."""
    both = (side.labels > 0) & (mine.labels > 0) & (side.hollow == mine.hollow)
    one = both & (side.hollow | side.leaves | mine.leaves | are_components)
    return np.unique(np.stack([side.labels[one], mine.labels[one]], axis=1).astype(np.int64), axis=0)


def _edges(side: _Side, mine: _Side, axis: int, seam: Seam, window: Window) -> Edges:
    start, shape = list(window.start), list(window.shape)
    start[axis], shape[axis] = start[axis] - 1, 2
    two = window._replace(start=(start[0], start[1], start[2]), shape=(shape[0], shape[1], shape[2]))
    labels = np.stack([side.labels, mine.labels], axis=axis)
    return contacts(labels, *seam, two, across=axis)
