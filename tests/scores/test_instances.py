"""Instance scores are those computed by hand, and those of scikit-image."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.metrics import adapted_rand_error, variation_of_information

from napari_skipseg.errors import InputError
from napari_skipseg.scores.instances import pool_instances, score_instances

TRUTH = np.array([[1, 1, 1, 2, 2, 0]])


def test_a_merge_scores_as_computed_by_hand():
    scores = score_instances(np.ones_like(TRUTH), TRUTH)
    # ordered pairs: in the truth 3·2 + 2·1 = 8, in the prediction 5·4 = 20, in both 8
    assert (scores.pixels, scores.true_pairs, scores.predicted_pairs, scores.shared_pairs) == (5, 8, 20, 8)
    assert scores.adapted_rand_error == pytest.approx(1 - 16 / 28, abs=1e-15)
    assert scores.adapted_rand_precision == 0.4
    assert scores.adapted_rand_recall == 1
    assert scores.variation_split == 0
    assert scores.variation_merge == pytest.approx(-0.6 * math.log2(0.6) - 0.4 * math.log2(0.4), abs=1e-15)
    assert scores.variation_of_information == scores.variation_merge


def test_a_split_scores_as_computed_by_hand():
    scores = score_instances(np.array([[1, 1, 5, 2, 2, 2]]), TRUTH)
    assert (scores.true_pairs, scores.predicted_pairs, scores.shared_pairs) == (8, 4, 4)
    assert (scores.adapted_rand_precision, scores.adapted_rand_recall) == (1, 0.5)
    assert scores.adapted_rand_error == pytest.approx(1 - 8 / 12, abs=1e-15)
    # of the 3 pixels of segment 1 one is cut off
    entropy = -(2 / 3) * math.log2(2 / 3) - (1 / 3) * math.log2(1 / 3)
    assert scores.variation_split == pytest.approx(0.6 * entropy, abs=1e-15)
    assert scores.variation_merge == 0


def test_unlabelled_truth_does_not_count_and_unlabelled_prediction_is_one_segment():
    truth = np.array([1, 1, 2, 2, 0, 0])
    assert score_instances(np.array([3, 3, 0, 0, 8, 9]), truth).adapted_rand_error == 0
    assert score_instances(np.array([0, 0, 0, 0, 8, 9]), truth) == score_instances(np.array([7] * 6), truth)


def test_a_renumbered_truth_is_perfect_even_with_the_largest_numbers():
    truth = np.array([[0, 1, 1], [2, 2, 3]], np.uint64)
    scores = score_instances(truth + np.uint64(2**64 - 4), truth * np.uint64(2**62))
    assert (scores.adapted_rand_error, scores.variation_of_information) == (0, 0)
    assert score_instances(-truth.astype(np.int64) - 5, truth).adapted_rand_error == 0


def test_segments_of_one_pixel_have_no_pairs_and_no_nan():
    truth = np.array([1, 2, 3])
    assert score_instances(truth, truth).adapted_rand_error == 0
    merged = score_instances(np.ones_like(truth), truth)
    assert (merged.adapted_rand_error, merged.adapted_rand_precision, merged.adapted_rand_recall) == (1, 0, 1)
    assert merged.variation_merge == pytest.approx(math.log2(3), abs=1e-15)


LABELS = arrays(np.uint8, (3, 6), elements=st.integers(0, 3))


@pytest.mark.filterwarnings("ignore:invalid value encountered in scalar divide")  # its ratio over no pairs
@settings(max_examples=50, deadline=None)
@given(LABELS, LABELS.filter(lambda truth: np.bincount(truth[truth > 0]).max(initial=0) > 1))
def test_any_labels_score_as_scikit_image_says(prediction, truth):
    scores = score_instances(prediction, truth)
    error, first, second = adapted_rand_error(truth, prediction)
    split, merge = variation_of_information(truth, prediction, ignore_labels=(0,))
    assert scores.adapted_rand_error == pytest.approx(error, abs=1e-12)
    assert (scores.variation_split, scores.variation_merge) == pytest.approx((split, merge), abs=1e-12)
    if scores.predicted_pairs:  # the two names are disputed, the two numbers are not
        found = sorted([scores.adapted_rand_precision, scores.adapted_rand_recall])
        assert found == pytest.approx(sorted([first, second]), abs=1e-12)
    assert not any(math.isnan(value) for value in json.loads(json.dumps(asdict(scores))).values())


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_pooled_images_score_as_one_image_with_labels_of_its_own_for_each(data):
    truths = [data.draw(LABELS.filter(np.any)) for _ in range(2)]
    predictions = [data.draw(LABELS) for _ in range(2)]
    pooled = pool_instances([score_instances(p, t) for p, t in zip(predictions, truths, strict=True)])
    truths[1][truths[1] > 0] += 10
    whole = score_instances(np.stack([predictions[0], predictions[1] + 10]), np.stack(truths))
    assert asdict(pooled) == pytest.approx(asdict(whole), abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (TRUTH, TRUTH[0], "shape"),
        (TRUTH * 1.0, TRUTH, "The prediction contains values of type float64"),
        (TRUTH, TRUTH.astype(np.float32), "The truth contains values of type float32"),
        (TRUTH, TRUTH * 0, "no labelled object"),
        (TRUTH[:0], TRUTH[:0], "no labelled object"),
    ],
)
def test_bad_labels_are_refused_with_a_cure(prediction, truth, message):
    with pytest.raises(InputError, match=message):
        score_instances(prediction, truth)
