"""Scores of labelled instances: adapted Rand error, variation of information, and average precision.

The first two compare the label images without thinning or thresholds, and the predicted label 0 is a segment like any
other. Pixels where the truth is 0 do not count. `napari_skipseg.scores.isbi` differs in all of these.

For average precision, a predicted and a true object match if their intersection over union reaches a threshold, each
with one at most (Caicedo et al. 2019, Nat. Methods 16:1247). Label 0 is background in both images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_skipseg.errors import InputError

MASK = "The truth is a mask of one label: give instances, each with a number of its own, for the objects' scores."


class MaskError(InputError):
    """The truth does not distinguish objects."""


@dataclass(frozen=True)
class InstanceScores:
    """Scores of predicted instances against true ones, and the counts behind them.

    adapted_rand_error: 1 - 2·P / (P_T + P_S), in [0, 1], 0 = the same segmentation; P_T, P_S and P are the ordered
        pairs of different pixels that lie in one true segment, in one predicted segment, in one of both (SNEMI3D).
    adapted_rand_precision: P / P_S; falls with mergers. adapted_rand_recall: P / P_T; falls with splits.
        The names are disputed: this is what scikit-image's documentation says, but `adapted_rand_error` of
        scikit-image up to 0.26 returns the two the other way round (its issue 6485). A ratio over no pairs is 1.
    variation_of_information: the sum of `variation_split` = H(prediction | truth) and `variation_merge` =
        H(truth | prediction), in bits, from 0 on, 0 = the same segmentation.
    pixels: those that count; true_pairs, predicted_pairs, shared_pairs: P_T, P_S and P.
    """

    adapted_rand_error: float
    adapted_rand_precision: float
    adapted_rand_recall: float
    variation_of_information: float
    variation_split: float
    variation_merge: float
    pixels: int
    true_pairs: int
    predicted_pairs: int
    shared_pairs: int

    @classmethod
    def from_counts(
        cls, *, pixels: int, true_pairs: int, predicted_pairs: int, shared_pairs: int, split: float, merge: float
    ) -> InstanceScores:
        """Return the scores for counts of pixels and pairs, and the two conditional entropies in bits."""
        return cls(
            adapted_rand_error=1 - _ratio(2 * shared_pairs, true_pairs + predicted_pairs),
            adapted_rand_precision=_ratio(shared_pairs, predicted_pairs),
            adapted_rand_recall=_ratio(shared_pairs, true_pairs),
            variation_of_information=split + merge,
            variation_split=split,
            variation_merge=merge,
            pixels=pixels,
            true_pairs=true_pairs,
            predicted_pairs=predicted_pairs,
            shared_pairs=shared_pairs,
        )


def score_instances(prediction: ArrayLike, truth: ArrayLike) -> InstanceScores:
    """Return the scores of `prediction` against `truth`, over the pixels where `truth` is not 0.

    Both are label images of one shape and any number of axes: integers of any type, each value one segment,
    however its pixels lie; numbers need neither be consecutive nor small.

    Raises:
        InputError: shapes that differ, values that are no integers, a truth without any label.
    """
    from skimage.metrics import contingency_table, variation_of_information

    predicted, true = as_labels(prediction, "prediction"), as_labels(truth, "truth")
    if predicted.shape != true.shape:
        raise InputError(
            f"The prediction has shape {predicted.shape}, the truth {true.shape}: give both for one image."
        )
    counted = true != 0
    if not counted.any():
        raise InputError("The truth has no labelled object: nothing to score. Its labels must differ from 0.")
    true_numbers, predicted_numbers = _renumber(true[counted]), _renumber(predicted[counted])
    table = contingency_table(true_numbers, predicted_numbers)
    split, merge = variation_of_information(true_numbers, predicted_numbers)
    return InstanceScores.from_counts(
        pixels=true_numbers.size,
        true_pairs=_pairs(np.bincount(true_numbers)),
        predicted_pairs=_pairs(np.bincount(predicted_numbers)),
        shared_pairs=_pairs(table.data),
        split=max(0.0, float(split)),  # rounding leaves -0.0 or less where there is none
        merge=max(0.0, float(merge)),
    )


def is_mask(truth: NDArray[Any]) -> bool:
    """Return whether `truth` has one label besides 0: it says where objects are, but not which."""
    labelled = truth[truth != 0]
    return bool(labelled.size and (labelled == labelled[0]).all())


def pool_instances(scores: Sequence[InstanceScores]) -> InstanceScores:
    """Return the scores of all images side by side; no segment belongs to two images.

    Pairs are added; the conditional entropies are means weighted by pixels, which is then exact.
    """
    pixels = sum(score.pixels for score in scores)
    return InstanceScores.from_counts(
        pixels=pixels,
        true_pairs=sum(score.true_pairs for score in scores),
        predicted_pairs=sum(score.predicted_pairs for score in scores),
        shared_pairs=sum(score.shared_pairs for score in scores),
        split=math.fsum(score.pixels * score.variation_split for score in scores) / pixels,
        merge=math.fsum(score.pixels * score.variation_merge for score in scores) / pixels,
    )


def as_labels(values: ArrayLike, name: str) -> NDArray[Any]:
    """Return an array of labels; `name` is used in errors.

    Raises:
        InputError: the values are no integers.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "bui":
        raise InputError(f"The {name} contains values of type {array.dtype}: give an image of integer labels.")
    return array


def _renumber(labels: NDArray[Any]) -> NDArray[np.intp]:
    """Return 0, 1, … for the values that occur; scikit-image's table is as long as the largest number."""
    return np.unique(labels, return_inverse=True)[1].reshape(-1)


def _pairs(counts: NDArray[Any]) -> int:
    return sum(count * (count - 1) for count in counts.astype(np.int64).tolist())


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


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
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

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
