"""Scores on strokes: what few strokes tell of an image, and what they leave open."""

import re

import numpy as np
import pytest

from napari_skipseg.training.finetune import stroke_scores
from napari_skipseg.training.finetune.report import GOOD, compare_on_strokes
from napari_skipseg.training.finetune.stroke_scores import score_strokes


def strokes(found, wrong, pixels=10):
    """Return called, positive and strokes: a stroke for each share that is called, of the class and of the rest."""
    called, positive, names = [], [], []
    for number, share in enumerate([*found, *wrong]):
        called.append(np.arange(pixels) < round(share * pixels))
        positive.append(np.full(pixels, number < len(found)))
        names.append(np.full(pixels, number))
    return np.concatenate(called), np.concatenate(positive), np.concatenate(names)


def verdict(new, old=None, name="mitochondrion"):
    return compare_on_strokes({name: new}, {} if old is None else {name: old})


def test_the_scores_are_those_of_an_image_with_so_much_of_the_class(monkeypatch):
    monkeypatch.setattr(stroke_scores, "LOG_EXCESS", (0.0, 0.0))
    scores = score_strokes(*strokes([1, 0.8] * 500, [0.1, 0.1] * 500), share=0.1)
    assert scores.found.value == pytest.approx(0.9)
    assert scores.wrong.value == pytest.approx(0.1)
    assert scores.missed.value == pytest.approx(0.1)
    assert scores.right.value == pytest.approx(0.09 / (0.09 + 0.09), abs=0.01)
    assert scores.dice.value == pytest.approx(2 * 0.09 / (0.18 + 0.1), abs=0.01)


def test_two_perfect_strokes_tell_little_and_fifty_tell_much():
    few, many = (score_strokes(*strokes([1] * n, [0] * n), share=0.1) for n in (2, 50))
    assert few.found.value == many.found.value == 1
    assert few.dice.low < GOOD < few.dice.high < many.dice.low


def test_a_large_stroke_counts_as_much_as_a_small_one():
    called, positive, names = strokes([1, 0], [0, 0])
    heavy = [np.concatenate([each, *[each[:10]] * 50]) for each in (called, positive, names)]
    assert score_strokes(*heavy, share=0.5).found.value == 0.5


def test_the_same_strokes_give_the_same_limits():
    one, two = (score_strokes(*strokes([1, 0.5, 1], [0, 0.2, 0]), share=0.2) for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    ("found", "wrong", "better", "unsure", "words"),
    [
        ([0.9] * 50, [0.0] * 50, True, False, "finds 90 % of the held-out mitochondrion, and"),
        ([0.3] * 12, [0.0] * 12, False, False, "30 % of the held-out mitochondrion: not enough yet.*Normal"),
        ([1.0] * 3, [0.0] * 3, False, True, "3 strokes of it and 3 of other things are not enough to tell"),
        ([0.9] * 50, [0.5] * 50, False, False, "not enough yet"),
    ],
)
def test_better_is_said_only_where_it_is(found, wrong, better, unsure, words):
    report = verdict(score_strokes(*strokes(found, wrong), share=0.1))
    assert (report.is_better, report.is_unsure) == (better, unsure)
    assert re.search(words, report.reason)
    assert {row.old for row in report.rows} == {None}


def test_a_single_stroke_is_not_enough_to_tell():
    report = verdict(None)
    assert (report.rows, report.is_better, report.is_unsure) == ((), False, True)
    assert "more places" in report.reason


def test_an_old_head_that_learnt_from_these_strokes_is_not_called_better():
    new, old = (score_strokes(*strokes([share] * 50, [0.0] * 50), share=0.1) for share in (0.8, 1.0))
    report = verdict(new, old)
    assert (report.is_better, report.is_unsure) == (False, True)
    assert "may have learnt from them" in report.reason
    assert verdict(old, new).is_better


def test_all_classes_must_be_found_to_be_better():
    good, bad = (score_strokes(*strokes([share] * 50, [0.0] * 50), share=0.1) for share in (0.9, 0.2))
    report = compare_on_strokes({"one": good, "two": bad}, {})
    assert (report.is_better, report.is_unsure) == (False, False)
    assert {row.class_name for row in report.rows} == {"one", "two"}
