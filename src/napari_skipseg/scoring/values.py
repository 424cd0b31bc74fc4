"""The meaning of the numbers in a prediction and in a truth, and their scores over several images as one value."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.intensity.normalize import check_not_labels
from napari_skipseg.objects.classes import MOST_LABELS
from napari_skipseg.scores.isbi import probability_from_image
from napari_skipseg.wording import counted, percent

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


@dataclass(frozen=True)
class ScoreSummary:
    """Scores by name: those of all images pooled, and those of each image.

    pooled: from the pixels, slices or pairs of all images together. Large images weigh more than in the mean.
    images: the scores of each image by its name.
    class_name: the class that was scored, empty if no classes were named.
    notes: decisions about the files that a user should know, one sentence each.

    Scores are floats; integers are counts and have no mean.
    """

    pooled: Mapping[str, float]
    images: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    class_name: str = ""
    notes: tuple[str, ...] = ()

    @property
    def mean(self) -> dict[str, float]:
        """The mean of each score over the images (SAT, Table 1)."""
        return {name: statistics.fmean(values) for name, values in self._columns().items()}

    @property
    def deviation(self) -> dict[str, float | None]:
        """The standard deviation of each score over the images (SAT, Table 1), None for a single image.

        Of a sample, with n - 1 in the denominator; the paper does not say which one it reports.
        """
        return {name: statistics.stdev(values) if len(values) > 1 else None for name, values in self._columns().items()}

    def rows(self, per_image: bool = True) -> list[dict[str, Any]]:
        """Return a table: a row for each image (unless not `per_image`), then pooled; mean and sd of several."""
        named = {"class": self.class_name} if self.class_name else {}
        rows: list[tuple[str, Mapping[str, float | None]]] = list(self.images.items()) if per_image else []
        rows.append(("pooled", self.pooled))
        if len(self.images) > 1:
            rows += [("mean", self.mean), ("sd", self.deviation)]
        return [{**named, "image": name, **values} for name, values in rows]

    def as_json(self, per_image: bool) -> dict[str, Any]:
        """Return the pooled scores at the top, and mean, standard deviation and (`per_image`) images below them."""
        spread = {"n_images": len(self.images), "mean": self.mean, "standard_deviation": self.deviation}
        images = [{"image": name, **values} for name, values in self.images.items()]
        notes = {"notes": list(self.notes)} if self.notes else {}
        return {**self.pooled, **spread, **notes, **({"images": images} if per_image else {})}

    def _columns(self) -> dict[str, list[float]]:
        columns: dict[str, list[float]] = {}
        for values in self.images.values():
            for name, value in values.items():
                if isinstance(value, float):
                    columns.setdefault(name, []).append(value)
        return columns


AT_CHANCE = 0.2
"""Agreement beyond chance (Cohen's kappa) below which a truth is doubted: "slight" (Landis and Koch 1977)."""
MOST_BOUNDARY = 0.6
"""Share of an image above which a truth of boundaries is doubted: it is 0.2 to 0.45 in truths of ssTEM and FIB-SEM."""
_UNLIKE = 3.0
"""Ratio from which on the shares of truth and prediction are unlike."""
POOR = 0.4
"""Agreement beyond chance up to which a truth with an unlike share is doubted: "fair" (Landis and Koch 1977)."""


def doubt_truth(truth: str, class_name: str, is_boundary: bool, counts: Mapping[str, Any]) -> str:
    """Return why a truth may be that of another class or image, "" if nothing suggests it.

    class_name: what is scored, "" for the foreground. counts: of pixels, as in `OverlapScores`.
    """
    hits, false, missed, rest = (
        int(counts[name]) for name in ("true_positives", "false_positives", "false_negatives", "true_negatives")
    )
    total = hits + false + missed + rest
    if not total:
        return ""
    share, found = (hits + missed) / total, (hits + false) / total
    called = class_name or "the class that is scored"
    if is_boundary and share > MOST_BOUNDARY:
        return (
            f"'{truth}' says that {percent(share)} of the image is {called}: check that it is a truth of {called}, and "
            "which value it has there."
        )
    if not (0 < share < 1 and 0 < found < 1):
        return ""
    chance = share * found + (1 - share) * (1 - found)
    agreement = ((hits + rest) / total - chance) / (1 - chance)
    if agreement < AT_CHANCE:
        return (
            f"The result agrees with '{truth}' hardly better than chance (kappa {agreement:.2f}): this may be the "
            f"truth of another class or image, or be turned or mirrored. Check that it is a truth of {called}."
        )
    lies_elsewhere = 2 * hits < min(hits + missed, hits + false)
    if agreement < POOR and lies_elsewhere and not 1 / _UNLIKE < share / found < _UNLIKE:
        return (
            f"{percent(share)} of '{truth}' is {called}, and {percent(found)} of the prediction: this may be the truth "
            "of another class."
        )
    return ""


Foreground = Literal["auto", "cells", "membranes"]

_EXAMINED_SLICES = 8
CLEARLY_THICKER = 1.5
"""Ratio of mean thickness from which on one of the two values is taken for cells.

Measured on true labels: cells against membranes 3.5 (ssTEM of a larva), 5.1 (neuropil, membranes drawn thick),
5.2 (synthetic sample), 5.7 (FIB-SEM). Random values of equal shares give 1.0."""


def foreground_of(truth: NDArray[Any], outside: NDArray[np.bool_]) -> Literal["cells", "membranes"] | None:
    """Return what is above 0 in a truth of membranes, judged by thickness; None if that is not clear.

    Membranes are thin lines and cells are thick, so the mean distance of a pixel to the other value tells them apart.
    More than two values are labels of objects, which are cells.

    truth: (Y, X) or (Z, Y, X), any numeric type. outside: pixels of neither, such as a frame around the tissue.
    """
    slices = truth.reshape(-1, *truth.shape[-2:])
    step = -(-len(slices) // _EXAMINED_SLICES)
    examined = slices[::step]
    inside = ~outside.reshape(slices.shape)[::step]
    if len(np.unique(examined[examined > 0])) > 1:
        return "cells"
    foreground, background = (_mean_thickness(side & inside) for side in (examined > 0, examined <= 0))
    if not foreground or not background:
        return None
    if foreground >= CLEARLY_THICKER * background:
        return "cells"
    return "membranes" if background >= CLEARLY_THICKER * foreground else None


def _mean_thickness(mask: NDArray[np.bool_]) -> float:
    """Return the mean distance, in pixels, from a pixel of `mask` to the nearest one outside; 0 for an empty mask."""
    from scipy.ndimage import distance_transform_edt

    distances = [distance_transform_edt(each)[each] for each in mask if each.any() and not each.all()]
    return float(np.concatenate(distances).mean()) if distances else 0.0
