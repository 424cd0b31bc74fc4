"""napari's own brush, fill and polygon on objects under edit: a stroke becomes edits when it ends."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.stack import LazyArray, complete_index
from napari_skipseg.proofread.edits import Edit, Erase, Paint, Voxel, pack_mask
from napari_skipseg.proofread.state import ObjectsUnderEdit

Written = tuple[tuple[slice, ...], NDArray[np.uint32]]
"""A box of the array and its new values."""


class PaintableLabels(LazyArray):
    """Labels as a lazy view that can be written to. What is written lies over them until `take_stroke`."""

    def __init__(self, labels: LazyArray) -> None:
        self.labels = labels
        self.shape, self.dtype = labels.shape, labels.dtype
        self._written: list[Written] = []

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        values = np.array(self.labels[index])
        for written in self._written:
            _overlay(values, index, written, self.shape)
        return values

    def __setitem__(self, key: Any, value: Any) -> None:
        """Write values at a basic index, or at arrays of places as `np.nonzero` returns them."""
        parts = key if isinstance(key, tuple) else (key,)
        if any(isinstance(part, np.ndarray | list) for part in parts):
            places = np.broadcast_arrays(*(np.asarray(part) for part in parts))
            if not places[0].size:
                return
            low = [int(part.min()) for part in places]
            box = tuple(slice(first, int(part.max()) + 1) for first, part in zip(low, places, strict=True))
            new = np.array(self[box])
            new[tuple(part - first for part, first in zip(places, low, strict=True))] = value
        else:
            index = complete_index(key, self.shape)
            box = tuple(part if isinstance(part, slice) else slice(part, part + 1) for part in index)
            box = tuple(slice(*part.indices(length)[:2]) for part, length in zip(box, self.shape, strict=True))
            sides = [part.stop - part.start for part in box]
            shown = [side for side, part in zip(sides, index, strict=True) if isinstance(part, slice)]
            new = np.broadcast_to(np.asarray(value), shown).reshape(sides).astype(np.uint32)
        self._written.append((box, new))

    def take_stroke(self) -> tuple[tuple[slice, ...], NDArray[np.uint32], NDArray[np.uint32]] | None:
        """Return the box of all that was written since the last call, the labels before, and those written; forget it.

        None if nothing was written.
        """
        if not self._written:
            return None
        sides = zip(*(box for box, _ in self._written), strict=True)
        whole = tuple(slice(min(part.start for part in side), max(part.stop for part in side)) for side in sides)
        after = np.array(self[whole])
        self._written.clear()
        return whole, np.asarray(self.labels[whole]), after


def _overlay(values: NDArray[Any], index: tuple[int | slice, ...], written: Written, shape: tuple[int, ...]) -> None:
    """Write the part of a box that lies in an index into the values read there."""
    box, new = written
    here: list[slice | int] = []
    there: list[slice | int] = []
    for part, side, length in zip(index, box, shape, strict=True):
        if isinstance(part, int):
            if not side.start <= part < side.stop:
                return
            there.append(part - side.start)
            continue
        start, stop, step = part.indices(length)
        first, last = max(start, side.start), min(stop, side.stop)
        if step != 1 or first >= last:  # only thumbnails are read in steps
            return
        here.append(slice(first - start, last - start))
        there.append(slice(first - side.start, last - side.start))
    values[tuple(here)] = new[tuple(there)]


def edits_of_stroke(
    objects: ObjectsUnderEdit, axes: str, box: tuple[slice, ...], before: NDArray[Any], after: NDArray[Any]
) -> list[Edit]:
    """Return the edits that a stroke stands for: one for each time and each label that was painted, 0 = erased.

    axes: letters of "TZYX", one per side of the box. A label that no object has makes an object.
    """
    starts = {axis: side.start for axis, side in zip(axes, box, strict=True)}
    absent = tuple(place for place, axis in enumerate("TZYX") if axis not in axes)
    old, new = (np.expand_dims(each, absent) for each in (before, after))
    edits: list[Edit] = []
    for time, changed in enumerate(old != new, start=starts.get("T", 0)):
        values = new[time - starts.get("T", 0)]
        for label in np.unique(values[changed]).tolist():
            mask = changed & (values == label)
            corner = (time, starts.get("Z", 0), starts["Y"], starts["X"])
            shape = (mask.shape[0], mask.shape[1], mask.shape[2])
            if label == 0:
                edits.append(Erase(corner, shape, pack_mask(mask)))
            else:
                edits.append(Paint(corner, shape, pack_mask(mask), voxel_in(objects, label)))
    return edits


def voxel_in(objects: ObjectsUnderEdit, label: int) -> Voxel | None:
    """Return a voxel of an object, None if there is none."""
    for region in objects.regions_of(label):
        time, box = objects.box_of(np.array([region]))
        inside = np.argwhere(objects.read_regions(time, box) == region)
        if len(inside):
            z, y, x = (int(at) + side.start for at, side in zip(inside[len(inside) // 2], box, strict=True))
            return time, z, y, x
    return None
