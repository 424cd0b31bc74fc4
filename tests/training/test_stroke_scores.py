"""Scores on strokes: what few strokes tell of an image, and what they leave open."""

import re

import numpy as np
import pytest

from napari_skipseg.training.finetune.report import compare_on_strokes
from napari_skipseg.training.finetune.stroke_scores import (
    CalledPixels,
    Interval,
    gain_in_image,
    score_strokes,
    scores_in_image,
)
from napari_skipseg.training.finetune.stroke_verdict import GOOD, describe_strokes


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


def test_the_scores_are_those_of_an_image_with_so_much_of_the_class():
    # a class of 10 % is called in 0.1 * 0.9 + 0.9 * 0.1 of the image
    scores = score_strokes(*strokes([1, 0.8] * 500, [0.1, 0.1] * 500), marked=0.18)
    assert scores.found.value == pytest.approx(0.9)
    assert scores.wrong.value == pytest.approx(0.1)
    assert scores.missed.value == pytest.approx(0.1)
    assert scores.right.value == pytest.approx(0.09 / (0.09 + 0.09))
    assert scores.dice.value == pytest.approx(2 * 0.09 / (0.18 + 0.1))
    assert scores.right.high - scores.right.low < 0.1


def test_five_background_strokes_without_an_error_say_little_of_an_image_of_which_a_quarter_is_marked():
    new = score_strokes(*strokes([1] * 5, [0] * 5), marked=0.25)
    assert (new.right.low, new.dice.low) == (0, 0)
    assert new.right.low < 0.15 < new.right.high, "the truth of such a case"
    assert new.dice.low < 0.24 < new.dice.high
    report = verdict(new)
    assert (report.is_better, report.is_unsure) == (False, True)
    assert "5 strokes of it and 5 of the background are not enough to tell" in report.reason
    assert "it marks 25 % of the image, and 0 % to 100 % of what it marks is right" in report.reason
    assert re.search(r"Paint \d+ more background strokes where nothing is mitochondrion", report.reason)


def test_the_background_strokes_that_are_asked_for_are_enough():
    new = score_strokes(*strokes([1] * 5, [0] * 5), marked=0.25)
    more = new.missing_background(GOOD)
    assert score_strokes(*strokes([1] * 5, [0] * (5 + more)), marked=0.25).dice.low >= GOOD
    assert score_strokes(*strokes([1] * 5, [0] * (4 + more)), marked=0.25).dice.low < GOOD
    assert score_strokes(*strokes([1] * 2, [1, 0]), marked=0.25).missing_background(GOOD) is None


def test_sixty_background_strokes_without_an_error_are_enough():
    new = score_strokes(*strokes([1] * 20, [0] * 60), marked=0.08)
    assert new.wrong.high == pytest.approx(1 - 0.05 ** (1 / 60), abs=0.005)
    assert new.found.low == pytest.approx(0.05 ** (1 / 20), abs=0.01)
    assert new.dice.low >= GOOD
    assert new.right.low > 0.35
    report = verdict(new)
    assert report.is_better
    assert "(86 % to 100 %) of the held-out mitochondrion" in report.reason
    limits = {row.score: row.limits for row in report.rows}
    assert limits["Dice"] == pytest.approx(new.dice[1:], abs=1e-4)
    assert limits["precision"] == pytest.approx(new.right[1:], abs=1e-4)
    card = describe_strokes({"mitochondrion": new})
    assert f"20 strokes of it and 60 of the background, Dice {new.dice.low:.2f} to 1.00, precision" in card


@pytest.mark.parametrize("count", [1, 5, 60])
def test_no_error_in_so_many_strokes_leaves_open_what_so_many_can(count):
    scores = score_strokes(*strokes([1] * count, [0] * count), marked=0.3)
    assert scores.wrong.high >= 1 - 0.05 ** (1 / count)
    assert scores.found.low <= 0.05 ** (1 / count) + 1e-9
    assert (scores.wrong.low, scores.found.high) == (0, 1)


def test_a_class_that_is_called_as_often_on_the_background_tells_nothing():
    scores = score_strokes(*strokes([0.7] * 50, [0.7] * 50), marked=0.7)
    assert scores.right == scores.dice == (0, 0, 1)
    assert verdict(scores).is_unsure


def test_a_class_that_marks_nothing_of_the_image_is_not_good():
    scores = score_strokes(*strokes([1] * 50, [0] * 50), marked=0.0)
    assert scores.right == scores.dice == (0, 0, 1)
    report = verdict(scores)
    assert (report.is_better, report.is_unsure) == (False, True)
    assert "paint mitochondrion in more places" in report.reason


def test_all_that_is_marked_can_be_right_although_half_of_the_class_is_missed():
    right, dice = scores_in_image(Interval(0.5, 0.5, 0.5), Interval(0.0, 0.0, 0.0), 0.1)
    assert right == (1, 1, 1)
    assert dice.value == pytest.approx(2 * 0.1 / (0.1 + 0.2))


@pytest.mark.parametrize("marked", [0.1, 0.9])
def test_strokes_that_are_not_like_the_image_tell_nothing_of_it(marked):
    right, dice = scores_in_image(Interval(0.8, 0.7, 0.85), Interval(0.3, 0.2, 0.4), marked)
    assert right[1:] == dice[1:] == (0, 1)


def test_two_perfect_strokes_tell_little_and_sixty_tell_much():
    few, many = (score_strokes(*strokes([1] * n, [0] * n), marked=0.1) for n in (2, 60))
    assert few.found.value == many.found.value == 1
    assert few.dice.low < GOOD < many.dice.low < few.dice.high


def test_a_large_stroke_counts_as_much_as_a_small_one():
    called, positive, names = strokes([1, 0], [0, 0])
    heavy = [np.concatenate([each, *[each[:10]] * 50]) for each in (called, positive, names)]
    assert score_strokes(*heavy, marked=0.5).found.value == 0.5


def test_the_same_strokes_give_the_same_limits():
    one, two = (score_strokes(*strokes([1, 0.5, 1], [0, 0.2, 0]), marked=0.2) for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    ("found", "wrong", "marked", "better", "unsure", "words"),
    [
        ([0.9] * 50, [0.0] * 50, 0.1, True, False, r"finds 90 % \(.*\) of the held-out mitochondrion, and"),
        ([0.1] * 12, [0.0] * 12, 0.1, False, False, r"10 % \(.*\) of the held-out .*: not enough yet.*Normal"),
        ([1.0] * 3, [0.0] * 3, 0.1, False, True, "3 strokes of it and 3 of the background are not enough to tell"),
        ([0.9] * 50, [0.5] * 50, 0.54, False, False, "not enough yet"),
    ],
)
def test_better_is_said_only_where_it_is(found, wrong, marked, better, unsure, words):
    report = verdict(score_strokes(*strokes(found, wrong), marked=marked))
    assert (report.is_better, report.is_unsure) == (better, unsure)
    assert re.search(words, report.reason)
    assert {row.old for row in report.rows} == {None}


def test_a_single_stroke_is_not_enough_to_tell():
    report = verdict(None)
    assert (report.rows, report.is_better, report.is_unsure) == ((), False, True)
    assert "more places" in report.reason


def test_an_old_head_that_learnt_from_these_strokes_is_not_called_better():
    new, old = (score_strokes(*strokes([share] * 50, [0.0] * 50), marked=0.1) for share in (0.8, 1.0))
    report = verdict(new, old)
    assert (report.is_better, report.is_unsure) == (False, True)
    assert "may have learnt from them" in report.reason
    assert verdict(old, new).is_better


def test_all_classes_must_be_found_to_be_better():
    good, bad = (score_strokes(*strokes([share] * 50, [0.0] * 50), marked=0.1) for share in (0.9, 0.2))
    report = compare_on_strokes({"one": good, "two": bad}, {})
    assert (report.is_better, report.is_unsure) == (False, False)
    assert {row.class_name for row in report.rows} == {"one", "two"}


def called_pixels(found, wrong):
    return CalledPixels(*strokes(found, wrong))


@pytest.mark.parametrize(
    ("before", "after", "is_seen", "low", "high"),
    [
        (([0.2] * 20, [0.1] * 20), ([0.9] * 20, [0.0] * 20), True, 0.99, 1),
        (([0.9] * 20, [0.0] * 20), ([0.2] * 20, [0.1] * 20), False, 0, 0.01),
        (([0.8] * 20, [0.1] * 20), ([0.8] * 20, [0.1] * 20), False, 0, 0.05),
        (([0.0], [0.0]), ([1.0], [0.0]), True, 0, 0.5),  # a single stroke is no proof
        (([0.8, 0.2] * 10, [0.1] * 20), ([0.2, 0.9] * 10, [0.1] * 20), True, 0.05, 0.95),
    ],
)
def test_the_chance_of_a_gain_is_that_of_the_strokes_together(before, after, is_seen, low, high):
    gain = gain_in_image(called_pixels(*before), called_pixels(*after), 0.1)
    assert gain.is_seen is is_seen
    assert low <= gain.chance <= high


def test_more_of_a_rare_class_is_no_gain_if_much_more_of_the_background_is_marked():
    old, new = called_pixels([0.5] * 30, [0.0] * 60), called_pixels([0.8] * 30, [0.3] * 60)
    assert not gain_in_image(old, new, 0.31).is_seen
    common = called_pixels([0.5] * 30, [0.0] * 60), called_pixels([0.9] * 30, [0.1] * 60)
    assert gain_in_image(*common, 0.5).chance > 0.95


def test_rates_weigh_each_stroke_the_same():
    assert called_pixels([1, 0], [0.5, 0.1]).rates() == pytest.approx((0.5, 0.3))
