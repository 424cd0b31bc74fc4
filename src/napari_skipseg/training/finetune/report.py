"""The old model beside the new one: scores of both on what was held out, and whether the new one is better."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.models.model import Model
from napari_skipseg.progress import Progress, run_to_end
from napari_skipseg.scores.boundaries import BOUNDARY_CLASSES
from napari_skipseg.scores.isbi import SliceScores, combine_slices, iter_score_slices
from napari_skipseg.scores.overlap import OverlapScores, pool_overlap, score_overlap
from napari_skipseg.training.compute import Compute
from napari_skipseg.training.evaluate import WholeImages
from napari_skipseg.training.finetune.blocks import BlockTable
from napari_skipseg.training.finetune.crops import CorrectionCrops
from napari_skipseg.training.finetune.labels import ClassPlan
from napari_skipseg.training.finetune.patches import iter_held_out_patches, iter_whole_patches
from napari_skipseg.training.finetune.rehearsal import RehearsalSamples
from napari_skipseg.training.finetune.stroke_scores import Interval, StrokeScores
from napari_skipseg.training.progress import EVEN, ComparisonReport, ScoreRow
from napari_skipseg.training.settings import Reach
from napari_skipseg.wording import counted, percent

CORRECTIONS = "held-out corrections"
STROKES = "held-out strokes"
"""Scored apart from what was accepted, which is the old model's own answer: there no model can be better."""
OWN_SAMPLE = "its own sample"
FORGOTTEN = {"V_rand": 0.02, "Dice": 0.05}
"""The most that a class may lose on the model's own sample, by score."""
GIVEN_UP = 0.05
"""Dice that a class may lose on all corrections together while it gains on the strokes."""
_FOUND = 0.3
"""Least Dice of a new class that counts as found."""
ENOUGH_BLOCKS = 20
"""Held-out places that make a comparison reliable. Of one class on a stack of brain, 2 places of 10 strokes gave a Dice
of 0.967, the whole truth one of 0.31."""
ENOUGH_OF_CLASS = 2
"""Held-out blocks that must show each class that is learnt."""
GOOD = 0.5
"""Dice in the image that a new class must surely have to be called found: its lower limit must be as high."""
TOO_FEW_STROKES = (
    "Only one stroke of {0}, or of anything else: not enough to tell how well it is found. Paint it in more places."
)
LABELLED_ALL_OVER = 0.8
"""With at least this share of its voxels labelled, a block counts once for each `SQUARE` of its voxels."""
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
    """A target that a model's answer is compared with.

    target: (*space), -1 where it does not count. classes: the value of each class in it, by name. is_whole: every voxel
    is labelled, and cells are compared (V_rand), not voxels.
    """

    on: str
    target: NDArray[np.int8]
    classes: Mapping[str, int]
    is_whole: bool = False


class ScoredPatch(NamedTuple):
    """A patch (C, *space) in standard units, which each model predicts once for all comparisons."""

    image: NDArray[np.floating]
    comparisons: tuple[Comparison, ...]


class MeasuredScores(NamedTuple):
    """The scores of a model, and the share of the patches around held-out blocks in which it finds each class."""

    scores: Scores
    shares: dict[str, float]


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
        overlaps: dict[tuple[str, str], list[OverlapScores]] = {}
        cells: dict[tuple[str, str], list[SliceScores | None]] = {}
        thresholds = model.description.class_thresholds
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
            for on, target, classes, is_whole in patch.comparisons:
                for name in (name for name in columns if name in classes):
                    predicted = probability[columns[name]]
                    if is_whole:
                        truth = (target != classes[name]).astype(np.uint8)
                        cells.setdefault((on, name), []).extend(run_to_end(iter_score_slices(1 - predicted, truth)))
                    elif (target >= 0).any():
                        overlap = score_overlap(predicted > thresholds[name], target == classes[name], target >= 0)
                        overlaps.setdefault((on, name), []).append(overlap)
        shares = {name: count / seen for name, count in found.items()} if seen else {}
        return MeasuredScores(_pool_in_order(overlaps, cells), shares)


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
    scored = []
    patches = iter_held_out_patches(corrections, table.held_out, margin, stride)
    for block, (image, target) in zip(table.held_out, patches, strict=True):
        comparisons = [Comparison(CORRECTIONS, target, judged)]
        if block in strokes_of:
            comparisons.append(Comparison(STROKES, strokes_of[block], drawn))
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
    old: Scores,
    new: MeasuredScores,
    plan: ClassPlan,
    held_out: HeldOut,
    reach: Reach = "normal",
    parent_report: Mapping[str, Any] | None = None,
) -> ComparisonReport:
    """Return both models' scores beside each other, and whether the new model is better.

    parent_report: the stored report of the old model's own fine-tuning; None or empty if it was not fine-tuned. The
    scores of the first model of the line on its own sample are taken from it.
    """
    first: dict[tuple[str, str, str], float] = {}
    for row in (parent_report or {}).get("rows", ()):
        value = row.get("old") if row.get("first") is None else row["first"]
        if row.get("on") == OWN_SAMPLE and value is not None:
            first[OWN_SAMPLE, row["class_name"], row["score"]] = float(value)
    rows = tuple(
        ScoreRow(*key, None if key not in old else round(old[key], 5), round(value, 5), first.get(key))
        for key, value in new.scores.items()
    )
    if forgotten := _describe_forgotten(rows):
        return ComparisonReport(rows, False, forgotten)
    is_better, reason = _judge(rows, reach)
    if not is_better or held_out.is_enough:
        return ComparisonReport(rows, is_better, reason)
    return ComparisonReport(rows, False, _describe_doubt(rows, new.shares, plan, held_out), is_unsure=True)


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
        before = old.get(name)
        if new is None:
            continue
        pairs = (("Dice", "dice"), ("precision", "right"), ("FPR", "wrong"), ("FNR", "missed"))
        for score, field in pairs:
            value: Interval = getattr(new, field)
            was = None if before is None else round(getattr(before, field).value, 5)
            limits = round(value.low, 5), round(value.high, 5)
            rows.append(ScoreRow(CORRECTIONS, name, score, was, round(value.value, 5), limits=limits))
    verdicts = [_judge_on_strokes(name, new, old.get(name), reach) for name, new in found.items()]
    is_better = all(verdict.is_better for verdict in verdicts)
    is_worse = any(verdict.is_worse for verdict in verdicts)
    reason = " ".join(verdict.reason for verdict in verdicts)
    return ComparisonReport(tuple(rows), is_better, reason, is_unsure=not is_better and not is_worse)


class _Verdict(NamedTuple):
    """Whether a class is found well, or surely not, and what to say of it."""

    is_better: bool
    is_worse: bool
    reason: str


def _judge_on_strokes(name: str, new: StrokeScores | None, old: StrokeScores | None, reach: Reach) -> _Verdict:
    """Return whether a new class is found well enough to be used: surely at least half right."""
    if new is None:
        return _Verdict(False, False, TOO_FEW_STROKES.format(name))
    finds = f"The new model finds {percent(new.found.value)} ({_limits(new.found)}) of the held-out {name}"
    strokes = _count_strokes(new)
    right = f"{_limits(new.right)} of what it marks is right"
    if old is not None and old.dice.value - new.dice.value > GIVEN_UP:
        return _Verdict(
            False,
            False,
            f"{finds}. The old model scores higher on these strokes, but it may have learnt from them: not enough to "
            "tell which one is better. Compare them in the view.",
        )
    if new.found.high < GOOD or new.dice.high < GOOD:
        return _Verdict(False, True, f"{finds}: not enough yet. To find it better, {BETTER_REACH[reach]}.")
    where = f"around the strokes it marks {percent(new.marked)} of the image"
    if new.dice.low >= GOOD:
        against = "the old model finds none" if old is None else f"the old model's Dice is {old.dice.value:.2f}"
        return _Verdict(True, False, f"{finds}, and {right}: {where} (estimated from {strokes}; {against}).")
    return _Verdict(
        False,
        False,
        f"{finds}, but {strokes} are not enough to tell how good it is: {where}, and {right}. "
        f"{_what_to_paint(name, new)}",
    )


def describe_strokes(found: Mapping[str, StrokeScores | None]) -> str:
    """Return for a card what the scores rest on: how many strokes of each class, and the limits that these leave."""
    parts = [
        f"{name}: {_count_strokes(scores)}, Dice {scores.dice.low:.2f} to {scores.dice.high:.2f}, "
        f"precision {scores.right.low:.2f} to {scores.right.high:.2f}"
        for name, scores in found.items()
        if scores is not None
    ]
    limits = f" ({'; '.join(parts)})" if parts else ""
    return f"strokes that a fit for these scores left out{limits}; the model itself learnt from them too"


def _count_strokes(scores: StrokeScores) -> str:
    return f"{counted(scores.strokes, 'stroke')} of it and {scores.others} of the background"


def _limits(share: Interval) -> str:
    return f"{percent(share.low)} to {percent(share.high)}"


def _what_to_paint(name: str, scores: StrokeScores) -> str:
    """Return which strokes would make it sure that a class is found well."""
    where = f"where nothing is {name}, spread over the image"
    if not scores.marked:
        return f"Nothing is marked there, so paint {name} in more places."
    more = scores.missing_background(GOOD)
    if more is not None:
        return f"Paint {counted(more, 'more background stroke')} {where}."
    return f"Paint more of {name}, and more background strokes {where}."


def _judge(rows: Sequence[ScoreRow], reach: Reach) -> tuple[bool, str]:
    learnt = [row for row in rows if row.on == CORRECTIONS and row.score == "Dice"]
    for row in learnt:
        if row.old is None and row.new < _FOUND:
            return False, (
                f"The new model does not find {row.class_name} yet: its Dice on the held-out corrections is "
                f"{row.new:.3f}. To find it better, {BETTER_REACH[reach]}."
            )
    decisive = _select_decisive(rows)
    painted = {row.class_name for row in rows if row.on == STROKES}
    gain = float(np.mean([row.new - (row.old or 0.0) for row in decisive])) if decisive else 0.0
    if gain < EVEN:
        return False, f"The new model is no better on the {_describe_dice(decisive)}."
    for row in learnt:
        if row.class_name in painted and (row.old or 0.0) - row.new > GIVEN_UP:
            return False, (
                f"The new model is better on the {_describe_dice(decisive)}, but away from them it gives up what you "
                f"accepted: on all corrections together Dice of {row.class_name} fell from {row.old:.3f} to "
                f"{row.new:.3f}."
            )
    return True, f"The new model is better on the {_describe_dice(decisive)}."


def _select_decisive(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    """Return the rows that decide: Dice of each class, on the strokes if they are scored apart."""
    painted = {row.class_name: row for row in rows if row.on == STROKES and row.score == "Dice"}
    return [painted.get(row.class_name, row) for row in rows if row.on == CORRECTIONS and row.score == "Dice"]


def _describe_doubt(rows: Sequence[ScoreRow], shares: Mapping[str, float], plan: ClassPlan, held_out: HeldOut) -> str:
    """Return what is known if too little is held out to say that the new model is better."""
    rare = [name for name, count in held_out.of_class.items() if count < ENOUGH_OF_CLASS]
    where = f"Only {counted(held_out.blocks, 'held-out place')}"
    if held_out.blocks >= ENOUGH_BLOCKS and rare:
        count = held_out.of_class[rare[0]]
        where = f"Only {counted(count, 'held-out place')} with {rare[0]}" if count else f"No held-out {rare[0]}"
    sentences = [
        f"{where}: not enough to tell whether the new model is better.",
        f"On the {_describe_dice(_select_decisive(rows))}.",
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
    on = STROKES if any(row.on == STROKES for row in rows) else CORRECTIONS
    moves = (
        f"{row.class_name} {row.new:.3f} (the old model finds none: 0)"
        if row.old is None
        else f"{row.class_name} {row.old:.3f} → {row.new:.3f}"
        for row in rows
    )
    return f"{on}: Dice {', '.join(moves)}"
