"""Average precision: counts of matched objects at thresholds of overlap."""

import numpy as np
import pytest

from napari_skipseg.errors import InputError
from napari_skipseg.scores.instances import pool_matching, score_matching


def images():
    """Two true squares of 16 pixels: one found whole, one with 12 of its pixels (0.75); and one that is not there."""
    truth = np.zeros((10, 12), np.int32)
    truth[:4, :4], truth[6:10, 6:10] = 70_000, 9
    prediction = truth.copy()
    prediction[6:10, 9], prediction[0, 11] = 0, 3
    return prediction, truth


def test_counts_and_precisions_at_each_threshold():
    scores = score_matching(*images())
    assert scores.thresholds == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    assert scores.true_positives == (2,) * 6 + (1,) * 4
    assert scores.false_positives == (1,) * 6 + (2,) * 4
    assert scores.false_negatives == (0,) * 6 + (1,) * 4
    assert scores.precisions == pytest.approx((2 / 3,) * 6 + (1 / 4,) * 4)
    assert scores.mean == pytest.approx((6 * 2 / 3 + 4 / 4) / 10)
    assert scores.named()["average_precision_50"] == pytest.approx(2 / 3)


def test_an_object_matches_one_other_at_most():
    truth = np.array([[1, 1, 1, 1]])
    halves = np.array([[1, 1, 2, 2]])
    scores = score_matching(halves, truth, (0.5,))
    assert (scores.true_positives, scores.false_positives, scores.false_negatives) == ((1,), (1,), (0,))
    shifted = score_matching(np.array([[1, 1, 1, 2, 2, 2]]), np.array([[1, 1, 2, 2, 2, 2]]), (0.3,))
    assert shifted.true_positives == (2,)


def test_nothing_found_and_nothing_there():
    empty, one = np.zeros((3, 3), np.uint8), np.ones((3, 3), np.uint8)
    assert score_matching(empty, empty).mean == 1
    assert score_matching(one, empty).mean == 0
    assert score_matching(empty, one).mean == 0


def test_pooled_counts_are_those_of_images_side_by_side():
    prediction, truth = images()
    other = np.where(truth == 9, 9, 0)
    both = pool_matching([score_matching(prediction, truth), score_matching(other, truth)])
    shifted = truth + 100_000 * (truth > 0)
    beside = score_matching(np.hstack([prediction, np.where(other, other + 100_000, 0)]), np.hstack([truth, shifted]))
    assert both == beside


def test_bad_input_is_refused():
    labels = np.ones((3, 3), np.uint8)
    with pytest.raises(InputError, match="shape"):
        score_matching(labels, labels[:2])
    with pytest.raises(InputError, match="float64"):
        score_matching(labels.astype(float), labels)
    with pytest.raises(InputError, match="between 0 and 1"):
        score_matching(labels, labels, (0.0,))
