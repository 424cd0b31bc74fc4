"""Slices that differ from the rest of their stack: empty, doubled, shifted, or in contrast, brightness or focus.

Nothing is changed: the faults are only reported. The thresholds were measured on undisturbed and disturbed stacks, see
`benchmarks/guards.py`.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.slice_checks.samples import DULL, MOST_SAMPLED_VOXELS, SliceSamples, iter_sample_slices
from napari_skipseg.images.stack import Stack
from napari_skipseg.progress import Progress

SliceFaultKind = Literal[
    "empty", "doubled", "shifted", "moved", "unmatched", "contrast", "brightness", "blurred", "noisy"
]
Values = NDArray[np.float64]
Numbers = NDArray[np.intp]

EMPTY = 0.02
"""Spread of grey values, relative to the stack's, up to which a slice is empty."""
FAINT, SMOOTH = 0.25, 0.35
"""A slice is only noise if its relative spread and the correlation of its neighbouring pixels are below these.

Measured: tissue in EM and nuclei in fluorescence 0.46-0.99, noise of a camera 0."""
CONTRAST, CONTRAST_OF_TWO = math.log(2.0), math.log(5.0)
"""Least factor between the contrast of a slice and that of the others; where there is only one other. From one slice to
the next it changes by up to 1.26 in undisturbed stacks."""
BRIGHTNESS = 0.32
"""Least distance between the median grey value of a slice and that of the others, in spreads. From one slice to the
next it changes by up to 0.22 in undisturbed stacks."""
STRUCTURE, STRUCTURE_OF_END = math.log(2.0), math.log(2.5)
"""Least factor between the fine structure of a slice, relative to its contrast, and that of both neighbours; of the
first or last slice and that of all others. Undisturbed: 1.26."""
NOISIER = 0.6
"""A slice is noisy too if neighbouring pixels correlate less than `SMOOTH`, and less than this share of the usual."""
DEVIATIONS, CERTAIN = 4.0, math.log(6.0)
"""How many robust standard deviations of the stack a slice must also lie away from the others, unless its contrast is
a sixth: no undisturbed stack varies as much."""
ABRUPT = 0.7
"""Share of the least distance by which a value must change from one slice to the next: a gradual change is no fault."""
DOUBLED = 0.15
"""Two slices are doubles if one leaves less than this of the next one's variance unexplained, relative to what is usual
in the stack. In undisturbed stacks it is at least 0.5."""
_SHORT = 16
"""Up to so many pairs, the usual value is the median of all other pairs: a fault is a large part of so few."""
_SAME = 1e-6
"""The same for two slices that are equal except for rounding."""
RELIABLE, AGREEING = 6.0, 4.5
"""Peak of a phase correlation that noise hardly reaches (30 pairs of noise: 3.6-6.2); least peak if both sides of a
slice show the same shift."""
RETURNING = 1.2
"""How far the neighbours of a shifted slice may lie from each other, relative to its shift."""
ALIGNED = 0.6
"""Share of pairs with a reliable displacement from which a stack counts as aligned."""
LEAST_SHIFT, LEAST_OF_FEW, FEW = 5.0, 32.0, 3
"""Least shift of a slice in pixels; the second if there are at most `FEW` pairs, too few to measure the jitter."""
_JITTER = 6.0
"""How many times the stack's usual jitter a shift must be. Largest in undisturbed stacks: 4.5 (ISBI 2012)."""
_LARGE, _JITTER_OF_LARGE = 36.0, 4.5
"""The same for a jump of so many pixels from one slice to the next. Largest in undisturbed stacks: 26 pixels, 4.2 times
the usual step (ISBI 2012)."""
MOST_TOGETHER = 4
"""Slices next to each other that may be shifted together, back to where they were."""
_AROUND = 6
"""Slices on each side among which it is looked up where most slices lie."""
_STAYING = 0.5
"""How much the neighbours of such slices, and these among themselves, may differ, relative to the shift."""
SURE = 0.25
"""Least share of the stack's usual peak from which the displacement of a slice counts without a second proof."""
CLEAR, LOST = 12.0, 0.4
"""In a stack of at least this usual peak, a slice is unmatched if its peaks are less than `LOST` times as high."""


@dataclass(frozen=True)
class SliceFault:
    """A fault of a slice.

    number: of the slice, counted from 0 along Z, or along T if there is no Z. time, channel: if the image has several.
    amount: pixels of a shift; contrast relative to the others; +1 or -1 for brighter or darker. other: the slice with
    which it is compared, if that is only one. frame: the slices are the times of an image without Z.
    """

    kind: SliceFaultKind
    number: int
    amount: float = 0.0
    other: int | None = None
    time: int | None = None
    channel: int | None = None
    frame: bool = False


def iter_slice_faults(stack: Stack) -> Generator[Progress, None, tuple[SliceFault, ...]]:
    """Yield after each slice; return the slices of a stack that differ from the rest, none of an image of one slice.

    Slices are those along Z, and each time and channel is checked separately; without Z, the slices are the times. At
    most 512 x 512 pixels of each slice are read, and fewer if there are more than about 1000 slices.

    Raises:
        FileError, InputError: the voxels cannot be read or are no numbers.
    """
    along = next((axis for axis in "ZT" if stack.length(axis) > 1), "")
    if not along:
        return ()
    others = [axis for axis in stack.space.axes if axis in "TCZ" and axis != along]
    series = list(product(*(range(stack.length(axis)) for axis in others)))
    faults: list[SliceFault] = []
    for place in series:
        fixed = dict(zip(others, place, strict=True))
        samples = yield from iter_sample_slices(stack, along, fixed, MOST_SAMPLED_VOXELS // len(series))
        time = fixed.get("T") if stack.length("T") > 1 else None
        channel = fixed.get("C") if stack.length("C") > 1 else None
        faults += (replace(each, time=time, channel=channel, frame=along == "T") for each in judge_slices(samples))
    return tuple(faults)


def judge_slices(samples: SliceSamples) -> list[SliceFault]:
    """Return the faults of a series of slices, at most one for each slice: the empty ones first."""
    lively = np.where(samples.spread > 0, samples.spread, np.nan)
    has_any = (samples.spread > 0).any(axis=0)
    usual = np.zeros(samples.spread.shape[1])  # 0 for windows that are constant in all slices
    usual[has_any] = np.nanmedian(lively[:, has_any], axis=0)
    usable = usual > DULL * usual.max(initial=0.0)
    if not usable.any():
        return [SliceFault("empty", number) for number in range(len(samples.spread))]
    relative = samples.spread[:, usable] / usual[usable]
    only_noise = (relative < FAINT) & (samples.smoothness[:, usable] < SMOOTH)
    is_empty = ((relative <= EMPTY) | only_noise).all(axis=1)
    faults = [SliceFault("empty", int(number)) for number in np.flatnonzero(is_empty)]
    full = np.flatnonzero(~is_empty)
    if len(full) < 2:
        return faults
    found = [
        *_odd_contrast(relative, full),
        *_odd_brightness(samples.level[:, usable] / usual[usable], full),
        *_noise(samples.smoothness[:, usable], full),
        *_odd_structure(samples.roughness[:, usable] / np.maximum(samples.spread[:, usable], 1e-9), full),
        *_doubled(samples.unexplained[:, usable], full),
    ]
    noisy = [fault.number for fault in found if fault.kind == "noisy"]
    found += _displaced(samples, full[~np.isin(full, noisy)])
    named: set[int] = set()
    for fault in found:  # a slice of a tenth of the contrast is darker and less noisy too: its first fault is the cause
        if fault.number not in named:
            faults.append(fault)
            named.add(fault.number)
    return faults


def _odd_contrast(relative: Values, full: Numbers) -> Iterator[SliceFault]:
    """Yield slices of far less or more contrast than the others; of two the one that has less."""
    contrast = np.median(np.log(np.maximum(relative[full], 1e-9)), axis=1)
    contrast -= np.median(contrast)
    if len(full) == 2:
        if abs(contrast[0] - contrast[1]) > CONTRAST_OF_TWO:
            weaker = int(contrast.argmin())
            yield SliceFault("contrast", int(full[weaker]), math.exp(2 * contrast[weaker]))
        return
    for place in _outliers(contrast, CONTRAST, CERTAIN):
        yield SliceFault("contrast", int(full[place]), math.exp(contrast[place]))


def _odd_brightness(level: Values, full: Numbers) -> Iterator[SliceFault]:
    """Yield slices far darker or brighter than the others; of two slices none, as either may be the usual one."""
    if len(full) == 2:
        return
    brightness = np.median(level[full] - np.median(level[full], axis=0), axis=1)
    for place in _outliers(brightness, BRIGHTNESS, math.inf):
        yield SliceFault("brightness", int(full[place]), math.copysign(1.0, brightness[place]))


def _outliers(values: Values, least: float, certain: float) -> list[int]:
    """Return where `values` lie far from their median, and fall away from it abruptly on both sides."""
    deviation = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    limit = min(max(least, DEVIATIONS * deviation), max(certain, least))
    away = values - np.median(values)
    is_far = np.abs(away) > limit
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_far, [False]]).astype(np.int8)))
    found: list[int] = []
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        steps = [abs(away[start] - away[start - 1])] if start > 0 else []
        steps += [abs(away[stop - 1] - away[stop])] if stop < len(away) else []
        if steps and min(steps) > ABRUPT * limit:
            found += range(start, stop)
    return found


def _noise(smoothness: Values, full: Numbers) -> Iterator[SliceFault]:
    """Yield slices in which noise hides what the others show."""
    usual = float(np.median(smoothness[full]))
    if usual < SMOOTH:  # all of it is noise: no slice hides anything
        return
    for number in full.tolist():
        if float(np.median(smoothness[number])) < min(SMOOTH, NOISIER * usual):
            yield SliceFault("noisy", number)


def _odd_structure(roughness: Values, full: Numbers) -> Iterator[SliceFault]:
    """Yield slices that are far smoother or rougher than both neighbours; at the ends of the stack than all others."""
    values = np.median(np.log(np.maximum(roughness[full], 1e-9)), axis=1)
    steps = np.abs(np.diff(values))
    usual = float(np.quantile(steps, 1 / 3))  # a fault changes two steps, most of those of a short stack
    least = max(STRUCTURE, 2 * DEVIATIONS * usual)
    away = values - np.median(values)
    for place in range(len(full)):
        beside = [values[each] for each in (place - 1, place + 1) if 0 <= each < len(full)]
        if len(beside) == 1 and (len(full) <= FEW or abs(away[place]) < STRUCTURE_OF_END):
            continue
        limit = least if len(beside) == 2 else max(least, STRUCTURE_OF_END)
        if values[place] < min(beside) - limit:
            yield SliceFault("blurred", int(full[place]))
        if values[place] > max(beside) + limit:
            yield SliceFault("noisy", int(full[place]))


def _doubled(unexplained: Values, full: Numbers) -> Iterator[SliceFault]:
    """Yield slices that equal the one before, exactly or with less noise than between two recordings."""
    pairs = _pairs(full)
    same = [pair for pair in pairs if unexplained[pair].max() <= _SAME]
    yield from (SliceFault("doubled", pair + 1, other=pair) for pair in same)
    different = [pair for pair in pairs if unexplained[pair].max() > _SAME]
    values = np.log(np.maximum(unexplained[different], _SAME))
    for row, pair in enumerate(different if len(different) > 1 else []):
        others = np.delete(values, row, axis=0) if len(different) <= _SHORT else values
        if float(np.median(values[row] - np.median(others, axis=0))) < math.log(DOUBLED):
            yield SliceFault("doubled", pair + 1, other=pair)


def _displaced(samples: SliceSamples, full: Numbers) -> Iterator[SliceFault]:
    """Yield slices that match neither neighbour, slices that are shifted, and slices from which all others are."""
    pairs, peak = _pairs(full), samples.peak
    if not pairs or np.mean(peak[pairs] >= RELIABLE) < ALIGNED:
        return
    lost = _unmatched(peak, pairs, full)
    yield from (SliceFault("unmatched", number) for number in lost)
    full = full[~np.isin(full, lost)]
    pairs = _pairs(full)
    if not pairs:
        return
    is_few = len(pairs) <= FEW
    drift = np.zeros(2) if is_few else np.median(samples.shift[pairs], axis=0)
    place = np.concatenate([np.zeros((1, 2)), np.cumsum(samples.shift - drift, axis=0)])
    sure = max(RELIABLE, SURE * float(np.median(peak[pairs])))
    runs = np.split(full, np.flatnonzero(np.diff(full) > 1) + 1)
    apart = np.concatenate([np.zeros(0), *(_distance_from_way(place, run) for run in runs)])
    jitter = apart[apart <= LEAST_OF_FEW]  # without slices that are shifted in turns, as that is half of a short stack
    limit = LEAST_OF_FEW if is_few or not len(jitter) else max(LEAST_SHIFT, _JITTER * float(np.median(jitter)))
    steps: list[tuple[int, int, float]] = []
    for run in runs:
        kept, shifted = _without_shifted(place, peak, run, limit=limit, sure=sure)
        yield from shifted
        lengths = np.linalg.norm(np.diff(place[kept], axis=0), axis=1)
        steps += zip(kept[:-1].tolist(), kept[1:].tolist(), lengths.tolist(), strict=True)
    usual = float(np.median([length for _, _, length in steps])) if steps else 0.0
    limit = (
        LEAST_OF_FEW if is_few else max(2 * LEAST_SHIFT, min(_JITTER * usual, max(_LARGE, _JITTER_OF_LARGE * usual)))
    )
    for before, after, length in steps:
        if length > limit and after == before + 1 and peak[before] >= sure:
            jump = _jump(before, length, full)
            if jump.kind == "shifted" or _closes(samples, before, limit / 2):
                yield jump


def _distance_from_way(place: Values, kept: Numbers) -> Values:
    """Return how far each slice but the first and the last lies from the straight way between its neighbours."""
    before, at, after = place[kept[:-2]], place[kept[1:-1]], place[kept[2:]]
    way = after - before
    length = np.maximum((way * way).sum(axis=1), 1e-12)
    part = np.clip(((at - before) * way).sum(axis=1) / length, 0.0, 1.0)
    distance: Values = np.linalg.norm(at - before - part[:, None] * way, axis=1)
    return distance


def _without_shifted(
    place: Values, peak: Values, run: Numbers, *, limit: float, sure: float
) -> tuple[Numbers, list[SliceFault]]:
    """Return the slices of a run that lie on the way of the others, and the faults of those that do not.

    The farthest one is removed first, because it makes its neighbours look far away too.
    """
    kept, faults = run, []
    unsure: set[int] = set()
    while len(kept) > 2:
        distance = _distance_from_way(place, kept)
        distance[[number in unsure for number in kept[1:-1].tolist()]] = 0.0
        rank = np.zeros(len(distance))
        for at in np.flatnonzero(distance > limit).tolist():
            rank[at] = distance[at] + _distance_from_most(place, kept, at + 1, 1) / 2
        at = int(rank.argmax())
        group = _farthest_group(place, peak, kept, limit=limit, sure=sure)
        if group is not None and group.rank > rank[at]:
            members = slice(group.first, group.first + group.length)
            faults += [SliceFault("shifted", int(number), group.away) for number in kept[members]]
            kept = np.delete(kept, members)
            continue
        if distance[at] <= limit:
            break
        before, number, after = (int(each) for each in kept[at : at + 3])
        closing = float(np.linalg.norm(place[after] - place[before]))
        amount = float(np.linalg.norm(place[number] - (place[before] + place[after]) / 2))
        lower = min(peak[number - 1], peak[number])
        if lower < AGREEING or closing > max(limit, RETURNING * amount if lower >= sure else 0.0):
            unsure.add(number)
            continue
        faults.append(SliceFault("shifted", number, amount))
        kept = np.delete(kept, at + 1)
    return kept, faults


def _distance_from_most(place: Values, kept: Numbers, first: int, length: int) -> float:
    """Return how far slices lie from most slices around them.

    If every second slice is shifted, the others lie as far from their neighbours, but not from most slices.
    """
    around = kept[max(0, first - _AROUND) : first + length + _AROUND]
    middle = place[kept[first : first + length]].mean(axis=0)
    return float(np.linalg.norm(middle - np.median(place[around], axis=0)))


class _Group(NamedTuple):
    """Slices next to each other that are shifted together: the place of the first among all, how many, how far."""

    first: int
    length: int
    away: float
    rank: float


def _farthest_group(place: Values, peak: Values, kept: Numbers, *, limit: float, sure: float) -> _Group | None:
    """Return the slices next to each other that are shifted together and lie farthest away, None if there are none.

    Each of them lies on the way between its neighbours; but that way leads there and back again.
    """
    found = []
    for length in range(2, min(MOST_TOGETHER, (len(kept) - 1) // 2) + 1):
        starts = np.arange(1, len(kept) - length)
        middle = (place[kept[starts - 1]] + place[kept[starts + length]]) / 2
        away = np.min([np.linalg.norm(place[kept[starts + n]] - middle, axis=1) for n in range(length)], axis=0)
        for first, distance in zip(starts[away > limit].tolist(), away[away > limit].tolist(), strict=True):
            numbers = kept[first - 1 : first + length + 1]  # those of the group, one before and one after
            steps = np.linalg.norm(np.diff(place[numbers], axis=0), axis=1)
            across = np.linalg.norm(place[numbers[-1]] - place[numbers[0]])
            is_abrupt = min(steps[0], steps[-1]) > ABRUPT * distance
            is_together = (
                numbers[-1] - numbers[0] == length + 1 and max(across, steps[1:-1].max()) < _STAYING * distance
            )
            if is_abrupt and is_together and peak[numbers[:-1]].min() >= sure:
                rank = distance + _distance_from_most(place, kept, first, length) / 2
                found.append(_Group(first, length, distance, rank))
    return max(found, key=lambda group: group.rank, default=None)


def _jump(before: int, amount: float, full: Numbers) -> SliceFault:
    """Return the fault of a displacement between a slice and the next: of an end of the stack, or of all behind."""
    if before + 1 == full[-1]:
        return SliceFault("shifted", before + 1, amount, other=before)
    if before == full[0]:
        return SliceFault("shifted", before, amount, other=before + 1)
    return SliceFault("moved", before + 1, amount, other=before)


def _closes(samples: SliceSamples, before: int, limit: float) -> bool:
    """Return whether the displacements over a third slice, before and behind, agree with that behind a slice."""
    ways = [first for first in (before - 1, before) if 0 <= first < len(samples.wide_peak)]
    gaps = (samples.wide_shift[first] - samples.shift[first] - samples.shift[first + 1] for first in ways)
    return all(
        np.linalg.norm(gap) <= limit and samples.wide_peak[first] >= AGREEING
        for first, gap in zip(ways, gaps, strict=True)
    )


def _unmatched(peak: Values, pairs: list[int], full: Numbers) -> list[int]:
    """Return slices between two others that match neither, in a stack where neighbours clearly do."""
    usual = float(np.median(peak[pairs]))
    if usual < CLEAR or len(pairs) <= FEW:
        return []
    limit, known = min(LOST * usual, RELIABLE), set(pairs)
    inner = [number for number in full.tolist() if number in known and number - 1 in known]
    return [number for number in inner if max(peak[number - 1], peak[number]) < limit]


def _pairs(full: Numbers) -> list[int]:
    """Return the first slice of every two neighbours of which neither is empty."""
    return [first for first, second in pairwise(full.tolist()) if second == first + 1]
