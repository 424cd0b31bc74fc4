"""Overlap of two masks: Dice, IoU, precision, recall and the rates of false pixels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_skipseg.errors import InputError


@dataclass(frozen=True)
class OverlapScores:
    """Scores of a predicted mask against a true one, each in [0, 1], and the pixel counts behind them.

    A ratio over no pixels means that nothing is wrong: 1 for dice, iou, precision and recall, 0 for
    the two rates. So two empty masks score 1; an empty prediction of something has precision 1, recall 0 and
    dice 0.

    dice: 2·TP / (2·TP + FP + FN)        precision: TP / (TP + FP)        false_positive_rate: FP / (FP + TN)
    iou: TP / (TP + FP + FN)             recall: TP / (TP + FN)           false_negative_rate: FN / (TP + FN)
    """

    dice: float
    iou: float
    precision: float
    recall: float
    false_positive_rate: float
    false_negative_rate: float
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @classmethod
    def from_counts(
        cls, *, true_positives: int, false_positives: int, false_negatives: int, true_negatives: int
    ) -> OverlapScores:
        """Return the scores of pixel counts, such as sums over the tiles of a stack."""
        hits, false_alarms, misses = true_positives, false_positives, false_negatives
        return cls(
            dice=_ratio(2 * hits, 2 * hits + false_alarms + misses, over_nothing=1.0),
            iou=_ratio(hits, hits + false_alarms + misses, over_nothing=1.0),
            precision=_ratio(hits, hits + false_alarms, over_nothing=1.0),
            recall=_ratio(hits, hits + misses, over_nothing=1.0),
            false_positive_rate=_ratio(false_alarms, false_alarms + true_negatives, over_nothing=0.0),
            false_negative_rate=_ratio(misses, hits + misses, over_nothing=0.0),
            true_positives=true_positives,
            false_positives=false_positives,
            false_negatives=false_negatives,
            true_negatives=true_negatives,
        )


def score_overlap(prediction_mask: ArrayLike, truth_mask: ArrayLike, counted: ArrayLike | None = None) -> OverlapScores:
    """Return the scores of `prediction_mask` against `truth_mask`, over all pixels or those `counted`.

    All are masks of one shape, of any number of axes: booleans, or numbers where 0 is outside, others inside.

    Raises:
        InputError: shapes that differ, values between 0 and 1 or not finite, no pixel that counts.
    """
    prediction = _as_mask(prediction_mask, "prediction")
    truth = _as_mask(truth_mask, "truth")
    if prediction.shape != truth.shape:
        raise InputError(
            f"The prediction has shape {prediction.shape}, the truth {truth.shape}: give both for one region."
        )
    if counted is not None:
        where = _as_mask(counted, "counted region")
        if where.shape != truth.shape:
            raise InputError(f"The counted region has shape {where.shape}, the masks {truth.shape}: make them equal.")
        prediction, truth = prediction[where], truth[where]
    if truth.size == 0:
        raise InputError("There is no pixel to score: the masks are empty, or the counted region leaves none.")
    hits = int(np.count_nonzero(prediction & truth))
    predicted, true = int(np.count_nonzero(prediction)), int(np.count_nonzero(truth))
    return OverlapScores.from_counts(
        true_positives=hits,
        false_positives=predicted - hits,
        false_negatives=true - hits,
        true_negatives=truth.size - predicted - true + hits,
    )


def pool_overlap(scores: Iterable[OverlapScores]) -> OverlapScores:
    """Return the scores over the pixels of all images together: their counts are added, not their ratios averaged."""
    counts = [(s.true_positives, s.false_positives, s.false_negatives, s.true_negatives) for s in scores]
    hits, false_alarms, misses, rejections = (sum(column) for column in zip(*counts, strict=True))
    return OverlapScores.from_counts(
        true_positives=hits, false_positives=false_alarms, false_negatives=misses, true_negatives=rejections
    )


def _ratio(part: int, whole: int, over_nothing: float) -> float:
    return part / whole if whole else over_nothing


def _as_mask(values: ArrayLike, name: str) -> NDArray[np.bool_]:
    array = np.asarray(values)
    if array.dtype.kind not in "buif":
        raise InputError(f"The {name} contains values of type {array.dtype}: give a mask of 0 and 1.")
    if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        raise InputError(f"The {name} is no mask (it contains fractions or NaN): apply a threshold first.")
    mask: NDArray[np.bool_] = array != 0
    return mask
