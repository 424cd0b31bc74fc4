"""Scores of a batch's results against their truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_skipseg.objects.classes import BOUNDARY_CLASSES
from napari_skipseg.progress import run_to_end
from napari_skipseg.scores.instances import MaskError
from napari_skipseg.scoring.pairs import Pair
from napari_skipseg.scoring.values import doubt_truth

if TYPE_CHECKING:
    from napari_skipseg.models.description import ModelDescription

_SHOWN = ("dice", "iou", "precision", "recall")
"""The scores of a class that the table shows."""
OF_OBJECTS = ("adapted_rand_error", "average_precision")


def score_result(
    results: dict[str, Path], truth: Path, description: ModelDescription, label: int | None = None
) -> tuple[dict[str, float], str]:
    """Return the scores of a file's results against its truth, and a note why some are missing ("" = none is missing).

    The scores of objects come first, but none against a mask; then the overlap of each class, such as "membrane dice".
    results: by name, such as "binary". The values of the classes in the truth are those of the model's description. For
    a model with one class, the value is `label`; if that is None, the class is all above 0, or for a membrane whatever
    `foreground_of` takes for membranes.

    Raises:
        SkipsegError: the truth cannot be read, or does not fit.
    """
    from napari_skipseg.scoring.files import ScoreOptions, iter_score_pairs

    classes = {each.name: each.label for each in description.classes}
    several = len(classes) > 1
    if several or label:
        options = ScoreOptions(classes=classes if several or label is None else dict.fromkeys(classes, label))
    else:
        is_membrane = label == 0 or (label is None and 0 in classes.values())
        options = ScoreOptions(membrane=is_membrane, foreground="auto" if label is None else "cells")
    of_classes: dict[str, float] = {}
    notes: list[str] = []
    for summary in run_to_end(iter_score_pairs([Pair(truth.name, results["binary"], truth)], options)):
        class_name = summary.class_name or description.class_names[0]
        of_classes |= {f"{class_name} {name}": value for name, value in _numbers(summary.pooled, _SHOWN).items()}
        notes += [note for note in summary.notes if note not in notes]
        doubt = doubt_truth(truth.name, class_name, class_name in BOUNDARY_CLASSES, dict(summary.pooled))
        notes += [doubt] if doubt else []
    if "objects" not in results:
        return of_classes, " ".join(notes)
    try:
        pairs = [Pair(truth.name, results["objects"], truth)]
        (summary,) = run_to_end(iter_score_pairs(pairs, ScoreOptions("instances")))
    except MaskError as error:
        return of_classes, " ".join([*notes, str(error)])
    return _numbers(summary.pooled, OF_OBJECTS) | of_classes, " ".join(notes)


def _numbers(scores: Any, names: tuple[str, ...]) -> dict[str, float]:
    return {name: float(scores[name]) for name in names if isinstance(scores.get(name), int | float)}
