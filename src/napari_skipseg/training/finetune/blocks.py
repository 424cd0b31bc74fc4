"""Where labels lie: blocks of an image with labels, how many of which class, and which of them are held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

CELL = 16
"""Side of the cells that labels are first counted in, in voxels."""
SIDES = {2: (128, 64, 32), 3: (32, 16)}
"""Sides of a place by dimensions: the first that parts the labels of every class."""
FEWEST_PLACES = 5
_HELD_OUT = 0.2
KEYS = 6
"""Columns of a census before the counts: image, T, Z in voxels, Y and X in cells, and the run of its slice."""


@dataclass(frozen=True)
class LabelledBlock:
    """A block with labels: of image number `image`, at `time`, between (start, stop) along Z, Y and X.

    counts: labelled voxels of the background and of each class of the labels.
    """

    image: int
    time: int
    box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Split:
    """The places to train on and those held out.

    painted: which of the first columns of their counts follow once more, of the painted voxels alone; none where all
    labels were painted.
    """

    training: tuple[LabelledBlock, ...]
    held_out: tuple[LabelledBlock, ...]
    painted: tuple[int, ...] = ()


def count_cells(plane: NDArray[np.uint8], corner: tuple[int, int], values: Sequence[int]) -> NDArray[np.int64]:
    """Return a row (cell along Y, cell along X, voxels of each of `values`) for every cell with one of them.

    plane: labels (Y, X) of a part that begins at `corner` of its slice.
    """
    cuts = [_cuts(start, length) for start, length in zip(corner, plane.shape, strict=True)]
    counts = np.stack([_sums(plane == value, cuts) for value in values], axis=-1)
    rows = np.argwhere(counts.any(axis=-1))
    cells = rows + np.array([start // CELL for start in corner])
    return np.concatenate([cells, counts[rows[:, 0], rows[:, 1]]], axis=1)


def _cuts(start: int, length: int) -> NDArray[np.intp]:
    """Return where cells begin in a part of `length` voxels from `start` on."""
    return np.concatenate([[0], np.arange(CELL - start % CELL, length, CELL)]).astype(np.intp)


def _sums(mask: NDArray[np.bool_], cuts: list[NDArray[np.intp]]) -> NDArray[np.int64]:
    rows = np.add.reduceat(mask, cuts[0], axis=0, dtype=np.int64)
    sums: NDArray[np.int64] = np.add.reduceat(rows, cuts[1], axis=1)
    return sums


def part_places(
    census: NDArray[np.int64], dimensions: int, sizes: Mapping[int, tuple[int, int, int]], chosen: bool, seed: int
) -> Split:
    """Return the places of a census of cells, split into those to train on and those held out.

    census: rows of `KEYS` columns and the counts. sizes: (Z, Y, X) of each image. chosen: slices were named to be held
    out, those whose run is odd; else about a fifth of the places is, drawn with `seed`, at least one of every class
    that lies in two places or more, and never the last one of a class.
    """
    if chosen:
        held = census[:, 5] % 2 > 0
        side = SIDES[dimensions][0]
        return Split(_gather(census[~held], dimensions, side, sizes), _gather(census[held], dimensions, side, sizes))
    places: tuple[LabelledBlock, ...] = ()
    for side in SIDES[dimensions]:
        places = _gather(census, dimensions, side, sizes)
        spread = np.count_nonzero([place.counts for place in places], axis=0)
        if len(places) >= FEWEST_PLACES and np.all(spread >= 2):
            break
    held_out = _draw_held_out(places, seed)
    return Split(
        tuple(place for number, place in enumerate(places) if number not in held_out),
        tuple(place for number, place in enumerate(places) if number in held_out),
    )


def _gather(
    census: NDArray[np.int64], dimensions: int, side: int, sizes: Mapping[int, tuple[int, int, int]]
) -> tuple[LabelledBlock, ...]:
    """Return the places of `side` that the cells of a census lie in, in their order."""
    if not len(census):
        return ()
    keys = census[:, :KEYS].copy()
    keys[:, 3:5] //= side // CELL
    if dimensions == 3:
        keys[:, 2] //= side
    found, where = np.unique(keys, axis=0, return_inverse=True)
    counts = np.zeros((len(found), census.shape[1] - KEYS), np.int64)
    np.add.at(counts, where.ravel(), census[:, KEYS:])
    deepest = np.full(len(found), -1)
    first = np.full(len(found), np.iinfo(np.int64).max)
    np.maximum.at(deepest, where.ravel(), census[:, 2])
    np.minimum.at(first, where.ravel(), census[:, 2])
    places = []
    for key, row, start, stop in zip(found.tolist(), counts.tolist(), first.tolist(), deepest.tolist(), strict=True):
        image, time, _, y, x, _ = key
        _, height, width = sizes[image]
        box = ((start, stop + 1), (y * side, min(height, y * side + side)), (x * side, min(width, x * side + side)))
        places.append(LabelledBlock(image, time, box, tuple(row)))
    return tuple(places)


def _draw_held_out(places: tuple[LabelledBlock, ...], seed: int) -> set[int]:
    """Return the numbers of the places to hold out."""
    order = np.random.default_rng(seed).permutation(len(places)).tolist()
    there = np.array([place.counts for place in places]) > 0
    left = there.sum(axis=0)
    held: set[int] = set()
    held_by_class = np.zeros_like(left)

    def hold(number: int) -> bool:
        nonlocal left, held_by_class
        if number in held or np.any(there[number] & (left < 2)):
            return False
        held.add(number)
        left, held_by_class = left - there[number], held_by_class + there[number]
        return True

    for column in np.argsort(left).tolist():  # the rarest first
        wanted = max(1, round(_HELD_OUT * int(there[:, column].sum())))
        for number in order:
            if held_by_class[column] >= wanted:
                break
            if there[number, column]:
                hold(number)
    for number in order:
        if len(held) >= round(_HELD_OUT * len(places)):
            break
        hold(number)
    return held


class Counted(Protocol):
    """Anything with a count of each label in it."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Voxels of the background and of each class."""


AnyCounted = TypeVar("AnyCounted", bound=Counted)


def thinned(places: tuple[AnyCounted, ...], most: int, seed: int) -> tuple[AnyCounted, ...]:
    """Return at most `most` of the places: as many of each class as of the others, as far as there are, then others."""
    if len(places) <= most:
        return places
    order = np.random.default_rng(seed).permutation(len(places)).tolist()
    there = np.array([place.counts for place in places]) > 0
    chosen: dict[int, None] = {}
    for column in range(there.shape[1]):
        chosen |= dict.fromkeys([number for number in order if there[number, column]][: most // there.shape[1]])
    chosen |= dict.fromkeys(order)
    return tuple(places[number] for number in sorted(list(chosen)[:most]))


def total(places: Sequence[LabelledBlock], columns: int) -> tuple[int, ...]:
    """Return the labelled voxels of the background and of each class in all `places`."""
    return tuple(sum(place.counts[column] for place in places) for column in range(columns))


def slices_of(places: Sequence[LabelledBlock]) -> Iterator[tuple[int, int, int]]:
    """Yield (image, time, z) of every slice that a place lies in, once each."""
    yield from sorted({(p.image, p.time, z) for p in places for z in range(*p.box[0])})
