"""A click pushes the outline of an object: out over the click if that lies outside, in if it lies inside."""

from __future__ import annotations

import time

import numpy as np
import pytest
from grid import labelled, labels_of
from numpy.typing import NDArray

from napari_skipseg.proofread.apply import apply_edit
from napari_skipseg.proofread.edits import EditRefusedError, Erase, Lock, Paint, edit_to_dict
from napari_skipseg.proofread.push import FARTHEST, push_outline


def two_halves(depth: int = 20) -> NDArray[np.uint32]:
    """Object 1 up to column 29, object 2 up to column 59, background behind it."""
    labels = np.zeros((depth, 60, 80), np.uint32)
    labels[..., :30], labels[..., 30:60] = 1, 2
    return labels


def test_a_click_outside_pushes_the_outline_out_over_it_and_only_nearby() -> None:
    labels = two_halves()
    objects = labelled(labels)
    edit = push_outline(objects, 1, (0, 10, 30, 32), reach=9)
    assert isinstance(edit, Paint)
    change = apply_edit(objects, edit)
    found = labels_of(objects)
    assert found[10, 30, 32] == 1
    changed = np.argwhere(found != labels)
    assert (np.linalg.norm(changed - (10, 30, 32), axis=1) <= 9 + 3).all()
    assert changed[:, 2].min() == 30, "what was inside stays"
    assert changed[:, 2].max() < 30 + 1.5 * 3 + 0.5
    widths = (found[10] == 1).sum(axis=1)
    assert widths[30] == widths.max() > widths[25] > 30 == widths[15], "most beside the click, less farther away"
    objects.undo(change)
    np.testing.assert_array_equal(labels_of(objects), labels)


def test_a_click_inside_gives_what_is_lost_to_the_nearest_neighbour_or_to_the_background() -> None:
    labels = two_halves()
    objects = labelled(labels)
    apply_edit(objects, push_outline(objects, 1, (0, 10, 30, 27)))
    assert labels_of(objects)[10, 30, 27] == 2
    edit = push_outline(objects, 2, (0, 10, 30, 57))
    assert isinstance(edit, Erase)
    apply_edit(objects, edit)
    assert labels_of(objects)[10, 30, 57] == 0
    assert (labels_of(objects)[..., :20] == 1).all()


def test_a_locked_neighbour_neither_gains_nor_loses() -> None:
    objects = labelled(two_halves())
    apply_edit(objects, Lock(((0, 10, 30, 40),)))
    apply_edit(objects, push_outline(objects, 1, (0, 10, 30, 27)))
    assert labels_of(objects)[10, 30, 27] == 0
    assert (labels_of(objects)[..., 30:60] == 2).all()
    with pytest.raises(EditRefusedError, match="locked"):
        push_outline(objects, 2, (0, 10, 30, 57))


def test_voxels_that_are_thick_along_z_are_measured_as_such() -> None:
    labels = two_halves()
    objects = labelled(labels, size=(8.0, 1.0, 1.0))
    apply_edit(objects, push_outline(objects, 1, (0, 10, 30, 32), reach=7))
    assert np.flatnonzero((labels_of(objects) != labels).any(axis=(1, 2))).tolist() == [10]


def test_what_cannot_be_pushed_is_said() -> None:
    objects = labelled(two_halves())
    with pytest.raises(EditRefusedError, match="Select an object first"):
        push_outline(objects, 7, (0, 10, 30, 32))
    with pytest.raises(EditRefusedError, match=f"more than {FARTHEST:g} voxels away"):
        push_outline(objects, 1, (0, 10, 30, 55))
    with pytest.raises(EditRefusedError, match="outside of the image"):
        push_outline(objects, 1, (0, 10, 30, 80))


def test_a_push_is_small_and_instant() -> None:
    objects = labelled(two_halves(60))
    push_outline(objects, 1, (0, 30, 30, 35), reach=4)  # compiles, if no other test did
    begun = time.process_time()
    edit = push_outline(objects, 1, (0, 30, 30, 35), reach=14)
    assert time.process_time() - begun < 0.1
    assert len(str(edit_to_dict(edit))) < 1000
