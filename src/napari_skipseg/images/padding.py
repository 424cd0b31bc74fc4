"""Padding: areas of one constant value that hold no tissue, as programs leave them that align, turn or stitch images.

Which values are padding is found once for a stack, in windows of its slices. Where a value is padding is a local rule:
a pixel that lies in a square of `SIDE` pixels a side that all have it. What lies beyond the image counts as padding, so
that narrow frames are found too. So a tile of the stack finds the same padding as the whole stack, if it is read with
`REACH` pixels more on each side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.grey_samples import Window

SIDE = 16
"""Side of the constant squares that padding is made of, in pixels. Saturated tissue seldom has such."""
MIRRORED = 24
"""Width of the strip of padding beside tissue that is filled with the mirrored tissue. Further away is the mean.

Measured with em-membrane on ISBI 2012 in a frame of 64 pixels: Dice 0.832 without a frame, 0.832 with mirrored tissue,
0.801 with the mean alone."""
REACH = 2 * MIRRORED + SIDE
"""How far away in Y and X a pixel can be that decides what becomes of another one."""
REACH_Z = 2
"""How many slices away tissue may be that fills padding for a network that sees several slices at once.

Measured with em-boundary-3d, every 2nd slice empty: Dice 0.507 without empty slices, 0.059 with the mean in them."""
MOST_VALUES = 2
"""Values that count as padding, at the most: images of labels have more constant areas of different values."""
CANDIDATES = 4
LEAST, LEAST_OF_WINDOW = 0.001, 0.01
"""Least share of the windows, or of one of them, that a padding value fills."""
EDGE, NEAR, FAR = 2, (3, 4), (12, 24)
"""Distances from a constant area, in pixels, at which the image beside it is compared. At 1 a turned image is a mixture
of padding and tissue."""
SAMPLES = 64
"""Fewest pixels beside a constant area for such a comparison."""
ALIKE, CORRELATED = 0.45, 40
"""How much the mean may differ between near and far, in standard deviations of the image; more where the edge is short,
as `CORRELATED` pixels tell as much as one. Padding: 0-0.44; saturated myelin: 2.1."""
SHARP = 0.8
"""Least distance from the padding value at `EDGE`, relative to that at `FAR`, root mean square. Padding: 0.87-1.19;
saturated lumen, clipped black and subtracted background: 0.06-0.75."""
SELDOM = 0.05
"""Most of the pixels in other slices that have the value of an empty slice: else it is the image's own background."""
MOSTLY = 0.8
"""Least share of the pixels of a padding value that lie in constant squares. Padding: 0.86-1; saturated tissue and
images of few grey levels mostly 0.1-0.7."""
THICK = 0.45
"""Least share of the other pixels that lie `FAR` away, so that the black between small objects is no padding. Padding:
0.51-0.99."""

Mask = NDArray[np.bool_]
PaddingRule = Literal["auto", "none"]
"""Whether large constant areas may be padding, or are tissue like all else."""


def find_mask(values: NDArray[Any], padding: Sequence[float | None]) -> Mask | None:
    """Return where padding is in `values` (C, ..., Y, X), without the first axis; None where there is none.

    padding: the values that are padding in this stack; None stands for NaN and infinity. Of several channels all must
    be padding.
    """
    mask: Mask | None = None
    for channel in values:
        found = np.zeros(channel.shape, bool)
        for value in padding:
            if value is None:
                found |= ~np.isfinite(channel)
            elif (same := channel == value).any():
                found |= in_squares(same)
        mask = found if mask is None else mask & found
        if not mask.any():
            return None
    return mask


def in_squares(same: Mask, side: int = SIDE) -> Mask:
    """Return which pixels of `same` (..., Y, X) lie in squares that are all set. Beyond the edges all is set."""
    around = [(0, 0)] * (same.ndim - 2) + [(side - 1, side - 1)] * 2
    grown = np.pad(same, around, constant_values=True)
    for axis in (-2, -1):
        grown = _sliding(grown, side, axis, np.logical_and)
    for axis in (-2, -1):
        grown = _sliding(grown, side, axis, np.logical_or)
    inside: Mask = grown
    return inside


def _sliding(mask: Mask, side: int, axis: int, combine: np.ufunc) -> Mask:
    """Return `combine` over each run of `side` pixels along an axis: shorter by `side` - 1."""
    length = 1
    while length < side:
        step = min(length, side - length)
        mask = combine(_cut(mask, 0, -step, axis), _cut(mask, step, None, axis))
        length += step
    return mask


def _cut(mask: Mask, start: int, stop: int | None, axis: int) -> Mask:
    index = [slice(None)] * mask.ndim
    index[axis] = slice(start, stop)
    return mask[tuple(index)]


def fill(pixels: NDArray[np.float32], mask: Mask, across_slices: bool = False) -> None:
    """Write into the padding of `pixels` (C, ..., Y, X) what a network may see there: mirrored tissue, then 0.

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
    mask: Mask,
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


def _nearest(tissue: Mask) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
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


def _since(tissue: Mask) -> NDArray[np.int32]:
    """Return how many pixels ago along the last axis there was tissue; a large number where there was none."""
    places = np.arange(tissue.shape[-1], dtype=np.int32)
    last = np.maximum.accumulate(np.where(tissue, places, np.int32(-(2**30))), axis=-1)
    distance: NDArray[np.int32] = places - last
    return distance


@dataclass
class _Evidence:
    """What was seen of a value that fills constant areas. whole: windows that have no other value.

    The rest is counted in pixels of the other windows: all, those of the value, those in constant squares. Of windows
    with such squares also those outside of them, and of these those far from them.
    """

    whole: int = 0
    size: int = 0
    area: int = 0
    largest: float = 0.0
    inside: int = 0
    pixels: int = 0
    others: int = 0
    thick: int = 0
    edge: tuple[float, float, float] = (0.0, 0.0, 0.0)
    near: tuple[float, float, float] = (0.0, 0.0, 0.0)
    far: tuple[float, float, float] = (0.0, 0.0, 0.0)
    other_values: tuple[float, float, float] = (0.0, 0.0, 0.0)


def find_values(windows: Sequence[Window]) -> tuple[float | None, ...]:
    """Return the values that are padding in a stack of which these are windows; None stands for NaN and infinity."""
    total = sum(window.values.size for window in windows)
    found: list[float | None] = []
    counts: Counter[float] = Counter()
    for window in windows:
        counts.update(window.constant_values())
    for value, _ in counts.most_common(CANDIDATES):
        if _is_padding(_look_at(value, windows), total):
            found.append(value)
    return tuple(found) if len(found) <= MOST_VALUES else ()


def _look_at(value: float, windows: Sequence[Window]) -> _Evidence:
    seen = _Evidence()
    for values, _, _ in windows:
        same = values == value
        count = int(np.count_nonzero(same))
        if count == same.size:
            seen.whole += 1
            seen.area += count
            seen.largest = 1.0
            continue
        seen.size += same.size
        if not count:
            continue
        mask = in_squares(same)
        area = int(np.count_nonzero(mask))
        seen.pixels += count
        seen.inside += area
        seen.area += area
        seen.largest = max(seen.largest, area / mask.size)
        if area:
            _compare(seen, values, value, mask)
    return seen


def _compare(seen: _Evidence, values: NDArray[Any], value: float, mask: Mask) -> None:
    """Count what lies near a constant area and further away from it."""
    radii = sorted({EDGE - 1, EDGE, NEAR[0] - 1, NEAR[1], FAR[0] - 1, FAR[1]})
    within = {radius: grown(mask, radius) for radius in radii}

    def ring(first: int, last: int) -> NDArray[np.float64]:
        return values[within[last] & ~within[first - 1]].astype(np.float64) - value

    other = values[~mask].astype(np.float64) - value
    seen.others += other.size
    seen.thick += int(np.count_nonzero(~within[FAR[0] - 1]))
    seen.other_values = _added(seen.other_values, other)
    seen.edge = _added(seen.edge, ring(EDGE, EDGE))
    seen.near, seen.far = _added(seen.near, ring(*NEAR)), _added(seen.far, ring(*FAR))


def _added(sums: tuple[float, float, float], values: NDArray[np.float64]) -> tuple[float, float, float]:
    values = values[np.isfinite(values)]
    return sums[0] + values.size, sums[1] + float(values.sum()), sums[2] + float(np.square(values).sum())


def grown(mask: Mask, radius: int) -> Mask:
    """Return the pixels at most so far away from the mask, along Y and X."""
    grown = np.pad(mask, radius)
    for axis in (-2, -1):
        grown = _sliding(grown, 2 * radius + 1, axis, np.logical_or)
    return grown


def _is_padding(seen: _Evidence, total: int) -> bool:
    if seen.area < LEAST * total and seen.largest < LEAST_OF_WINDOW:
        return False
    (edge, _, edge_squares), (near, near_sum, _), (far, far_sum, far_squares) = seen.edge, seen.near, seen.far
    if min(edge, near, far) < SAMPLES:
        return seen.whole > 0 and seen.pixels <= SELDOM * seen.size
    count, mean, squares = seen.other_values
    deviation = np.sqrt(max(squares / count - (mean / count) ** 2, 0.0))
    is_alike = abs(near_sum / near - far_sum / far) <= (ALIKE + np.sqrt(CORRELATED / near)) * deviation
    is_sharp = np.sqrt(edge_squares / edge) >= SHARP * np.sqrt(far_squares / far)
    is_mostly_inside = seen.inside >= MOSTLY * seen.pixels
    return bool(is_alike and is_sharp and is_mostly_inside and seen.thick >= THICK * seen.others)
