"""The tools of proofreading, without widgets: what is chosen, what would be done, and what the preview shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.proofread.apply import apply_edit, grown_regions
from napari_skipseg.proofread.carry import carry_object
from napari_skipseg.proofread.cut import sides_of_line
from napari_skipseg.proofread.doubts import Doubt
from napari_skipseg.proofread.edits import (
    Edit,
    EditRefusedError,
    Erase,
    Grow,
    Lock,
    Merge,
    Paint,
    Split,
    Voxel,
    thin_out,
)
from napari_skipseg.proofread.push import REACHES, push_outline
from napari_skipseg.proofread.state import Change, ObjectsUnderEdit
from napari_skipseg.wording import counted

ToolName = Literal["select", "merge", "split", "grow", "push"]

_FIRST_REACH = 1
"""Where the wheel begins among `REACHES`."""

MOST_MERGED = 40
"""Objects that one line merges: so an edit has less than 1 kB."""


def along(line: Sequence[Voxel]) -> list[Voxel]:
    """Return the voxels along a line that the mouse gave as corners."""
    found: list[Voxel] = [line[0]]
    for start, end in pairwise(line):
        count = max(1, int(np.abs(np.subtract(end, start)).max()))
        for part in range(1, count + 1):
            t, z, y, x = (round(a + (b - a) * part / count) for a, b in zip(start, end, strict=True))
            found.append((t, z, y, x))
    return list(dict.fromkeys(found))


def one_in_each_object(objects: ObjectsUnderEdit, voxels: Sequence[Voxel]) -> list[Voxel]:
    """Return the first voxel of a line in each object that it crosses."""
    found: dict[int, Voxel] = {}
    for voxel in voxels:
        if label := objects.object_at(voxel):
            found.setdefault(label, voxel)
    return list(found.values())[:MOST_MERGED]


def split_along(objects: ObjectsUnderEdit, line: Sequence[Voxel]) -> Split:
    """Return the split of the object that a line crosses, into its two sides; the line lies in one slice.

    Raises:
        EditRefusedError: it crosses no object, or goes through slices.
    """
    if len({voxel[:2] for voxel in line}) > 1:
        raise EditRefusedError(
            "A line that splits lies in one slice: turn the view to slices along Z, or click both sides."
        )
    time, z = line[0][:2]
    labels = [label for voxel in along(line) if (label := objects.object_at(voxel))]
    if not labels:
        raise EditRefusedError("The line crosses no object.")
    label = max(set(labels), key=labels.count)
    _, (_, rows, columns) = objects.box_of(objects.regions_of(label))
    plane = objects.read_objects(time, (slice(z, z + 1), rows, columns))[0] == label
    corner = np.array([rows.start, columns.start])
    points = np.array([voxel[2:] for voxel in line], np.float64) - corner
    sides = []
    for pixels in sides_of_line(plane, points):
        inside = [(time, z, int(y), int(x)) for y, x in pixels + corner]
        sides.append(thin_out([voxel for voxel in inside if objects.object_at(voxel) == label]))
    if not all(sides):
        raise EditRefusedError("The object lies on one side of the line only: draw the line through it.")
    shared = set(sides[0]) & set(sides[1])
    return Split(tuple(tuple(voxel for voxel in side if voxel not in shared) for side in sides))


def say_what_was_done(edit: Edit, objects: ObjectsUnderEdit) -> str:
    """Return in a sentence which edit was done."""
    if isinstance(edit, Lock):
        label = objects.object_at(edit.at[0])
        return f"Object {label} is {'locked' if label in objects.locked else 'unlocked'}."
    return f"Done: {edit.kind}."


class PendingEdit:
    """The edit that would be done now, None if nothing is chosen; and what it looks like.

    tool: decides what a click does. sides: the voxels that were clicked for a split. selected: the object whose outline
    is pushed.
    """

    def __init__(self, objects: ObjectsUnderEdit) -> None:
        self._objects = objects
        self.tool: ToolName = "select"
        self.edit: Edit | None = None
        self.sides: tuple[list[Voxel], list[Voxel]] = ([], [])
        self.selected = 0
        self._pushed: Voxel | None = None
        self._chosen: list[Voxel] = []
        self._steps: list[float] = []
        self._step = 0

    def clear(self) -> None:
        """Choose nothing."""
        self.edit, self.sides, self._chosen, self._steps, self._pushed = None, ([], []), [], [], None

    def click(self, voxel: Voxel, shift: bool) -> bool:
        """Choose a voxel; return whether the edit can be done at once.

        Raises:
            EditRefusedError: there is nothing at the voxel.
        """
        objects = self._objects
        if self.tool == "merge":
            if not objects.object_at(voxel):
                raise EditRefusedError("There is no object here: click an object.")
            self._chosen = one_in_each_object(objects, [*self._chosen, voxel])
            self.edit = Merge(tuple(self._chosen)) if len(self._chosen) > 1 else None
            return self.edit is not None
        if self.tool == "split":
            self.sides[int(shift)].append(voxel)
            self.edit = Split(tuple(map(thin_out, self.sides))) if all(self.sides) else None
        elif self.tool == "push":
            self._pushed, self._step = voxel, _FIRST_REACH
            self.edit = push_outline(objects, self.selected, voxel, REACHES[self._step])
        elif self.tool == "grow":
            tree, region = objects.tree, objects.region_at(voxel)
            if tree is None or not 0 < region <= tree.count:
                grown_regions(objects, Grow(voxel, 0.0))
                raise EditRefusedError("What was painted or cut does not grow: click beside it.")
            levels = [float(tree.level[node]) for node in tree.steps(region - 1)]
            self._steps, self._chosen = sorted(set(levels)), [voxel]
            # the object as it was found, if the region belongs to one, is where a user would begin
            options = objects.regions.options
            found_at = options.merge if options.method == "cells" else 0.0
            self._step = max(0, int(np.searchsorted(self._steps, found_at)) - 1)
            self.edit = Grow(voxel, self._steps[self._step])
        return False

    @property
    def is_carried(self) -> bool:
        """Whether the edit carries an object between slices."""
        return isinstance(self.edit, Paint) and not self.is_push

    @property
    def is_push(self) -> bool:
        """Whether the edit pushes the outline of the selected object."""
        return self._pushed is not None

    @property
    def takes_wheel(self) -> bool:
        """Whether the wheel changes how far the edit goes."""
        return self.edit is not None and (self.tool == "grow" or self.is_push)

    def is_selected(self, voxel: Voxel) -> bool:
        """Return whether a voxel is one of the selected object."""
        return self._objects.object_at(voxel) == self.selected

    def carry(self, label: int, changes: Iterable[Change], keep_others: bool) -> bool:
        """Choose to carry an object to the slices between those on which it is; the edit is not complete then.

        Raises:
            EditRefusedError: as `carry_object`.
        """
        self.clear()
        self.edit = carry_object(self._objects, label, (change.edit for change in changes), keep_others)
        return False

    def draw(self, line: Sequence[Voxel]) -> bool:
        """Choose what a line crosses; return whether the edit can be done at once.

        Raises:
            EditRefusedError: it crosses nothing to merge or split.
        """
        if self.tool == "merge":
            self._chosen = one_in_each_object(self._objects, along(line))
            if len(self._chosen) < 2:
                self._chosen = []
                raise EditRefusedError("The line crosses fewer than two objects: there is nothing to merge.")
            self.edit = Merge(tuple(self._chosen))
            return True
        if self.tool == "split":
            self.edit = split_along(self._objects, line)
        return False

    def cross(self, line: Sequence[Voxel]) -> None:
        """Choose what a line that is not finished crosses, for the preview."""
        if self.tool == "merge":
            self._chosen = one_in_each_object(self._objects, along(line))

    def propose(self, doubt: Doubt) -> None:
        """Choose the edit that would settle a doubt."""
        self.clear()
        if doubt.kind != "object?":  # how an unusual object is split, only a user can say
            self.edit = Merge(doubt.at) if doubt.kind == "merge?" else Split(((doubt.at[0],), (doubt.at[1],)))

    def climb(self, steps: int) -> None:
        """Let the chosen region grow or shrink by steps of the hierarchy, or push the outline farther around."""
        if self._pushed is not None:
            self._step = min(max(self._step + steps, 0), len(REACHES) - 1)
            self.edit = push_outline(self._objects, self.selected, self._pushed, REACHES[self._step])
        if isinstance(self.edit, Grow) and self._steps:
            self._step = min(max(self._step + steps, 0), len(self._steps) - 1)
            self.edit = Grow(self.edit.at, self._steps[self._step])

    def describe(self) -> str:
        """Return what is chosen, in a sentence; "" if nothing is."""
        match self.edit:
            case Grow(level=level):
                return f"Region up to a boundary of {level:.2f}: the wheel grows and shrinks it, A makes it an object."
            case Split():
                return "A splits the object as outlined."
            case Merge():
                return "A merges the outlined objects."
            case Paint() | Erase() if self.is_push:
                return (
                    f"The outline moves up to {REACHES[self._step]:g} voxels around: the wheel changes that, A does it."
                )
            case Paint(slices=slices):
                return f"A paints {counted(len(slices), 'slice')} between as outlined."
        if self.tool == "merge" and self._chosen:
            return "Click the object to merge it with."
        if self.tool == "split" and any(self.sides):
            return "Shift-click the other side." if self.sides[0] else "Click the other side."
        return ""

    def shown_sides_at(self, index: tuple[int | slice, ...]) -> NDArray[np.uint32]:
        """Return `sides_at`, 0 everywhere if the edit cannot be done: why is shown when it is done."""
        try:
            return self.sides_at(index)
        except EditRefusedError:  # napari reads whenever it draws
            return np.zeros_like(self._objects.labels()[index])

    def sides_at(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        """Return what would be changed at an index of the image: 1 and 2 are both sides of a split or a contact.

        Raises:
            EditRefusedError: the edit does not make sense.
        """
        objects, edit = self._objects, self.edit
        labels = objects.labels()
        if isinstance(edit, Split | Paint | Erase):
            change = apply_edit(objects, edit)
            try:
                if isinstance(edit, Split):
                    first, *rest = [objects.object_at(side[0]) for side in edit.sides]
                elif self.is_push or isinstance(edit, Erase):
                    first, rest = self.selected, []
                else:
                    first, rest = objects.object_at(edit.into or edit.corner), []
                values = np.asarray(labels[index])
            finally:
                objects.undo(change)
            return np.where(values == first, 1, np.where(np.isin(values, rest), 2, 0))
        if isinstance(edit, Grow):
            values = np.zeros(objects.region_count + 1, np.uint32)
            values[grown_regions(objects, edit)] = 1
            return np.asarray(objects.labels(values)[index])
        at = edit.at if isinstance(edit, Merge) else self._chosen
        chosen = [objects.object_at(voxel) for voxel in at]
        values = np.asarray(labels[index])
        found = np.isin(values, [label for label in chosen if label]).astype(np.uint8)
        return np.where(values == chosen[-1], 2, found) if len(chosen) == 2 else found
