"""How well a class is found, judged on strokes that were each held out of a fit, with the uncertainty of few strokes.

A stroke is one unit: its pixels are much alike. Strokes show a class about as often as background, so Dice on their
pixels says little about an image in which the class is rare: of 2 places with a Dice of 0.96, the truth gave 0.33.
Dice is therefore computed from the shares of the strokes that are called the class, weighed by the share that the class
has in the image. The uncertainty is a Bayesian bootstrap (Rubin 1981) over strokes, with one stroke more on each side
that nothing is known of: it is called to a half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DRAWS = 4000
UNKNOWN = 0.5
"""The share that is called the class in the added stroke."""
LOG_EXCESS = -0.2, 0.8
"""Mean and deviation of the logarithm of the true odds of a class over those that it is called with. From ten strokes,
on nine sets of images, it was called 0.75 to 5 times as often as it was there, mostly 1.2 times. With these numbers the
truth lay within the limits in 23 of 36 trials, and of 12 classes called good one was not (Dice 0.44)."""
OUTSIDE_LIMITS = 0.1
"""Share of the draws that lie below, and as many above, what is called certain."""


class Interval(NamedTuple):
    """A value, and the limits between which 80 % of the draws lie."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class StrokeScores:
    """Scores of one class. found: share of the class that is found, wrong: share of the background that is called it.

    Both as on the strokes. dice, right: estimates for the image, right being the share of what is called that is the
    class. strokes, others: how many show the class and background.
    """

    dice: Interval
    found: Interval
    right: Interval
    wrong: Interval
    strokes: int
    others: int

    @property
    def missed(self) -> Interval:
        """Share of the class that is not found."""
        return Interval(1 - self.found.value, 1 - self.found.high, 1 - self.found.low)


def score_strokes(
    called: NDArray[np.bool_], positive: NDArray[np.bool_], strokes: NDArray[np.int64], share: float, seed: int = 0
) -> StrokeScores:
    """Return the scores of a class that has `share` of an image.

    called: of each labelled pixel, whether a fit without its stroke calls it the class. positive: whether it is.
    strokes: the number of its stroke.
    """
    generator = np.random.default_rng(seed)
    found, of_class = _rates(called, strokes, positive, generator)
    wrong, of_others = _rates(called, strokes, ~positive, generator)
    odds = share / (1 - share) * np.exp(np.append(0.0, generator.normal(*LOG_EXCESS, DRAWS)))
    there = odds / (1 + odds)
    right = there * found / np.maximum(there * found + (1 - there) * wrong, 1e-9)
    dice = 2 * there * found / np.maximum(there * found + (1 - there) * wrong + there, 1e-9)
    return StrokeScores(
        dice=_interval(dice, np.median(dice)),
        found=_interval(found, found[0]),
        right=_interval(right, np.median(right)),
        wrong=_interval(wrong, wrong[0]),
        strokes=of_class,
        others=of_others,
    )


def _rates(
    called: NDArray[np.bool_], strokes: NDArray[np.int64], side: NDArray[np.bool_], generator: np.random.Generator
) -> tuple[NDArray[np.float64], int]:
    """Return draws of the share that is called in the strokes of one side, and how many strokes it has.

    The first is the plain share, without the stroke that nothing is known of.
    """
    names, places = np.unique(strokes[side], return_inverse=True)
    sizes = np.bincount(places.ravel())
    rates = np.bincount(places.ravel(), weights=called[side]) / sizes
    weights = generator.dirichlet(np.ones(len(names) + 1), DRAWS)
    drawn = weights @ np.append(rates, UNKNOWN)
    return np.append(rates.mean(), drawn), len(names)


def _interval(draws: NDArray[np.float64], value: np.floating) -> Interval:
    low, high = np.quantile(draws[1:], [OUTSIDE_LIMITS, 1 - OUTSIDE_LIMITS])
    return Interval(float(value), float(min(low, value)), float(max(high, value)))
