"""Scores of files: a prediction against its truth, read from TIFF."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.files import read_recipe, read_stack
from napari_skipseg.images.normalize import check_not_labels
from napari_skipseg.models.description import BOUNDARY_CLASSES
from napari_skipseg.scores.isbi import membrane_to_cell, probability_from_image, score_isbi
from napari_skipseg.scores.overlap import score_overlap

MOST_LABELS = 31
"""Integer images whose largest value is at most this hold labels; others hold probabilities scaled by their type."""


def score_files(prediction: Path, truth: Path, isbi: bool, membrane: bool, threshold: float) -> dict[str, Any]:
    """Return scores by name: overlap of the foregrounds, or V_rand and V_info where `isbi`.

    prediction: integers are probabilities scaled by their type's maximum; for the overlap, images of labels up to 31
    are labels, above 0 = foreground. truth: above 0 = foreground; with `isbi` 0 = membrane. membrane: the prediction
    is that of membrane, so its complement is scored with `isbi`, and truth 0 is the foreground without it.

    Raises:
        SkipsegError: a file that cannot be read, shapes that differ, values that are no probabilities.
    """
    predicted, true = _whole(prediction), _whole(truth)
    _check_truth(true, truth)
    if predicted.shape != true.shape:
        raise InputError(f"The prediction's shape {predicted.shape} is not the truth's {true.shape}.")
    if isbi:
        _check_polarity(prediction, membrane)
        probability = probability_from_image(predicted)
        scores = asdict(score_isbi(membrane_to_cell(probability) if membrane else probability, true))
        return {key: value for key, value in scores.items() if not isinstance(value, tuple)}
    labels = predicted.dtype.kind in "bui" and int(predicted.max()) <= MOST_LABELS
    mask = predicted > 0 if labels else probability_from_image(predicted) > threshold
    return asdict(score_overlap(mask, true == 0 if membrane else true > 0))


def _check_truth(values: NDArray[Any], path: Path) -> None:
    """Raise InputError where the truth holds grey values: labels are few, or flat areas of equal value."""
    places = values.reshape(-1, *values.shape[-2:])
    windows = [place.astype(np.int64) if place.dtype.kind == "b" else place for place in places]
    if len(np.unique(values)) <= MOST_LABELS:
        return
    try:
        check_not_labels(windows, path.name)
    except InputError:
        return
    raise InputError(f"The truth '{path}' holds grey values, not labels: give the labelled image.")


def _check_polarity(prediction: Path, membrane: bool) -> None:
    """Raise InputError where a prediction of ours, which is the probability of membrane, is taken for that of cell."""
    recipe = read_recipe(prediction) or {}
    names = recipe.get("classes", [])
    if not membrane and names and names[0] in BOUNDARY_CLASSES:
        raise InputError(
            f"'{prediction}' is the probability of {names[0]}, as {recipe.get('model')} gives it: add --membrane."
        )


def _whole(path: Path) -> NDArray[Any]:
    stack = read_stack(path)
    if set(stack.axes) - set("ZYX"):
        raise InputError(f"'{path}' has axes {stack.axes}: scores take a slice (YX) or a stack (ZYX).")
    return np.asarray(stack.read((slice(None),) * len(stack.shape)))
