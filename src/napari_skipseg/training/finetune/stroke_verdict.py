"""How well a class is found in the image, by held-out strokes, in words: one rule for all reaches.

A class that the old model does not find is better if surely half of it is right in the image. A class that it finds is
better if Dice in the image is surely higher than with the old model, on the same strokes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from napari_skipseg.training.finetune.stroke_scores import Gain, Interval, StrokeScores
from napari_skipseg.training.progress import ScoreRow
from napari_skipseg.training.settings import Reach
from napari_skipseg.wording import counted, percent

GOOD = 0.5
"""Dice in the image that a new class must surely have to be called found: its lower limit must be as high."""
GIVEN_UP = 0.05
"""Dice that a class may lose on all corrections together while it gains on the strokes."""
SURE_CHANCE = 0.95
"""Chance from which a model is called better than another one on the same strokes."""
TOO_FEW_STROKES = (
    "Only one stroke of {0}, or of anything else: not enough to tell how well it is found. Paint it in more places."
)
BETTER_REACH: Mapping[Reach, str] = {
    "quick": "train with Normal or Full (in a shell --reach normal or full), or paint more places",
    "normal": "paint more places, let it train longer, or train with Full (in a shell --reach full)",
    "full": "paint more places, or let it train longer",
}
"""What helps a class that is not found yet, by the reach that was tried."""


def rows_of_strokes(on: str, name: str, new: StrokeScores, old: StrokeScores | None) -> list[ScoreRow]:
    """Return the rows of a class with their limits. on: what it was scored on."""
    rows = []
    for score, field in (("Dice", "dice"), ("precision", "right"), ("FPR", "wrong"), ("FNR", "missed")):
        value: Interval = getattr(new, field)
        was = None if old is None else round(getattr(old, field).value, 5)
        limits = round(value.low, 5), round(value.high, 5)
        rows.append(ScoreRow(on, name, score, was, round(value.value, 5), limits=limits))
    return rows


class StrokeVerdict(NamedTuple):
    """Whether a class is found well, or surely not, and what to say of it."""

    is_better: bool
    is_worse: bool
    reason: str


def judge_on_strokes(name: str, new: StrokeScores | None, old: StrokeScores | None, reach: Reach) -> StrokeVerdict:
    """Return whether a new class is found well enough to be used: surely at least half right."""
    if new is None:
        return StrokeVerdict(False, False, TOO_FEW_STROKES.format(name))
    finds = f"The new model finds {percent(new.found.value)} ({_limits(new.found)}) of the held-out {name}"
    strokes = _count_strokes(new)
    right = f"{_limits(new.right)} of what it marks is right"
    if old is not None and old.dice.value - new.dice.value > GIVEN_UP:
        return StrokeVerdict(
            False,
            False,
            f"{finds}. The old model scores higher on these strokes, but it may have learnt from them: not enough to "
            "tell which one is better. Compare them in the view.",
        )
    if new.found.high < GOOD or new.dice.high < GOOD:
        return StrokeVerdict(False, True, f"{finds}: not enough yet. To find it better, {BETTER_REACH[reach]}.")
    where = f"around the strokes it marks {percent(new.marked)} of the image"
    if new.dice.low >= GOOD:
        against = "the old model finds none" if old is None else f"the old model's Dice is {old.dice.value:.2f}"
        return StrokeVerdict(True, False, f"{finds}, and {right}: {where} (estimated from {strokes}; {against}).")
    return StrokeVerdict(
        False,
        False,
        f"{finds}, but {strokes} are not enough to tell how good it is: {where}, and {right}. "
        f"{_what_to_paint(name, new)}",
    )


def judge_known_class(name: str, new: StrokeScores, old: StrokeScores, gain: Gain) -> StrokeVerdict:
    """Return whether a class that the old model finds too is found better."""
    moved = (
        f"of {_count_strokes(new)} that were held out it finds {percent(new.found.value)} of {name} (the old model "
        f"{percent(old.found.value)}) and wrongly marks {percent(new.wrong.value)} (the old model "
        f"{percent(old.wrong.value)})"
    )
    if gain.chance >= SURE_CHANCE:
        return StrokeVerdict(True, False, f"The new model is better: {moved}.")
    if not gain.is_seen:
        return StrokeVerdict(False, True, f"The new model is no better: {moved}.")
    return StrokeVerdict(
        False,
        False,
        f"Not enough to tell whether the new model is better: {moved}. More strokes in other places, of {name} and of "
        "the background, make the comparison firm.",
    )


def describe_strokes(found: Mapping[str, StrokeScores | None]) -> str:
    """Return for a card how many strokes of each class scores rest on, and the limits that these leave; "" if none."""
    parts = [
        f"{name}: {_count_strokes(scores)}, Dice {scores.dice.low:.2f} to {scores.dice.high:.2f}, "
        f"precision {scores.right.low:.2f} to {scores.right.high:.2f}"
        for name, scores in found.items()
        if scores is not None
    ]
    return f" ({'; '.join(parts)})" if parts else ""


def _count_strokes(scores: StrokeScores) -> str:
    return f"{counted(scores.strokes, 'stroke')} of it and {scores.others} of the background"


def _limits(share: Interval) -> str:
    return f"{percent(share.low)} to {percent(share.high)}"


def _what_to_paint(name: str, scores: StrokeScores) -> str:
    """Return which strokes would make it sure that a class is found well."""
    where = f"where nothing is {name}, spread over the image"
    if not scores.marked:
        return f"Nothing is marked there, so paint {name} in more places."
    more = scores.missing_background(GOOD)
    if more is not None:
        return f"Paint {counted(more, 'more background stroke')} {where}."
    return f"A few more would not tell either: look at the view, and paint {name} and background where it is wrong."
