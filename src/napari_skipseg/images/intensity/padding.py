"""Padding: areas of one constant value without tissue, from programs that align, rotate or stitch images.

The values that are padding are found once for a stack, in windows of its slices. A pixel with such a value is padding
if it lies in a square of `SQUARE_SIDE` pixels a side that all have this value. The outside of the image counts as
padding, so that narrow frames are found too. Because this rule is local, a tile of the stack has the same padding as
the whole stack if it is read with `REACH` more pixels on each side.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.intensity.quantiles import percentiles, without_speckles
from napari_skipseg.images.intensity.samples import SampleWindow

SQUARE_SIDE = 16
"""Side of the constant squares that padding is made of, in pixels. Saturated tissue seldom has such."""
MIRRORED = 24
"""Width of the strip of padding beside tissue that is filled with the mirrored tissue. Further away is the mean.

Measured with em-membrane on ISBI 2012 in a frame of 64 pixels: Dice 0.832 without a frame, 0.832 with mirrored tissue,
0.801 with the mean alone."""
REACH = 2 * MIRRORED + SQUARE_SIDE
"""Largest distance in Y and X of a pixel that can change the value of another one."""
REACH_Z = 2
"""Padding is filled with tissue from up to so many slices away, for a network that sees several slices at once.

Measured with em-boundary-3d, every 2nd slice empty: Dice 0.507 without empty slices, 0.059 with the mean in them."""
MOST_VALUES = 3
"""Values that count as padding, at the most: images of labels have more constant areas of different values."""
CANDIDATES = 4
ENCLOSED = 8
"""A pixel counts as of a value if so many of the 3 x 3 pixels around it have it: hot pixels may lie side by side."""
GAP, BETWEEN = 2.5, 0.05
"""Squares have no structure if the next ones with more differ by a factor of `GAP`: at most `BETWEEN` times as many as
they are may lie between.

In 21 undisturbed stacks of EM and fluorescence, the smallest range of a square is 0.16-0.55 of the median, without a
gap."""
FEWEST_SQUARES, MOST_SQUARES = 100, 4096
"""Squares that are looked at to find those without structure: fewer are not judged."""
_MOST_GAPS = 3
"""Most gaps that are tried, the one with the largest ranges first."""
CORRELATED_NOISE, MOST_STRUCTURED = 0.35, 0.3
"""Least correlation of neighbouring pixels in a square with structure, and most of the squares that may have one."""
ROUNDED, FAINT = 0.6, 0.05
"""Deviations up to which structure may be rounding: of whole numbers; relative to the range of the square."""
LEAST_FLAT, LEAST_LIVELY = 0.005, 0.02
"""Least shares of the squares that are without structure, and that are tissue."""
LEAST, LEAST_OF_WINDOW = 0.001, 0.01
"""Least share of the windows, or of one of them, that a padding value fills."""
EDGE, NEAR, FAR = 2, (3, 4), (12, 24)
"""Distances from a constant area, in pixels, at which the image beside it is compared. At 1 a turned image is a mixture
of padding and tissue."""
_SAMPLE = 2**16
"""Most values that quantiles are taken from."""
RARE = 0.005
"""Share of the pixels at either end of the grey values that is ignored."""
STRAY, MOST_STRAY = 8.0, 0.05
"""Tissue lies within so many interquartile ranges of the median, and at most this share of the pixels beyond."""
SAMPLES = 64
"""Fewest pixels beside a constant area for such a comparison."""
ALIKE, CORRELATED = 0.45, 40
"""How much the mean may differ between near and far, in standard deviations of the image; more where the edge is short,
as `CORRELATED` neighbouring pixels are worth one independent pixel. Padding: 0-0.44; saturated myelin: 2.1."""
SHARP = 0.8
"""Least distance from the padding value at `EDGE`, relative to that at `FAR`, root mean square. Padding: 0.87-1.19;
saturated lumen, clipped black and subtracted background: 0.06-0.75."""
SELDOM = 0.05
"""The value of an empty slice may fill at most this share of other slices, or it is the image's own background."""
MOSTLY = 0.8
"""Least share of the pixels of a padding value that lie in constant squares. Padding: 0.86-1; saturated tissue and
images of few grey levels mostly 0.1-0.7."""
MOSTLY_OF_FRAME = 0.4
"""The same if it fills a border of most slices from end to end, as saturated tissue hardly does."""
_THICK = 0.45
"""Least share of the other pixels that lie `FAR` away, so that the black between small objects is no padding. Padding:
0.51-0.99."""

PaddingMask = NDArray[np.bool_]
PaddingRule = Literal["auto", "none"]
"""Whether large constant areas may be padding ("auto"), or are always tissue ("none")."""


def find_mask(values: NDArray[Any], padding: Sequence[float | None], flat: float | None = None) -> PaddingMask | None:
    """Return the mask of padding in `values` (C, ..., Y, X), without the first axis; None if there is none.

    padding: the values that are padding in this stack; None stands for NaN and infinity. flat: the range of grey values
    up to which a square has no structure and is padding too. Of several channels all must be padding.
    """
    mask: PaddingMask | None = None
    for channel in values:
        found = np.zeros(channel.shape, bool)
        for value in padding:
            if value is None:
                found |= ~np.isfinite(channel)
            elif (same := equal(channel, value)).any():
                found |= in_squares(same)
        if flat is not None:
            found |= in_flat_squares(channel, flat)
        mask = found if mask is None else mask & found
        if not mask.any():
            return None
    return mask


def equal(values: NDArray[Any], value: float) -> PaddingMask:
    """Return which pixels (..., Y, X) have a value, hot pixels among them included: `ENCLOSED` neighbours have it."""
    same: PaddingMask = values == value
    if not same.any() or same.all():
        return same
    around = [(0, 0)] * (same.ndim - 2) + [(1, 1)] * 2
    counts = np.pad(same, around, constant_values=True).astype(np.uint8)
    for axis in (-2, -1):
        counts = _cut(counts, 0, -2, axis) + _cut(counts, 1, -1, axis) + _cut(counts, 2, None, axis)
    return same | (counts >= ENCLOSED)


def in_flat_squares(values: NDArray[Any], flat: float) -> PaddingMask:
    """Return which pixels (..., Y, X) lie in squares of `SQUARE_SIDE` pixels whose grey values differ by at most
    `flat`.

    Speckles count as their surroundings. At the edges a quarter of a square may lie beyond.
    """
    smooth = without_speckles(values)
    around = [(0, 0)] * (smooth.ndim - 2) + [(SQUARE_SIDE // 4, SQUARE_SIDE // 4)] * 2
    low = np.pad(smooth, around, constant_values=np.inf)
    high = np.pad(smooth, around, constant_values=-np.inf)
    for axis in (-2, -1):
        if low.shape[axis] < SQUARE_SIDE:
            return np.zeros(values.shape, bool)
        low, high = _sliding(low, SQUARE_SIDE, axis, np.minimum), _sliding(high, SQUARE_SIDE, axis, np.maximum)
    inside = np.pad(high - low <= flat, [(0, 0)] * (smooth.ndim - 2) + [(SQUARE_SIDE - 1, SQUARE_SIDE - 1)] * 2)
    for axis in (-2, -1):
        inside = _cut(_sliding(inside, SQUARE_SIDE, axis, np.logical_or), SQUARE_SIDE // 4, -(SQUARE_SIDE // 4), axis)
    return inside


def in_squares(same: PaddingMask) -> PaddingMask:
    """Return which pixels of `same` (..., Y, X) lie in squares that are all set. Beyond the edges all is set."""
    around = [(0, 0)] * (same.ndim - 2) + [(SQUARE_SIDE - 1, SQUARE_SIDE - 1)] * 2
    grown = np.pad(same, around, constant_values=True)
    for axis in (-2, -1):
        grown = _sliding(grown, SQUARE_SIDE, axis, np.logical_and)
    for axis in (-2, -1):
        grown = _sliding(grown, SQUARE_SIDE, axis, np.logical_or)
    inside: PaddingMask = grown
    return inside


def _sliding(mask: NDArray[Any], side: int, axis: int, combine: np.ufunc) -> NDArray[Any]:
    """Return `combine` over each run of `side` pixels along an axis: shorter by `side` - 1."""
    length = 1
    while length < side:
        step = min(length, side - length)
        mask = combine(_cut(mask, 0, -step, axis), _cut(mask, step, None, axis))
        length += step
    return mask


def _cut(mask: NDArray[Any], start: int, stop: int | None, axis: int) -> NDArray[Any]:
    index = [slice(None)] * mask.ndim
    index[axis] = slice(start, stop)
    return mask[tuple(index)]


def fill_padding(pixels: NDArray[np.float32], mask: PaddingMask, across_slices: bool = False) -> None:
    """Fill the padding of `pixels` (C, ..., Y, X) for a network: with mirrored tissue near tissue, else with 0.

    pixels: in standard units, so that 0 is the mean. mask: (..., Y, X). Only tissue in the same row or column is
    mirrored, at the nearest edge. across_slices: tissue at the same place in a slice nearby goes before that; the
    pixels are (C, Z, Y, X) then.
    """
    source = pixels.copy()
    pixels[:, mask] = 0.0
    if mask.all():
        return
    place, from_y, from_x, fading = _mirrored_places(mask)
    for channel, values in zip(pixels, source, strict=True):
        channel[place] = fading * values[(*place[:-2], from_y, from_x)]
    if across_slices:
        for steps in range(REACH_Z, 0, -1):  # the nearest is written last, and stays
            for here, there in ((slice(steps, None), slice(None, -steps)), (slice(None, -steps), slice(steps, None))):
                taken = mask[here] & ~mask[there]
                pixels[:, here][:, taken] = source[:, there][:, taken]


def _mirrored_places(
    mask: PaddingMask,
) -> tuple[tuple[NDArray[np.intp], ...], NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return the places in the mask that are near tissue, the Y and X to take each from, and how much of it to take."""
    distance, side = _nearest(~mask)
    place = np.nonzero(mask & (distance <= MIRRORED))
    steps, side = distance[place], side[place]
    along_y, along_x = np.array([0, 0, -1, 1])[side], np.array([-1, 1, 0, 0])[side]
    *lead, y, x = place
    mirrored_y, mirrored_x = y + along_y * (2 * steps - 1), x + along_x * (2 * steps - 1)
    height, width = mask.shape[-2:]
    is_tissue = (mirrored_y >= 0) & (mirrored_y < height) & (mirrored_x >= 0) & (mirrored_x < width)
    is_tissue[is_tissue] = ~mask[(*(axis[is_tissue] for axis in lead), mirrored_y[is_tissue], mirrored_x[is_tissue])]
    from_y = np.where(is_tissue, mirrored_y, y + along_y * steps)
    from_x = np.where(is_tissue, mirrored_x, x + along_x * steps)
    fading = np.minimum(1.0, 2 * (1 - steps / (MIRRORED + 1))).astype(np.float32)
    return place, from_y, from_x, fading


def _nearest(tissue: PaddingMask) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
    """Return how far away tissue is in the same row or column, and where: 0 left, 1 right, 2 above, 3 below."""
    nearest = np.full(tissue.shape, MIRRORED + 1, np.int32)
    side = np.zeros(tissue.shape, np.int8)
    turned = tissue.swapaxes(-1, -2)
    distances = (
        _since(tissue),
        _since(tissue[..., ::-1])[..., ::-1],
        _since(turned).swapaxes(-1, -2),
        _since(turned[..., ::-1])[..., ::-1].swapaxes(-1, -2),
    )
    for number, distance in enumerate(distances):
        is_nearer = distance < nearest
        nearest[is_nearer] = distance[is_nearer]
        side[is_nearer] = number
    return nearest, side


def _since(tissue: PaddingMask) -> NDArray[np.int32]:
    """Return how many pixels ago along the last axis there was tissue; a large number where there was none."""
    places = np.arange(tissue.shape[-1], dtype=np.int32)
    last = np.maximum.accumulate(np.where(tissue, places, np.int32(-(2**30))), axis=-1)
    distance: NDArray[np.int32] = places - last
    return distance


@dataclass
class _Moments:
    """How many values there are, and the sums of their distances from a centre, and of the squares of these."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, distances: NDArray[np.float64]) -> None:
        """Count the distances that are finite."""
        distances = distances[np.isfinite(distances)]
        self.count += distances.size
        self.total += float(distances.sum())
        self.squares += float(np.square(distances).sum())

    @property
    def mean(self) -> float:
        """The mean distance."""
        return self.total / self.count

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        return math.sqrt(max(self.squares / self.count - self.mean**2, 0.0))

    def distance_from(self, place: float) -> float:
        """Return the root mean square distance from `place`; the centre is 0."""
        return math.sqrt(max(self.squares / self.count - 2 * place * self.mean + place**2, 0.0))


@dataclass
class _Evidence:
    """Measurements on a value that fills constant areas. whole: number of windows that have no other value.

    All others are of the other windows. partial: number with constant squares of the value; lined: number of these that
    have it along a whole border of their slice. Numbers of pixels: size of all, those of the value, those in constant
    squares. In windows with such squares: others, the pixels outside of these, and thick, those far from them. Their
    values are measured from `centre`, and clipped at `limits`, so that a few bright pixels do not decide; values beyond
    `reach`, such as burnt-in text, do not count.
    """

    value: float
    whole: int = 0
    largest: float = 0.0
    partial: int = 0
    lined: int = 0
    size: int = 0
    pixels: int = 0
    area: int = 0
    others: int = 0
    thick: int = 0
    centre: float | None = None
    limits: tuple[float, float] = (-math.inf, math.inf)
    reach: float = math.inf
    edge: _Moments = field(default_factory=_Moments)
    near: _Moments = field(default_factory=_Moments)
    far: _Moments = field(default_factory=_Moments)
    other: _Moments = field(default_factory=_Moments)

    def distances(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far values lie from the centre, cut off at the limits; NaN beyond the reach."""
        away = values - (self.centre or 0.0)
        return np.where(np.abs(away) > self.reach, np.nan, away.clip(*self.limits))


def find_values(windows: Sequence[SampleWindow]) -> tuple[float | None, ...]:
    """Return the values that are padding in a stack of which these are windows; None stands for NaN and infinity."""
    counts: Counter[float] = Counter()
    for window in windows:
        counts.update(float(value) for value in window.constant_values() if math.isfinite(value))
    candidates = [value for value, _ in counts.most_common(CANDIDATES)]
    found = tuple(
        value
        for value in candidates
        if _is_padding(_look_at(value, windows)) or _is_padding(_look_at(value, windows, is_lettered=True))
    )
    return found if len(found) <= MOST_VALUES else ()


def _look_at(value: float, windows: Sequence[SampleWindow], is_lettered: bool = False) -> _Evidence:
    """Return the measurements on a value. is_lettered: along a border it may be the background of letters, which is no
    tissue either."""
    seen = _Evidence(value)
    for window in windows:
        same = equal(window.values, value)
        count = int(np.count_nonzero(same))
        if count == same.size:
            seen.whole += 1
            seen.largest = 1.0
            continue
        seen.size += same.size
        seen.pixels += count
        if count and (mask := in_squares(same)).any():
            area = int(np.count_nonzero(mask))
            seen.area += area
            seen.largest = max(seen.largest, area / mask.size)
            seen.partial += 1
            lines = (same[0], same[-1], same[:, 0], same[:, -1])
            is_lined = any(line.all() for line, is_edge in zip(lines, window.edges, strict=True) if is_edge)
            seen.lined += is_lined
            _compare(seen, window.values, mask, mask | same if is_lettered and is_lined else mask)
    return seen


def _compare(seen: _Evidence, values: NDArray[Any], mask: PaddingMask, known: PaddingMask) -> None:
    """Measure the image near a constant area and further away from it, without the pixels that are `known`."""
    radii = sorted({EDGE - 1, EDGE, NEAR[0] - 1, NEAR[1], FAR[0] - 1, FAR[1]})
    within = {radius: grow_mask(mask, radius) for radius in radii}
    other = values[~known].astype(np.float64)
    if not other.size:
        return
    if seen.centre is None:
        sample = other[:: -(-other.size // _SAMPLE)]
        low, quarter, middle, three, high = percentiles(
            sample[~np.isnan(sample)], (100 * RARE, 25, 50, 75, 100 - 100 * RARE)
        )
        seen.centre, seen.limits = middle, (2 * (low - middle), 2 * (high - middle))
        reach = STRAY * (three - quarter)
        if reach and np.mean(np.abs(sample - middle) > reach) <= MOST_STRAY:
            seen.reach = reach
    seen.others += other.size
    seen.thick += int(np.count_nonzero(~within[FAR[0] - 1] & ~known))
    seen.other.add(seen.distances(other))
    for moments, (first, last) in ((seen.edge, (EDGE, EDGE)), (seen.near, NEAR), (seen.far, FAR)):
        ring = values[within[last] & ~within[first - 1] & ~known].astype(np.float64)
        moments.add(seen.distances(ring))


def grow_mask(mask: PaddingMask, radius: int) -> PaddingMask:
    """Return the pixels at most so far away from the mask, along Y and X."""
    wide = np.pad(mask, radius)
    for axis in (-2, -1):
        wide = _sliding(wide, 2 * radius + 1, axis, np.logical_or)
    return wide


def find_flat(windows: Sequence[SampleWindow], padding: Sequence[float | None]) -> float | None:
    """Return the largest range of grey values in squares without structure, None if there are no such squares.

    Such areas have shading, or the noise of a camera without light or of a lossy compression. padding: the known values
    of constant areas.
    """
    step = (
        max(1, sum(window.values.size for window in windows) // (MOST_SQUARES * SQUARE_SIDE**2)) | 1
    )  # odd: not only one column
    ranges, least = np.sort(np.concatenate([_ranges(window.values, padding, step) for window in windows], axis=1))
    if len(ranges) < FEWEST_SQUARES:
        return None
    numbers = np.arange(1, len(ranges) + 1)
    upto = np.searchsorted(ranges, GAP * ranges, side="right")
    is_gap = (upto - numbers <= BETWEEN * numbers) & (numbers >= LEAST_FLAT * len(ranges))
    lively = len(least) - np.searchsorted(least, ranges, side="right")
    is_gap &= lively >= LEAST_LIVELY * len(ranges)
    ends = np.flatnonzero(is_gap & ~np.append(is_gap[1:], False))  # below each gap the largest range
    for flat in ranges[ends[::-1][:_MOST_GAPS]].tolist():
        if not _has_structure(windows, step, flat) and _is_flat(windows, padding, flat):
            return float(flat)
    return None


def _has_structure(windows: Sequence[SampleWindow], step: int, flat: float) -> bool:
    """Return whether the squares of a range up to `flat` show more than noise or shading, such as faint tissue does."""
    squares = np.concatenate([_squares(window.values)[::step] for window in windows])
    smooth = without_speckles(squares)
    ranges = smooth.max((1, 2)) - smooth.min((1, 2))
    whole = squares.dtype.kind != "f"
    squares = squares[(ranges <= flat) & (ranges > flat / GAP)].astype(np.float64)
    if not len(squares):
        return False
    place = np.linspace(-1, 1, SQUARE_SIDE)
    rest = squares - squares.mean((1, 2), keepdims=True)
    for slope in (
        np.broadcast_to(place, (SQUARE_SIDE, SQUARE_SIDE)),
        np.broadcast_to(place[:, None], (SQUARE_SIDE, SQUARE_SIDE)),
    ):
        rest = rest - (rest * slope).sum((1, 2), keepdims=True) / (slope**2).sum() * slope
    variance = (rest**2).mean((1, 2))
    alike = (rest[:, :, 1:] * rest[:, :, :-1]).mean((1, 2)) >= CORRELATED_NOISE * variance
    is_strong = variance > max(ROUNDED**2 if whole else 0.0, (FAINT * flat) ** 2)
    return bool(np.mean(alike & is_strong) > MOST_STRUCTURED)


def _ranges(values: NDArray[Any], padding: Sequence[float | None], step: int) -> NDArray[np.float32]:
    """Return the ranges of grey values in every `step`-th square that is neither constant nor padding, (2, squares).

    The first is of the whole square, the second the least of its quarters: an edge between two areas crosses the
    square, but hardly all of its quarters.
    """
    squares = _squares(values)[::step]
    counts = squares.max((1, 2)) > squares.min((1, 2))
    if squares.dtype.kind == "f":
        counts &= np.isfinite(squares).all((1, 2))
    if padding and (mask := find_mask(values[None], padding)) is not None:
        counts &= ~_squares(mask)[::step].any((1, 2))
    smooth = without_speckles(squares[counts]).reshape(-1, 2, SQUARE_SIDE // 2, 2, SQUARE_SIDE // 2)
    low, high = smooth.min(2).min(3), smooth.max(2).max(3)  # over both axes at once it takes three times as long
    ranges: NDArray[np.float32] = np.stack([high.max((1, 2)) - low.min((1, 2)), (high - low).min((1, 2))])
    return ranges


def _squares(values: NDArray[Any]) -> NDArray[Any]:
    """Return the squares of `SQUARE_SIDE` pixels that a window is made of, (squares, SIDE, SIDE)."""
    height, width = (length // SQUARE_SIDE * SQUARE_SIDE for length in values.shape)
    cut = values[:height, :width].reshape(height // SQUARE_SIDE, SQUARE_SIDE, width // SQUARE_SIDE, SQUARE_SIDE)
    return cut.transpose(0, 2, 1, 3).reshape(-1, SQUARE_SIDE, SQUARE_SIDE)


def _is_flat(windows: Sequence[SampleWindow], padding: Sequence[float | None], flat: float) -> bool:
    """Return whether areas without structure end abruptly, beside tissue like that further away."""
    seen = _Evidence(0.0)
    values: list[float] = []
    for window in windows:
        mask = in_flat_squares(window.values, flat)
        known = find_mask(window.values[None], padding) if padding else None
        fresh = mask if known is None else mask & ~known
        if not fresh.any():
            continue
        if mask.all():
            seen.whole += 1
        else:
            seen.area += int(np.count_nonzero(fresh))
            values.append(float(np.median(window.values[fresh])))
            _compare(seen, window.values, mask, mask if known is None else mask | known)
    if seen.centre is None or min(seen.edge.count, seen.near.count, seen.far.count) < SAMPLES:
        return seen.whole > 0 and seen.area <= SELDOM * seen.others
    seen.value = float(np.median(values))
    return _is_like_padding(seen)


def _is_padding(seen: _Evidence) -> bool:
    if seen.area < LEAST * seen.size and seen.largest < LEAST_OF_WINDOW:
        return False
    if seen.centre is None or min(seen.edge.count, seen.near.count, seen.far.count) < SAMPLES:
        return seen.whole > 0 and seen.pixels <= SELDOM * seen.size
    mostly = MOSTLY_OF_FRAME if 2 * seen.lined >= seen.partial else MOSTLY
    return seen.area >= mostly * seen.pixels and _is_like_padding(seen)


def _is_like_padding(seen: _Evidence) -> bool:
    """Return whether areas end abruptly, beside tissue that is like that further away, and not thin."""
    tolerance = ALIKE + math.sqrt(CORRELATED / seen.near.count)
    is_alike = abs(seen.near.mean - seen.far.mean) <= tolerance * seen.other.deviation
    place = seen.value - (seen.centre or 0.0)
    is_sharp = seen.edge.distance_from(place) >= SHARP * seen.far.distance_from(place)
    return is_alike and is_sharp and seen.thick >= _THICK * seen.others
