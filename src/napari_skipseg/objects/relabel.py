"""Labels of a block given other numbers, without more memory than the labels have."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.scores.table import compiled


def relabel(labels: NDArray[np.uint32], numbers: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the number of each label, `numbers[0]` for label 1; 0 stays 0. Shape: (Z, Y, X) -> (Z, Y, X)."""
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
    """Return labels, changed in place, behind `before` others; 0 stays 0."""
    return np.add(labels, np.uint32(before), out=labels, where=labels > 0)


def join_labels(labels: NDArray[np.uint32], groups: NDArray[np.int64]) -> tuple[NDArray[np.uint32], int]:
    """Return the labels of groups that occur, 1, 2, … in the order of the groups, and how many they are.

    groups: of each label, 0, 1, …, that of label 1 first.
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
