"""The line after a segmentation: its duration, and the share of each class."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import numpy as np

from napari_skipseg.inference.prediction import Binary, Focus, Prediction, Threshold
from napari_skipseg.objects.classes import records_padding
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.layers.results import ShownResult
from napari_skipseg.wording import counted, in_words, percent

PLANES, SIDE = 32, 512
"""Most planes, and most pixels along each side of one, that are counted: a large result is sampled evenly."""


LONG_START = 2.0
"""Seconds from which on the line names the start of the engine."""
WHOLE_IS_KEPT = " The result of the whole image is kept; its layers are hidden."


class DoneRun(NamedTuple):
    """A prediction, and the share of its voxels that each class has at a threshold, by name.

    of_tissue: the shares leave out areas without tissue, such as a black frame.
    """

    prediction: Prediction
    shares: dict[str, float]
    of_tissue: bool = False


def with_shares(
    work: Callable[[], Generator[Progress, Focus | None, Prediction]], threshold: Threshold
) -> Generator[Progress, Focus | None, DoneRun]:
    """Run a segmentation; return its prediction with the shares of the classes."""
    prediction = yield from work()
    return DoneRun(prediction, class_shares(prediction, threshold), has_padding(prediction))


def has_padding(prediction: Prediction) -> bool:
    """Return whether constant areas of the image were left out."""
    return bool(prediction.recipe.get("normalization", {}).get("padding"))


def class_shares(prediction: Prediction, threshold: Threshold) -> dict[str, float]:
    """Return the share of tissue, or of the mask, that each class has, in [0, 1], by name; large ones are sampled."""
    names, leaves_out = prediction.class_names, records_padding(prediction.recipe)
    labels = Binary(prediction.probability, prediction.thresholds_at(threshold), len(names) > 1)
    planes = math.prod(labels.shape[:-2])
    chosen = np.unique(np.linspace(0, planes - 1, min(planes, PLANES)).astype(int))
    steps = [slice(None, None, -(-length // SIDE)) for length in labels.shape[-2:]]
    counts: Any = np.zeros(len(names) + 1, np.int64)
    for plane in chosen:
        place = tuple(int(part) for part in np.unravel_index(plane, labels.shape[:-2])) if labels.ndim > 2 else ()
        found = np.asarray(labels[place])[*steps]
        if leaves_out:
            classes: Any = (slice(None), *place) if len(names) > 1 else place
            probability: Any = np.asarray(prediction.probability[classes])
            # voxels that were left out have exactly 0 in all classes
            is_set = probability[..., *steps] != 0
            found = found[is_set if is_set.ndim == 2 else is_set.any(axis=0)]
        counts += np.bincount(found.ravel(), minlength=len(names) + 1)
    return {name: float(counts[number]) / max(1, counts.sum()) for number, name in enumerate(names, start=1)}


def describe_done(what: str, seconds: float, done: DoneRun, threshold: Threshold, started: float = 0.0) -> str:
    """Return the line, such as "6 slices segmented in 12 s: 23 % of the tissue is membrane (above 0.50).".

    started: how many of the seconds the start of the engine took.
    """
    of = " of the tissue" if done.of_tissue else ""
    each = done.prediction.thresholds_at(threshold)
    same = f" (above {each[0]:.2f})" if len(set(each)) == 1 else ""
    above = ["" if same else f" (above {value:.2f})" for value in each]
    shares = zip(done.shares.items(), above, strict=True)
    parts = ", ".join(f"{percent(share)}{of} is {name}{note}" for (name, share), note in shares)
    start = f" ({in_words(started)} of it to start the engine)" if started >= LONG_START else ""
    return f"{what} segmented in {in_words(seconds)}{start}: {parts}{same}."


def name_part(shown: ShownResult, spanned: str) -> str:
    """Return the subject of the line: "6 slices", "Slice z 3", "The view was". spanned: the axes segmented together."""
    if shown.positions:
        place = shown.prefix.strip()
        if shown.source.endswith(" preview"):
            return "The view was"
        return f"Slice {place}" if spanned == "YX" and not place.startswith(("Box ", "Mask ")) else place
    axes = shown.prediction.space.axes.replace("C", "")
    if axes == spanned:
        return "The image was" if spanned == "YX" else "The volume was"
    lengths = shown.prediction.probability.shape[-len(axes) :]
    count = math.prod(length for axis, length in zip(axes, lengths, strict=True) if axis not in spanned)
    return counted(count, "slice" if spanned == "YX" else "volume")
