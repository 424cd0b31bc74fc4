"""The old model beside the new one: scores of both on what was held out, and whether the new one is better."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
from napari_skipseg.training.finetune.blocks import BlockTable
from napari_skipseg.training.finetune.crops import CorrectionCrops
from napari_skipseg.training.finetune.labels import ClassPlan
from napari_skipseg.training.finetune.patches import iter_held_out_patches, iter_whole_patches
from napari_skipseg.training.finetune.rehearsal import RehearsalSamples
from napari_skipseg.training.progress import EVEN, ComparisonReport, ScoreRow
from napari_skipseg.training.settings import Reach
from napari_skipseg.wording import counted, percent

CORRECTIONS = "held-out corrections"
STROKES = "held-out strokes"
"""Scored apart from what was accepted, which is the old model's own answer: there no other can be better."""
OWN_SAMPLE = "its own sample"
FORGOTTEN = {"V_rand": 0.02, "Dice": 0.05}
"""What a class may lose at most on the model's own sample, by score."""
GIVEN_UP = 0.05
"""Dice that a class may lose on all corrections together where it gained on the strokes."""
_FOUND = 0.3
"""Dice from which on a new class counts as found."""
ENOUGH_PLACES = 20
"""Held-out places from which on a comparison says something. Of one class on a stack of brain, 2 places of 10 strokes
gave a Dice of 0.967 where that against the whole truth was 0.31."""
ENOUGH_OF_CLASS = 2
"""Held-out places that must show each class that is learnt."""
LABELLED_ALL_OVER = 0.8
"""Share of labelled voxels from which on a place counts as many times as it has squares of `SQUARE` voxels."""
SQUARE = 32 * 32
BETTER_REACH: Mapping[Reach, str] = {
    "quick": "train with Normal or Full (in a shell --reach normal or full), or paint more places",
    "normal": "paint more places, let it train longer, or train with Full (in a shell --reach full)",
    "full": "paint more places, or let it train longer",
}
"""What helps a class that is not found yet, by the reach that was tried."""

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


class Examined(NamedTuple):
    """The scores of a model, and which share of the windows around the held-out places it gives to each class."""

    scores: Scores
    shares: dict[str, float]


@dataclass(frozen=True)
class HeldOut:
    """How much the scores rest on: held-out places, and how many of them show each class that is learnt, by name.

    is_enough: whether that is enough to tell which of two models is better.
    """

    places: int
    of_class: Mapping[str, int]
    is_enough: bool


class ScoreQuestion(NamedTuple):
    """A window (C, *space), in standard units, that models are asked about once for all comparisons."""

    image: NDArray[np.floating]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Examination:
    """What models are scored on: windows on held-out corrections, and patches of a model's own sample."""

    questions: tuple[ScoreQuestion, ...]
    held_out: HeldOut

    def iter_score(self, model: Model, compute: Compute, title: str) -> Generator[Progress, None, Examined]:
        """Yield after each tile of each window; return the scores of those classes that the model knows, by name.

        title: what is done, for the progress.
        """
        columns = {name: number for number, name in enumerate(model.description.class_names)}
        whole = WholeImages(model, compute.device, compute.precision)
        overlaps: dict[tuple[str, str], list[OverlapScores]] = {}
        cells: dict[tuple[str, str], list[SliceScores | None]] = {}
        found, seen = dict.fromkeys(columns, 0), 0
        for number, question in enumerate(self.questions):
            yield Progress(number, len(self.questions), f"{title}: place {number + 1} of {len(self.questions)}")
            if not any(name in each.classes for each in question.comparisons for name in columns):
                continue
            tiles = whole.iter_whole(question.image)
            probability = yield from _counted(tiles, number, len(self.questions), title)
            if any(each.on == CORRECTIONS and not each.is_whole for each in question.comparisons):
                seen += probability[0].size
                for name, column in columns.items():
                    found[name] += int(np.count_nonzero(probability[column] > 0.5))
            for comparison in question.comparisons:
                for name in (name for name in columns if name in comparison.classes):
                    key = (comparison.on, name)
                    if comparison.is_whole:
                        cells.setdefault(key, []).extend(_score_cells(probability[columns[name]], comparison, name))
                    elif (comparison.target >= 0).any():
                        overlaps.setdefault(key, []).append(_overlap(probability[columns[name]], comparison, name))
        shares = {name: count / seen for name, count in found.items()} if seen else {}
        return Examined(_in_order(overlaps, cells), shares)


def count_held_out(table: BlockTable, plan: ClassPlan) -> HeldOut:
    """Return how much is held out. If something was accepted, the blocks of a class are those with its strokes."""
    with_strokes = {counted.number for counted in table.columns if counted.is_painted}
    columns = {
        plan.names[counted.number - 1]: column
        for column, counted in enumerate(table.columns)
        if counted.number and counted.is_painted == (counted.number in with_strokes)
    }
    all_labels = [column for column, counted in enumerate(table.columns) if not counted.is_painted]
    weights = []
    for block in table.held_out:
        size = math.prod(stop - start for start, stop in block.box)
        labelled = sum(block.counts[column] for column in all_labels)
        weights.append(max(1, size // SQUARE) if labelled >= LABELLED_ALL_OVER * size else 1)
    weighted = list(zip(table.held_out, weights, strict=True))
    shown = {name: sum(bool(block.counts[column]) for block in table.held_out) for name, column in columns.items()}
    heavy = {
        name: sum(weight for block, weight in weighted if block.counts[column]) for name, column in columns.items()
    }
    is_enough = sum(weights) >= ENOUGH_PLACES and min(heavy.values(), default=0) >= ENOUGH_OF_CLASS
    return HeldOut(len(table.held_out), shown, is_enough)


def examine(
    corrections: CorrectionCrops, plan: ClassPlan, rehearsal: RehearsalSamples | None, margin: int, stride: int
) -> Examination:
    """Return what the old and the new model are scored on."""
    table = corrections.table
    judged = {plan.names[number - 1]: number for number in plan.learnt}
    boundary = {name: number for name, number in judged.items() if name in BOUNDARY_CLASSES}
    painted = table.with_strokes(table.held_out)
    strokes = [patch.target for patch in iter_held_out_patches(corrections, painted, margin, stride, only_painted=True)]
    shown = {int(label) for target in strokes for label in np.unique(target)}
    drawn = {name: number for name, number in judged.items() if number in shown}
    strokes_of = dict(zip(painted, strokes, strict=True))
    questions = []
    patches = iter_held_out_patches(corrections, table.held_out, margin, stride)
    for block, (image, target) in zip(table.held_out, patches, strict=True):
        comparisons = [Comparison(CORRECTIONS, target, judged)]
        if block in strokes_of:
            comparisons.append(Comparison(STROKES, strokes_of[block], drawn))
        questions.append(ScoreQuestion(image, tuple(comparisons)))
    if boundary:
        for image, target in iter_whole_patches(corrections, stride):
            questions.append(ScoreQuestion(image, (Comparison(CORRECTIONS, target, boundary, is_whole=True),)))
    if rehearsal is not None and len(rehearsal):
        questions += _of_sample(rehearsal, plan)
    return Examination(tuple(questions), count_held_out(table, plan))


def _of_sample(sample: RehearsalSamples, plan: ClassPlan) -> list[ScoreQuestion]:
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
        questions.append(ScoreQuestion(image, tuple(comparisons)))
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


def compare(
    old: Scores,
    new: Examined,
    plan: ClassPlan,
    held_out: HeldOut,
    reach: Reach = "normal",
    parent_report: Mapping[str, Any] | None = None,
) -> ComparisonReport:
    """Return both models' scores beside each other, and whether the new model is better.

    parent_report: the report that was written when the old model was itself fine-tuned, as it is stored; None or empty
    where it was not. What the first model of the line scored on its own sample is taken from it.
    """
    first = _first_scores(parent_report or {})
    rows = tuple(
        ScoreRow(*key, None if key not in old else round(old[key], 5), round(value, 5), first.get(key))
        for key, value in new.scores.items()
    )
    forgotten = _forgotten(rows)
    if forgotten:
        return ComparisonReport(rows, False, forgotten)
    is_better, reason = _judge(rows, reach)
    if not is_better or held_out.is_enough:
        return ComparisonReport(rows, is_better, reason)
    return ComparisonReport(rows, False, _unsure(rows, new.shares, plan, held_out), is_unsure=True)


def _first_scores(report: Mapping[str, Any]) -> dict[tuple[str, str, str], float]:
    """Return what the first model of the line scored on its own sample, from the report of a fine-tuned model."""
    first: dict[tuple[str, str, str], float] = {}
    for row in report.get("rows", ()):
        value = row.get("old") if row.get("first") is None else row["first"]
        if row.get("on") == OWN_SAMPLE and value is not None:
            first[OWN_SAMPLE, row["class_name"], row["score"]] = float(value)
    return first


def _forgotten(rows: Sequence[ScoreRow]) -> str:
    """Return what the new model has forgotten: against the old one, or bit by bit against the first of the line."""
    for row in rows:
        limit = FORGOTTEN.get(row.score, np.inf)
        if row.on != OWN_SAMPLE:
            continue
        if row.old is not None and row.old - row.new > limit:
            return (
                f"The new model has forgotten some of what the old one knew: on its own sample {row.score} of "
                f"{row.class_name} fell from {row.old:.3f} to {row.new:.3f}."
            )
        if row.first is not None and row.first - row.new > limit:
            return (
                f"Fine-tuning again and again has made the model forget: on its own sample {row.score} of "
                f"{row.class_name} was {row.first:.3f} in the first model and is {row.new:.3f} now. Start from the "
                "first model, with all corrections ticked."
            )
    return ""


def _judge(rows: Sequence[ScoreRow], reach: Reach) -> tuple[bool, str]:
    learnt = [row for row in rows if row.on == CORRECTIONS and row.score == "Dice"]
    for row in learnt:
        if row.old is None and row.new < _FOUND:
            return False, (
                f"The new model does not find {row.class_name} yet: its Dice on the held-out corrections is "
                f"{row.new:.3f}. To find it better, {BETTER_REACH[reach]}."
            )
    judged = _decisive(rows)
    painted = {row.class_name for row in rows if row.on == STROKES}
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


def _decisive(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    """Return the rows that decide: Dice of each class, on the strokes where they are scored apart."""
    painted = {row.class_name: row for row in rows if row.on == STROKES and row.score == "Dice"}
    return [painted.get(row.class_name, row) for row in rows if row.on == CORRECTIONS and row.score == "Dice"]


def _unsure(rows: Sequence[ScoreRow], shares: Mapping[str, float], plan: ClassPlan, held_out: HeldOut) -> str:
    """Return what is known where too little is held out to say that the new model is better."""
    rare = [name for name, count in held_out.of_class.items() if count < ENOUGH_OF_CLASS]
    where = f"Only {counted(held_out.places, 'held-out place')}"
    if held_out.places >= ENOUGH_PLACES and rare:
        count = held_out.of_class[rare[0]]
        where = f"Only {counted(count, 'held-out place')} with {rare[0]}" if count else f"No held-out {rare[0]}"
    told = [f"{where}: not enough to tell whether the new model is better.", f"On the {_told(_decisive(rows))}."]
    new = [name for name in plan.names[len(plan.kept) :] if name in shares]
    if new:
        takes = " and ".join(f"{name} {percent(shares[name])}" for name in new)
        told.append(f"Around these places it now marks {takes} of the image: check in the view that this is right.")
    told.append("More strokes in other places make the comparison firm.")
    return " ".join(told)


def _told(rows: Sequence[ScoreRow]) -> str:
    """Return on what, and from which Dice to which, as a part of a sentence."""
    on = STROKES if any(row.on == STROKES for row in rows) else CORRECTIONS
    moves = (
        f"{row.class_name} {row.new:.3f} (the old model finds none: 0)"
        if row.old is None
        else f"{row.class_name} {row.old:.3f} → {row.new:.3f}"
        for row in rows
    )
    return f"{on}: Dice {', '.join(moves)}"
