"""The meaning of the numbers in a prediction and in a truth: masks, labels or probabilities."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.intensity.normalize import check_not_labels
from napari_skipseg.scores.isbi import probability_from_image
from napari_skipseg.wording import counted

MOST_LABELS = 31
"""Integer images up to this value hold labels; others hold probabilities scaled by their type."""
MANY_VALUES = 8
"""Values in a truth from which they may be numbers of objects rather than classes."""


def marked_truth(true: NDArray[Any], name: str) -> tuple[NDArray[Any], list[str]]:
    """Return a truth that is 0 where nothing is marked, and notes; of two values without a 0, the larger one marks.

    Raises:
        InputError: it contains NaN.
    """
    if true.dtype.kind == "f" and np.isnan(true).any():
        raise InputError(f"The truth '{name}' contains NaN: replace it by 0, or by a label.")
    low, high = true.min(), true.max()
    if low in (0, high) or not np.isin(true, (low, high)).all():
        return true, []
    note = (
        f"'{name}' contains {low:g} and {high:g}, and one of them should be 0: {high:g} was taken for what is marked."
    )
    return true == high, [note]


def note_empty(true: NDArray[Any], name: str, classes: str) -> list[str]:
    """Return a note if a truth is 0 everywhere, or in some of its slices. classes: the flag needed with --ignore."""
    slices = true.reshape(-1, *true.shape[-2:])
    empty = [number for number, values in enumerate(slices) if not values.any()]
    if not empty:
        return []
    if len(empty) == len(slices):
        return [f"The truth '{name}' is 0 everywhere: it shows nothing that could be found, so the scores say nothing."]
    numbers = ", ".join(map(str, empty[:5])) + (", …" if len(empty) > 5 else "")
    hold = "holds" if len(empty) == 1 else "hold"
    return [
        f"{counted(len(empty), 'slice')} of '{name}' ({numbers}) {hold} only 0, which counts as background. If nobody "
        f"labelled it, add {classes}--ignore 0."
    ]


def note_one_of_many(true: NDArray[Any], name: str, values: Collection[int]) -> list[str]:
    """Return a note if the classes with these values are less than half of what is labelled in a truth of many values.

    Such a truth numbers the objects of one class, so that each class would be one object.
    """
    if true.dtype.kind not in "ui" or len(values) != 1:
        return []
    found, counts = np.unique(true[true != 0], return_counts=True)
    if len(found) < MANY_VALUES or 2 * counts[np.isin(found, list(values))].sum() >= counts.sum():
        return []
    return [
        f"The truth '{name}' has {len(found)} values besides 0, and the class is only one of them: if they number the "
        "objects of one class, leave out --class, and all of them count."
    ]


def as_probability(values: NDArray[Any], name: str) -> tuple[NDArray[Any], list[str]]:
    """Return a prediction as a probability in [0, 1], and notes.

    Two values, one of them 0, are a mask. Integers are scaled by the maximum of their type; if they have more than 8
    bits but no value above 255, they were 8-bit images, so 255 is their maximum.

    Raises:
        InputError: NaN, fractions outside [0, 1], negative integers, or no numbers.
    """
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" and not np.isfinite([low, high]).all():
        raise InputError(f"The prediction '{name}' contains NaN or infinity: replace it by a probability in [0, 1].")
    if values.dtype.kind in "uif" and low == 0 < high and np.isin(values, (low, high)).all():
        return values > 0, []
    if values.dtype.kind == "f" and (low < 0 or high > 1):
        raise InputError(f"The prediction '{name}' runs from {low:g} to {high:g}: scale it to a probability in [0, 1].")
    if values.dtype.kind in "ui" and values.dtype.itemsize > 1 and MOST_LABELS < high <= 255 and low >= 0:
        bits = 8 * values.dtype.itemsize
        return values / 255.0, [
            f"'{name}' has {bits} bits but no value above 255: 255 was taken for a probability of 1."
        ]
    return probability_from_image(values), []


def largest_label(values: NDArray[Any]) -> int | None:
    """Return the largest value of an image of labels, None for an image of probabilities."""
    largest = int(values.max()) if values.dtype.kind in "bui" else None
    return largest if largest is None or largest <= MOST_LABELS else None


def check_labels(values: NDArray[Any], name: str, what: str = "The truth") -> None:
    """Raise InputError if an image contains grey values: labels are few, or flat areas of equal value."""
    if len(np.unique(values)) <= MOST_LABELS:
        return
    places = values.reshape(-1, *values.shape[-2:])
    try:
        check_not_labels([place.astype(np.int64) if place.dtype.kind == "b" else place for place in places], name)
    except InputError:
        return
    raise InputError(f"{what} '{name}' contains grey values, not labels: give the labelled image.")


def doubt_overlap(counts: Mapping[str, Any]) -> str:
    """Return why the overlap of all images together is meaningless, "" if it is not.

    counts: of pixels, and the Dice, as in `OverlapScores`.

    Raises:
        InputError: nothing is marked in any truth, and nothing predicted.
    """
    hits, false, missed, rest = (
        int(counts[name]) for name in ("true_positives", "false_positives", "false_negatives", "true_negatives")
    )
    if hits + false + missed == 0:
        raise InputError("Neither the truth nor the prediction marks a pixel: there is nothing to score.")
    everywhere = 2 * (hits + missed) / (2 * (hits + missed) + false + rest)
    if counts["dice"] > everywhere or not false + rest:
        return ""
    return (
        f"The Dice of {counts['dice']:.3f} is no better than that of an image which is marked everywhere "
        f"({everywhere:.3f}): check that prediction and truth show the same thing, and what each has above 0."
    )
