"""Strokes of a class carried between slices: where they would go, and the change that puts them there."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.corrections.between_slices import Mask, iter_carried
from napari_skipseg.corrections.sparse_array import SparseArray
from napari_skipseg.corrections.store import Corrections
from napari_skipseg.errors import InputError
from napari_skipseg.progress import Progress

ONE_SLICE = "This image has no slices along Z: shapes are carried between the slices of a stack."


@dataclass(frozen=True, eq=False)
class CarriedStrokes:
    """Strokes that were carried, and not written yet.

    array: of the shape of the corrections, the value where a stroke goes. value, time: the class, the place along T.
    slices: those that were carried. left_out: parts without a counterpart. version: of the corrections that were read.
    earlier: the slices that an earlier carry had filled, which are replaced.
    """

    array: SparseArray
    value: int
    time: int
    slices: tuple[int, ...]
    left_out: int
    version: int
    earlier: tuple[int, ...] = ()


@dataclass
class CarriedBefore:
    """What was carried in this session, by value and time: the pixels of each slice as flat numbers.

    A slice that is still as it was carried counts as not painted, so that it is carried again from its neighbours.
    """

    _known: dict[tuple[int, int], dict[int, NDArray[np.int64]]] = field(default_factory=dict)

    def of(self, value: int, time: int) -> Mapping[int, NDArray[np.int64]]:
        """Return the pixels of each carried slice."""
        return self._known.get((value, time), {})

    def keep(self, carried: CarriedStrokes, axes: str) -> None:
        """Remember what was carried."""
        known = self._known.setdefault((carried.value, carried.time), {})
        for z in carried.slices:
            known[z] = np.flatnonzero(carried.array[place_of(axes, carried.time, z)])


def place_of(axes: str, time: int, z: int) -> tuple[int | slice, ...]:
    """Return the index of a slice in corrections with these axes."""
    places: dict[str, int] = {"T": time, "Z": z}
    return tuple(places.get(axis, slice(None)) for axis in axes)


def painted_slices(strokes: SparseArray, axes: str, time: int, value: int) -> tuple[int, ...]:
    """Return the slices on which a value is painted, at one time."""
    found = set()
    for number in sorted(strokes.chunk_numbers()):
        place = dict(zip(axes, number, strict=True))
        if place.get("T", 0) == time and place["Z"] not in found and (strokes.read_chunk(number) == value).any():
            found.add(place["Z"])
    return tuple(sorted(found))


def iter_carry_strokes(
    corrections: Corrections, value: int, time: int, before: CarriedBefore
) -> Generator[Progress, None, CarriedStrokes]:
    """Yield while the shapes of a class are carried; return them. Nothing is written.

    Nothing is put over other strokes, or where a result was accepted.

    Raises:
        InputError: the image has no Z axis, or as `between_slices.iter_carried`.
    """
    space, strokes, version = corrections.subject.space, corrections.strokes, corrections.version
    axes = space.axes
    if "Z" not in axes:
        raise InputError(ONE_SLICE)

    def read(z: int) -> Mask:
        return np.asarray(strokes[place_of(axes, time, z)] == value)

    known = before.of(value, time)
    all_painted = painted_slices(strokes, axes, time, value)
    earlier = {z for z in all_painted if z in known and np.array_equal(np.flatnonzero(read(z)), known[z])}
    painted = [z for z in all_painted if z not in earlier]
    array, left_out = SparseArray(strokes.shape), 0
    slices: list[int] = []
    for number, gap in enumerate(iter_carried(read, painted, (space.size_along("Y"), space.size_along("X")))):
        yield Progress(number, max(1, len(painted) - 1), f"carrying to slices {gap.slices[0]} to {gap.slices[-1]}")
        for z, mask in zip(gap.slices, gap.masks, strict=True):
            index = tuple(
                {"Y": gap.rows, "X": gap.columns}.get(axis, part)
                for axis, part in zip(axes, place_of(axes, time, z), strict=True)
            )
            there = np.asarray(strokes[index])
            free = (there == 0) | ((there == value) & (z in earlier))
            array[index] = np.where(mask & free & (np.asarray(corrections.reviewed[index]) == 0), value, 0)
        left_out += gap.left_out
        slices.extend(gap.slices)
    replaced = tuple(sorted(earlier.intersection(slices)))
    return CarriedStrokes(array, value, time, tuple(slices), left_out, version, replaced)


def changed_voxels(
    carried: CarriedStrokes, corrections: Corrections
) -> tuple[tuple[NDArray[np.int64], ...], NDArray[np.uint8]]:
    """Return the voxels that carried strokes change, as an index of the array, and their new values."""
    axes = corrections.subject.space.axes
    places, values = [], []
    for z in carried.slices:
        index = place_of(axes, carried.time, z)
        new = np.asarray(carried.array[index])
        changed = new > 0
        if z in carried.earlier:
            changed |= np.asarray(corrections.strokes[index]) == carried.value
        rows, columns = np.nonzero(changed)
        fixed = {"T": np.full(len(rows), carried.time), "Z": np.full(len(rows), z), "Y": rows, "X": columns}
        places.append([fixed[axis] for axis in axes])
        values.append(new[rows, columns])
    return tuple(np.concatenate(side) for side in zip(*places, strict=True)), np.concatenate(values)
