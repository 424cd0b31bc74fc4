"""The old model beside the new one: scores of both on what was held out, and whether the new one is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from napari_skipseg.networks.network import Network, class_probability
from napari_skipseg.progress import run_to_end
from napari_skipseg.scores.boundaries import BOUNDARY_CLASSES
from napari_skipseg.scores.isbi import SliceScores, combine_slices, iter_score_slices
from napari_skipseg.scores.overlap import OverlapScores, pool_overlap, score_overlap
from napari_skipseg.training.class_plan import ClassPlan
from napari_skipseg.training.compute import Compute
from napari_skipseg.training.learning import EVEN, Report, ScoreRow
from napari_skipseg.training.material import Material
from napari_skipseg.training.remembered import Remembered
from napari_skipseg.training.windows import Window, whole_windows, windows_of

CORRECTIONS = "held-out corrections"
STROKES = "held-out strokes"
"""Scored apart from what was accepted, which is the old model's own answer: there no other can be better."""
OWN_SAMPLE = "its own sample"
VOXELS_AT_ONCE = 2**19
FORGOTTEN = {"V_rand": 0.02, "Dice": 0.05}
"""What a class may lose at most on the model's own sample, by score."""
GIVEN_UP = 0.05
"""Dice that a class may lose on all corrections together where it gained on the strokes."""
FOUND = 0.3
"""Dice from which on a new class counts as found."""

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From images (N, C, *space) to probabilities (N, classes, *space)."""
Scores = dict[tuple[str, str, str], float]
"""Scores by what was scored, the class's name, and the score's name."""


def predictor(network: Network, compute: Compute) -> Predict:
    """Return what gives the probabilities of `network`, in evaluation mode."""

    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        network.eval()
        with torch.inference_mode():
            logits = compute.logits(network, torch.from_numpy(images))
            probability: NDArray[np.float32] = class_probability(logits).cpu().numpy()
        return probability

    return predict


@dataclass(frozen=True)
class Examination:
    """What models are scored on: windows on held-out corrections and a model's own sample.

    painted: the same windows with the strokes alone, where others were accepted. whole: those in which every voxel is
    labelled.
    """

    windows: tuple[Window, ...]
    painted: tuple[Window, ...]
    whole: tuple[Window, ...]
    remembered: Remembered | None
    plan: ClassPlan

    def score(self, predict: Predict, columns: Mapping[str, int]) -> Scores:
        """Return the scores of a network whose probability of each class, by name, is in that column."""
        scores: Scores = {}
        judged = {self.plan.names[number - 1]: number for number in self.plan.learnt}
        known = {name: number for name, number in judged.items() if name in columns}
        scores |= _named(CORRECTIONS, _overlaps(self.windows, predict, known, columns))
        scores |= _named(STROKES, _overlaps(self.painted, predict, self._painted(known), columns))
        boundary = {name: number for name, number in known.items() if name in BOUNDARY_CLASSES}
        scores |= _v_rand(CORRECTIONS, self.whole, predict, boundary, columns)
        if self.remembered is not None and len(self.remembered):
            scores |= self._score_sample(self.remembered, predict, columns)
        return scores

    def _painted(self, classes: Mapping[str, int]) -> dict[str, int]:
        """Return those of the classes, by name, that the strokes show."""
        shown = [np.unique(target) for _, target in self.painted]
        return {name: label for name, label in classes.items() if any(label in found for found in shown)}

    def _score_sample(self, sample: Remembered, predict: Predict, columns: Mapping[str, int]) -> Scores:
        scores: Scores = {}
        kept = {self.plan.names[place]: old for place, old in enumerate(self.plan.kept)}
        chosen = sample.of(sample.held_out) if sample.held_out.any() else sample
        for name, old in kept.items():
            judged = chosen.of(chosen.judged[:, old])
            windows = [
                (image.astype(np.float32), target) for image, target in zip(judged.images, judged.targets, strict=True)
            ]
            scores |= _named(OWN_SAMPLE, _overlaps(windows, predict, {name: old + 1}, columns))
            if name in BOUNDARY_CLASSES:
                whole = [window for window in windows if (window[1] >= 0).all()]
                scores |= _v_rand(OWN_SAMPLE, whole, predict, {name: old + 1}, columns)
        return scores


def examine(
    material: Material, plan: ClassPlan, remembered: Remembered | None, margin: int, stride: int
) -> Examination:
    """Return what the old and the new model are scored on."""
    windows = tuple(windows_of(material, material.held_out, margin, stride))
    spots = material.painted(material.held_out)
    painted = tuple(windows_of(material, spots, margin, stride, only_painted=True))
    boundary = any(plan.names[number - 1] in BOUNDARY_CLASSES for number in plan.learnt)
    whole = tuple(whole_windows(material, stride)) if boundary else ()
    return Examination(windows, painted, whole, remembered, plan)


def _batches(windows: Sequence[Window], predict: Predict) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int8]]]:
    """Yield the probability (classes, *space) and the target of each window; those of one shape run together."""
    for shape, group in groupby(windows, key=lambda window: window[1].shape):
        alike = list(group)
        step = max(1, VOXELS_AT_ONCE // math.prod(shape))
        for first in range(0, len(alike), step):
            images, targets = zip(*alike[first : first + step], strict=True)
            yield from zip(predict(np.stack(images)), targets, strict=True)


def _overlaps(
    windows: Sequence[Window], predict: Predict, classes: Mapping[str, int], columns: Mapping[str, int]
) -> dict[str, OverlapScores]:
    """Return the overlap of each class, pooled over the labelled voxels of all windows; classes: value by name."""
    found: dict[str, list[OverlapScores]] = {name: [] for name in classes}
    if classes:
        for probability, target in _batches(windows, predict):
            counted = target >= 0
            for name, label in classes.items():
                if counted.any():
                    mask = probability[columns[name]] > 0.5
                    found[name].append(score_overlap(mask, target == label, counted))
    return {name: pool_overlap(scores) for name, scores in found.items() if scores}


def _named(on: str, overlaps: Mapping[str, OverlapScores]) -> Scores:
    scores: Scores = {}
    for name, overlap in overlaps.items():
        scores[on, name, "Dice"] = overlap.dice
        scores[on, name, "FPR"] = overlap.false_positive_rate
        scores[on, name, "FNR"] = overlap.false_negative_rate
    return scores


def _v_rand(
    on: str, windows: Sequence[Window], predict: Predict, classes: Mapping[str, int], columns: Mapping[str, int]
) -> Scores:
    slices: dict[str, list[SliceScores | None]] = {name: [] for name in classes}
    if classes:
        for probability, target in _batches(windows, predict):
            for name, label in classes.items():
                cell = 1 - probability[columns[name]]
                slices[name] += run_to_end(iter_score_slices(cell, (target != label).astype(np.uint8)))
    return {(on, name, "V_rand"): combine_slices(found).v_rand for name, found in slices.items() if any(found)}


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
