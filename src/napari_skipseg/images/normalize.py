"""Normalisation: a stack's mean and standard deviation, measured once on a seeded sample of its slices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.resample import resample_axis, source_range
from napari_skipseg.images.stack import Stack

SAMPLED_SLICES = 32
SAMPLED_SIDE = 1024
EXAMINED_SLICES = 8
"""How many of the sampled slices are examined for looking like labels."""
FLAT = 0.8
"""Share of pixels like their neighbours from which on an image of whole numbers is taken for labels.

Only pixels that differ from the most common value count. Measured: labels of nuclei, neurites and mitochondria
0.87-0.98, raw EM and fluorescence below 0.06, EM cut down to 4 grey levels 0.71, EM enlarged
fourfold by repeating pixels 0.76."""


@dataclass(frozen=True)
class Normalization:
    """Grey values become `(value - mean) / deviation`: one pair for a whole stack, kept in its recipe."""

    mean: float
    deviation: float

    def apply(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return `values` in standard units, float32."""
        normalized: NDArray[np.float32] = (values.astype(np.float32) - np.float32(self.mean)) / np.float32(
            self.deviation
        )
        return normalized


@dataclass(frozen=True)
class GreyStatistics:
    """How a stack's grey values are normalised, and in sentences what was found about them.

    findings: what a user should know, such as what was left out of the statistics.
    """

    normalization: Normalization
    findings: tuple[str, ...] = ()


def measure(stack: Stack, seed: int = 0, lengths: Mapping[str, int] | None = None) -> Normalization:
    """Return the normalisation of `measure_greys`, without what was found."""
    return measure_greys(stack, seed, lengths).normalization


def measure_greys(stack: Stack, seed: int = 0, lengths: Mapping[str, int] | None = None) -> GreyStatistics:
    """Return the mean and standard deviation of up to 32 slices (of up to 1024² pixels each) drawn with `seed`.

    lengths: by axis, of the grid that a network sees, where that is another than the stack's own: its voxels are then
    what is measured, since those of means of several differ less.

    Raises:
        InputError: NaN or infinite values, a constant image, or an image of labels instead of grey values.
    """
    windows = _draw(stack, seed, {})
    values = np.concatenate([window.ravel() for window in windows])
    check_values(values, stack.name)
    check_not_labels(windows, stack.name)
    if lengths and any(stack.length(axis) != length for axis, length in lengths.items()):
        values = np.concatenate([window.ravel() for window in _draw(stack, seed, lengths)])
        check_values(values, stack.name)
    mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    return GreyStatistics(Normalization(mean, deviation))


def _draw(stack: Stack, seed: int, lengths: Mapping[str, int]) -> list[NDArray[Any]]:
    """Return 2D windows of slices drawn at random, on a grid of other `lengths` along some axes."""
    generator = np.random.default_rng(seed)
    shape = {axis: lengths.get(axis, stack.length(axis)) for axis in stack.axes}
    loops = {axis: length for axis, length in shape.items() if axis not in "YX"}
    count = math.prod(loops.values())
    numbers = np.arange(count)
    if count > SAMPLED_SLICES:
        numbers = np.sort(generator.choice(count, SAMPLED_SLICES, replace=False))
    windows = []
    for number in numbers:
        place = np.unravel_index(number, tuple(loops.values())) if loops else ()
        ranges = {axis: (int(at), int(at) + 1) for axis, at in zip(loops, place, strict=True)}
        for axis in "YX":
            start = int(generator.integers(0, max(1, shape[axis] - SAMPLED_SIDE + 1)))
            ranges[axis] = (start, min(start + SAMPLED_SIDE, shape[axis]))
        windows.append(_window(stack, shape, ranges))
    return windows


def check_values(values: NDArray[Any], name: str) -> None:
    """Raise InputError where `values` cannot be an image's grey values."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"'{name}' holds NaN or infinite values: replace them (numpy.nan_to_num) and try again.")
    lowest, highest = values.min(), values.max()
    if lowest == highest:
        raise InputError(f"'{name}' is constant (every value is {lowest}): there is nothing to segment.")
    if not ((values != lowest) & (values != highest)).any():  # np.isin takes ten times as long
        raise InputError(
            f"'{name}' holds only two values ({lowest} and {highest}): it looks like a mask of labels. "
            "Choose the raw image."
        )


def check_not_labels(windows: list[NDArray[Any]], name: str) -> None:
    """Raise InputError where 2D `windows` of whole numbers are flat areas: labels of classes or of instances."""
    if windows[0].dtype.kind not in "ui":
        return
    examined = windows[:: -(-len(windows) // EXAMINED_SLICES)]
    background = _most_common(np.concatenate([window.ravel() for window in examined]))
    for axis in (0, 1):
        same = counted = 0
        for window in examined:
            lines = np.moveaxis(window, axis, 0)
            inside = lines[:-1] != background
            same += int(np.count_nonzero((lines[1:] == lines[:-1]) & inside))
            counted += int(np.count_nonzero(inside))
        if same <= FLAT * counted:
            return
    raise InputError(f"'{name}' looks like an image of labels (flat areas of equal value): choose the raw image.")


def _most_common(values: NDArray[Any]) -> Any:
    """Return the value that comes most often, the lowest of several."""
    if values.dtype.itemsize <= 2 and values.dtype.kind == "u":
        return values.dtype.type(np.bincount(values).argmax())
    found, counts = np.unique(values, return_counts=True)
    return found[counts.argmax()]


def _window(stack: Stack, shape: dict[str, int], ranges: dict[str, tuple[int, int]]) -> NDArray[Any]:
    """Return the values (2D) in `ranges` of a grid of `shape`, which are the stack's own where that is its grid."""
    places = {axis: np.arange(*ranges[axis]) for axis in stack.axes}
    step = {axis: stack.length(axis) / shape[axis] for axis in stack.axes}
    sources = {axis: source_range(step[axis], places[axis], stack.length(axis)) for axis in stack.axes}
    values = stack.read(tuple(slice(*sources[axis]) for axis in stack.axes))
    for number, axis in enumerate(stack.axes):
        if step[axis] != 1:
            values = resample_axis(
                values.astype(np.float32), number, sources[axis][0], stack.length(axis), step[axis], places[axis]
            )
    return values.reshape([len(places[axis]) for axis in stack.axes if axis in "YX"])
