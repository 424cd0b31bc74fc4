"""The old model beside the new one: scores of both on what was held out, and whether the new one is better."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.models.model import Model
from napari_skipseg.objects.classes import BOUNDARY_CLASSES
from napari_skipseg.progress import Progress, run_to_end
from napari_skipseg.scores.isbi import SliceScores, combine_slices, iter_score_slices
from napari_skipseg.scores.overlap import OverlapScores, pool_overlap, score_overlap
from napari_skipseg.training.compute import Compute
from napari_skipseg.training.evaluate import WholeImages
from napari_skipseg.training.finetune.blocks import BlockTable
from napari_skipseg.training.finetune.crops import CorrectionCrops
from napari_skipseg.training.finetune.labelled_pixels import STROKE_SIDE, number_strokes
from napari_skipseg.training.finetune.labels import ClassPlan
from napari_skipseg.training.finetune.patches import iter_held_out_patches, iter_whole_patches
from napari_skipseg.training.finetune.rehearsal import RehearsalSamples
from napari_skipseg.training.finetune.stroke_scores import CalledPixels, StrokeScores, gain_in_image
from napari_skipseg.training.finetune.stroke_verdict import (
    BETTER_REACH,
    GIVEN_UP,
    StrokeVerdict,
    judge_known_class,
    judge_on_strokes,
    rows_of_strokes,
)
from napari_skipseg.training.losses import IGNORED
from napari_skipseg.training.progress import EVEN, ComparisonReport, ScoreRow
from napari_skipseg.training.settings import Reach
from napari_skipseg.wording import counted, percent

CORRECTIONS = "held-out corrections"
STROKES = "held-out strokes"
"""Scored apart from what was accepted, which is the old model's own answer: there no model can be better."""
OWN_SAMPLE = "its own sample"
FORGOTTEN = {"V_rand": 0.02, "Dice": 0.05}
"""The most that a class may lose on the model's own sample, by score."""
_FOUND = 0.3
"""Least Dice of a new class that counts as found."""
ENOUGH_BLOCKS = 20
"""Held-out places that make a comparison reliable. Of one class on a stack of brain, 2 places of 10 strokes gave a Dice
of 0.967, the whole truth one of 0.31."""
ENOUGH_OF_CLASS = 2
"""Held-out blocks that must show each class that is learnt."""
LABELLED_ALL_OVER = 0.8
"""With at least this share of its voxels labelled, a block counts once for each `SQUARE` of its voxels."""
SQUARE = 32 * 32

Scores = dict[tuple[str, str, str], float]
"""Scores by what was scored, the class's name, and the score's name."""


class Comparison(NamedTuple):
    """A target that a model's answer is compared with.

    target: (*space), -1 where it does not count. classes: the value of each class in it, by name. is_whole: every voxel
    is labelled, and cells are compared (V_rand), not voxels. strokes: (*space), the number of each voxel's stroke, 0 =
    none; None if the labels are all over and show the image itself. painted: where labels were painted, not accepted.
    """

    on: str
    target: NDArray[np.int8]
    classes: Mapping[str, int]
    is_whole: bool = False
    strokes: NDArray[np.int64] | None = None
    painted: NDArray[np.bool_] | None = None


class ScoredPatch(NamedTuple):
    """A patch (C, *space) in standard units, which each model predicts once for all comparisons."""

    image: NDArray[np.floating]
    comparisons: tuple[Comparison, ...]


class MeasuredScores(NamedTuple):
    """The scores of a model, and the share of the patches around held-out blocks in which it finds each class.

    called: what it calls the held-out strokes, by class; nothing where the labels are all over.
    """

    scores: Scores
    shares: dict[str, float]
    called: Mapping[str, CalledPixels] = MappingProxyType({})

    def on_strokes(self, name: str) -> StrokeScores | None:
        """Return the scores of a class for the image, from held-out strokes; None if there are too few."""
        return self.called[name].score(self.shares[name]) if name in self.called else None


@dataclass(frozen=True)
class HeldOut:
    """How much the scores rest on: held-out blocks, and how many of them show each class that is learnt, by name.

    is_enough: whether that is enough to tell which of two models is better.
    """

    blocks: int
    of_class: Mapping[str, int]
    is_enough: bool


@dataclass(frozen=True)
class ScoringData:
    """What both models are scored on: patches around held-out blocks, and rehearsal samples."""

    patches: tuple[ScoredPatch, ...]
    held_out: HeldOut

    def iter_score(self, model: Model, compute: Compute, title: str) -> Generator[Progress, None, MeasuredScores]:
        """Yield after each tile of each patch; return the scores of those classes that the model knows, by name.

        title: what is being done, for the progress.
        """
        columns = {name: number for number, name in enumerate(model.description.class_names)}
        network = WholeImages(model, compute.device, compute.precision)
        thresholds, tally = model.description.class_thresholds, _Tally()
        found, seen, total = dict.fromkeys(columns, 0), 0, len(self.patches)
        for number, patch in enumerate(self.patches):
            message = f"{title}: place {number + 1} of {total}"
            yield Progress(number, total, message)
            if not any(name in each.classes for each in patch.comparisons for name in columns):
                continue
            probability = np.empty((len(columns), *patch.image.shape[1:]), np.float32)
            for tile in network.iter_tiles(patch.image):
                probability[(slice(None), *tile.keep)] = tile.probability
                if tile.done < tile.total:
                    yield Progress(number, total, f"{message}, tile {tile.done} of {tile.total}")
            if any(each.on == CORRECTIONS and not each.is_whole for each in patch.comparisons):
                seen += probability[0].size
                for name, column in columns.items():
                    found[name] += int(np.count_nonzero(probability[column] > thresholds[name]))
            for each in patch.comparisons:
                for name in (name for name in columns if name in each.classes):
                    tally.add(each, name, probability[columns[name]], thresholds[name])
        shares = {name: count / seen for name, count in found.items()} if seen else {}
        called = {name: _join_called(pieces) for name, pieces in tally.called.items()}
        return MeasuredScores(_pool_in_order(tally.overlaps, tally.cells), shares, called)


class _Called(NamedTuple):
    """Labelled voxels of a place: whether they are called a class, are it, their stroke, whether they were painted."""

    called: NDArray[np.bool_]
    positive: NDArray[np.bool_]
    strokes: NDArray[np.int64]
    painted: NDArray[np.bool_]


@dataclass
class _Tally:
    """What a model's answers were so far: overlaps and cells by what was scored and class, labelled voxels by class."""

    overlaps: dict[tuple[str, str], list[OverlapScores]] = field(default_factory=dict)
    cells: dict[tuple[str, str], list[SliceScores | None]] = field(default_factory=dict)
    called: dict[str, list[_Called]] = field(default_factory=dict)

    def add(self, each: Comparison, name: str, predicted: NDArray[np.float32], threshold: float) -> None:
        """Add what is predicted of a class."""
        positive = each.target == each.classes[name]
        if each.is_whole:
            slices = run_to_end(iter_score_slices(1 - predicted, (~positive).astype(np.uint8)))
            self.cells.setdefault((each.on, name), []).extend(slices)
            return
        if not (each.target >= 0).any():
            return
        called = predicted > threshold
        self.overlaps.setdefault((each.on, name), []).append(score_overlap(called, positive, each.target >= 0))
        if each.strokes is not None:
            there = each.strokes > 0
            painted = np.ones_like(there) if each.painted is None else each.painted
            piece = _Called(called[there], positive[there], each.strokes[there], painted[there])
            self.called.setdefault(name, []).append(piece)


def _join_called(pieces: Sequence[_Called]) -> CalledPixels:
    """Return the voxels of all places: of the class and of all else the painted ones, if there are some."""
    called, positive, strokes, painted = (np.concatenate(each) for each in zip(*pieces, strict=True))
    chosen = np.zeros_like(positive)
    for side in (positive, ~positive):
        chosen |= side & painted if (side & painted).any() else side
    return CalledPixels(called[chosen], positive[chosen], strokes[chosen])


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
    is_enough = sum(weights) >= ENOUGH_BLOCKS and min(heavy.values(), default=0) >= ENOUGH_OF_CLASS
    return HeldOut(len(table.held_out), shown, is_enough)


def is_labelled_all_over(table: BlockTable) -> bool:
    """Return whether what is held out is labelled nearly all over, so that it shows the image itself.

    If something was accepted, what was painted of it counts.
    """
    painted = [column for column, counted in enumerate(table.columns) if counted.is_painted]
    columns = painted or range(len(table.columns))
    voxels = sum(math.prod(stop - start for start, stop in block.box) for block in table.held_out)
    labelled = sum(block.counts[column] for block in table.held_out for column in columns)
    return labelled >= LABELLED_ALL_OVER * max(1, voxels)


def collect_scoring_data(
    corrections: CorrectionCrops, plan: ClassPlan, rehearsal: RehearsalSamples | None, margin: int, stride: int
) -> ScoringData:
    """Return what the old and the new model are scored on."""
    table = corrections.table
    judged = {plan.names[number - 1]: number for number in plan.learnt}
    boundary = {name: number for name, number in judged.items() if name in BOUNDARY_CLASSES}
    painted = table.with_strokes(table.held_out)
    strokes = [patch.target for patch in iter_held_out_patches(corrections, painted, margin, stride, only_painted=True)]
    shown = {int(label) for target in strokes for label in np.unique(target)}
    drawn = {name: number for name, number in judged.items() if number in shown}
    strokes_of = dict(zip(painted, strokes, strict=True))
    scored, count, are_strokes = [], 0, not is_labelled_all_over(table)
    patches = iter_held_out_patches(corrections, table.held_out, margin, stride)
    for block, (image, target) in zip(table.held_out, patches, strict=True):
        numbers: NDArray[np.int64] | None = None
        if are_strokes:
            numbers = number_strokes(target, STROKE_SIDE[target.ndim])
            numbers[numbers > 0] += count
            count = max(count, int(numbers.max(initial=0)))
        drawn_here = strokes_of.get(block)
        is_drawn = (
            None if not painted else np.zeros(target.shape, bool) if drawn_here is None else drawn_here != IGNORED
        )
        comparisons = [Comparison(CORRECTIONS, target, judged, strokes=numbers, painted=is_drawn)]
        if drawn_here is not None:
            comparisons.append(Comparison(STROKES, drawn_here, drawn))
        scored.append(ScoredPatch(image, tuple(comparisons)))
    if boundary:
        for image, target in iter_whole_patches(corrections, stride):
            scored.append(ScoredPatch(image, (Comparison(CORRECTIONS, target, boundary, is_whole=True),)))
    if rehearsal is not None and len(rehearsal):
        scored += _score_rehearsal(rehearsal, plan)
    return ScoringData(tuple(scored), count_held_out(table, plan))


def _score_rehearsal(sample: RehearsalSamples, plan: ClassPlan) -> list[ScoredPatch]:
    """Return the rehearsal samples that are held out, or all if none is."""
    chosen = sample.of(sample.held_out) if sample.held_out.any() else sample
    kept = {plan.names[new]: old for new, old in enumerate(plan.kept)}
    scored = []
    for image, target, judged in zip(chosen.images, chosen.targets, chosen.judged, strict=True):
        classes = {name: old + 1 for name, old in kept.items() if judged[old]}
        boundary = {name: label for name, label in classes.items() if name in BOUNDARY_CLASSES}
        comparisons = [Comparison(OWN_SAMPLE, target, classes)]
        if boundary and (target >= 0).all():
            comparisons.append(Comparison(OWN_SAMPLE, target, boundary, is_whole=True))
        scored.append(ScoredPatch(image, tuple(comparisons)))
    return scored


def _pool_in_order(
    overlaps: Mapping[tuple[str, str], list[OverlapScores]], cells: Mapping[tuple[str, str], list[SliceScores | None]]
) -> Scores:
    """Return the scores in the order of the report: on the corrections, then on the sample; voxels, then cells."""
    scores: Scores = {}
    for parts in ((CORRECTIONS, STROKES), (OWN_SAMPLE,)):
        for (on, name), found in sorted(overlaps.items(), key=lambda item: item[0][0]):
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
    old: MeasuredScores,
    new: MeasuredScores,
    plan: ClassPlan,
    held_out: HeldOut,
    reach: Reach = "normal",
    parent_report: Mapping[str, Any] | None = None,
) -> ComparisonReport:
    """Return both models' scores beside each other, and whether the new model is better.

    Strokes are judged for the image, labels all over by their voxels. parent_report: the stored report of the old
    model's own fine-tuning; None or empty if it was not fine-tuned. The scores of the first model of the line on its
    own sample are taken from it.
    """
    first: dict[tuple[str, str, str], float] = {}
    for row in (parent_report or {}).get("rows", ()):
        value = row.get("old") if row.get("first") is None else row["first"]
        if row.get("on") == OWN_SAMPLE and value is not None:
            first[OWN_SAMPLE, row["class_name"], row["score"]] = float(value)
    rows = [
        ScoreRow(*key, None if key not in old.scores else round(old.scores[key], 5), round(value, 5), first.get(key))
        for key, value in new.scores.items()
    ]
    verdicts = [_judge_strokes(name, old, new, rows, reach) for name in new.called]
    rows = _with_stroke_rows(rows, old, new)
    if forgotten := _describe_forgotten(rows):
        return ComparisonReport(tuple(rows), False, forgotten)
    if verdicts:
        return _join_verdicts(rows, verdicts)
    is_better, reason = _judge(rows, reach)
    if not is_better or held_out.is_enough:
        return ComparisonReport(tuple(rows), is_better, reason)
    return ComparisonReport(tuple(rows), False, _describe_doubt(rows, new.shares, plan, held_out), is_unsure=True)


def _judge_strokes(
    name: str, old: MeasuredScores, new: MeasuredScores, rows: Sequence[ScoreRow], reach: Reach
) -> StrokeVerdict:
    """Return the verdict on a class that was taught by strokes. rows: of voxels."""
    after, before = new.on_strokes(name), old.on_strokes(name)
    if after is None or before is None:
        verdict = judge_on_strokes(name, after, None, reach)
    else:
        gain = gain_in_image(old.called[name], new.called[name], new.shares[name])
        verdict = judge_known_class(name, after, before, gain)
    of_all = {row.on: row for row in rows if row.class_name == name and row.score == "Dice"}
    accepted = of_all.get(CORRECTIONS)
    if (
        verdict.is_better
        and STROKES in of_all
        and accepted is not None
        and (accepted.old or 0) - accepted.new > GIVEN_UP
    ):
        return StrokeVerdict(
            False,
            True,
            f"On the strokes the new model is better, but away from them it gives up what you accepted: on all "
            f"corrections together Dice of {name} fell from {accepted.old:.3f} to {accepted.new:.3f}.",
        )
    return verdict


def _with_stroke_rows(rows: Sequence[ScoreRow], old: MeasuredScores, new: MeasuredScores) -> list[ScoreRow]:
    """Return the rows in which new classes that strokes show have the scores of the image, with their limits.

    A known class keeps those of the strokes: corrections lie on errors, which say nothing of how often there are some.
    """
    found: list[ScoreRow] = []
    for row in rows:
        after = None if row.class_name in old.called else new.on_strokes(row.class_name)
        if after is None or row.on == OWN_SAMPLE or row.score == "V_rand":
            found.append(row)
        elif row.on == CORRECTIONS and row.score == "Dice":
            found += rows_of_strokes(CORRECTIONS, row.class_name, after, None)
    return found


def _join_verdicts(rows: Sequence[ScoreRow], verdicts: Sequence[StrokeVerdict]) -> ComparisonReport:
    """Return the report that says all verdicts: it is better if each class is."""
    is_better = all(verdict.is_better for verdict in verdicts)
    is_worse = any(verdict.is_worse for verdict in verdicts)
    reason = " ".join(verdict.reason for verdict in verdicts)
    return ComparisonReport(tuple(rows), is_better, reason, is_unsure=not is_better and not is_worse)


def _describe_forgotten(rows: Sequence[ScoreRow]) -> str:
    """Return what the new model has forgotten since the old one or the first model of the line; "" if nothing."""
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


def compare_on_strokes(
    found: Mapping[str, StrokeScores | None], old: Mapping[str, StrokeScores], reach: Reach = "quick"
) -> ComparisonReport:
    """Return the report on classes with pixel heads, which were scored on strokes that a fit for it left out.

    found: the scores of each class, None if it has too few strokes. old: of those that the old model knows; it may have
    learnt from these strokes.
    """
    rows: list[ScoreRow] = []
    for name, new in found.items():
        if new is not None:
            rows += rows_of_strokes(CORRECTIONS, name, new, old.get(name))
    return _join_verdicts(rows, [judge_on_strokes(name, new, old.get(name), reach) for name, new in found.items()])


def _judge(rows: Sequence[ScoreRow], reach: Reach) -> tuple[bool, str]:
    learnt = [row for row in rows if row.on == CORRECTIONS and row.score == "Dice"]
    for row in learnt:
        if row.old is None and row.new < _FOUND:
            return False, (
                f"The new model does not find {row.class_name} yet: its Dice on the held-out corrections is "
                f"{row.new:.3f}. To find it better, {BETTER_REACH[reach]}."
            )
    gain = float(np.mean([row.new - (row.old or 0.0) for row in learnt])) if learnt else 0.0
    better = "better" if gain >= EVEN else "no better"
    return gain >= EVEN, f"The new model is {better} on the {_describe_dice(learnt)}."


def _describe_doubt(rows: Sequence[ScoreRow], shares: Mapping[str, float], plan: ClassPlan, held_out: HeldOut) -> str:
    """Return what is known if too little is held out to say that the new model is better."""
    rare = [name for name, count in held_out.of_class.items() if count < ENOUGH_OF_CLASS]
    where = f"Only {counted(held_out.blocks, 'held-out place')}"
    if held_out.blocks >= ENOUGH_BLOCKS and rare:
        count = held_out.of_class[rare[0]]
        where = f"Only {counted(count, 'held-out place')} with {rare[0]}" if count else f"No held-out {rare[0]}"
    sentences = [
        f"{where}: not enough to tell whether the new model is better.",
        f"On the {_describe_dice([row for row in rows if row.on == CORRECTIONS and row.score == 'Dice'])}.",
    ]
    new = [name for name in plan.names[len(plan.kept) :] if name in shares]
    if new:
        takes = " and ".join(f"{name} {percent(shares[name])}" for name in new)
        sentences.append(
            f"Around these places it now marks {takes} of the image: check in the view that this is right."
        )
    sentences.append("More strokes in other places make the comparison firm.")
    return " ".join(sentences)


def _describe_dice(rows: Sequence[ScoreRow]) -> str:
    """Return the Dice of both models and what it was measured on, as a part of a sentence."""
    moves = (
        f"{row.class_name} {row.new:.3f} (the old model finds none: 0)"
        if row.old is None
        else f"{row.class_name} {row.old:.3f} → {row.new:.3f}"
        for row in rows
    )
    return f"{CORRECTIONS}: Dice {', '.join(moves)}"
