"""Clicks until an object is right, by a simulated user of the tool that makes objects of clicks.

The user makes one true object at a time. A click goes to the middle of the largest error, where a slice of it is
farthest from its edge: at first all of the object is missing. On a missing part the wheel is turned to the step of
the hierarchy that gives the largest IoU with what is there already, and the two are merged; the object under the click
may be merged as it is instead, if that is better. On a part that is wrong the object is split: the clicks on missing
parts are the seeds of one side, those on wrong parts of the other. Or the outline is pushed over the click, with the
tool for it, if the preview shows that this is better. If a click makes the object no better, it is undone,
but counts, and the user does not click at that error again. It ends at the IoU that is wanted, after `MOST` clicks, or
with no error left to click at; in the last two cases the object counts as `MOST` clicks. Turns of the wheel are free.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import numpy as np
from measuring import print_table
from numpy.typing import NDArray
from scipy import ndimage

from napari_skipseg.proofread.apply import apply_edit
from napari_skipseg.proofread.edits import Edit, EditRefusedError, Erase, Grow, Merge, Paint, Split, Voxel
from napari_skipseg.proofread.push import REACHES, push_outline
from napari_skipseg.proofread.regions import Regions
from napari_skipseg.proofread.state import Change, ObjectsUnderEdit

WANTED, MOST = 0.85, 20
_CHANGES_VOXELS = (Split, Paint, Erase)
AFTER = (1, 2, 3, 5, 10)
"""Clicks after which the mean IoU is printed."""


@dataclass
class ClickedObject:
    """One true object, and the object that clicks make of it. ious: after each click."""

    objects: ObjectsUnderEdit
    truth: NDArray[np.bool_]
    ious: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._everything = tuple(slice(0, side) for side in self.truth.shape)
        self._made = np.zeros(self.truth.shape, np.bool_)
        self._left_alone = np.zeros(self.truth.shape, np.bool_)
        self._inside: list[Voxel] = []
        self._outside: list[Voxel] = []
        self._changes: list[Change] = []
        self._voxels = int(self.truth.sum())
        self._counted: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    def click_until_right(self) -> None:
        """Click until the IoU is large enough; leave the objects as they were."""
        best = 0.0
        while best < WANTED and len(self.ious) < MOST:
            error = self._largest_error()
            if error is None:
                break
            mask, corner = error
            voxel = middle_of(mask, corner)
            is_missing = bool(self.truth[voxel[1:]])
            known = len(self._changes)
            (self._inside if is_missing else self._outside).append(voxel)
            self._click(voxel, is_missing)
            now = self._iou()
            if now <= best:
                self._undo_to(known)
                (self._inside if is_missing else self._outside).pop()
                place = tuple(slice(start, start + side) for start, side in zip(corner, mask.shape, strict=True))
                self._left_alone[place] |= mask
            else:
                best, self._made = now, self._now()
            self.ious.append(best)
        self._undo_to(0)

    def _click(self, voxel: Voxel, is_missing: bool) -> None:
        """Do what makes the object best: let the wheel go as far as it should, split, or push the outline."""
        tries: list[list[Edit]] = [[Split((tuple(self._inside), tuple(self._outside)))]]
        if is_missing:
            join: list[Edit] = [Merge((self._inside[0], voxel))] if len(self._inside) > 1 else []
            tries = [join, *([Grow(voxel, level), *join] for level in self._levels(voxel))]
        if self.ious:
            label = self.objects.object_at(self._inside[0])
            for reach in REACHES:
                with contextlib.suppress(EditRefusedError):
                    tries.append([push_outline(self.objects, label, voxel, reach)])
        known, best, chosen = len(self._changes), -1.0, tries[0]
        for edits in tries:
            for edit in edits:  # a region that is an object already does not grow, and is joined as it is
                self._do(edit)
            if (now := self._iou()) > best:
                best, chosen = now, edits
            self._undo_to(known)
        for edit in chosen:
            self._do(edit)

    def _levels(self, voxel: Voxel) -> list[float]:
        """Return the steps of the hierarchy at which the region is not yet far larger than the object."""
        tree, region = self.objects.tree, self.objects.region_at(voxel)
        if tree is None or not 0 < region <= tree.count:
            return []
        found: list[float] = []
        most = 4 * self._voxels
        for node in tree.steps(region - 1):
            if found and int(self.objects.sizes[tree.leaves(node) + 1].sum()) > most:
                break
            found.append(float(tree.level[node]))
        return sorted(set(found))

    def _do(self, edit: Edit) -> None:
        try:
            self._changes.append(apply_edit(self.objects, edit))
        except EditRefusedError:
            return
        if isinstance(edit, _CHANGES_VOXELS):
            self._counted = None

    def _undo_to(self, count: int) -> None:
        while len(self._changes) > count:
            change = self._changes.pop()
            self.objects.undo(change)
            if isinstance(change.edit, _CHANGES_VOXELS):
                self._counted = None

    def _iou(self) -> float:
        """Return the IoU of the object that is there now, from counts of regions, which few edits change."""
        objects = self.objects
        count = objects.region_count + 1
        if self._counted is None:
            found = objects.read_regions(0, self._everything)  # type: ignore[arg-type]
            self._counted = np.bincount(found[self.truth], minlength=count), np.bincount(found.ravel(), minlength=count)
        label = objects.object_at(self._inside[0])
        chosen = objects.object_of[:count] == label
        both, made = (int(each[:count][chosen].sum()) for each in self._counted)
        return both / (made + self._voxels - both) if label else 0.0

    def _now(self) -> NDArray[np.bool_]:
        label = self.objects.object_at(self._inside[0])
        found = self.objects.read_objects(0, self._everything)  # type: ignore[arg-type]
        return np.asarray((found == label) & (label > 0))

    def _largest_error(self) -> tuple[NDArray[np.bool_], list[int]] | None:
        """Return the largest connected part that is missing or wrong, in its box, and the first voxel of the box."""
        largest, found = 0, None
        for wrong in (self.truth & ~self._made, self._made & ~self.truth):
            parts, count = ndimage.label(wrong & ~self._left_alone)
            if count:
                sizes = np.bincount(parts.ravel())[1:]
                number = int(sizes.argmax())
                if sizes[number] > largest:
                    box = ndimage.find_objects(parts)[number]
                    largest, found = int(sizes[number]), (parts[box] == number + 1, [side.start for side in box])
        return found


def middle_of(mask: NDArray[np.bool_], corner: list[int]) -> Voxel:
    """Return the voxel of a mask that is farthest from its edge in its slice; of equal ones, in the middle slice."""
    depths = [ndimage.distance_transform_edt(np.pad(plane, 1))[1:-1, 1:-1] for plane in mask]
    most = np.array([depth.max() for depth in depths])
    best = np.flatnonzero(most == most.max())
    z = int(best[len(best) // 2])
    y, x = (int(place) for place in np.unravel_index(depths[z].argmax(), depths[z].shape))
    return 0, z + corner[0], y + corner[1], x + corner[2]


def measure_clicks(regions: Regions, truth: NDArray[np.uint32], least: int) -> None:
    """Print clicks until the objects are right. least: voxels of the smallest true object that is made."""
    sizes = np.bincount(truth.ravel())
    sizes[0] = 0
    objects, made = ObjectsUnderEdit(regions), []
    for label in np.flatnonzero(sizes >= least).tolist():
        each = ClickedObject(objects, truth == label)
        each.click_until_right()
        made.append(each.ious)
    if not made:
        print(f"No true object has {least} voxels.")
        return
    right = [len(ious) if ious and ious[-1] >= WANTED else MOST for ious in made]
    reached = [bool(ious) and ious[-1] >= WANTED for ious in made]
    at = [np.mean([ious[min(count, len(ious)) - 1] if ious else 0.0 for ious in made]) for count in AFTER]
    print(f"{len(regions.objects) - 1} regions, {len(made)} true objects of {least} voxels and more\n")
    heads = ("clicks, mean", "median", f"IoU {WANTED} reached", *(f"IoU after {count}" for count in AFTER))
    row = (f"{np.mean(right):.1f}", f"{np.median(right):.0f}", f"{np.mean(reached):.0%}", *(f"{iou:.3f}" for iou in at))
    print_table(heads, [row])
