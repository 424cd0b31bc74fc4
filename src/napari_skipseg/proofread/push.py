"""The outline of an object pushed by a click, as one edit: where the probability is wrong, no cut along it is right."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.proofread.edits import Edit, EditRefusedError, Erase, Paint, Voxel, pack_mask
from napari_skipseg.proofread.state import ObjectsUnderEdit
from napari_skipseg.scores.distances import distance_to_edge

FARTHEST = 16.0
"""How far a click may be from the outline, in voxels of X."""

_FACTOR, _MORE = 1.5, 0.5
"""The outline moves to `_FACTOR` times the distance of the click, and `_MORE` voxels: a user clicks into what is wrong,
not at its far edge."""

REACHES = (4.0, 6.0, 9.0, 14.0, 21.0, 32.0)
"""How far around the click the outline may move, in voxels of X."""


def push_outline(objects: ObjectsUnderEdit, label: int, voxel: Voxel, reach: float = REACHES[1]) -> Edit:
    """Return the edit that pushes the outline of an object over a voxel: out if the voxel lies outside, else in.

    The outline moves most beside the voxel, and less up to `reach` voxels of X from it. What the object loses goes to
    the neighbour that is nearest to the voxel, or becomes background if that is nearer or the neighbour is locked.
    What it gains, another object loses, unless that is locked.

    Raises:
        EditRefusedError: there is no such object, it is locked, the voxel lies outside of the image, or the outline is
            too far away.
    """
    if not label or not len(objects.regions_of(label)):
        raise EditRefusedError("Select an object first: its outline is pushed to where you click.")
    if label in objects.locked:
        raise EditRefusedError(f"Object {label} is locked: unlock it first.")
    if not all(0 <= place < length for place, length in zip(voxel, objects.shape, strict=True)):
        raise EditRefusedError("This place lies outside of the image.")
    spacing, (time, *place) = np.array(objects.regions.spacing), voxel
    half = [math.ceil((reach + 2 * FARTHEST) / side) if side else 0 for side in spacing]
    low = [max(0, at - far) for at, far in zip(place, half, strict=True)]
    high = [min(length, at + far + 1) for at, far, length in zip(place, half, objects.shape[1:], strict=True)]
    z, y, x = (slice(start, stop) for start, stop in zip(low, high, strict=True))
    there = objects.read_objects(time, (z, y, x))
    mask, at = there == label, tuple(np.subtract(place, low))
    is_inside = bool(mask[at])
    changing = mask if is_inside else ~mask
    sides = (float(spacing[0]), float(spacing[1]), float(spacing[2]))
    depth = distance_to_edge(changing, sides, 4 * FARTHEST)
    if depth[at] > FARTHEST:
        raise EditRefusedError(
            f"The outline of object {label} is more than {FARTHEST:g} voxels away: click nearer to it, merge or split."
        )
    apart = _squared_distances(there.shape, np.array(at), spacing)
    moved = (_FACTOR * float(depth[at]) + _MORE) * (1 - apart / max(reach, float(depth[at])) ** 2)
    changed = changing & (depth <= moved)
    if not is_inside:
        nearest = np.where(mask, apart, np.inf).argmin()
        return _edit(time, low, changed, nearest, mask.shape)
    others = np.where(mask, np.inf, apart)
    nearest = others.argmin()
    owner = int(there.flat[nearest]) if np.isfinite(others.flat[nearest]) else 0
    return _edit(time, low, changed, nearest if owner and owner not in objects.locked else None, mask.shape)


def _squared_distances(
    shape: tuple[int, ...], at: NDArray[np.int64], spacing: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the squared distance of each voxel of a box from one of them."""
    z, y, x = (
        ((np.arange(length) - middle) * side) ** 2 for length, middle, side in zip(shape, at, spacing, strict=True)
    )
    found: NDArray[np.float64] = z[:, None, None] + y[:, None] + x
    return found


def _edit(
    time: int, low: list[int], changed: NDArray[np.bool_], into: np.intp | None, shape: tuple[int, ...]
) -> Paint | Erase:
    """Return the edit that gives voxels to the object at a place of the box, None = to the background."""
    places = np.nonzero(changed)
    box = tuple(slice(int(each.min()), int(each.max()) + 1) for each in places)
    cut = changed[box]
    corner = (time, *(start + side.start for start, side in zip(low, box, strict=True)))
    size = (cut.shape[0], cut.shape[1], cut.shape[2])
    if into is None:
        return Erase(_voxel(corner), size, pack_mask(cut))
    inside = (time, *(int(start + place) for start, place in zip(low, np.unravel_index(into, shape), strict=True)))
    return Paint(_voxel(corner), size, pack_mask(cut), _voxel(inside))


def _voxel(places: tuple[int, ...]) -> Voxel:
    t, z, y, x = places
    return t, z, y, x
