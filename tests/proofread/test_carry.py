"""An object that is painted on some slices is carried to those between: one edit, that can be made again."""

from __future__ import annotations

import numpy as np
import pytest
from grid import labelled, labels_of
from numpy.typing import NDArray

from napari_skipseg.proofread.apply import apply_edit
from napari_skipseg.proofread.carry import carry_object
from napari_skipseg.proofread.edits import (
    Edit,
    EditRefusedError,
    Erase,
    Lock,
    Paint,
    edit_from_dict,
    edit_to_dict,
    pack_mask,
)
from napari_skipseg.proofread.state import Change, ObjectsUnderEdit

SHAPE = (12, 150, 150)
"""Larger than the blocks in which changed voxels are kept, (8, 128, 128)."""


def disc(radius: float, y: float = 75, x: float = 75) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[: SHAPE[1], : SHAPE[2]]
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)


def cone(**radii: float) -> NDArray[np.uint32]:
    """Object 5 on some slices, such as z1=40."""
    labels = np.zeros(SHAPE, np.uint32)
    for name, radius in radii.items():
        labels[int(name[1:])][disc(radius)] = 5
    return labels


def areas(objects: ObjectsUnderEdit, label: int = 5) -> list[int]:
    return [int((plane == label).sum()) for plane in labels_of(objects)]


def carry(objects: ObjectsUnderEdit, changes: list[Change], **more: bool) -> Change:
    edit = carry_object(objects, 5, [change.edit for change in changes], **more)
    changes.append(apply_edit(objects, edit_from_dict(edit_to_dict(edit))))
    return changes[-1]


def test_one_edit_fills_all_gaps_and_is_undone_as_one() -> None:
    objects = labelled(cone(z1=60, z5=40, z10=20))
    before = labels_of(objects)
    change = carry(objects, [])
    found = areas(objects)
    assert found[0] == found[11] == 0
    assert (np.diff(found[1:11]) < 0).all(), "a cone, slice by slice"
    assert isinstance(change.edit, Paint)
    assert change.edit.slices == (2, 3, 4, 6, 7, 8, 9)
    np.testing.assert_allclose(found[3], np.pi * 50**2, rtol=0.02)
    objects.undo(change)
    np.testing.assert_array_equal(labels_of(objects), before)


def test_a_corrected_slice_becomes_a_painted_one_and_the_rest_is_carried_again() -> None:
    objects, changes = labelled(cone(z1=60, z9=60)), []
    carry(objects, changes)
    assert areas(objects)[5] == areas(objects)[1]
    hole = (disc(60) & ~disc(30))[None]
    changes.append(apply_edit(objects, Erase((0, 5, 0, 0), (1, *SHAPE[1:]), pack_mask(hole))))
    change = carry(objects, changes)
    assert isinstance(change.edit, Paint)
    assert change.edit.slices == (2, 3, 4, 6, 7, 8)
    found = areas(objects)
    assert found[5] == disc(30).sum()
    assert (np.diff(found[1:6]) < 0).all()
    assert (np.diff(found[5:10]) > 0).all()
    objects.undo(changes.pop())
    assert areas(objects)[4] == areas(objects)[1], "one undo brings the first carry back"
    with pytest.raises(EditRefusedError, match="No voxel would change"):
        carry(objects, [*changes, carry(objects, changes)])


def test_locked_objects_are_never_painted_over_and_others_only_if_allowed() -> None:
    labels = cone(z1=40, z5=40)
    labels[3, 75, 60:90] = 7
    labels[3, 80, 60:90] = 8
    for keep_others in (False, True):
        objects = labelled(labels)
        apply_edit(objects, Lock(((0, 3, 75, 70),)))
        carry(objects, [], keep_others=keep_others)
        now = labels_of(objects)[3]
        assert (now[75, 60:90] == 7).all()
        assert (now[80, 60:90] == (8 if keep_others else 5)).all()


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (cone(z3=20), "Only slice 3 is painted"),
        (cone(z3=20, z4=20), "Slices 3 to 4 are all painted"),
        (cone(z1=20)[:1], "no slices along Z|Select an object"),
        (cone(z3=20, z6=20) + 1, "Select an object first"),
    ],
)
def test_what_cannot_be_carried_is_said(labels: NDArray[np.uint32], said: str) -> None:
    with pytest.raises(EditRefusedError, match=said):
        carry_object(labelled(labels), 5)


def test_a_locked_object_is_not_carried() -> None:
    objects = labelled(cone(z3=20, z6=20))
    apply_edit(objects, Lock(((0, 3, 75, 75),)))
    with pytest.raises(EditRefusedError, match="Object 5 is locked"):
        carry_object(objects, 5)


def test_edits_of_earlier_sessions_are_read_as_they_were_written() -> None:
    old = {"corner": [0, 0, 0, 0], "shape": [1, 2, 2], "mask": pack_mask(np.ones((1, 2, 2), bool)), "kind": "paint"}
    edit: Edit = edit_from_dict(old)
    assert isinstance(edit, Paint)
    assert (edit.into, edit.slices) == (None, ())
