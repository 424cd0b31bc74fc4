"""Two models on what is on screen: their classes, where they differ, and how much they agree."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.corrections.subject import CLASS_COLORS
from napari_skipseg.errors import InputError
from napari_skipseg.inference.prediction import Prediction
from napari_skipseg.jobs.messages import Segment
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.forms.worker import EngineLike
from napari_skipseg.widgets.layers.files import label_colors
from napari_skipseg.widgets.layers.results import show_labels
from napari_skipseg.widgets.segment.checks import SegmentFormValues, find_faults
from napari_skipseg.widgets.segment.part import PreviewView, cut_to_view
from napari_skipseg.wording import percent

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

SOURCE = "{} compare"
"""The source of the layers of a comparison, made of the source of the image."""
FIRST, SECOND, CLASSES = 1, 2, 3
"""Labels of what differs: only the first model finds something, only the second, or both find different classes."""
COLORS = ("#ff9f1c", "#2ec4ff", "#ff3ea5")
"""Of what differs: orange = only the first, blue = only the second, pink = different classes."""


@dataclass(frozen=True)
class Compared:
    """Two segmentations of one part of an image.

    labels: of each model, uint8, 0 = background, with the axes of the image without channels. difference: as `FIRST`,
    `SECOND` and `CLASSES`. axes: of the image. positions: where the part begins, by axis number. shares: of the voxels,
    by label of the difference, 0 = the models agree. by_class: whether the models have a class in common, so that
    classes count.
    """

    names: tuple[str, str]
    labels: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    difference: NDArray[np.uint8]
    axes: str
    positions: dict[int, int]
    shares: dict[int, float]
    by_class: bool


def iter_compare(
    viewer: ViewerModel,
    engine: EngineLike,
    choices: SegmentFormValues,
    models: tuple[tuple[Path, ModelDescription], tuple[Path, ModelDescription]],
) -> Callable[[], Generator[Progress, Any, Compared]]:
    """Return work that segments what is on screen with two models, and compares them.

    choices: of the Segment tab; each model has thresholds of its own. models: folders and descriptions.

    Raises:
        InputError: a model does not suit the image.
    """
    views = []
    for folder, described in models:
        own = replace(choices, model=described, thresholds=described.class_thresholds)
        if faults := find_faults(own):
            raise InputError(f"{folder.name}: {next(iter(faults.values()))}")
        views.append(cut_to_view(viewer, own))

    def work() -> Generator[Progress, Any, Compared]:
        found = []
        for (folder, _), view in zip(models, views, strict=True):
            request = Segment(view.stack, str(folder), view.options, view.whole, preview=True)
            found.append((yield from engine.run(request)))
        names = (models[0][0].name, models[1][0].name)
        return compare_predictions(names, (found[0], found[1]), (views[0], views[1]), choices.axes)

    return work


def compare_predictions(
    names: tuple[str, str], found: tuple[Prediction, Prediction], views: tuple[PreviewView, PreviewView], axes: str
) -> Compared:
    """Return the comparison of two predictions, where both were made."""
    spans = [_span(prediction, view, axes) for prediction, view in zip(found, views, strict=True)]
    common = {axis: (max(span[axis][0] for span in spans), min(span[axis][1] for span in spans)) for axis in spans[0]}
    labels = []
    for prediction, span in zip(found, spans, strict=True):
        part = tuple(slice(low - span[axis][0], high - span[axis][0]) for axis, (low, high) in common.items())
        labels.append(np.asarray(prediction.binary()[part]))
    difference, by_class = differing(labels[0], labels[1], found[0].class_names, found[1].class_names)
    counts = np.bincount(difference.ravel(), minlength=4) / max(1, difference.size)
    positions = {axis: low for axis, (low, _) in common.items()}
    shares = {number: float(share) for number, share in enumerate(counts)}
    return Compared(names, (labels[0], labels[1]), difference, axes, positions, shares, by_class)


def _span(prediction: Prediction, view: PreviewView, axes: str) -> dict[int, tuple[int, int]]:
    """Return where a prediction lies: the first position and the one behind the last, by axis number of the image."""
    shape = prediction.probability.shape[1 if len(prediction.class_names) > 1 else 0 :]
    numbers = [number for number, axis in enumerate(axes) if axis != "C"]
    starts = [view.start.get(number, 0) for number in numbers]
    return {n: (start, start + length) for n, start, length in zip(numbers, starts, shape, strict=True)}


def differing(
    one: NDArray[np.uint8], other: NDArray[np.uint8], names: tuple[str, ...], other_names: tuple[str, ...]
) -> tuple[NDArray[np.uint8], bool]:
    """Return where two labels differ, as `FIRST`, `SECOND` and `CLASSES`, and whether their classes were compared.

    Classes are the same if their names are. If no name is in both models, any class counts as found.
    """
    known = [name.casefold() for name in names]
    numbers = [known.index(name.casefold()) + 1 if name.casefold() in known else 0 for name in other_names]
    by_class = any(numbers)
    difference = np.zeros(one.shape, np.uint8)
    difference[(one > 0) & (other == 0)] = FIRST
    difference[(one == 0) & (other > 0)] = SECOND
    if by_class:
        # a class that only the other model has is none of the first's
        table = np.array([0, *(number or len(known) + 1 for number in numbers)], np.uint8)
        difference[(one > 0) & (other > 0) & (one != table[other])] = CLASSES
    return difference, by_class


def describe_comparison(compared: Compared) -> str:
    """Return in words how much two models agree."""
    first, second = compared.names
    shares = compared.shares
    parts = [f"{percent(shares[0])} of what is on screen is the same in {first} and {second}"]
    if shares[FIRST]:
        parts.append(f"{percent(shares[FIRST])} only {first} finds (orange)")
    if shares[SECOND]:
        parts.append(f"{percent(shares[SECOND])} only {second} finds (blue)")
    if shares[CLASSES]:
        parts.append(f"{percent(shares[CLASSES])} has different classes (pink)")
    note = "" if compared.by_class else " Their classes have different names, so any class counts."
    return f"{'; '.join(parts)}.{note}"


def show_comparison(viewer: ViewerModel, layer: Image, compared: Compared) -> None:
    """Show a comparison over its image: the labels of each model, hidden, and what differs."""
    first, second = (f"compare: {name}" for name in compared.names)
    labels = {
        first: (compared.labels[0], label_colors(CLASS_COLORS), False),
        second: (compared.labels[1], label_colors(CLASS_COLORS), False),
        "compare: differs": (compared.difference, label_colors(COLORS), True),
    }
    show_labels(viewer, layer, compared, SOURCE.format(layer.unique_id), labels)
