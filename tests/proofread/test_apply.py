"""Each edit, on cells found in a probability and on plain labels: what it changes, what it refuses, and undo."""

from __future__ import annotations

import time

import numpy as np
import pytest
from grid import CELLS, OPTIONS, ball, bumpy, cell, found, labelled, labels_of, random_edit, row_of_cells
from numpy.typing import NDArray

from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.proofread.apply import apply_edit
from napari_skipseg.proofread.edits import (
    Confirm,
    Delete,
    Edit,
    EditRefusedError,
    Erase,
    FillHoles,
    Grow,
    Lock,
    Merge,
    Paint,
    Renumber,
    Separate,
    Split,
    Voxel,
    edit_from_dict,
    edit_to_dict,
    pack_mask,
)
from napari_skipseg.proofread.state import ObjectsUnderEdit


def sizes(objects: ObjectsUnderEdit) -> dict[int, int]:
    values, counts = np.unique(labels_of(objects), return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True) if value}


def at(objects: ObjectsUnderEdit, *cells: int) -> list[int]:
    return [objects.object_at(cell(number)) for number in cells]


@pytest.fixture
def row() -> ObjectsUnderEdit:
    """Cells 0 | 1 2 | 3: the boundary between 1 and 2 is weak, so they are one object."""
    return found(row_of_cells())


@pytest.fixture
def plain() -> ObjectsUnderEdit:
    """The same objects as labels of another program, with large numbers."""
    labels = np.repeat(np.array([7, 4_000_000_000, 4_000_000_000, 12], np.uint32), 12)
    return labelled(np.broadcast_to(labels, (3, 14, 48)).copy())


@pytest.mark.parametrize("name", ["row", "plain"])
def test_merged_objects_are_one_and_have_the_number_of_the_first(name: str, request: pytest.FixtureRequest) -> None:
    objects = request.getfixturevalue(name)
    first, second, second_too, third = at(objects, 0, 1, 2, 3)
    assert second == second_too
    assert len({first, second, third}) == 3
    change = apply_edit(objects, Merge((cell(3), cell(0))))
    assert at(objects, 0, 1, 3) == [third, second, third]
    assert change.objects == tuple(sorted((first, third)))
    assert change.box[:3] == (0, 0, 3)
    assert sum(sizes(objects).values()) == 3 * 14 * 48


def test_a_split_follows_the_strongest_contact_between_its_sides(row: ObjectsUnderEdit) -> None:
    apply_edit(row, Merge((cell(0), cell(1), cell(3))))
    assert len(sizes(row)) == 1
    apply_edit(row, Split(((cell(0),), (cell(3),))))
    first, *rest = at(row, 0, 1, 2, 3)
    assert len(set(rest)) == 1, "of 0.9, 0.4 and 0.7, the boundary of 0.9 separates most"
    assert first != rest[0]
    apply_edit(row, Split(((cell(1),), (cell(3),))))
    assert at(row, 1, 2)[0] == at(row, 1, 2)[1] != at(row, 3)[0]
    assert len(sizes(row)) == 3


def test_a_split_within_one_basin_cuts_its_voxels_at_the_neck() -> None:
    mask = ball((20, 60), (10, 14), 9) | ball((20, 60), (10, 44), 9)
    mask[9:12, 14:44] = True
    objects = labelled(mask.astype(np.uint8) * 5)
    apply_edit(objects, Split((((0, 0, 10, 12),), ((0, 0, 10, 47),))))
    labels = labels_of(objects)
    assert set(np.unique(labels)) == {0, 5, 6}
    np.testing.assert_array_equal(labels > 0, mask)
    left, right = labels[10, 12], labels[10, 47]
    assert (labels[:, :22][mask[:, :22]] == left).all()
    assert (labels[:, 38:][mask[:, 38:]] == right).all()


@pytest.mark.parametrize("first", [cell(0), cell(3)])
def test_the_largest_side_of_a_split_keeps_the_number(row: ObjectsUnderEdit, first: Voxel) -> None:
    apply_edit(row, Merge((cell(0), cell(1), cell(3))))
    (number,) = sizes(row)
    second = cell(3) if first == cell(0) else cell(0)
    apply_edit(row, Split(((first,), (second,))))
    assert at(row, 1, 2, 3) == [number] * 3
    assert at(row, 0)[0] != number


def test_the_largest_side_of_cut_labels_keeps_the_number() -> None:
    mask = np.zeros((20, 60), np.uint8)
    mask[8:12, 2:10] = mask[4:16, 20:58] = 5
    mask[10, 10:20] = 5
    objects = labelled(mask)
    apply_edit(objects, Split((((0, 0, 10, 4),), ((0, 0, 10, 50),))))
    labels = labels_of(objects)
    assert (labels[10, 50], labels[10, 4]) == (5, 6)


def test_a_cut_region_can_be_split_again_along_contacts_and_merged_again() -> None:
    objects = found(row_of_cells((0.2, 0.9)), ObjectOptions("cells", threshold=0.3, merge=0.95))
    assert at(objects, 0, 1) == at(objects, 1, 2)
    before = labels_of(objects)
    one, other = (0, 1, 7, 2), (0, 1, 7, 20)  # cells 0 and 1 are one basin: 0.2 is no boundary
    apply_edit(objects, Split(((one,), (other,))))
    assert objects.object_at(one) != objects.object_at(other)
    assert objects.object_at(cell(2)) in (objects.object_at(one), objects.object_at(other))
    apply_edit(objects, Split(((other,), (cell(2),))) if objects.object_at(cell(2)) == objects.object_at(other)
               else Split(((one,), (cell(2),))))  # fmt: skip
    assert len({objects.object_at(voxel) for voxel in (one, other, cell(2))}) == 3
    apply_edit(objects, Merge((one, other, cell(2))))
    np.testing.assert_array_equal(labels_of(objects) > 0, before > 0)
    assert len(sizes(objects)) == 1


def test_deleted_objects_leave_background(row: ObjectsUnderEdit) -> None:
    apply_edit(row, Delete((cell(0), cell(2))))
    assert at(row, 0, 1, 2) == [0, 0, 0]
    assert len(sizes(row)) == 1


def test_growing_makes_an_object_of_a_region_and_what_joins_it_up_to_a_level(row: ObjectsUnderEdit) -> None:
    steps = row.tree.steps(row.region_at(cell(2)) - 1)
    levels = [row.tree.level[node] for node in steps]
    assert levels == pytest.approx([0, 0.4, 0.7, 0.9], abs=0.01)
    before = at(row, 0, 1, 2, 3)
    apply_edit(row, Grow(cell(2), 0.0))
    assert at(row, 0, 1, 3) == [before[0], before[1], before[3]]
    assert at(row, 2)[0] not in before
    apply_edit(row, Grow(cell(2), 0.75))
    assert len(set(at(row, 1, 2, 3))) == 1
    assert at(row, 0) == before[:1]


def paint(corner: Voxel, shape: tuple[int, int, int], into: Voxel | None = None) -> Paint:
    return Paint(corner, shape, pack_mask(np.ones(shape, np.bool_)), into)


def test_painted_voxels_join_an_object_or_make_one_and_erased_ones_are_none(row: ObjectsUnderEdit) -> None:
    before = labels_of(row)
    apply_edit(row, paint((0, 0, 2, 10), (1, 3, 8), cell(3)))
    expected = before.copy()
    expected[0, 2:5, 10:18] = row.object_at(cell(3))
    np.testing.assert_array_equal(labels_of(row), expected)
    apply_edit(row, paint((0, 1, 0, 0), (2, 2, 5)))
    expected[1:3, :2, :5] = before.max() + 1
    np.testing.assert_array_equal(labels_of(row), expected)
    apply_edit(row, Erase((0, 0, 0, 8), (1, 14, 8), pack_mask(np.ones((1, 14, 8), np.bool_))))
    expected[0, :, 8:16] = 0
    np.testing.assert_array_equal(labels_of(row), expected)


@pytest.mark.parametrize(("slices", "filled"), [(True, 3 * 9), (False, 9)])
def test_holes_are_filled_in_the_volume_or_in_each_slice(slices: bool, filled: int) -> None:
    labels = np.full((3, 9, 9), 4, np.uint16)
    labels[1, 3:6, 3:6] = 0
    if slices:
        labels[:, 3:6, 3:6] = 0
    objects = labelled(labels)
    apply_edit(objects, FillHoles((0, 0, 0, 0), slices))
    assert sizes(objects) == {4: 243}
    with pytest.raises(EditRefusedError, match="no holes"):
        apply_edit(objects, FillHoles((0, 0, 0, 0), slices))
    assert filled == int((labels == 0).sum())


def test_parts_that_do_not_touch_become_objects_and_the_largest_keeps_its_number() -> None:
    labels = np.zeros((2, 8, 20), np.uint32)
    labels[:, :, :3], labels[:, :, 5:15], labels[0, 0, 17:] = 9, 9, 9
    objects = labelled(labels)
    apply_edit(objects, Separate((0, 0, 0, 0)))
    assert sizes(objects) == {9: 160, 10: 48, 11: 3}
    with pytest.raises(EditRefusedError, match="one connected part"):
        apply_edit(objects, Separate((0, 0, 0, 7)))


def test_whole_basins_that_fall_apart_keep_their_contacts(row: ObjectsUnderEdit) -> None:
    apply_edit(row, Merge((cell(0), cell(1), cell(3))))
    apply_edit(row, Grow(cell(1), 0.0))  # cells 0, and 2 and 3, are one object in two parts now
    apply_edit(row, Separate(cell(0)))
    assert at(row, 2)[0] == at(row, 3)[0]
    assert len(set(at(row, 0, 1, 2))) == 3
    apply_edit(row, Split(((cell(2),), (cell(3),))))
    assert len(set(at(row, 0, 1, 2, 3))) == 4
    assert len(row.changed._chunks) == 0, "no voxel was cut"


def test_renumbered_objects_count_from_one(plain: ObjectsUnderEdit) -> None:
    apply_edit(plain, Lock((cell(1),)))
    change = apply_edit(plain, Renumber())
    assert at(plain, 0, 1, 3) == [1, 3, 2]
    assert plain.locked == {3}
    plain.undo(change)
    assert at(plain, 0, 1, 3) == [7, 4_000_000_000, 12]
    assert plain.locked == {4_000_000_000}


LOCKED = (
    Merge((cell(0), cell(1))),
    Split(((cell(1),), (cell(2),))),
    Delete((cell(1),)),
    Grow(cell(1), 0.0),
    Separate(cell(1)),
    FillHoles(cell(1)),
    paint((0, 1, 7, 18), (1, 1, 1), cell(0)),
    paint((0, 1, 7, 6), (1, 1, 1), cell(1)),
)


@pytest.mark.parametrize("edit", LOCKED, ids=lambda edit: edit.kind)
def test_a_locked_object_is_never_changed(row: ObjectsUnderEdit, edit: Edit) -> None:
    apply_edit(row, Lock((cell(1),)))
    before = labels_of(row)
    with pytest.raises(EditRefusedError, match="lock"):
        apply_edit(row, edit)
    np.testing.assert_array_equal(labels_of(row), before)
    apply_edit(row, Lock((cell(1),), locked=False))
    if not isinstance(edit, Separate | FillHoles):
        apply_edit(row, edit)


REFUSED: tuple[tuple[Edit, str], ...] = (
    (Merge((cell(1), cell(2))), "one object"),
    (Merge((cell(0), (0, 0, 99, 0))), "no object"),
    (Split(((cell(0),), (cell(3),))), "different objects"),
    (Split(((cell(0),), ((0, 0, -1, 0),))), "outside"),
    (Split(((cell(1),), (cell(1),))), "share a voxel"),
    (Split(((cell(1),),)), "two sides"),
    (Delete(()), "no object"),
    (Grow((0, 0, 0, 12_000), 0.3), "no region"),
    (Confirm((cell(0), cell(0, y=6))), "no two regions"),
    (paint((0, 0, 0, 40), (1, 2, 20)), "outside"),
    (Erase((0, 0, 0, 0), (1, 2, 2), "damaged"), "damaged"),
    (Erase((0, 0, 0, 0), (1, 2, 2), pack_mask(np.zeros((1, 2, 2), np.bool_))), "No voxel"),
    (Renumber(), "already"),
)


@pytest.mark.parametrize(("edit", "why"), REFUSED, ids=lambda each: each if isinstance(each, str) else each.kind)
def test_what_makes_no_sense_is_refused_in_a_sentence_and_changes_nothing(
    row: ObjectsUnderEdit, edit: Edit, why: str
) -> None:
    before, count = labels_of(row), row.region_count
    with pytest.raises(EditRefusedError, match=why) as raised:
        apply_edit(row, edit)
    assert str(raised.value).endswith(".")
    np.testing.assert_array_equal(labels_of(row), before)
    assert row.region_count == count


def test_times_and_slices_of_their_own_are_not_merged() -> None:
    series = found(np.stack([row_of_cells(), row_of_cells()]))
    with pytest.raises(EditRefusedError, match="different times"):
        apply_edit(series, Merge((cell(0), cell(0, t=1))))
    apply_edit(series, Merge((cell(0, t=1), cell(3, t=1))))
    assert series.object_at(cell(0)) != series.object_at(cell(3))
    assert series.object_at(cell(0, t=1)) == series.object_at(cell(3, t=1))
    slices = found(row_of_cells(), ObjectOptions("cells", threshold=0.3, merge=0.5, planes="slices"))
    with pytest.raises(EditRefusedError, match="different slices"):
        apply_edit(slices, Merge((cell(0), cell(0, z=2))))
    with pytest.raises(EditRefusedError, match="different objects"):
        apply_edit(slices, Split(((cell(1),), (cell(2, z=2),))))


def test_labels_of_another_program_grow_no_regions(plain: ObjectsUnderEdit) -> None:
    with pytest.raises(EditRefusedError, match="without a probability"):
        apply_edit(plain, Grow(cell(0), 0.5))


def state(objects: ObjectsUnderEdit) -> tuple[NDArray[np.uint32], object]:
    return labels_of(objects), (objects.locked, objects.confirmed, objects.next_object, objects.region_count)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: f"{options.method} {options.planes}")
def test_undoing_all_edits_goes_back_through_each_state_and_redoing_is_the_same(options: ObjectOptions) -> None:
    objects, chance = found(bumpy((6, 40, 50), 3), options), np.random.default_rng(5)
    states, changes = [state(objects)], []
    while len(changes) < 60:
        edit = random_edit(objects, chance)
        assert edit_from_dict(edit_to_dict(edit)) == edit
        try:
            changes.append(apply_edit(objects, edit))
        except EditRefusedError:
            np.testing.assert_array_equal(labels_of(objects), states[-1][0])
            assert state(objects)[1] == states[-1][1]
            continue
        states.append(state(objects))
        changed = np.argwhere(states[-1][0] != states[-2][0])
        if len(changed):  # all that changed lies in the box, and belongs to objects that are named
            time, *sides = changes[-1].box
            low, high = sides[0::2], sides[1::2]
            assert (changed >= low).all()
            assert (changed < high).all()
            assert time == 0
            values = {*states[-1][0][tuple(changed.T)].tolist(), *states[-2][0][tuple(changed.T)].tolist()} - {0}
            assert values <= set(changes[-1].objects)
    kinds = {change.edit.kind for change in changes}
    assert len(kinds) >= 6, kinds
    for number in reversed(range(len(changes))):
        objects.undo(changes[number])
        np.testing.assert_array_equal(labels_of(objects), states[number][0])
        assert state(objects)[1] == states[number][1]
    for change, (labels, facts) in zip(changes, states[1:], strict=True):
        apply_edit(objects, change.edit)
        np.testing.assert_array_equal(labels_of(objects), labels)
        assert state(objects)[1] == facts


def test_cells_are_the_row_without_edits(row: ObjectsUnderEdit) -> None:
    from napari_skipseg.images.space import Space
    from napari_skipseg.objects.find import find_objects_in_array

    np.testing.assert_array_equal(labels_of(row), find_objects_in_array(row_of_cells(), Space("ZYX"), options=CELLS))


def test_very_many_objects_are_edited_at_once() -> None:
    objects = labelled(np.arange(1, 250_001, dtype=np.uint32).reshape(500, 500))
    begun = time.perf_counter()
    apply_edit(objects, Merge(tuple((0, 0, 250, x) for x in range(40))))
    apply_edit(objects, Delete(((0, 0, 499, 499),)))
    assert time.perf_counter() - begun < 0.5
    assert objects.object_at((0, 0, 250, 39)) == 125_001
    apply_edit(objects, Renumber())
    assert len(np.unique(labels_of(objects))) == 250_000 - 39
    assert labels_of(objects).max() == 250_000 - 40
