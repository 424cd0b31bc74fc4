"""Normalisation: a stack's mean and standard deviation, measured once on a seeded sample of its slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
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


def measure(stack: Stack, seed: int = 0) -> Normalization:
    """Return the mean and standard deviation of up to 32 slices (of up to 1024² pixels each) drawn with `seed`.

    Raises:
        InputError: NaN or infinite values, a constant image, or an image of labels instead of grey values.
    """
    generator = np.random.default_rng(seed)
    places = list(stack.slices("YX"))
    if len(places) > SAMPLED_SLICES:
        chosen = np.sort(generator.choice(len(places), SAMPLED_SLICES, replace=False))
        places = [places[number] for number in chosen]
    windows = [_window(stack, place, generator) for place in places]
    values = np.concatenate([window.ravel() for window in windows])
    check_values(values, stack.name)
    check_not_labels(windows, stack.name)
    mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    return Normalization(mean, deviation)


def check_values(values: NDArray[Any], name: str) -> None:
    """Raise InputError where `values` cannot be an image's grey values."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"'{name}' holds NaN or infinite values: replace them (numpy.nan_to_num) and try again.")
    lowest, highest = values.min(), values.max()
    if lowest == highest:
        raise InputError(f"'{name}' is constant (every value is {lowest}): there is nothing to segment.")
    if bool(np.isin(values, (lowest, highest)).all()):
        raise InputError(
            f"'{name}' holds only two values ({lowest} and {highest}): it looks like a mask of labels. "
            "Choose the raw image."
        )


def check_not_labels(windows: list[NDArray[Any]], name: str) -> None:
    """Raise InputError where 2D `windows` of whole numbers are flat areas: labels of classes or of instances."""
    if windows[0].dtype.kind not in "ui":
        return
    examined = windows[:: -(-len(windows) // EXAMINED_SLICES)]
    values, counts = np.unique(np.concatenate([window.ravel() for window in examined]), return_counts=True)
    background = values[counts.argmax()]
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


def _window(stack: Stack, place: tuple[int | slice, ...], generator: np.random.Generator) -> NDArray[Any]:
    """Return one slice, or a window of `SAMPLED_SIDE`² pixels of it drawn at random."""
    index = list(place)
    for axis in "YX":
        length = stack.length(axis)
        start = int(generator.integers(0, max(1, length - SAMPLED_SIDE + 1)))
        index[stack.axes.index(axis)] = slice(start, min(start + SAMPLED_SIDE, length))
    return stack.read(tuple(index))
