"""Shapes carried between slices: from two painted slices to those between them, by their signed distances.

Parts of the two slices that belong together are found first. Their signed distances are averaged with the weights of a
slice, and the part lies where the average is positive (Herman et al. 1992, doi:10.1109/38.135915). Parts that do not
overlap are moved over one another first: without that, they would vanish between. Parts that overlap are not: on
mitochondria and neurons moving their centres made the error larger (benchmarks/between_slices.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.scores.distances import distance_to_edge

LONGEST_GAP = 64
"""Slices between two painted ones, at most; shapes that are painted farther apart are not carried."""

_TOUCHING = np.ones((3, 3), int)
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class CarriedGap:
    """The shape on the slices between two painted ones.

    start: the number of the first of these slices. masks: (slices, rows, columns), in the box of the shape. left_out:
    parts of both painted slices that have no counterpart on the other one, and were not carried.
    """

    start: int
    rows: slice
    columns: slice
    masks: Mask
    left_out: int

    @property
    def slices(self) -> range:
        """The numbers of these slices."""
        return range(self.start, self.start + len(self.masks))


def iter_carried(
    read: Callable[[int], Mask], painted: Iterable[int], pixel: tuple[float, float] = (1.0, 1.0)
) -> Iterator[CarriedGap]:
    """Yield the shape between each two painted slices that follow one another, if there are slices between.

    read: returns the shape on a slice, (Y, X). painted: the numbers of the painted slices. pixel: its sides (y, x), in
    one unit.

    Raises:
        InputError: fewer than two slices are painted, none lies between two of them, or they are too far apart.
    """
    painted = sorted(set(painted))
    pairs = [(first, last) for first, last in pairwise(painted) if 1 < last - first <= LONGEST_GAP + 1]
    if not pairs:
        raise InputError(describe_missing(painted))
    for first, last in pairs:
        ends = read(first), read(last)
        rows, columns = box_around(ends[0] | ends[1])
        masks, left_out = between(ends[0][rows, columns], ends[1][rows, columns], last - first - 1, pixel)
        yield CarriedGap(first + 1, rows, columns, masks, left_out)


def carry_shapes(masks: Mask, painted: Sequence[int], pixel: tuple[float, float] = (1.0, 1.0)) -> Mask:
    """Return the shapes on all slices between painted ones, in the shape of `masks`; nothing on the painted slices.

    masks: (slices, Y, X); only painted slices are read. painted, pixel: as in `iter_carried`.

    Raises:
        InputError: as `iter_carried`.
    """
    carried = np.zeros_like(masks)
    for gap in iter_carried(lambda z: masks[z], painted, pixel):
        carried[gap.start : gap.start + len(gap.masks), gap.rows, gap.columns] = gap.masks
    return carried


def describe_missing(painted: Sequence[int]) -> str:
    """Return why nothing can be carried between these painted slices."""
    if not painted:
        return "Nothing is painted here: paint the shape on two slices, with slices between them."
    if len(painted) == 1:
        return f"Only slice {painted[0]} is painted: paint the shape on another slice too."
    if all(last - first == 1 for first, last in pairwise(painted)):
        return f"Slices {painted[0]} to {painted[-1]} are all painted: there is no slice between them."
    return f"The painted slices are more than {LONGEST_GAP} slices apart: paint one between them."


def box_around(mask: Mask) -> tuple[slice, slice]:
    """Return the rows and columns around a mask (Y, X); both are empty if it is."""
    sides = []
    for axis in (1, 0):
        there = np.flatnonzero(mask.any(axis=axis))
        sides.append(slice(int(there[0]), int(there[-1]) + 1) if len(there) else slice(0, 0))
    return sides[0], sides[1]


def between(first: Mask, last: Mask, count: int, pixel: tuple[float, float] = (1.0, 1.0)) -> tuple[Mask, int]:
    """Return the shape on `count` slices between two, shape (count, Y, X); and how many parts have no counterpart.

    first, last: (Y, X).
    """
    found = np.zeros((count, *first.shape), np.bool_)
    groups, alone = matched_parts(first, last, pixel)
    for group in groups:
        # room for the shape when it is moved, so that the border of the box is no border of the shape
        ends = [np.pad(each, 1) for each in (group.first, group.last)]
        way = np.zeros(2)
        if not (ends[0] & ends[1]).any():
            centers = [np.array([places.mean() for places in np.nonzero(each)]) for each in ends]
            way = centers[1] - centers[0]
        distances = [signed_distance(each, pixel) for each in ends]
        for number in range(count):
            share = (number + 1) / (count + 1)
            moved = [_moved(distances[0], share * way), _moved(distances[1], (share - 1) * way)]
            found[number, group.rows, group.columns] |= ((1 - share) * moved[0] + share * moved[1] > 0)[1:-1, 1:-1]
    return found, alone


def _moved(distance: NDArray[np.float32], way: NDArray[np.float64]) -> NDArray[np.float32]:
    from scipy.ndimage import shift

    return distance if not way.any() else np.asarray(shift(distance, way, order=1, mode="nearest"))


def signed_distance(mask: Mask, pixel: tuple[float, float] = (1.0, 1.0)) -> NDArray[np.float32]:
    """Return the distance to the edge of a mask in units of a pixel along X: positive inside, negative outside."""
    spacing, farthest = (
        (0.0, pixel[0] / pixel[1], 1.0),
        float(np.hypot(mask.shape[0] * pixel[0] / pixel[1], mask.shape[1])),
    )
    inside, outside = (distance_to_edge(each[None], spacing, farthest)[0] for each in (mask, ~mask))
    return np.asarray(inside - outside, np.float32)


@dataclass(frozen=True, eq=False)
class MatchedParts:
    """Parts of two slices that belong together, both in the box around all of them."""

    rows: slice
    columns: slice
    first: Mask
    last: Mask


def matched_parts(first: Mask, last: Mask, pixel: tuple[float, float]) -> tuple[list[MatchedParts], int]:
    """Return the parts of two slices that belong together, and how many parts have no counterpart.

    Parts that overlap belong together, also several: a part may divide. A part that overlaps none belongs to the
    nearest one of the other slice, if the gap between them is no wider than the part.
    """
    from scipy.ndimage import find_objects, label
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    (ones, count), (others, other_count) = (label(each, _TOUCHING) for each in (first, last))
    links = _overlaps(ones, others, other_count)
    links |= {(part, near) for part, near in _nearest_parts(ones, count, others, {one for one, _ in links}, pixel)}
    links |= {
        (near, part) for part, near in _nearest_parts(others, other_count, ones, {each for _, each in links}, pixel)
    }
    if not links:
        return [], count + other_count
    ends = np.array(sorted(links), np.int32) - 1  # of 64 bits, scipy 1.11 finds no components and raises no error
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], count + ends[:, 1])), shape=[count + other_count] * 2)
    _, group = connected_components(graph, directed=False)
    numbers, sizes = np.unique(group, return_counts=True)
    boxes = [*find_objects(ones), *find_objects(others)]
    # a number no group has marks the background: each group is looked at in its own box only
    of_ones, of_others = (np.concatenate([[-1], each]) for each in (group[:count], group[count:]))
    groups = []
    for number in numbers[sizes > 1]:
        rows, columns = _around([boxes[part] for part in np.flatnonzero(group == number)])
        masks = (of_ones[ones[rows, columns]] == number, of_others[others[rows, columns]] == number)
        groups.append(MatchedParts(rows, columns, *masks))
    return groups, int((sizes == 1).sum())


def _around(boxes: Sequence[tuple[slice, slice]]) -> tuple[slice, slice]:
    """Return the box around some boxes."""
    rows, columns = (
        slice(min(side.start for side in sides), max(side.stop for side in sides)) for sides in zip(*boxes, strict=True)
    )
    return rows, columns


def _overlaps(ones: NDArray[np.int32], others: NDArray[np.int32], other_count: int) -> set[tuple[int, int]]:
    """Return which parts of two slices overlap."""
    keys = (ones.astype(np.int64) * (other_count + 1) + others)[(ones > 0) & (others > 0)]
    keys = keys[np.diff(keys, prepend=-1) != 0]  # one of each run: sorting all pixels takes longer than the distances
    return {divmod(key, other_count + 1) for key in np.unique(keys).tolist()}


def _nearest_parts(
    labels: NDArray[np.int32], count: int, others: NDArray[np.int32], linked: set[int], pixel: tuple[float, float]
) -> Iterator[tuple[int, int]]:
    """Yield each part without a link, with the nearest part of the other slice, if that is near."""
    from scipy.ndimage import distance_transform_edt

    free = [part for part in range(1, count + 1) if part not in linked]
    if not free or not others.any():
        return
    distance, near = distance_transform_edt(others == 0, sampling=pixel, return_indices=True)
    for part in free:
        places = np.flatnonzero(labels == part)
        closest = places[distance.ravel()[places].argmin()]
        diameter = 2 * np.sqrt(len(places) * pixel[0] * pixel[1] / np.pi)
        if distance.ravel()[closest] <= diameter:
            rows, columns = near
            yield part, int(others[rows.ravel()[closest], columns.ravel()[closest]])
