"""An object carried between the slices on which it is painted, as one edit."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from napari_skipseg.corrections.between_slices import Mask, iter_carried
from napari_skipseg.errors import InputError
from napari_skipseg.proofread.edits import Edit, EditRefusedError, Paint, Voxel, pack_mask, unpack_mask
from napari_skipseg.proofread.state import ObjectsUnderEdit

NO_OBJECT = "Select an object first, or paint a new one on two slices."


def carry_object(
    objects: ObjectsUnderEdit, label: int, earlier: Iterable[Edit] = (), keep_others: bool = False
) -> Paint:
    """Return the edit that carries an object from the slices on which it is to those between.

    A slice that an earlier edit carried, and that is still as it was then, counts as one between: it is carried again.
    Locked objects are left out. earlier: the edits that count, in their order. keep_others: whether other objects are
    left out too.

    Raises:
        EditRefusedError: there is no such object, it is locked or of each slice on its own, or as
            `between_slices.iter_carried`.
    """
    regions = objects.regions_of(label)
    if not len(regions):
        raise EditRefusedError(NO_OBJECT)
    if label in objects.locked:
        raise EditRefusedError(f"Object {label} is locked: unlock it first.")
    if objects.shape[1] == 1:
        raise EditRefusedError("This image has no slices along Z: shapes are carried between the slices of a stack.")
    if not objects.regions.are_linked:
        raise EditRefusedError("Objects are of each slice on its own here: they are not carried to other slices.")
    time, box = objects.box_of(regions)
    there = objects.read_objects(time, box)
    mask = there == label
    if not mask.any():
        raise EditRefusedError(NO_OBJECT)
    first = box[0].start
    carried = _carried_before(mask, time, box, earlier)
    painted = [z for z in np.flatnonzero(mask.any(axis=(1, 2))).tolist() if z not in carried]
    _, height, width = objects.regions.spacing
    try:
        # numbered as in the image, as messages name them
        gaps = list(iter_carried(lambda z: mask[z - first], [first + z for z in painted], (height, width)))
    except InputError as error:
        raise EditRefusedError(str(error)) from error
    new = mask.copy()
    slices: list[int] = []
    new[sorted(carried)] = False
    for gap in gaps:
        inside = (slice(gap.start - first, gap.start - first + len(gap.masks)), gap.rows, gap.columns)
        new[inside] = gap.masks
        slices.extend(gap.slices)
    for z in carried.difference(z - first for z in slices):
        new[z] = mask[z]  # it lies in no gap any more
    others = (there > 0) & (there != label)
    new &= ~(others if keep_others else np.isin(there, list(objects.locked)))
    if np.array_equal(new, mask):
        raise EditRefusedError("No voxel would change: the slices between are as they would be carried.")
    at = np.argwhere(mask[painted[0]])[0]
    voxel: Voxel = (time, first + painted[0], box[1].start + int(at[0]), box[2].start + int(at[1]))
    shape = (new.shape[0], new.shape[1], new.shape[2])
    return Paint((time, *(side.start for side in box)), shape, pack_mask(new), voxel, tuple(slices))


def _carried_before(mask: Mask, time: int, box: tuple[slice, slice, slice], earlier: Iterable[Edit]) -> set[int]:
    """Return the slices, counted from the box, that are as an earlier edit carried them."""
    found: set[int] = set()
    for edit in earlier:
        if not isinstance(edit, Paint) or not edit.slices or edit.corner[0] != time:
            continue
        painted = unpack_mask(edit)
        for z in edit.slices:
            number = z - box[0].start
            if not 0 <= number < len(mask):
                continue
            height, width = mask.shape[1], mask.shape[2]
            whole = np.zeros((height, width), np.bool_)
            top, left = edit.corner[2] - box[1].start, edit.corner[3] - box[2].start
            rows, columns = slice(top, top + edit.shape[1]), slice(left, left + edit.shape[2])
            if min(rows.start, columns.start) < 0 or rows.stop > height or columns.stop > width:
                found.discard(number)
                continue
            whole[rows, columns] = painted[z - edit.corner[1]]
            (found.add if np.array_equal(whole, mask[number]) else found.discard)(number)
    return found
