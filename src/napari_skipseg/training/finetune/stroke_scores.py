"""How well a class is found in an image, judged on strokes that were each held out of a fit, and how sure that is.

A stroke is one unit: its pixels are much alike. Strokes show a class about as often as background, so what is right of
the pixels that are marked in them says little about an image in which the class is rare: of ten strokes 0.9 were right,
and of what was marked in the stack 0.15. It follows from three rates: t, the share of the class that is found, f, the
share of the background that is called the class, both on strokes, and c, the share of the image that is called the
class. The class then has the share p = (c - f) / (t - f) of the image (Rogan and Gladen 1978), and t p / c of what is
marked is right.

The limits of a rate are those of Gaffke (2005) for the mean of values in [0, 1]: a bootstrap over strokes with one more
that is as wrong as can be. If strokes are right or wrong as wholes, these are the limits of Clopper and Pearson. The
limits for the image are the worst and the best that the limits of both rates allow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

DRAWS = 4000
OUTSIDE_LIMIT = 0.05
"""Chance that a rate lies below its lower limit, and that it lies above the upper one."""
LEAST_THERE = 0.005
"""Share of an image that a class is taken to have at least, where two models are compared."""
MOST_STROKES = 60
"""Strokes of the background, in all, that somebody can be asked for; a stroke takes some seconds."""


class Interval(NamedTuple):
    """A value and its limits: 95 % sure on each side for the rates on strokes, and what these allow for the image."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class StrokeScores:
    """Scores of one class. found: share of the class that is found, wrong: share of the background that is called it.

    Both as on the strokes. marked: share of the image that is called the class. dice, right: those of the image, right
    being the share of what is marked that is the class. strokes, others: how many show the class and background.
    """

    dice: Interval
    found: Interval
    right: Interval
    wrong: Interval
    marked: float
    strokes: int
    others: int

    @property
    def missed(self) -> Interval:
        """Share of the class that is not found."""
        return Interval(1 - self.found.value, 1 - self.found.high, 1 - self.found.low)

    def missing_background(self, dice: float) -> int | None:
        """Return how many more strokes of the background raise the lower limit of Dice to `dice`.

        They are taken to be as right as those that are there. None if so many as can be painted don't.
        """
        counts = np.arange(self.others + 1, MOST_STROKES + 1)
        wrong = self.wrong.value * counts
        highest = betaincinv(wrong + 1, np.maximum(counts - wrong, 1e-9), 1 - OUTSIDE_LIMIT)
        for more, high in enumerate(highest, 1):
            lower = Interval(self.wrong.value, min(self.wrong.low, float(high)), float(high))
            if scores_in_image(self.found, lower, self.marked)[1].low >= dice:
                return more
        return None


@dataclass(frozen=True)
class CalledPixels:
    """Labelled pixels of one class and of all else, each (pixels,).

    called: whether a model calls them the class. positive: whether they are. strokes: the numbers of their strokes.
    """

    called: NDArray[np.bool_]
    positive: NDArray[np.bool_]
    strokes: NDArray[np.int64]

    def score(self, marked: float) -> StrokeScores | None:
        """Return the scores of a model that calls the share `marked` of the image; None without a stroke of a side."""
        if self.positive.all() or not self.positive.any():
            return None
        return score_strokes(self.called, self.positive, self.strokes, marked)

    def rates(self) -> tuple[float, float]:
        """Return the shares of the class and of all else that are called the class, each stroke weighing the same."""
        found, wrong = (float(_stroke_rates(self.called, self.strokes, side).mean()) for side in self.sides())
        return found, wrong

    def sides(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return the pixels of the class, and all others."""
        return self.positive, ~self.positive


class Gain(NamedTuple):
    """Whether Dice of the image is higher by the rates as measured, and the chance at least that it really is."""

    is_seen: bool
    chance: float


def gain_in_image(old: CalledPixels, new: CalledPixels, marked: float, seed: int = 0) -> Gain:
    """Return whether Dice of the image is higher with the new model than with the old one.

    old, new: the same pixels. marked: share of the image that the new model calls the class. For the chance, both are
    drawn together (a bootstrap over strokes), with one more stroke of each side on which the old model is right and the
    new one wrong.
    """
    generator = np.random.default_rng(seed)
    draws = []
    for side, is_class in zip(new.sides(), (True, False), strict=True):
        before, after = (_stroke_rates(each.called, each.strokes, side) for each in (old, new))
        count = len(after)
        drawn = generator.dirichlet(np.ones(count + 1), DRAWS)
        weights = np.concatenate([[[1 / count] * count + [0.0]], drawn])  # first the rates as measured
        draws += [weights @ np.append(before, float(is_class)), weights @ np.append(after, float(not is_class))]
    found_before, found, wrong_before, wrong = draws
    there = np.clip((marked - wrong) / np.maximum(found - wrong, 1e-6), LEAST_THERE, 1 - LEAST_THERE)
    gains = _dice_at(found, wrong, there) - _dice_at(found_before, wrong_before, there) > 1e-9
    return Gain(bool(gains[0]), float(gains[1:].mean()))


def _dice_at(found: NDArray[np.float64], wrong: NDArray[np.float64], there: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Dice in an image of which the share `there` is the class."""
    return 2 * found * there / (there + found * there + wrong * (1 - there))


def _stroke_rates(
    called: NDArray[np.bool_], strokes: NDArray[np.int64], side: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the share that is called in each stroke of a side."""
    _, places = np.unique(strokes[side], return_inverse=True)
    return np.asarray(np.bincount(places.ravel(), weights=called[side]) / np.bincount(places.ravel()))


def score_strokes(
    called: NDArray[np.bool_], positive: NDArray[np.bool_], strokes: NDArray[np.int64], marked: float, seed: int = 0
) -> StrokeScores:
    """Return the scores of a class that a model calls in the share `marked` of an image.

    called: of each labelled pixel, whether a fit without its stroke calls it the class. positive: whether it is.
    strokes: the number of its stroke.
    """
    generator = np.random.default_rng(seed)
    found, of_class = _rate(called, strokes, positive, generator)
    wrong, of_others = _rate(called, strokes, ~positive, generator)
    right, dice = scores_in_image(found, wrong, marked)
    return StrokeScores(dice, found, right, wrong, marked, of_class, of_others)


def scores_in_image(found: Interval, wrong: Interval, marked: float) -> tuple[Interval, Interval]:
    """Return the share of what is marked that is right, and Dice, of an image of which the share `marked` is called.

    Where the class may be called no more often than the background, nothing is known: the limits are 0 and 1. So they
    are if the image is called less often than the background of the strokes, or more often than the class of the
    strokes: then the strokes are not like the image.
    """
    right, dice = _in_image(found.value, wrong.value, marked) or (0.0, 0.0)
    if not wrong.low <= marked <= found.high:
        return Interval(right, 0.0, 1.0), Interval(dice, 0.0, 1.0)
    all_right, all_dice = [right], [dice]
    # between its limits, all is right the most if the class is called as often in the image as on its strokes
    for rate in (found.low, found.high, float(np.clip(marked, found.low, found.high))):
        for false in (wrong.low, wrong.high):
            ends = _in_image(rate, false, marked)
            all_right += (0.0, 1.0) if ends is None else ends[:1]
            all_dice += (0.0, 1.0) if ends is None else ends[1:]
    return Interval(right, min(all_right), max(all_right)), Interval(dice, min(all_dice), max(all_dice))


def _in_image(found: float, wrong: float, marked: float) -> tuple[float, float] | None:
    """Return the share of what is marked that is right, and Dice; None if they do not follow from the rates."""
    if found <= wrong or marked <= 0:
        return None
    there = min(max((marked - wrong) / (found - wrong), 0.0), 1.0)
    hit = min(there * found, marked)
    return hit / marked, min(2 * hit / (there + marked), 1.0)


def _rate(
    called: NDArray[np.bool_], strokes: NDArray[np.int64], side: NDArray[np.bool_], generator: np.random.Generator
) -> tuple[Interval, int]:
    """Return the share that is called in the strokes of one side, and how many strokes it has."""
    rates = _stroke_rates(called, strokes, side)
    count = len(rates)
    weights = generator.dirichlet(np.ones(count + 1), DRAWS)
    without = weights[:, :-1] @ rates
    # without one error so many strokes leave this open; the draws say it only about
    open_still = 1 - OUTSIDE_LIMIT ** (1 / count)
    low = min(float(np.quantile(without, OUTSIDE_LIMIT)), 1 - open_still)
    high = max(float(np.quantile(without + weights[:, -1], 1 - OUTSIDE_LIMIT)), open_still)
    value = float(rates.mean())
    return Interval(value, min(low, value), min(max(high, value), 1.0)), count
