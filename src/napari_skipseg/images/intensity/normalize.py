"""Normalisation: how grey values become network input, measured once on a seeded sample of a stack's slices.

Mean and standard deviation are those of the tissue: padding and outliers (modules of the same names) are left out. An
image without either has the plain mean and standard deviation of its sampled values.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.intensity import padding as constant_areas
from napari_skipseg.images.intensity.outliers import FAR, SAMPLE, GreyBounds, find_bounds
from napari_skipseg.images.intensity.padding import PaddingMask, PaddingRule, find_mask
from napari_skipseg.images.intensity.quantiles import percentiles
from napari_skipseg.images.intensity.samples import (
    SampleWindow,
    is_empty_in_all_channels,
    iter_draw_windows,
    iter_search_constant_areas,
)
from napari_skipseg.images.stack import Stack
from napari_skipseg.progress import Progress, run_to_end
from napari_skipseg.wording import counted

BLENDED = 2
"""Pixels beside padding that are left out too, because a rotated image is a mixture there."""
_EXAMINED_SLICES = 8
"""Number of sampled slices that are checked for labels."""
_FLAT = 0.8
"""An image of whole numbers with at least this share of pixels equal to their neighbours is taken for labels.

Only pixels that differ from the most common value count. Measured: labels of nuclei, neurites and mitochondria
0.87-0.98, raw EM and fluorescence below 0.06, EM cut down to 4 grey levels 0.71, EM enlarged
fourfold by repeating pixels 0.76."""
_FEWEST = 0.05
"""Labels have at least this share of pixels besides padding and the most common value."""


@dataclass(frozen=True)
class Normalization:
    """Grey values become `(value - mean) / deviation`: one rule for a whole stack, kept in its recipe.

    inverted: the network gets the negative, because dark and light are swapped compared with its training. low, high:
    values are clipped to these, None = no limit. padding: values that are padding if they fill constant areas (see
    `images.intensity.padding`); None means NaN and infinity. flat: an area with at most this range of grey values has
    no structure and is padding too; None if there is no such area.
    """

    mean: float
    deviation: float
    low: float | None = None
    high: float | None = None
    padding: tuple[float | None, ...] = ()
    inverted: bool = False
    flat: float | None = None

    @property
    def has_padding(self) -> bool:
        """Whether some areas of the stack are padding."""
        return bool(self.padding) or self.flat is not None

    def apply(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return `values` in standard units, float32; padding is a value like any other."""
        pixels = values.astype(np.float32)
        if self.low is not None or self.high is not None:
            np.clip(pixels, self.low, self.high, out=pixels)
        deviation = np.float32(-self.deviation if self.inverted else self.deviation)
        pixels -= np.float32(self.mean)  # in place: as few passes over memory as there can be
        pixels /= deviation
        return pixels

    def prepare(
        self, values: NDArray[Any], across_slices: bool = False
    ) -> tuple[NDArray[np.float32], PaddingMask | None]:
        """Return the input of a network for `values` (C, ..., Y, X), and the mask of padding (..., Y, X), None = none.

        Padding is filled such that it disturbs the tissue beside it least. values: whole slices, or parts with
        `padding.REACH` more pixels in Y and X than are used of the result. across_slices: for a network that sees
        several slices at once; `values` are (C, Z, Y, X) with `padding.REACH_Z` more slices in Z.
        """
        mask = find_mask(values, self.padding, self.flat) if self.has_padding else None
        pixels = self.apply(values)
        if mask is not None:
            constant_areas.fill_padding(pixels, mask, across_slices)
        return pixels, mask


def normalization_from(values: Mapping[str, Any]) -> Normalization:
    """Return the normalisation from the JSON of a recipe."""
    return Normalization(**{**values, "padding": tuple(values.get("padding", ()))})


@dataclass(frozen=True)
class GreyStatistics:
    """The normalisation of a stack's grey values, and findings about them.

    findings: sentences for the user, for example on areas that were left out of the statistics. unlike: a sentence if
    the image differs from those on which the model was trained, else "". asks_network: whether the network has to be
    tested on some patches and their negatives, to find out whether the contrast is inverted.
    """

    normalization: Normalization
    findings: tuple[str, ...] = ()
    unlike: str = ""
    asks_network: bool = True


def measure(
    stack: Stack, seed: int = 0, lengths: Mapping[str, int] | None = None, padding: PaddingRule = "auto"
) -> Normalization:
    """Return the normalisation of `measure_greys`, without the findings."""
    return measure_greys(stack, seed, lengths, padding).normalization


def measure_greys(
    stack: Stack, seed: int = 0, lengths: Mapping[str, int] | None = None, padding: PaddingRule = "auto"
) -> GreyStatistics:
    """Return the result of `iter_measure_greys`."""
    return run_to_end(iter_measure_greys(stack, seed, lengths, padding))


def iter_measure_greys(
    stack: Stack, seed: int = 0, lengths: Mapping[str, int] | None = None, padding: PaddingRule = "auto"
) -> Generator[Progress, None, GreyStatistics]:
    """Yield now and then; return mean and standard deviation of up to 32 slices (of up to 1024² pixels each).

    The slices are drawn with `seed`.

    lengths: by axis, of the network's grid, if it differs from the stack's own. Then the voxels of that grid are
    measured, because means of several voxels vary less. padding: "none" treats constant areas as tissue.

    Raises:
        InputError: NaN or infinite values, a constant image, or an image of labels instead of grey values.
    """
    windows = yield from iter_draw_windows(stack, seed, {})
    values = _joined(windows)
    _check_finite(windows, stack.name, padding)
    check_values(values, stack.name)
    found: tuple[float | None, ...] = ()
    flat: float | None = None
    if padding == "auto":
        further = yield from iter_search_constant_areas(stack)
        found = _find_padding(stack, [*windows, *further])
        flat = constant_areas.find_flat(windows, found) if stack.length("C") == 1 else None
    check_not_labels([window.values for window in windows], stack.name, found)
    is_padded = bool(found) or flat is not None
    masks = [_left_out(window.values, found, flat) for window in windows]
    bounds = find_bounds([window.values for window in windows], masks)
    kept = _kept(windows, masks, bounds) if is_padded or bounds != GreyBounds() else values
    if not kept.size:
        raise InputError(f"'{stack.name}' contains nothing but constant areas: there is nothing to segment.")
    kept = _without_letters(kept, found)
    limits = (bounds.low, bounds.high)
    if is_padded:  # where tissue is blended with padding, a value may be far from all of the tissue
        limits = (float(kept.min()), float(kept.max()))
    if lengths and any(stack.length(axis) != length for axis, length in lengths.items()):
        prepare = partial(_without_rest, axes=stack.space.axes, limits=limits, padding=found, flat=flat)
        drawn = yield from iter_draw_windows(
            stack, seed, lengths, prepare if is_padded or bounds != GreyBounds() else None
        )
        kept = _joined(drawn)
    if is_padded or bounds != GreyBounds() or kept is not values:
        check_values(kept, stack.name)
    mean, deviation = float(kept.mean(dtype=np.float64)), float(kept.std(dtype=np.float64))
    low, high = limits
    normalization = Normalization(mean, deviation, low, high, found, flat=flat)
    findings = (*_describe_padding(stack, windows, found, flat), *_describe_outliers(bounds))
    return GreyStatistics(normalization, findings)


def _joined(windows: Sequence[SampleWindow]) -> NDArray[Any]:
    """Return all values that are finite."""
    values: NDArray[Any] = np.concatenate([window.values.ravel() for window in windows])
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        values = values[np.isfinite(values)]
    return values


REPLACED = (
    "replace them, in Python with numpy.nan_to_num(image, nan=numpy.nanmedian(image)), save the image and open that "
    "file."
)


def _check_finite(windows: Sequence[SampleWindow], name: str, padding: PaddingRule) -> None:
    """Raise InputError if there are NaN or infinite values that are no padding, which fills large areas."""
    holes = [window.values for window in windows if window.values.dtype.kind == "f"]
    holes = [values for values in holes if not np.isfinite(values).all()]
    may_be_padding = padding == "auto" and _joined(windows).size > 0
    if holes and not (
        may_be_padding and any(constant_areas.in_squares(~np.isfinite(values)).any() for values in holes)
    ):
        counts = [int(np.count_nonzero(~np.isfinite(window.values))) for window in windows]
        first = next(window for window, count in zip(windows, counts, strict=True) if count)
        where = f", the first in slice {first.ranges['Z'][0]} (counted from 0)" if "Z" in first.ranges else ""
        number = counted(sum(counts), "NaN or infinite value")
        raise InputError(f"'{name}' contains {number} in the sample that was checked{where}: {REPLACED}")


def _find_padding(stack: Stack, windows: list[SampleWindow]) -> tuple[float | None, ...]:
    """Return the values that are padding in a stack."""
    if stack.length("C") > 1:  # a channel without signal is no empty slice
        windows = [each for each in windows if not each.is_constant or is_empty_in_all_channels(stack, each)]
    is_real = windows[0].values.dtype.kind == "f"
    has_holes = is_real and any(not np.isfinite(window.values).all() for window in windows)
    found = constant_areas.find_values(windows)
    return (*found, None) if has_holes else found


def _left_out(values: NDArray[Any], padding: tuple[float | None, ...], flat: float | None) -> PaddingMask | None:
    """Return which pixels of a window count as tissue, None for all."""
    mask = find_mask(values[None], padding, flat)
    return None if mask is None else ~constant_areas.grow_mask(mask, BLENDED)


def _kept(windows: Sequence[SampleWindow], masks: Sequence[PaddingMask | None], bounds: GreyBounds) -> NDArray[Any]:
    """Return the values that are tissue and no outliers."""
    pairs = zip(windows, masks, strict=True)
    values = np.concatenate([window.values.ravel() if mask is None else window.values[mask] for window, mask in pairs])
    if bounds.low is not None:
        values = values[values >= bounds.low]
    return values if bounds.high is None else values[values <= bounds.high]


def _without_letters(kept: NDArray[Any], padding: tuple[float | None, ...]) -> NDArray[Any]:
    """Return the values without those of padding that lie far from all tissue, such as between burnt-in letters."""
    if not padding:
        return kept
    quarter, median, three = percentiles(kept[:: -(-kept.size // SAMPLE)], (25, 50, 75))
    far = [value for value in padding if value is not None and abs(value - median) > FAR * (three - quarter) / 1.349]
    return kept[~np.isin(kept, far)] if far else kept


def _describe_padding(
    stack: Stack, windows: Sequence[SampleWindow], padding: tuple[float | None, ...], flat: float | None
) -> list[str]:
    """Return sentences on the areas that were left out as padding."""
    if not padding and flat is None:
        return []
    masks = [find_mask(window.values[None], padding, flat) for window in windows]
    partial = [(window, mask) for window, mask in zip(windows, masks, strict=True) if mask is None or not mask.all()]
    names = [_name(value, windows[0].values.dtype) for value in padding]
    values = " and ".join([*names, *(["no structure"] if flat is not None else [])])
    area = sum(int(np.count_nonzero(mask)) for _, mask in partial if mask is not None)
    total = math.prod(stack.length(axis) for axis in stack.space.axes if axis not in "YX")
    empty = len(windows) - len(partial)
    sentences = []
    if len(windows) == total and empty:
        sentences.append(f"{empty} of {total} slices are empty ({values}) and were left out.")
    elif empty or not area:
        sentences.append(f"Empty slices ({values}) were left out.")
    if area:
        width = _frame_width(partial)
        where = f"{width} pixels of {values} around each slice" if width else f"Areas of {values} without tissue"
        if flat is not None:
            constant = f"Areas of {' and '.join(names)}, and areas" if names else "Areas"
            where = f"{constant} with nothing but noise or shading"
        if all(all(window.edges) for window in windows):  # parts of large slices do not give the share of the whole
            where += f" ({in_percent(area / sum(window.values.size for window, _ in partial))} of the image)"
        sentences.append(f"{where} were left out.")
    return sentences


def _frame_width(windows: Sequence[tuple[SampleWindow, PaddingMask | None]]) -> int:
    """Return the width of the frame that all windows have and that is all of their padding; 0 if there is none."""
    widths = set()
    for window, mask in windows:
        if mask is None or not all(window.edges):
            return 0
        rows, columns = (np.flatnonzero(~mask.all(axis=axis)) for axis in (1, 0))
        height, width = mask.shape
        widths |= {int(rows[0]), height - 1 - int(rows[-1]), int(columns[0]), width - 1 - int(columns[-1])}
        if mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].any():
            return 0
    return widths.pop() if len(widths) == 1 else 0


def _name(value: float | None, dtype: np.dtype[Any]) -> str:
    if value is None:
        return "NaN"
    if dtype.kind == "u" and value in (0, np.iinfo(dtype).max):
        return f"{'white' if value else 'black'} ({value:g})"
    return f"the value {value:g}"


def in_percent(share: float) -> str:
    """Return a share as text, with two digits that count: 56 %, 3.1 %, 0.02 %."""
    percent = 100 * share
    digits = 0 if percent >= 10 else max(1, 1 - math.floor(math.log10(max(percent, 1e-9))))
    return f"{percent:.{digits}f} %"


def _describe_outliers(bounds: GreyBounds) -> list[str]:
    """Return sentences on the values that were clipped."""
    sides = (("brighter", bounds.high, bounds.above), ("darker", bounds.low, bounds.below))
    return [
        f"{in_percent(share)} of the pixels are far {how} than the rest and were clipped at {limit:g}."
        for how, limit, share in sides
        if limit is not None
    ]


def check_values(values: NDArray[Any], name: str) -> None:
    """Raise InputError if `values` cannot be an image's grey values."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"'{name}' holds NaN or infinite values: {REPLACED}")
    lowest, highest = values.min(), values.max()
    if lowest == highest:
        raise InputError(f"'{name}' is constant (every value is {lowest}): there is nothing to segment.")
    if not ((values != lowest) & (values != highest)).any():  # np.isin takes ten times as long
        raise InputError(
            f"'{name}' contains only two values ({lowest} and {highest}): it looks like a mask of labels. "
            "Choose the raw image."
        )


def check_not_labels(windows: list[NDArray[Any]], name: str, padding: Sequence[float | None] = ()) -> None:
    """Raise InputError if 2D `windows` of whole numbers are flat areas: labels of classes or of instances.

    padding: values of flat areas that the image may have besides.
    """
    if windows[0].dtype.kind not in "ui":
        return
    examined = windows[:: -(-len(windows) // _EXAMINED_SLICES)]
    background = _most_common(examined)
    flat = {background}
    while True:
        share = 0.0
        for axis in (0, 1):
            same, counted = _count_flat(examined, axis, flat)
            share = counted / sum(window.size for window in examined)
            if same <= _FLAT * counted and (len(flat) == 1 or share >= _FEWEST):
                return
        if len(flat) > 1 or not padding:
            break
        flat |= set(padding)
    raise InputError(f"'{name}' looks like an image of labels (flat areas of equal value): choose the raw image.")


def _count_flat(windows: list[NDArray[Any]], axis: int, without: set[Any]) -> tuple[int, int]:
    """Return how many pixels are like the next one along an axis, and how many were looked at."""
    same = counted = 0
    for window in windows:
        lines = np.moveaxis(window, axis, 0)
        inside = np.logical_and.reduce([lines[:-1] != value for value in without])
        same += int(np.count_nonzero((lines[1:] == lines[:-1]) & inside))
        counted += int(np.count_nonzero(inside))
    return same, counted


def _most_common(windows: Sequence[NDArray[Any]]) -> Any:
    """Return the value that comes most often, the lowest of several."""
    dtype = windows[0].dtype
    if dtype.itemsize <= 2 and dtype.kind == "u":
        counts = np.zeros(np.iinfo(dtype).max + 1, np.int64)
        for window in windows:  # one by one: numpy copies what it counts as int64
            counts += np.bincount(window.ravel(), minlength=len(counts))
        return dtype.type(counts.argmax())
    found, counts = np.unique(np.concatenate([window.ravel() for window in windows]), return_counts=True)
    return found[counts.argmax()]


def _without_rest(
    values: NDArray[Any],
    axes: str,
    limits: tuple[float | None, float | None],
    padding: tuple[float | None, ...],
    flat: float | None,
) -> NDArray[np.float32]:
    """Return `values` with NaN where padding and outliers are."""
    kept = values.astype(np.float32)
    planes = [axes.index("Y"), axes.index("X")]
    mask = find_mask(np.moveaxis(values, planes, [-2, -1])[None], padding, flat)
    if mask is not None:
        np.moveaxis(kept, planes, [-2, -1])[mask] = np.nan
    low, high = limits
    if low is not None:
        kept[kept < low] = np.nan
    if high is not None:
        kept[kept > high] = np.nan
    return kept
