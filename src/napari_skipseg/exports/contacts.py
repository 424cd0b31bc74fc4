"""Which objects touch, and how large the contact is; counted face by face, so the same for blocks of any size."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.exports.labels import BLOCK, BlockLabels, GroupedSums, ObjectCounts, ObjectLabels, Triple
from napari_skipseg.objects.table import ObjectTable
from napari_skipseg.progress import Progress
from napari_skipseg.scores.table import compiled

_SHARED = 3
"""The column of voxels that both objects have; those before it are faces across Z, Y and X."""


@dataclass(frozen=True)
class OtherLabels:
    """A second label image of the same voxels, and its name, which is the class of its objects in the table."""

    labels: ObjectLabels
    name: str


def iter_contacts(
    labels: ObjectLabels, other: OtherLabels | None, counts: ObjectCounts, size: Triple = BLOCK
) -> Generator[Progress, None, ObjectTable]:
    """Yield block by block; return a row for each pair of objects that touch.

    Within one image, the area is that of the faces between voxels of both. Between two images, it is that of the faces
    of an object whose other side belongs to the other object; so an object that lies inside of the other one has its
    whole surface there. The volume is that of the voxels that both have. A face counts with its area: the staircase
    of voxels, as Fiji and cc3d count, not a smoothed surface. In a plane, lengths take the place of areas. So
    they do for objects of each slice, whose contacts with those of the next slice do not count.

    Raises:
        InputError: the two images have different shapes or voxel sizes, or no labels.
    """
    if other is not None:
        _check_same_voxels(labels, other.labels)
    sums = GroupedSums(2, 4)
    for done, block in enumerate(blocks := labels.blocks(size)):
        yield Progress(done, len(blocks), "counting contacts")
        high = [min(stop + 1, length) for stop, length in zip(block.high, labels.shape, strict=True)]
        ours = labels.read(block.low, high)
        theirs = ours if other is None else other.labels.read(block.low, high)
        inner = [stop - start for start, stop in zip(block.low, block.high, strict=True)]
        for axis in range(1 if labels.are_of_slices else 0, 3):
            for keys, faces in _faces(ours, theirs, axis, inner, both_ways=other is not None):
                sums.add(_in_order(keys) if other is None else keys, _in_column(faces, axis))
        if other is not None:
            inside = tuple(slice(0, length) for length in inner)
            keys, voxels = _pair_runs(ours[inside], theirs[inside])
            sums.add(keys, _in_column(voxels, _SHARED))
    return _table(labels, other, *sums.total(), counts)


def _check_same_voxels(labels: ObjectLabels, other: ObjectLabels) -> None:
    if labels.shape != other.shape:
        raise InputError(
            f"'{other.name}' has {other.shape} voxels along Z, Y, X, '{labels.name}' has {labels.shape}: contacts need "
            "two label images of the same voxels."
        )
    ours, theirs = labels.space, other.space
    if ours.has_size and theirs.has_size and not np.allclose(ours.voxel_size, theirs.voxel_size_in(ours.unit), 1e-4):
        raise InputError(
            f"'{other.name}' and '{labels.name}' have different voxel sizes: give both with --voxel-size and --unit."
        )


def _faces(
    ours: BlockLabels, theirs: BlockLabels, axis: int, inner: list[int], both_ways: bool
) -> Generator[tuple[NDArray[np.uint64], NDArray[np.int64]], None, None]:
    """Yield pairs of labels on both sides of faces across an axis, with the number of faces."""
    near = [slice(0, length) for length in inner]
    last = min(inner[axis], ours.shape[axis] - 1)
    near[axis] = slice(0, last)
    far = list(near)
    far[axis] = slice(1, last + 1)
    a, b = ours[tuple(near)], ours[tuple(far)]
    yield _pair_runs(np.where(a != b, a, 0).astype(a.dtype), theirs[tuple(far)])
    if both_ways:
        yield _pair_runs(np.where(a != b, b, 0).astype(a.dtype), theirs[tuple(near)])


def _in_order(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return np.sort(keys, axis=1)


def _in_column(counts: NDArray[np.int64], column: int) -> NDArray[np.int64]:
    columns = np.zeros((len(counts), 4), np.int64)
    columns[:, column] = counts
    return columns


def _pair_runs(one: BlockLabels, other: BlockLabels) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return pairs of labels above 0 at the same voxels, and in how many voxels of a run they are."""
    one, other = np.ascontiguousarray(one), np.ascontiguousarray(other)
    count = _fill_pairs(one, other, np.empty((0, 2), np.uint64), np.empty(0, np.int64))
    keys, counts = np.empty((count, 2), np.uint64), np.empty(count, np.int64)
    _fill_pairs(one, other, keys, counts)
    return keys, counts


@compiled
def _fill_pairs(one: BlockLabels, other: BlockLabels, keys: NDArray[np.uint64], counts: NDArray[np.int64]) -> int:
    """Write the runs into `keys` and `counts` if there is room; return how many there are."""
    ours, theirs = one.reshape(-1), other.reshape(-1)
    found = end = 0
    while end < ours.size:
        begin, a, b = end, ours[end], theirs[end]
        end += 1
        if a == 0 or b == 0:
            continue
        while end < ours.size and ours[end] == a and theirs[end] == b:
            end += 1
        if found < len(keys):
            keys[found, 0], keys[found, 1] = a, b
            counts[found] = end - begin
        found += 1
    return found


def _table(
    labels: ObjectLabels,
    other: OtherLabels | None,
    keys: NDArray[np.uint64],
    sums: NDArray[np.int64],
    counts: ObjectCounts,
) -> ObjectTable:
    (deep, high, wide), unit = labels.space.voxel_size, labels.space.unit
    columns: dict[str, NDArray[Any]] = {"object": keys[:, 0]}
    if other is not None:
        columns["class"] = np.full(len(keys), other.name)
    columns |= {"touches": keys[:, 1], "faces": sums[:, :_SHARED].sum(axis=1)}
    if labels.are_of_slices:
        columns[f"length ({unit})"] = sums[:, 1] * wide + sums[:, 2] * high
    else:
        columns[f"area ({unit}²)"] = sums[:, :_SHARED] @ np.array([high * wide, deep * wide, deep * high])
    if other is not None:
        of_each = counts.voxels[np.searchsorted(counts.labels, keys[:, 0])] if len(keys) else np.ones(0)
        shared = sums[:, _SHARED]
        size, words = (high * wide, f"shared area ({unit}²)")
        if not labels.are_of_slices:
            size, words = (deep * high * wide, f"shared volume ({unit}³)")
        columns |= {"shared voxels": shared, words: shared * size, "share of the object": shared / of_each}
    return ObjectTable(tuple(columns), tuple(columns.values()))
