"""The contingency table of a true and a proposed segmentation, and the two ISBI-2012 scores that follow from it.

Definitions: Arganda-Carreras et al. 2015, Front. Neuroanat. 9:142, with the conventions of Fiji's code: only
pixels inside a true segment count, a proposed pixel of label 0 is a segment of its own, and a pair may be a
pixel with itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")
Integers = NDArray[np.int32] | NDArray[np.int64]


def compiled(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """Return `function` compiled on its first call, and cached on disk if a folder can be written to."""
    try:
        fast: Callable[Parameters, Returned] = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written to
        fast = njit(nogil=True)(function)
    return fast


class Agreement(NamedTuple):
    """One score in [0, 1], 1 = the same, and its parts: `split` falls with splits, `merge` with mergers."""

    score: float
    split: float
    merge: float


@dataclass(frozen=True)
class Contingency:
    """Counts of the pixels inside true segments.

    joint: pixels in true segment i and proposed segment j, for the pairs (i, j) that occur, in any order.
    of_truth: pixels per true segment, singletons included.
    of_proposal: pixels per proposed segment, inside the truth; may contain zeros.
    singletons: pixels without a proposed segment, each a segment of its own.
    """

    joint: NDArray[np.int64]
    of_truth: NDArray[np.int64]
    of_proposal: NDArray[np.int64]
    singletons: int

    @property
    def pixels(self) -> int:
        """All counted pixels."""
        return int(self.of_truth.sum())

    def rand(self) -> Agreement:
        """Return V_rand = 2·Q_ST/(Q_S + Q_T), split = Q_ST/Q_T, merge = Q_ST/Q_S (the sums are exact)."""
        both = _sum_of_squares(self.joint) + self.singletons
        proposal = _sum_of_squares(self.of_proposal) + self.singletons
        truth = _sum_of_squares(self.of_truth)
        return Agreement(2 * both / (proposal + truth), both / truth, both / proposal)

    def information(self) -> Agreement:
        """Return V_info = 2·I/(H_T + H_S), split = I/H_S and merge = I/H_T, natural logarithms.

        All three are 1 if truth and proposal are both one segment, 0 if only one of them is.
        """
        pixels = self.pixels
        truth = _entropy(self.of_truth, 0, pixels)
        proposal = _entropy(self.of_proposal, self.singletons, pixels)
        if truth == 0 or proposal == 0:
            same = float(truth == proposal)
            return Agreement(same, same, same)
        shared = truth + proposal - _entropy(self.joint, self.singletons, pixels)
        shared = min(max(shared, 0.0), truth, proposal)  # rounding may exceed the bounds by a last digit
        return Agreement(2 * shared / (truth + proposal), shared / proposal, shared / truth)


def _sum_of_squares(counts: NDArray[np.int64]) -> int:
    return int(np.dot(counts, counts))


def _entropy(counts: NDArray[np.int64], singletons: int, pixels: int) -> float:
    shares = counts[counts > 0] / pixels
    return math.fsum((-shares * np.log(shares)).tolist()) + singletons / pixels * math.log(pixels)


@compiled
def label_components(state: NDArray[np.int32], column: int, wanted: int, last: int) -> int:
    """Number the 4-connected components of `wanted` pixels from `last` + 1 on; return the last number.

    state: flat, rows `column` apart, with a margin of one pixel that is not `wanted`; changed in place.
    """
    neighbours = (-column, -1, column, 1)
    waiting = np.empty(state.size, np.int32)
    for start in range(state.size):
        if state[start] != wanted:
            continue
        last += 1
        state[start] = last
        waiting[0] = start
        count = 1
        while count > 0:
            count -= 1
            pixel = waiting[count]
            for step in neighbours:
                if state[pixel + step] == wanted:
                    state[pixel + step] = last
                    waiting[count] = pixel + step
                    count += 1
    return last


class TruePixels(NamedTuple):
    """The pixels inside true segments, segment by segment.

    order: flat positions, those of one segment side by side.
    starts: where each segment begins in `order`, and the end.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]


def group_pixels(truth: Integers, segments: int) -> TruePixels:
    """Return the positions in flat `truth` (labels 1 to `segments`; others do not count) ordered by label."""
    inside = np.flatnonzero(truth > 0)
    labels = truth[inside]
    counts = np.bincount(labels, minlength=segments + 1)[1:]
    return TruePixels(inside[np.argsort(labels, kind="stable")], np.concatenate([[0], np.cumsum(counts)]))


def tabulate(true_pixels: TruePixels, proposal: Integers, segments: int) -> Contingency:
    """Return the table of `true_pixels` and flat `proposal` (labels 0 to `segments`, 0 = singletons)."""
    joint, of_proposal, singletons = _count(true_pixels.order, true_pixels.starts, proposal, segments)
    return Contingency(joint, np.diff(true_pixels.starts), of_proposal, singletons)


@compiled
def _count(
    order: NDArray[np.int64], starts: NDArray[np.int64], proposal: NDArray[Any], segments: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    joint = np.empty(order.size, np.int64)
    met = np.empty(order.size, np.int64)
    here = np.zeros(segments + 1, np.int64)
    totals = np.zeros(segments + 1, np.int64)
    pairs = 0
    for group in range(starts.size - 1):
        first = pairs
        for place in range(starts[group], starts[group + 1]):
            label = proposal[order[place]]
            if label > 0 and here[label] == 0:
                met[pairs] = label
                pairs += 1
            here[label] += 1
        totals[0] += here[0]
        here[0] = 0
        for pair in range(first, pairs):
            label = met[pair]
            joint[pair] = here[label]
            totals[label] += here[label]
            here[label] = 0
    return joint[:pairs].copy(), totals[1:].copy(), totals[0]
