"""The search for uncertain regions: where a network is least sure, spread over the stack."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.stack import ArrayLike
from napari_skipseg.progress import Progress

_DONE = 0.5
"""Share of a block from which on it counts as looked at."""

_LEAST = 1e-3
"""Score below which a block is not worth a look."""

NEAR = 0.05
"""Share of the slices within which a slice counts less because a chosen one is near."""


@dataclass(frozen=True)
class UncertainRegion:
    """A block that is worth a look.

    center, box: in voxels along the axes of the stack without C. score: mean entropy in bits, or mean standard
    deviation. reason: the score in words.
    """

    center: tuple[int, ...]
    box: tuple[tuple[int, int], ...]
    score: float
    reason: str


def iter_rank_regions(
    probability: ArrayLike,
    axes: str,
    class_names: Sequence[str],
    reviewed: ArrayLike,
    uncertainty: ArrayLike | None = None,
    strokes: ArrayLike | None = None,
    count: int = 40,
    side: int = 128,
    weights: Sequence[float] | None = None,
) -> Generator[Progress, None, tuple[UncertainRegion, ...]]:
    """Return up to `count` blocks of one slice, those most worth a look first; yield after each slice.

    The score of a block is the mean standard deviation of the copies if `uncertainty` is given, else the mean entropy
    of the probability. Slices near a chosen one count less, and the same block there least. Blocks that are half
    reviewed or painted are skipped, and so are blocks of which the network is sure.

    probability, uncertainty: (classes, *space) or (*space), read a band at a time; integers stand for 0 to 1.
    axes: of space, C left out or in front. reviewed, strokes: (*space), not 0 where that was done.
    side: of a block, in pixels; the blocks of a slice have about the same size.
    weights: of each class, as many as `class_names`; None = all the same.

    Raises:
        InputError: the shapes do not fit.
    """
    shape = tuple(int(n) for n in reviewed.shape)
    measured = probability if uncertainty is None else uncertainty
    for array in (probability, measured):
        if tuple(array.shape)[-len(shape) :] != shape or len(shape) != len(axes.replace("C", "")):
            raise InputError(f"The result has the shape {tuple(array.shape)}, the image {shape}: segment it again.")
    rows, columns, planes = _parts(shape[-2], side), _parts(shape[-1], side), list(np.ndindex(*shape[:-2]))
    entropies = _ClassEntropies(measured, len(shape), uncertainty is None)
    scores = np.zeros((len(planes), len(rows), len(columns), entropies.classes), np.float32)
    for done, plane in enumerate(planes):
        for row, (top, bottom) in enumerate(rows):
            found = entropies.read((*plane, slice(top, bottom), slice(0, shape[-1])))
            for column, (left, right) in enumerate(columns):
                block = (*plane, slice(top, bottom), slice(left, right))
                seen = np.asarray(reviewed[block]) > 0
                if strokes is not None:
                    seen |= np.asarray(strokes[block]) > 0
                if seen.mean() < _DONE:
                    scores[done, row, column] = found[:, :, left:right].mean(axis=(1, 2))
        yield Progress(done + 1, len(planes), "looking for places")
    has_weights = weights is not None and len(weights) == entropies.classes
    worth = scores * np.asarray(weights if has_weights else np.ones(entropies.classes), np.float32)
    regions: list[UncertainRegion] = []
    for z, y, x in _choose(worth.sum(axis=-1), count):
        sides = planes[z], rows[y], columns[x]
        regions.append(_describe(scores[z, y, x], sides, class_names, uncertainty is None))
    return tuple(regions)


class _ClassEntropies:
    """The share of each class in the entropy in bits, or in the mean deviation: (classes, rows, columns).

    The share of the background is split evenly over the classes.
    """

    def __init__(self, data: ArrayLike, dimensions: int, is_probability: bool) -> None:
        self._data, self._has_classes, self._is_probability = data, len(data.shape) > dimensions, is_probability
        self.classes = int(data.shape[0]) if self._has_classes else 1

    def read(self, band: tuple[int | slice, ...]) -> NDArray[np.float32]:
        stored: NDArray[Any] = np.asarray(self._data[(slice(None), *band) if self._has_classes else band])
        full = float(np.iinfo(stored.dtype).max) if stored.dtype.kind in "iu" else 1.0
        values = (stored if self._has_classes else stored[None]).astype(np.float32) / np.float32(full)
        if not self._is_probability:
            return values / np.float32(len(values))
        rest = np.clip(1 - values.sum(axis=0, keepdims=True), 0, 1)
        return _bits(values) + _bits(rest) / np.float32(len(values))


def _bits(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return -values * np.log2(np.clip(values, np.float32(1e-7), 1))


def _parts(length: int, side: int) -> list[tuple[int, int]]:
    """Return the ends of parts of about the same length, of at most `side`."""
    number = math.ceil(length / side)
    return [(length * part // number, length * (part + 1) // number) for part in range(number)]


def _choose(scores: NDArray[np.float32], count: int) -> list[tuple[int, int, int]]:
    """Return the best blocks one by one; each choice lowers the scores of the blocks near it."""
    chosen: list[tuple[int, int, int]] = []
    left = np.where(scores >= _LEAST, scores, 0)
    slices = np.arange(len(scores))
    reach = max(1.0, NEAR * len(scores))
    while len(chosen) < count and left.max(initial=0) > 0:
        plane, row, column = (int(n) for n in np.unravel_index(int(left.argmax()), left.shape))
        chosen.append((plane, row, column))
        near = np.exp(-np.abs(slices - plane) / reach).astype(np.float32)
        left *= (1 - near / 2)[:, None, None]
        left[:, row, column] *= 1 - near
        left[plane, row, column] = 0
    return chosen


def _describe(
    scores: NDArray[np.float32],
    block: tuple[tuple[int, ...], tuple[int, int], tuple[int, int]],
    class_names: Sequence[str],
    is_entropy: bool,
) -> UncertainRegion:
    """Return the description of a block. scores: of each class."""
    plane, rows, columns = block
    box = (*((n, n + 1) for n in plane), rows, columns)
    center = tuple((low + high) // 2 for low, high in box)
    about = f" about {class_names[int(scores.argmax())]}" if 1 < len(class_names) == len(scores) else ""
    score = float(scores.sum())
    reason = f"unsure{about} ({score:.2f})" if is_entropy else f"copies disagree{about} (±{score:.2f})"
    return UncertainRegion(center, box, score, reason)
