"""The old model beside the new one: scores of both on what was held out, and whether the new one is better."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.inference.backends.interface import Pixels
from napari_skipseg.models.model import Model
from napari_skipseg.progress import Progress, run_to_end
from napari_skipseg.scores.boundaries import BOUNDARY_CLASSES
from napari_skipseg.scores.isbi import SliceScores, combine_slices, iter_score_slices
from napari_skipseg.scores.overlap import OverlapScores, pool_overlap, score_overlap
from napari_skipseg.training.compute import Compute
from napari_skipseg.training.evaluate import TileResult, WholeImages
from napari_skipseg.training.finetune.labels import ClassPlan
from napari_skipseg.training.finetune.patches import whole_windows, windows_of
from napari_skipseg.training.finetune.regions import Material
from napari_skipseg.training.finetune.rehearsal import Remembered
from napari_skipseg.training.progress import EVEN, Report, ScoreRow

CORRECTIONS = "held-out corrections"
STROKES = "held-out strokes"
"""Scored apart from what was accepted, which is the old model's own answer: there no other can be better."""
OWN_SAMPLE = "its own sample"
FORGOTTEN = {"V_rand": 0.02, "Dice": 0.05}
"""What a class may lose at most on the model's own sample, by score."""
GIVEN_UP = 0.05
"""Dice that a class may lose on all corrections together where it gained on the strokes."""
FOUND = 0.3
"""Dice from which on a new class counts as found."""

Scores = dict[tuple[str, str, str], float]
"""Scores by what was scored, the class's name, and the score's name."""


class Comparison(NamedTuple):
    """What a model's answer about a window is compared with.

    target: (*space), -1 where it does not count. classes: the value of each class in it, by name. is_whole: every voxel
    is labelled, and cells are compared (V_rand), not voxels.
    """

    on: str
    target: NDArray[np.int8]
    classes: Mapping[str, int]
    is_whole: bool = False


class Question(NamedTuple):
    """A window (C, *space), in standard units, that models are asked about once for all comparisons."""

    image: NDArray[np.floating]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Examination:
    """What models are scored on: windows on held-out corrections, and patches of a model's own sample."""

    questions: tuple[Question, ...]

    def iter_score(self, model: Model, compute: Compute, title: str) -> Generator[Progress, None, Scores]:
        """Yield after each tile of each window; return the scores of those classes that the model knows, by name.

        title: what is done, for the progress.
        """
        columns = {name: number for number, name in enumerate(model.description.class_names)}
        whole = WholeImages(model, compute.device, compute.precision)
        overlaps: dict[tuple[str, str], list[OverlapScores]] = {}
        cells: dict[tuple[str, str], list[SliceScores | None]] = {}
        for number, question in enumerate(self.questions):
            yield Progress(number, len(self.questions), f"{title}: place {number + 1} of {len(self.questions)}")
            if not any(name in each.classes for each in question.comparisons for name in columns):
                continue
            tiles = whole.iter_whole(question.image)
            probability = yield from _counted(tiles, number, len(self.questions), title)
            for comparison in question.comparisons:
                for name in (name for name in columns if name in comparison.classes):
                    key = (comparison.on, name)
                    if comparison.is_whole:
                        cells.setdefault(key, []).extend(_score_cells(probability[columns[name]], comparison, name))
                    elif (comparison.target >= 0).any():
                        overlaps.setdefault(key, []).append(_overlap(probability[columns[name]], comparison, name))
        return _in_order(overlaps, cells)


def examine(
    material: Material, plan: ClassPlan, remembered: Remembered | None, margin: int, stride: int
) -> Examination:
    """Return what the old and the new model are scored on."""
    judged = {plan.names[number - 1]: number for number in plan.learnt}
    boundary = {name: number for name, number in judged.items() if name in BOUNDARY_CLASSES}
    painted = material.painted(material.held_out)
    strokes = [target for _, target in windows_of(material, painted, margin, stride, only_painted=True)]
    shown = {int(label) for target in strokes for label in np.unique(target)}
    drawn = {name: number for name, number in judged.items() if number in shown}
    strokes_of = {id(spot): target for spot, target in zip(painted, strokes, strict=True)}
    windows = windows_of(material, material.held_out, margin, stride)
    questions = []
    for spot, (image, target) in zip(material.held_out, windows, strict=True):
        comparisons = [Comparison(CORRECTIONS, target, judged)]
        if id(spot) in strokes_of:
            comparisons.append(Comparison(STROKES, strokes_of[id(spot)], drawn))
        questions.append(Question(image, tuple(comparisons)))
    if boundary:
        for image, target in whole_windows(material, stride):
            questions.append(Question(image, (Comparison(CORRECTIONS, target, boundary, is_whole=True),)))
    if remembered is not None and len(remembered):
        questions += _of_sample(remembered, plan)
    return Examination(tuple(questions))


def _of_sample(sample: Remembered, plan: ClassPlan) -> list[Question]:
    """Return the patches of a model's own sample that are held out, or all if none is."""
    chosen = sample.of(sample.held_out) if sample.held_out.any() else sample
    kept = {plan.names[place]: old for place, old in enumerate(plan.kept)}
    questions = []
    for image, target, judged in zip(chosen.images, chosen.targets, chosen.judged, strict=True):
        classes = {name: old + 1 for name, old in kept.items() if judged[old]}
        boundary = {name: label for name, label in classes.items() if name in BOUNDARY_CLASSES}
        comparisons = [Comparison(OWN_SAMPLE, target, classes)]
        if boundary and (target >= 0).all():
            comparisons.append(Comparison(OWN_SAMPLE, target, boundary, is_whole=True))
        questions.append(Question(image, tuple(comparisons)))
    return questions


def _counted(
    tiles: Generator[TileResult, None, Pixels], number: int, total: int, title: str
) -> Generator[Progress, None, Pixels]:
    """Yield between the tiles of a large window; return the probabilities in all of it."""
    while True:
        try:
            result = next(tiles)
        except StopIteration as stop:
            whole: Pixels = stop.value
            return whole
        if result.done < result.total:
            message = f"{title}: place {number + 1} of {total}, tile {result.done} of {result.total}"
            yield Progress(number, total, message)


def _overlap(probability: Pixels, comparison: Comparison, name: str) -> OverlapScores:
    target = comparison.target
    return score_overlap(probability > 0.5, target == comparison.classes[name], target >= 0)


def _score_cells(probability: Pixels, comparison: Comparison, name: str) -> list[SliceScores | None]:
    truth = (comparison.target != comparison.classes[name]).astype(np.uint8)
    return run_to_end(iter_score_slices(1 - probability, truth))


def _in_order(
    overlaps: Mapping[tuple[str, str], list[OverlapScores]], cells: Mapping[tuple[str, str], list[SliceScores | None]]
) -> Scores:
    """Return the scores in the order of a report: voxels, then cells, on the corrections and then on the sample."""
    scores: Scores = {}
    for parts in ((CORRECTIONS, STROKES), (OWN_SAMPLE,)):
        for (on, name), found in sorted(overlaps.items(), key=lambda item: item[0][0]):  # of each part as they came
            if on in parts:
                pooled = pool_overlap(found)
                scores[on, name, "Dice"] = pooled.dice
                scores[on, name, "FPR"] = pooled.false_positive_rate
                scores[on, name, "FNR"] = pooled.false_negative_rate
        for (on, name), slices in cells.items():
            if on in parts and any(slices):
                scores[on, name, "V_rand"] = combine_slices(slices).v_rand
    return scores


def compare(old: Scores, new: Scores, plan: ClassPlan) -> Report:
    """Return both models' scores beside each other, and whether the new model is better."""
    rows = tuple(ScoreRow(*key, None if key not in old else round(old[key], 5), round(new[key], 5)) for key in new)
    is_better, reason = _judge(rows, plan)
    return Report(rows, is_better, reason)


def _judge(rows: tuple[ScoreRow, ...], plan: ClassPlan) -> tuple[bool, str]:
    for row in rows:
        loss = (row.old or 0.0) - row.new
        if row.on == OWN_SAMPLE and loss > FORGOTTEN.get(row.score, np.inf):
            return False, (
                f"The new model has forgotten some of what the old one knew: on its own sample {row.score} of "
                f"{row.class_name} fell from {row.old:.3f} to {row.new:.3f}."
            )
    learnt = [row for row in rows if row.on == CORRECTIONS and row.score == "Dice"]
    for row in learnt:
        if row.old is None and row.new < FOUND:
            return False, (
                f"The new model does not find {row.class_name} yet: its Dice on the held-out corrections is "
                f"{row.new:.3f}; correct more places, or let it train longer."
            )
    painted = {row.class_name: row for row in rows if row.on == STROKES and row.score == "Dice"}
    judged = [painted.get(row.class_name, row) for row in learnt]
    gain = float(np.mean([row.new - (row.old or 0.0) for row in judged])) if judged else 0.0
    if gain < EVEN:
        return False, f"The new model is no better on the {_told(judged)}."
    for row in learnt:
        if row.class_name in painted and (row.old or 0.0) - row.new > GIVEN_UP:
            return False, (
                f"The new model is better on the {_told(judged)}, but away from them it gives up what you accepted: on "
                f"all corrections together Dice of {row.class_name} fell from {row.old:.3f} to {row.new:.3f}."
            )
    return True, f"The new model is better on the {_told(judged)}."


def _told(rows: Sequence[ScoreRow]) -> str:
    """Return on what, and from which Dice to which, as a part of a sentence."""
    on = STROKES if any(row.on == STROKES for row in rows) else CORRECTIONS
    moves = (
        f"{row.class_name} {row.new:.3f}" if row.old is None else f"{row.class_name} {row.old:.3f} → {row.new:.3f}"
        for row in rows
    )
    return f"{on}: Dice {', '.join(moves)}"
