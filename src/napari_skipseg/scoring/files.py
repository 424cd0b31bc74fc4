"""Scores of files: predictions against their truths."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.files import read_recipe
from napari_skipseg.objects.classes import BOUNDARY_CLASSES, MOST_LABELS, records_padding, thresholds_in
from napari_skipseg.objects.files import read_tissue
from napari_skipseg.progress import Progress, run_to_end
from napari_skipseg.scores.instances import (
    MASK,
    InstanceScores,
    MaskError,
    MatchingScores,
    is_mask,
    pool_instances,
    pool_matching,
    score_instances,
    score_matching,
)
from napari_skipseg.scores.isbi import (
    IsbiScores,
    SliceScores,
    combine_slices,
    iter_score_slices,
    membrane_to_cell,
)
from napari_skipseg.scores.overlap import OverlapScores, pool_overlap, score_overlap
from napari_skipseg.scoring.pairs import Pair, note_voxels, pair_files, read_both
from napari_skipseg.scoring.values import (
    Foreground,
    ScoreSummary,
    as_probability,
    check_labels,
    doubt_truth,
    foreground_of,
    largest_label,
    marked_truth,
    note_empty,
    note_one_of_many,
)
from napari_skipseg.thresholds import DEFAULT_THRESHOLD
from napari_skipseg.wording import percent

LEAST_BOUNDARY = 0.12
"""Share of an image that boundaries between cells cover at least: 0.2 to 0.45 in truths of ssTEM and FIB-SEM."""
DECIDED = 0.5
"""Probability above which a pixel is taken for predicted where the polarity of a prediction is judged."""

Measure = Literal["overlap", "isbi", "instances"]


@dataclass(frozen=True)
class ScoreOptions:
    """Which scores are computed, and how the files are read.

    measure: "overlap" (Dice, IoU, …), "isbi" (V_rand, V_info) or "instances" (adapted Rand, variation of information,
        average precision).
    membrane: the prediction is a probability of membrane (in files of ours the recipe says so). Then "isbi" scores its
        complement, and the membranes of the truth are the foreground of "overlap".
    foreground: what is above 0 in the truth of a membrane, "cells" or "membranes". "auto" judges by thickness
        (`foreground_of`); if that is not clear, a note says what was assumed.
    threshold: probability above which a pixel counts as predicted, for "overlap"; None = that of its segmentation.
    classes: names and label values of classes that are scored one by one, in images of labels. The values are the
        truth's, and the prediction's too, unless that is a file of ours with the names of its classes.
    ignore: label value of the truth where nothing counts, such as 0 in labels of corrections; None = all counts.

    Raises:
        InputError: options that exclude each other.
    """

    measure: Measure = "overlap"
    membrane: bool = False
    threshold: float | None = None
    classes: Mapping[str, int] = field(default_factory=dict)
    foreground: Foreground = "auto"
    ignore: int | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise InputError(f"The threshold must lie between 0 and 1, not at {self.threshold}.")
        if self.classes and (self.measure != "overlap" or self.membrane):
            raise InputError("Classes have an overlap only: leave out isbi, instances and membrane, or the classes.")
        if self.measure == "instances" and self.membrane:
            raise InputError("Instances are labels, not a probability of membrane: leave out membrane.")
        if self.ignore is None:
            return
        if self.measure != "overlap":
            raise InputError("A value of the truth is ignored in the overlap only: leave out --isbi and --instances.")
        if self.ignore in self.classes.values():
            raise InputError(f"The value {self.ignore} is a class and ignored, too: leave out one of them.")
        if self.ignore == 0 and not self.classes:
            raise InputError(
                "If 0 is ignored, all the rest of the truth is foreground: name the classes that are scored, in a "
                "shell with --class NAME=VALUE."
            )


def score_folders(predictions: Path, truths: Path, options: ScoreOptions | None = None) -> list[ScoreSummary]:
    """Return the scores of a folder of predictions against a folder of truths, paired by name (`pair_files`).

    The rest as for `iter_score_pairs`.
    """
    options = options or ScoreOptions()
    return run_to_end(iter_score_pairs(find_pairs(predictions, truths, options), options))


def find_pairs(predictions: Path, truths: Path, options: ScoreOptions) -> list[Pair]:
    """Return what `pair_files` does; of our own results the objects or the labels if these are scored."""
    if options.measure == "instances":
        return pair_files(predictions, truths, ("_objects", "_binary"))
    return pair_files(predictions, truths, ("_binary",) if options.classes else ("_probability",))


def iter_score_pairs(pairs: Sequence[Pair], options: ScoreOptions) -> Generator[Progress, None, list[ScoreSummary]]:
    """Yield after each pair; return the scores: one summary, or one for each class in `options.classes`.

    An image is a slice if there is one pair, a file if there are several; with "isbi" it is always a slice, and all
    slices of all files share the best threshold. "isbi" and "instances" leave out images without any true cell or
    object. The pooled instances of a stack are those of the volume.

    A prediction of integers is a probability, scaled by the maximum of its type. An image of 0 and 1 is a mask, and for
    the overlap an image of values up to 31 has labels: above 0 = foreground. So it is in truths; for a truth of
    membranes see `options.foreground`. Areas without tissue that a segmentation of ours left out do not count,
    unless the truth marks something there. The notes of the summaries say what was decided.

    Raises:
        SkipsegError: a file that cannot be read, shapes that differ, values that are no probabilities or labels, truths
            that are masks where instances are requested, ISBI scores that a constant image would reach too.
    """
    return (yield from _MEASURES[options.measure](pairs, options))


def _iter_overlap(pairs: Sequence[Pair], options: ScoreOptions) -> Generator[Progress, None, list[ScoreSummary]]:
    scores: dict[str, dict[str, OverlapScores]] = {name: {} for name in options.classes or ("",)}
    notes: list[str] = []
    for done, pair in enumerate(pairs, start=1):
        predicted, true, outside, note = _read_pair(pair)
        notes += note
        counted = ~outside if options.ignore is None else ~outside & (true != options.ignore)
        if options.ignore != 0:
            notes += note_empty(true, pair.truth.name, "" if options.classes else "--class NAME=VALUE ")
        boundary = "membrane" if options.membrane else boundary_of(pair.prediction)
        if options.classes:
            notes += note_one_of_many(true[counted], pair.truth.name, options.classes.values())
            values = _predicted_labels(pair.prediction, predicted, options.classes)
            masks = {name: (predicted == values[name], true == value) for name, value in options.classes.items()}
        else:
            true, note = marked_truth(true, pair.truth.name)
            notes += note
            if boundary:
                true, note = _membranes_of(true, outside, pair, options)
                notes += note
            mask = predicted > 0  # labels; a probability has a threshold
            if largest_label(predicted) is None:
                probability, note = as_probability(predicted, pair.prediction.name)
                notes += note
                own = thresholds_in(_recipe(pair.prediction))
                default = next(iter(own.values()), DEFAULT_THRESHOLD)
                mask = probability > (default if options.threshold is None else options.threshold)
            masks = {"": (mask, true > 0)}
        for class_name, (mask, true_mask) in masks.items():
            of_file = []
            for name, place in _places(pair.name, true.shape, by_slice=len(pairs) == 1):
                if counted[place].any():
                    found = score_overlap(mask[place], true_mask[place], counted[place])
                    scores[class_name][name] = found
                    of_file.append(found)
            if of_file:
                called = class_name or boundary
                counts = asdict(pool_overlap(of_file))
                notes.append(doubt_truth(pair.truth.name, called, called in BOUNDARY_CLASSES, counts))
        yield Progress(done, len(pairs), pair.name)
    if not any(scores.values()):
        raise InputError(
            f"The truths hold only the value {options.ignore}, which is ignored: there is nothing to score."
        )
    notes = list(dict.fromkeys(filter(None, notes)))
    return [
        ScoreSummary(
            asdict(pool_overlap(images.values())),
            {name: asdict(score) for name, score in images.items()},
            class_name,
            tuple(notes),
        )
        for class_name, images in scores.items()
    ]


def _iter_isbi(pairs: Sequence[Pair], options: ScoreOptions) -> Generator[Progress, None, list[ScoreSummary]]:
    names: list[str] = []
    notes: list[str] = []
    slices: list[SliceScores | None] = []
    constants: list[SliceScores | None] = []
    for done, pair in enumerate(pairs, start=1):
        predicted, true, outside, note = _read_pair(pair)
        notes += note
        if len(pairs) == 1 and not true.any():
            raise InputError(
                f"The truth '{pair.truth.name}' is 0 everywhere: it shows neither cells nor membranes, so there is "
                "nothing to score. Check that it is the right file."
            )
        true, note = marked_truth(true, pair.truth.name)
        notes += note
        membranes, note = _membranes_of(true, outside, pair, options)
        true = (membranes == 0) & ~outside
        notes += note
        probability, note = as_probability(predicted, pair.prediction.name)
        notes += note
        is_membrane = options.membrane or bool(boundary_of(pair.prediction))
        notes += _doubt_polarity(probability, outside, pair, is_membrane)
        cell = membrane_to_cell(probability) if is_membrane else probability
        # A frame is no cell: it would join all cells at the edge of the tissue.
        cell = np.where(outside, cell.dtype.type(0), cell)
        membrane_overlap = score_overlap(cell <= DECIDED, ~true, ~outside)
        notes.append(doubt_truth(pair.truth.name, "membrane", True, asdict(membrane_overlap)))
        slices += run_to_end(iter_score_slices(cell, true))
        constants += run_to_end(iter_score_slices(np.ones(true.shape, bool), true))
        file = pair.name if len(pairs) > 1 or true.ndim == 2 else ""
        names += [f"{file} {name}".strip() for name, _ in _places("", true.shape, by_slice=True)]
        yield Progress(done, len(pairs), pair.name)
    scores, constant = combine_slices(slices), combine_slices(constants)
    _check_beats(scores, constant, pairs)
    images = {
        names[number]: {
            "v_rand": rand.score,
            "v_info": information.score,
            "v_rand_split": rand.split,
            "v_rand_merge": rand.merge,
            "v_info_split": information.split,
            "v_info_merge": information.merge,
        }
        for number, rand, information in zip(
            scores.slices, scores.rand_by_slice, scores.information_by_slice, strict=True
        )
    }
    pooled = {key: value for key, value in asdict(scores).items() if not isinstance(value, tuple)}
    return [ScoreSummary(pooled, images, notes=tuple(dict.fromkeys(filter(None, notes))))]


def _membranes_of(
    true: NDArray[Any], outside: NDArray[np.bool_], pair: Pair, options: ScoreOptions
) -> tuple[NDArray[np.bool_], list[str]]:
    """Return where a truth has membranes, and notes on how that was decided."""
    name = pair.truth.name
    if options.foreground != "auto" or not true.any():
        return (true > 0 if options.foreground == "membranes" else true == 0), []
    judged = foreground_of(true, outside)
    if judged == "cells":
        labels = np.unique(true)
        few = 2 < len(labels) <= MOST_LABELS
        return true == 0, [f"'{name}' contains {len(labels)} values: all but 0 were taken for cells."] if few else []
    if judged == "membranes":
        share = float(np.mean(true[~outside] > 0))
        note = f"'{name}' was scored as above 0 on membranes, as what is above 0 is the thinner part."
        if share < LEAST_BOUNDARY:
            note += f" It is only {percent(share)} of the image: this may be the truth of another class."
        return true > 0, [note]
    assumed, other = ("cells", "membranes") if options.membrane or options.measure == "isbi" else ("membranes", "cells")
    only = f" (it contains only the value {true.flat[0]:g})" if (true == true.flat[0]).all() else ""
    note = (
        f"It is not clear whether '{name}' is above 0 in cells or on membranes{only}: {assumed} were assumed. "
        f"For {other} add --truth-foreground {other}."
    )
    return (true > 0 if assumed == "membranes" else true == 0), [note]


def _doubt_polarity(probability: NDArray[Any], outside: NDArray[np.bool_], pair: Pair, is_membrane: bool) -> list[str]:
    """Return a note if a foreign prediction looks like cells but should show membranes, or the other way round."""
    judged = None if boundary_of(pair.prediction) else foreground_of(probability > DECIDED, outside)
    if judged is None or (judged == "membranes") == is_membrane:
        return []
    part, cure = ("thick", "leave out") if is_membrane else ("thin", "add")
    return [
        f"'{pair.prediction.name}' is high on the {part} part, as {judged} are: if it is a probability of {judged}, "
        f"{cure} --membrane."
    ]


def _check_beats(scores: IsbiScores, constant: IsbiScores, pairs: Sequence[Pair]) -> None:
    """Raise InputError if an image that is one cell everywhere reaches the same scores: they are meaningless."""
    for name, found, trivial in (
        ("V_rand", scores.v_rand, constant.v_rand),
        ("V_info", scores.v_info, constant.v_info),
    ):
        if found <= trivial:
            raise InputError(
                f"{name} of '{pairs[0].prediction.name}' is {found:.5f}, and an image without any membrane reaches "
                f"{trivial:.5f}: the score says nothing. Check that prediction and truth show the same image, and "
                "which of the two is above 0 on membranes (--membrane, --truth-foreground). This may also be the truth "
                "of another class."
            )


def _iter_instances(pairs: Sequence[Pair], options: ScoreOptions) -> Generator[Progress, None, list[ScoreSummary]]:
    wholes: list[InstanceScores] = []
    matchings: list[MatchingScores] = []
    images: dict[str, dict[str, float]] = {}
    notes: list[str] = []
    masks = 0
    for done, pair in enumerate(pairs, start=1):
        predicted, true, _, note = _read_pair(pair)
        notes += note
        masks += is_mask(true)
        if true.any():
            check_labels(predicted, str(pair.prediction), "The prediction")
        if true.any() or len(pairs) == 1:
            wholes.append(score_instances(predicted, true))
            matchings.append(score_matching(predicted, true))
        for name, place in _places(pair.name, true.shape, by_slice=len(pairs) == 1):
            if true[place].any():
                matching = score_matching(predicted[place], true[place])
                images[name] = asdict(score_instances(predicted[place], true[place])) | matching.named()
        yield Progress(done, len(pairs), pair.name)
    if not wholes:
        raise InputError("The truths have no labelled object: nothing to score. Their labels must differ from 0.")
    if masks == len(wholes):
        raise MaskError(MASK)
    return [ScoreSummary(asdict(pool_instances(wholes)) | pool_matching(matchings).named(), images, notes=tuple(notes))]


_MEASURES: dict[Measure, Callable[[Sequence[Pair], ScoreOptions], Generator[Progress, None, list[ScoreSummary]]]] = {
    "overlap": _iter_overlap,
    "isbi": _iter_isbi,
    "instances": _iter_instances,
}


def _places(name: str, shape: tuple[int, ...], by_slice: bool) -> Iterator[tuple[str, Any]]:
    """Yield the images of a file with their names: its slices, or the whole."""
    if by_slice and len(shape) == 3:
        yield from ((f"slice {number}", number) for number in range(shape[0]))
    else:
        yield name, ...


def _predicted_labels(path: Path, predicted: NDArray[Any], classes: Mapping[str, int]) -> dict[str, int]:
    """Return the label value of each class in a prediction; a file of ours numbers its classes from 1."""
    recipe = _recipe(path)
    check_labels(predicted, str(path), "The prediction")
    if predicted.dtype.kind not in "bui" or (recipe and recipe.get("layer") != "labels"):
        raise InputError(f"'{path}' contains no labels but probabilities: classes are scored in images of labels.")
    ours = {name: number for number, name in enumerate(recipe.get("classes", ()), start=1)}
    return {name: ours.get(name, value) for name, value in classes.items()}


class _Images(NamedTuple):
    """A prediction and its truth. outside: areas without tissue that were left out, where the truth marks nothing."""

    predicted: NDArray[Any]
    true: NDArray[Any]
    outside: NDArray[np.bool_]
    notes: list[str]


def _read_pair(pair: Pair) -> _Images:
    found, labels = read_both(pair.prediction, pair.truth)
    everything = (slice(None),) * len(found.shape)
    predicted, true = found.read(everything), labels.read(everything)
    check_labels(true, str(pair.truth))
    notes, outside, recipe = note_voxels(found, labels), np.zeros(true.shape, np.bool_), _recipe(pair.prediction)
    if not records_padding(recipe) or recipe.get("operation") == "objects":
        return _Images(predicted, true, outside, notes)
    is_labels = recipe.get("layer") == "labels"
    tissue = read_tissue(pair.prediction, found, recipe) if is_labels else found
    if tissue is not None:
        outside = (tissue.read(everything) == 0) & (true == 0)
        if outside.any():
            notes.append(f"Areas without tissue that were left out of '{pair.prediction.name}' do not count.")
    elif boundary_of(pair.prediction):
        notes.append(
            f"'{pair.prediction.name}' does not show which areas without tissue were left out, so these count as "
            "cells: score the probability of the same segmentation."
        )
    return _Images(predicted, true, outside, notes)


def boundary_of(prediction: Path) -> str:
    """Return the boundary class of a file of ours, such as membrane; "" for any other file."""
    names = _recipe(prediction).get("classes", [])
    return str(names[0]) if names and names[0] in BOUNDARY_CLASSES else ""


def _recipe(path: Path) -> dict[str, Any]:
    return read_recipe(path) or {}
