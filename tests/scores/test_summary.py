"""Pooled scores, means and standard deviations are those computed by hand."""

from dataclasses import asdict

import numpy as np
import pytest

from napari_skipseg.scores.overlap import pool_overlap, score_overlap
from napari_skipseg.scoring.values import ScoreSummary

TRUTHS = {"small": [1, 1, 0, 0], "large": [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]}
PREDICTIONS = {"small": [0, 1, 1, 0], "large": [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]}


def summary():
    scores = {name: score_overlap(np.array(PREDICTIONS[name]), np.array(truth)) for name, truth in TRUTHS.items()}
    return ScoreSummary(asdict(pool_overlap(scores.values())), {name: asdict(score) for name, score in scores.items()})


def test_mean_and_standard_deviation_are_those_computed_by_hand():
    # Dice 1/2 and 1, FPR 1/2 and 0, FNR 1/2 and 0
    scores = summary()
    assert scores.mean["dice"] == 0.75
    assert scores.deviation["dice"] == pytest.approx(np.sqrt(2 * 0.25**2), abs=1e-15)
    assert (scores.mean["false_positive_rate"], scores.mean["false_negative_rate"]) == (0.25, 0.25)
    assert scores.deviation["iou"] == pytest.approx(np.std([1 / 3, 1], ddof=1), abs=1e-15)


def test_pooled_scores_weigh_pixels_and_means_weigh_images():
    # TP 1 + 8, FP 1, FN 1
    scores = summary()
    assert scores.pooled["dice"] == 18 / 20
    assert scores.pooled["dice"] != scores.mean["dice"]
    assert scores.pooled["true_positives"] == 9
    assert "true_positives" not in scores.mean


def test_pooled_overlap_is_that_of_all_pixels_in_one_image():
    together = [np.concatenate([part[name] for name in TRUTHS]) for part in (PREDICTIONS, TRUTHS)]
    assert summary().pooled == asdict(score_overlap(*together))


def test_rows_are_images_then_pooled_then_mean_and_deviation():
    rows = summary().rows()
    assert [row["image"] for row in rows] == ["small", "large", "pooled", "mean", "sd"]
    assert [row["dice"] for row in rows[:4]] == [0.5, 1, 0.9, 0.75]
    assert [row["image"] for row in summary().rows(per_image=False)] == ["pooled", "mean", "sd"]


def test_one_image_has_no_deviation():
    one = ScoreSummary({"dice": 0.5}, {"a.tif": {"dice": 0.5}}, "cell")
    assert one.deviation == {"dice": None}
    assert one.rows(per_image=False) == [{"class": "cell", "image": "pooled", "dice": 0.5}]
    assert one.as_json(per_image=False) == {
        "dice": 0.5, "n_images": 1, "mean": {"dice": 0.5}, "standard_deviation": {"dice": None}
    }  # fmt: skip
