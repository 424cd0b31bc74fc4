"""Overlap scores are the ratios that their names say, and never NaN."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_skipseg.errors import InputError
from napari_skipseg.scores.overlap import OverlapScores, score_overlap

PREDICTION = np.array([[1, 1, 1, 0], [0, 0, 0, 0]], bool)
TRUTH = np.array([[1, 1, 0, 1], [1, 0, 0, 0]], bool)


def test_scores_are_those_computed_by_hand():
    scores = score_overlap(PREDICTION, TRUTH)
    assert scores == OverlapScores(
        dice=4 / 7,
        iou=2 / 5,
        precision=2 / 3,
        recall=2 / 4,
        false_positive_rate=1 / 4,
        false_negative_rate=2 / 4,
        true_positives=2,
        false_positives=1,
        false_negatives=2,
        true_negatives=3,
    )


def test_only_counted_pixels_count():
    counted = np.array([[1, 1, 1, 1], [0, 0, 0, 0]], bool)
    assert score_overlap(PREDICTION, TRUTH, counted) == score_overlap(PREDICTION[:1], TRUTH[:1])


def test_any_number_but_zero_is_inside():
    assert score_overlap(PREDICTION * np.uint8(255), TRUTH * 2.0) == score_overlap(PREDICTION, TRUTH)


def test_two_empty_masks_agree():
    empty = np.zeros((3, 3), bool)
    scores = score_overlap(empty, empty)
    assert (scores.dice, scores.iou, scores.precision, scores.recall) == (1, 1, 1, 1)
    assert (scores.false_positive_rate, scores.false_negative_rate) == (0, 0)


def test_an_empty_prediction_of_something_misses_all_and_invents_nothing():
    scores = score_overlap(np.zeros_like(TRUTH), TRUTH)
    assert (scores.dice, scores.iou, scores.precision, scores.recall) == (0, 0, 1, 0)
    assert (scores.false_positive_rate, scores.false_negative_rate) == (0, 1)


def test_a_prediction_of_something_where_nothing_is_invents_all():
    scores = score_overlap(TRUTH, np.zeros_like(TRUTH))
    assert (scores.dice, scores.iou, scores.precision, scores.recall) == (0, 0, 0, 1)
    assert (scores.false_positive_rate, scores.false_negative_rate) == (0.5, 0)


def test_counts_of_tiles_add_up_to_the_whole():
    tiles = [score_overlap(PREDICTION[row], TRUTH[row]) for row in range(2)]
    whole = OverlapScores.from_counts(
        true_positives=sum(tile.true_positives for tile in tiles),
        false_positives=sum(tile.false_positives for tile in tiles),
        false_negatives=sum(tile.false_negatives for tile in tiles),
        true_negatives=sum(tile.true_negatives for tile in tiles),
    )
    assert whole == score_overlap(PREDICTION, TRUTH)


@given(st.data())
def test_scores_of_any_masks_are_ratios_that_hang_together(data):
    prediction, truth = (data.draw(arrays(np.bool_, (3, 5))) for _ in range(2))
    scores = score_overlap(prediction, truth)
    assert all(0 <= value <= 1 for value in list(asdict(scores).values())[:6])
    assert scores.dice == pytest.approx(2 * scores.iou / (1 + scores.iou))
    assert scores.false_negative_rate == pytest.approx(1 - scores.recall)
    assert score_overlap(truth, prediction).precision == scores.recall
    assert score_overlap(truth, truth).dice == 1
    assert not any(math.isnan(value) for value in json.loads(json.dumps(asdict(scores))).values())


@pytest.mark.parametrize(
    ("prediction", "truth", "counted", "message"),
    [
        (PREDICTION, TRUTH[:1], None, "shape"),
        (PREDICTION, TRUTH, TRUTH[:1], "counted region has shape"),
        (PREDICTION * 0.5, TRUTH, None, "threshold"),
        (PREDICTION * np.nan, TRUTH, None, "NaN"),
        (PREDICTION * 1j, TRUTH, None, "complex"),
        (PREDICTION, TRUTH, np.zeros_like(TRUTH), "no pixel"),
        (PREDICTION[:0], TRUTH[:0], None, "no pixel"),
    ],
)
def test_bad_masks_are_refused_with_a_cure(prediction, truth, counted, message):
    with pytest.raises(InputError, match=message):
        score_overlap(prediction, truth, counted)
