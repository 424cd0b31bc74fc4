"""Arrays that are assigned to the layer of strokes: checked, and written into the corrections where they differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from napari_skipseg.corrections.coding import BACKGROUND, NOT_LOOKED_AT
from napari_skipseg.corrections.store import Corrections
from napari_skipseg.errors import InputError


def take_over(corrections: Corrections, data: Any) -> None:
    """Write `data`, an array of strokes, into the corrections; what is the same is not written again.

    Raises:
        InputError: it has another shape or type, or a value that no class has; then nothing was written.
    """
    strokes = corrections.strokes
    shape, kept = tuple(getattr(data, "shape", ())), "Your corrections are as they were"
    if shape != tuple(strokes.shape):
        raise InputError(f"{kept}: the new array has the shape {shape}, the image {tuple(strokes.shape)}.")
    if np.dtype(data.dtype).kind not in "bui":
        raise InputError(f"{kept}: the new array holds {data.dtype} values, corrections are whole numbers from 0.")
    known = [NOT_LOOKED_AT, BACKGROUND, *(each.value for each in corrections.classes)]
    for place in _planes(shape):
        strange = np.setdiff1d(np.asarray(data[place]), known)
        if strange.size:
            raise InputError(f"{kept}: no class has the value {strange[0]}; add one with + first.")
    for place in _planes(shape):
        new, old = np.asarray(data[place]).astype(np.uint8), np.asarray(strokes[place])
        rows, columns = np.nonzero(new != old)
        if rows.size:
            part = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
            strokes[(*place, *part)] = new[part]


def _planes(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the place of each plane along the axes before the last two."""
    yield from (tuple(int(part) for part in place) for place in np.ndindex(*shape[:-2]))
