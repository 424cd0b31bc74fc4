"""How many objects are found: average precision over thresholds of overlap.

A predicted and a true object match if their intersection over union reaches a threshold, each with one at most
(Caicedo et al. 2019, Nat. Methods 16:1247). Label 0 is background in both images, and counts in no object.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from napari_skipseg.errors import InputError
from napari_skipseg.scores.instances import as_labels

_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""The overlaps, 0.5 to 0.95, over which the mean is taken."""


@dataclass(frozen=True)
class MatchingScores:
    """Matched objects at each of `thresholds`, and the average precision that they give.

    true_positives: pairs of a predicted and a true object that match. false_positives: predicted objects without a
    partner. false_negatives: true objects without one.
    """

    thresholds: tuple[float, ...]
    true_positives: tuple[int, ...]
    false_positives: tuple[int, ...]
    false_negatives: tuple[int, ...]

    @property
    def precisions(self) -> tuple[float, ...]:
        """TP / (TP + FP + FN) at each threshold; 1 where there are no objects at all."""
        counts = zip(self.true_positives, self.false_positives, self.false_negatives, strict=True)
        return tuple(hits / (hits + false + missed) if hits + false + missed else 1.0 for hits, false, missed in counts)

    @property
    def mean(self) -> float:
        """The mean of `precisions`."""
        return math.fsum(self.precisions) / len(self.thresholds)

    def named(self) -> dict[str, float]:
        """Return the mean, and precision and counts at the first threshold, by name: those of 0.5 end with "50"."""
        percent = round(100 * self.thresholds[0])
        return {
            "average_precision": self.mean,
            f"average_precision_{percent}": self.precisions[0],
            f"true_positives_{percent}": self.true_positives[0],
            f"false_positives_{percent}": self.false_positives[0],
            f"false_negatives_{percent}": self.false_negatives[0],
        }


def score_matching(
    prediction: ArrayLike, truth: ArrayLike, thresholds: Sequence[float] = _THRESHOLDS
) -> MatchingScores:
    """Return how the objects of `prediction` match those of `truth`, label images of one shape and any number of axes.

    thresholds: in (0, 1]; an overlap equal to a threshold counts. As many pairs as possible are matched.

    Raises:
        InputError: shapes that differ, values that are no integers, a threshold out of range.
    """
    predicted, true = as_labels(prediction, "prediction"), as_labels(truth, "truth")
    if predicted.shape != true.shape:
        raise InputError(
            f"The prediction has shape {predicted.shape}, the truth {true.shape}: give both for one image."
        )
    if not thresholds or not all(0 < threshold <= 1 for threshold in thresholds):
        raise InputError("Overlaps to match at lie between 0 and 1, and there must be one: give some such as 0.5.")
    ours, our_sizes = _numbered(predicted)
    theirs, their_sizes = _numbered(true)
    both = (ours > 0) & (theirs > 0)
    pairs, counts = np.unique(ours[both] * np.int64(len(their_sizes)) + theirs[both], return_counts=True)
    one, other = np.divmod(pairs, len(their_sizes))
    overlap = counts / (our_sizes[one] + their_sizes[other] - counts)
    shape = len(our_sizes) - 1, len(their_sizes) - 1  # label 0 is no object
    hits = []
    for threshold in thresholds:
        enough = overlap >= threshold
        # scipy 1.11 takes no numbers of 64 bits
        places = (one[enough] - 1).astype(np.int32), (other[enough] - 1).astype(np.int32)
        links = coo_array((np.ones(len(places[0]), np.bool_), places), shape).tocsr()
        # maximum_bipartite_matching refuses an empty matrix
        hits.append(int((maximum_bipartite_matching(links) >= 0).sum()) if min(shape) else 0)
    false, missed = (tuple(count - hit for hit in hits) for count in shape)
    return MatchingScores(tuple(thresholds), tuple(hits), false, missed)


def pool_matching(scores: Sequence[MatchingScores]) -> MatchingScores:
    """Return the scores over the objects of all images together: their counts are added."""
    columns = zip(*((each.true_positives, each.false_positives, each.false_negatives) for each in scores), strict=True)
    hits, false, missed = (tuple(map(sum, zip(*column, strict=True))) for column in columns)
    return MatchingScores(scores[0].thresholds, hits, false, missed)


def _numbered(labels: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the labels, flat, as 0 = background and 1, 2, …, and how many pixels each has."""
    values, numbers = np.unique(labels, return_inverse=True)
    numbers = numbers.reshape(-1).astype(np.int64)
    ranks = np.cumsum(values != 0)
    ranks[values == 0] = 0
    numbers = ranks[numbers]
    return numbers, np.bincount(numbers, minlength=int(ranks.max(initial=0)) + 1)
