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


class Face(NamedTuple):
    """The last plane of a block along one axis: labels among those of all blocks, which climb on, which are hollow."""

    labels: NDArray[np.uint32]
    leaves: NDArray[np.bool_]
    hollow: NDArray[np.bool_]


class Seams:
    """Joins blocks that are given in C order; it keeps only the faces that are still to meet another block."""

    def __init__(self, with_edges: bool) -> None:
        self._faces: dict[tuple[int, tuple[int, ...]], Face] = {}
        self._with_edges = with_edges

    def join(self, parts: Parts, before: int, window: Window) -> tuple[NDArray[np.int64], list[Edges]]:
        """Return the pairs of labels, shape (n, 2), that are one across the block's faces, and contacts of others.

        before: how many labels the blocks before have.
        """
        pairs: list[NDArray[np.int64]] = [np.empty((0, 2), np.int64)]
        edges: list[Edges] = []
        for axis in window.spatial:
            if not window.begins(axis):
                face = self._faces.pop((axis, window.start))
                mine = _face(parts, before, axis, 0, _DOWN)
                pairs.append(_pairs(face, mine, not parts.ways))
                if self._with_edges:
                    edges.append(_edges(face, mine, axis, parts.seams[axis], window))
            if not window.ends(axis):
                place = list(window.start)
                place[axis] += window.shape[axis]
                self._faces[axis, tuple(place)] = _face(parts, before, axis, -1, _UP)
        return np.unique(np.concatenate(pairs), axis=0), edges


def _face(parts: Parts, before: int, axis: int, end: int, leaving: tuple[int, int, int]) -> Face:
    own = np.take(parts.labels, end, axis)
    hollow = np.concatenate([np.zeros(1, np.bool_), parts.graph.nodes.hollow])[own]
    leaves = parts.ways[axis, end] == leaving[axis] if parts.ways else np.zeros(own.shape, np.bool_)
    return Face(np.where(own > 0, own + np.uint32(before), np.uint32(0)), leaves, hollow)


def _pairs(face: Face, mine: Face, are_components: bool) -> NDArray[np.int64]:
    """Return the pairs of labels that are one."""
    both = (face.labels > 0) & (mine.labels > 0) & (face.hollow == mine.hollow)
    one = both & (face.hollow | face.leaves | mine.leaves | are_components)
    return np.unique(np.stack([face.labels[one], mine.labels[one]], axis=1).astype(np.int64), axis=0)


def _edges(face: Face, mine: Face, axis: int, seam: Seam, window: Window) -> Edges:
    start, shape = list(window.start), list(window.shape)
    start[axis], shape[axis] = start[axis] - 1, 2
    two = window._replace(start=(start[0], start[1], start[2]), shape=(shape[0], shape[1], shape[2]))
    labels = np.stack([face.labels, mine.labels], axis=axis)
    return contacts(labels, *seam, two, across=axis)
