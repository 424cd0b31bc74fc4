"""The scores of the ISBI 2012 EM challenge: foreground-restricted V_rand and V_info after border thinning.

Polarity: everything here takes the probability of **cell** (1 = inside a cell, 0 = membrane), as the
challenge does; `membrane_to_cell` inverts the output of a membrane network. The truth is a mask of
cells: 0 = membrane.

The procedure is that of Fiji's code (Trainable Segmentation; Arganda-Carreras et al. 2015). For each
threshold t and each slice: the pixels with P > t seed a flooding that leaves borders one pixel thin (`thin`),
and the segments are compared with the 4-connected components of the truth. The scores are averaged over the
slices; then the best t for the whole stack counts, one for V_rand and one for V_info. So t is chosen on the
scored slices themselves: optimistic, by definition.

P > t is decided in double precision on the values as given. Java widens Fiji's 32-bit images likewise, so float32 input
gives Fiji's result. Integer images become doubles (`probability_from_image`), so that 51/255 is not above 0.2; as a
32-bit image in Fiji it would be, by rounding.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.progress import Progress, run_to_end
from napari_skipseg.scores.table import Agreement, compiled, group_pixels, label_components, tabulate

THRESHOLDS: tuple[float, ...] = tuple(accumulate([0.0] + [0.1] * 10))
"""0, 0.1, …, 1 as Fiji's loop adds them up: the last is 0.9999999999999999, so P = 1 is above all of them."""


DAM, UNSEEN, QUEUED, SEED, OUTSIDE = 0, -1, -2, -3, -4
"""States of a pixel while its slice is flooded; segments are 1, 2, …"""


@dataclass(frozen=True)
class IsbiScores:
    """The challenge's two scores of one stack, in [0, 1], 1 = the same segmentation.

    v_rand, v_info: the highest means over the slices among all thresholds.
    v_rand_threshold, v_info_threshold: the (lowest) threshold that gives them.
    v_rand_split … v_info_merge: their parts at that threshold, means over the slices; 1 = no split.
    thresholds, v_rand_by_threshold, v_info_by_threshold: the means at every threshold.
    n_slices: slices that were scored; one without any true cell is left out.
    slices: their numbers, from 0.
    rand_by_slice, information_by_slice: V_rand at `v_rand_threshold` and V_info at `v_info_threshold`, with their
        parts, of each of `slices`; the scores above are their means.
    """

    v_rand: float
    v_info: float
    v_rand_threshold: float
    v_info_threshold: float
    v_rand_split: float
    v_rand_merge: float
    v_info_split: float
    v_info_merge: float
    thresholds: tuple[float, ...]
    v_rand_by_threshold: tuple[float, ...]
    v_info_by_threshold: tuple[float, ...]
    n_slices: int
    slices: tuple[int, ...]
    rand_by_slice: tuple[Agreement, ...]
    information_by_slice: tuple[Agreement, ...]


class SliceScores(NamedTuple):
    """V_rand (`rand`) and V_info (`information`) of one slice at each of `THRESHOLDS`."""

    rand: tuple[Agreement, ...]
    information: tuple[Agreement, ...]


def score_isbi(cell_probability: ArrayLike, truth: ArrayLike) -> IsbiScores:
    """Return V_rand and V_info of a stack or a single slice.

    cell_probability: (Y, X) or (Z, Y, X), in [0, 1], or a mask, which scores the same at every threshold.
    truth: the same shape; above 0 inside cells, 0 on membranes; a 4-connected component of a slice is a cell.

    Raises:
        InputError: shapes that differ, values outside [0, 1] or not finite, a truth without any cell.
    """
    return run_to_end(iter_score_isbi(cell_probability, truth))


def iter_score_isbi(cell_probability: ArrayLike, truth: ArrayLike) -> Generator[Progress, None, IsbiScores]:
    """Yield after each slice; return what `score_isbi` does."""
    return combine_slices((yield from iter_score_slices(cell_probability, truth)))


def iter_score_slices(
    cell_probability: ArrayLike, truth: ArrayLike
) -> Generator[Progress, None, list[SliceScores | None]]:
    """Yield after each slice; return their scores at every threshold, None for a slice without any true cell.

    Arguments and errors are those of `score_isbi`, but a truth without any cell is no error. `combine_slices` computes
    the scores of a stack from one such list, or from several joined.
    """
    probability = _checked_probability(cell_probability)
    cells = _checked_truth(truth, probability.shape)
    slices = list(zip(_as_slices(probability), _as_slices(cells), strict=True))
    scores: list[SliceScores | None] = []
    for done, (proposal_slice, true_slice) in enumerate(slices, start=1):
        scores.append(_score_slice(proposal_slice, true_slice) if true_slice.any() else None)
        yield Progress(done, len(slices), "scoring slices")
    return scores


def combine_slices(scores: Sequence[SliceScores | None]) -> IsbiScores:
    """Return the scores of slices taken for one stack: means over them, then the best threshold for them all.

    Raises:
        InputError: no slice has a true cell.
    """
    scored = [(number, score) for number, score in enumerate(scores) if score is not None]
    if not scored:
        raise InputError("The truth has no cell: nothing to score. It must be above 0 inside cells, 0 on membranes.")
    numbers = tuple(number for number, _ in scored)
    by_slice = [score for _, score in scored]
    rand, information = _mean([score.rand for score in by_slice]), _mean([score.information for score in by_slice])
    best_rand, best_info = _best(rand), _best(information)
    return IsbiScores(
        v_rand=rand[best_rand].score,
        v_info=information[best_info].score,
        v_rand_threshold=THRESHOLDS[best_rand],
        v_info_threshold=THRESHOLDS[best_info],
        v_rand_split=rand[best_rand].split,
        v_rand_merge=rand[best_rand].merge,
        v_info_split=information[best_info].split,
        v_info_merge=information[best_info].merge,
        thresholds=THRESHOLDS,
        v_rand_by_threshold=tuple(mean.score for mean in rand),
        v_info_by_threshold=tuple(mean.score for mean in information),
        n_slices=len(scored),
        slices=numbers,
        rand_by_slice=tuple(score.rand[best_rand] for score in by_slice),
        information_by_slice=tuple(score.information[best_info] for score in by_slice),
    )


def thin(cell: ArrayLike, threshold: float = 0.0) -> NDArray[np.int32]:
    """Return the segments grown from `cell` > `threshold` until only dams (0), one pixel thin, separate them.

    The flooding of Vincent and Soille on a two-level image, 4-connected, ties as in Fiji. A slice without any
    pixel above `threshold` is one segment.

    cell: mask or probability of cell, (Y, X) or (Z, Y, X), in [0, 1]. A stack is thinned slice by slice, the
        segments of each slice numbered from 1, seeds in order of x, then y.

    Raises:
        InputError: values outside [0, 1] or not finite, a different number of axes.
    """
    probability = _checked_probability(cell)
    thinned = np.empty(probability.shape, np.int32)
    for source, target in zip(_as_slices(probability), _as_slices(thinned), strict=True):
        state = pad_transposed(source > threshold, SEED, UNSEEN)
        flood_slice(state.reshape(-1), state.shape[1])
        target[:] = state[1:-1, 1:-1].T
    return thinned


def probability_from_image(image: ArrayLike) -> NDArray[Any]:
    """Return the probability in [0, 1] that an image stands for: integers over their type's maximum.

    Integers become doubles and masks 0 and 1; floating-point images are returned as they are.

    Raises:
        InputError: negative integers, or values that are no real numbers.
    """
    values = np.asarray(image)
    if values.dtype.kind == "f":
        return values
    if values.dtype.kind == "b":
        return values.astype(np.float64)
    if values.dtype.kind not in "ui":
        raise InputError(f"A probability image of type {values.dtype} cannot be scored: save it as 8-bit or float.")
    if values.size and values.min() < 0:
        raise InputError("The probability image has negative values: save it as unsigned 8-bit, 16-bit or float.")
    scaled: NDArray[Any] = values / np.float64(np.iinfo(values.dtype).max)
    return scaled


def membrane_to_cell(membrane_probability: NDArray[Any]) -> NDArray[Any]:
    """Return the probability of cell, 1 - P, in the precision of P."""
    cell: NDArray[Any] = 1 - membrane_probability
    return cell


def _checked_probability(cell: ArrayLike) -> NDArray[Any]:
    values = np.asarray(cell)
    if values.dtype.kind not in "buif":
        raise InputError(f"The prediction contains values of type {values.dtype}: give a probability in [0, 1].")
    if values.ndim not in (2, 3):
        raise InputError(f"The prediction has {values.ndim} axes: give one slice (Y, X) or one stack (Z, Y, X).")
    if values.size == 0:
        raise InputError(f"The prediction is empty: its shape is {values.shape}.")
    low, high = float(values.min()), float(values.max())
    if math.isnan(low) or math.isnan(high):
        raise InputError("The prediction contains NaN: replace those pixels by a probability in [0, 1].")
    if low < 0 or high > 1:
        raise InputError(f"The prediction runs from {low:g} to {high:g}: scale it to a probability of cell in [0, 1].")
    return values


def _checked_truth(truth: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    values = np.asarray(truth)
    if values.dtype.kind not in "buif":
        raise InputError(f"The truth contains values of type {values.dtype}: give a mask, 0 on membranes.")
    if values.shape != shape:
        raise InputError(f"The prediction has shape {shape}, the truth {values.shape}: give both for the same slices.")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise InputError("The truth contains NaN: give a mask, 0 on membranes and above 0 inside cells.")
    cells: NDArray[np.bool_] = values > 0
    return cells


def _as_slices(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(-1, *values.shape[-2:])


def _score_slice(probability: NDArray[Any], cells: NDArray[np.bool_]) -> SliceScores:
    """Return V_rand and V_info at each of `THRESHOLDS`; the pixels above rising ones only become fewer."""
    truth = pad_transposed(cells, SEED, OUTSIDE)
    true_segments = label_components(truth.reshape(-1), truth.shape[1], SEED, 0)
    true_pixels = group_pixels(truth.reshape(-1), true_segments)
    widened = probability.astype(np.float64)
    rand: list[Agreement] = []
    information: list[Agreement] = []
    seeds_before = -1
    for threshold in THRESHOLDS:
        above = widened > threshold
        seeds = int(np.count_nonzero(above))
        if seeds == seeds_before:  # the same pixels, hence the same scores
            rand.append(rand[-1])
            information.append(information[-1])
            continue
        seeds_before = seeds
        state = pad_transposed(above, SEED, UNSEEN)
        segments = flood_slice(state.reshape(-1), state.shape[1])
        table = tabulate(true_pixels, state.reshape(-1), segments)
        rand.append(table.rand())
        information.append(table.information())
    return SliceScores(tuple(rand), tuple(information))


def _mean(slices: list[tuple[Agreement, ...]]) -> list[Agreement]:
    """Return the means over the slices, threshold by threshold."""
    return [
        Agreement(*(math.fsum(values) / len(slices) for values in zip(*at_threshold, strict=True)))
        for at_threshold in zip(*slices, strict=True)
    ]


def _best(means: list[Agreement]) -> int:
    """Return the place of the highest score, the lowest of several."""
    return max(range(len(means)), key=lambda place: means[place].score)


def pad_transposed(mask: NDArray[np.bool_], inside: int, outside: int) -> NDArray[np.int32]:
    """Return (X + 2, Y + 2) states, transposed, as Fiji's scan has x in the outer loop: its order decides ties."""
    height, width = mask.shape
    state = np.full((width + 2, height + 2), OUTSIDE, np.int32)
    state[1:-1, 1:-1] = np.where(mask.T, np.int32(inside), np.int32(outside))
    return state


def flood_slice(state: NDArray[np.int32], column: int) -> int:
    """Turn SEED and UNSEEN pixels of a padded slice into segments and dams; return the number of segments."""
    seeds = label_components(state, column, SEED, 0)
    _flood(state, column)
    return label_components(state, column, UNSEEN, seeds)  # border that no cell touches


@compiled
def _flood(state: NDArray[np.int32], column: int) -> None:
    """Grow all segments together through UNSEEN pixels; where two meet a DAM stays (order: W, N, E, S)."""
    neighbours = (-column, -1, column, 1)
    queue = np.empty(state.size, np.int32)
    end = 0
    for pixel in range(state.size):
        if state[pixel] == UNSEEN:
            for step in neighbours:
                if state[pixel + step] > 0:
                    state[pixel] = QUEUED
                    queue[end] = pixel
                    end += 1
                    break
    touched = False
    place = 0
    while place < end:
        pixel = queue[place]
        place += 1
        for step in neighbours:
            label = state[pixel + step]
            here = state[pixel]
            if label > 0:
                if here == QUEUED or (here == DAM and touched):
                    state[pixel] = label
                elif here > 0 and here != label:
                    state[pixel] = DAM
                    touched = False
            elif label == DAM:
                if here == QUEUED:
                    state[pixel] = DAM
                    touched = True
            elif label == UNSEEN:
                state[pixel + step] = QUEUED
                queue[end] = pixel + step
                end += 1
