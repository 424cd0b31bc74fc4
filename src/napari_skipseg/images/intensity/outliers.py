"""Outliers of the grey values: hot and dead pixels, beads, crystals and charge flashes, but not real bright objects.

A value counts as far away if it lies `FAR` robust standard deviations from the median. In EM nothing is so far away
that is tissue. In fluorescence nuclei are; so what is far away is an outlier only if it is a single pixel or a line, or
if it is alone: a few objects, one slice of many, or sharp spots with no value between them and the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.intensity.quantiles import percentiles

FAR = 10.0
"""Robust standard deviations. Largest in the undisturbed EM stacks of the tests: 6.0."""
CLOSE = 6.0
"""Robust standard deviations at which outliers are clipped: between lies the fringe of a flash, or tissue."""
SAMPLE = 2**20
"""Most values that quantiles are taken from."""
MATTERS = 1.5
"""Outliers are clipped only if they increase the standard deviation by at least this factor.

Measured with em-membrane on ISBI 2012: a deviation that is 1.5 times too large lowers Dice from 0.832 to 0.828, one of
2 times to 0.818."""
NEIGHBOURS = 3
"""A pixel with fewer of its 8 neighbours at least half as far away is a hot pixel or part of a line."""
FEW, FEW_OF_ALL = 3, 0.04
"""Objects that count as few, and the share of all pixels that they may cover."""
OF_SLICES, MOST_OF_THEM = 0.1, 0.9
"""If this share of the slices has that share of all far pixels, they are a fault of these slices."""
BETWEEN, SHARP_OF_ALL = 0.1, 0.02
"""Sharp spots have at most this share of their pixels on the first half of the way, and cover at most that of all."""
_MOST = 0.1
"""Share of all pixels that can be outliers."""
_BLOCK = 8
"""Side of the squares in which objects are counted: what touches the same or neighbouring ones is one object."""

OutlierMask = NDArray[np.bool_]


class GreyBounds(NamedTuple):
    """Lowest and highest value that is no outlier, None where there are no outliers; shares of all pixels beyond."""

    low: float | None = None
    high: float | None = None
    below: float = 0.0
    above: float = 0.0


@dataclass(frozen=True)
class _Tail:
    """The values far from the median on one side. limit: where they begin. solid: for each window, those that are no
    hot pixels. solid_values, all_values: distances from the median, of all windows together."""

    limit: float
    solid: list[OutlierMask]
    solid_values: NDArray[np.float64]
    all_values: NDArray[np.float64]


def find_bounds(windows: Sequence[NDArray[Any]], tissue: Sequence[OutlierMask | None]) -> GreyBounds:
    """Return the bounds of the grey values of a stack without outliers.

    windows: parts of slices (Y, X). tissue: which of their pixels count, None for all.
    """
    size = sum(w.size if m is None else int(np.count_nonzero(m)) for w, m in zip(windows, tissue, strict=True))
    step = max(1, -(-size // SAMPLE))
    sample = _values(windows, tissue, step)
    if not sample.size:
        return GreyBounds()
    lowest, quarter, median, three, highest = percentiles(sample, (10, 25, 50, 75, 90))
    deviation = max((three - quarter) / 1.349, (highest - lowest) / 2.563)
    low, high = median - FAR * deviation, median + FAR * deviation
    if not deviation or all(w.min() >= low and w.max() <= high for w in windows):
        return GreyBounds()
    values = _values(windows, tissue)
    beyond = (values < low) | (values > high)
    if not 0 < np.count_nonzero(beyond) <= _MOST * values.size:
        return GreyBounds()
    rest = values[~beyond]
    if values.std(dtype=np.float64) < MATTERS * rest.std(dtype=np.float64):
        return GreyBounds()
    is_close = np.abs(values - median) <= CLOSE * deviation
    above = _highest(windows, tissue, median, high, values.size)
    below = _highest([-w.astype(np.float64) for w in windows], tissue, -median, -low, values.size)
    top = float(values[is_close].max()) if above == high else above
    bottom = float(values[is_close].min()) if below == -low else None if below is None else -below
    return GreyBounds(
        bottom,
        top,
        0.0 if bottom is None else float(np.count_nonzero(values < bottom)) / values.size,
        0.0 if top is None else float(np.count_nonzero(values > top)) / values.size,
    )


def _values(windows: Sequence[NDArray[Any]], tissue: Sequence[OutlierMask | None], step: int = 1) -> NDArray[Any]:
    """Return every `step`-th value of the windows that counts."""
    parts = [(w.ravel() if m is None else w[m])[::step] for w, m in zip(windows, tissue, strict=True)]
    values: NDArray[Any] = np.concatenate(parts)
    return values


def _highest(
    windows: Sequence[NDArray[Any]], tissue: Sequence[OutlierMask | None], median: float, limit: float, size: int
) -> float | None:
    """Return the highest value that is no outlier, `limit` if all values beyond it are; None if there are none."""
    tail = _find_tail(windows, tissue, median, limit)
    if not tail.all_values.size:
        return None
    if not tail.solid_values.size or _is_alone(tail, size):
        return limit
    top = float(tail.solid_values.max())
    return None if top >= tail.all_values.max() else median + top


def _find_tail(
    windows: Sequence[NDArray[Any]], tissue: Sequence[OutlierMask | None], median: float, limit: float
) -> _Tail:
    solid, solid_values, all_values = [], [], []
    for window, mask in zip(windows, tissue, strict=True):
        far = window > limit if mask is None else (window > limit) & mask
        is_solid = np.zeros(far.shape, bool)
        y, x = np.nonzero(far)
        if y.size:
            distance = window[y, x].astype(np.float64) - median
            around = np.pad(window, 1, mode="edge")
            counts = np.zeros(y.size, int)
            for down in range(3):
                for right in range(3):
                    if (down, right) != (1, 1):
                        counts += around[y + down, x + right] - median >= distance / 2
            kept = counts >= NEIGHBOURS
            is_solid[y[kept], x[kept]] = True
            solid_values.append(distance[kept])
            all_values.append(distance)
        solid.append(is_solid)
    nothing = np.empty(0, np.float64)
    return _Tail(
        limit - median, solid, np.concatenate([nothing, *solid_values]), np.concatenate([nothing, *all_values])
    )


def _is_alone(tail: _Tail, size: int) -> bool:
    """Return whether the pixels far away are too rare, or too sharp, to be objects of the image."""
    counts = np.array([np.count_nonzero(mask) for mask in tail.solid])
    share = counts.sum() / size
    if len(counts) >= 3:
        fullest = np.sort(counts)[::-1][: math.ceil(OF_SLICES * len(counts))]
        if fullest.sum() >= MOST_OF_THEM * counts.sum():
            return True
    if share <= SHARP_OF_ALL:
        halfway = (tail.limit + np.median(tail.solid_values)) / 2
        if np.count_nonzero(tail.solid_values < halfway) <= BETWEEN * tail.solid_values.size:
            return True
    return bool(share <= FEW_OF_ALL and sum(_count_objects(mask) for mask in tail.solid) <= FEW)


def _count_objects(mask: OutlierMask) -> int:
    if not mask.any():
        return 0
    height, width = (-(-length // _BLOCK) * _BLOCK for length in mask.shape)
    padded = np.pad(mask, ((0, height - mask.shape[0]), (0, width - mask.shape[1])))
    blocks = padded.reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK).any((1, 3))
    from scipy import ndimage  # it takes 0.25 s to import, and few images have any

    return int(ndimage.label(blocks, np.ones((3, 3), int))[1])
