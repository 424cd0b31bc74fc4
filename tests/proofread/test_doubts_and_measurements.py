"""The ranked list of doubts, and measurements that follow the edits."""

from __future__ import annotations

import numpy as np
import pytest
from grid import OPTIONS, bumpy, cell, found, image, labelled, labels_of, random_edit, row_of_cells

from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.measure import measure_objects
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.proofread.apply import apply_edit
from napari_skipseg.proofread.doubts import Doubt, rank_doubts
from napari_skipseg.proofread.edits import Confirm, EditRefusedError, Lock, Merge, SkipDoubt, Split
from napari_skipseg.proofread.measure import measure_changed, measured_images
from napari_skipseg.proofread.state import ObjectsUnderEdit


def about_contacts(objects: ObjectsUnderEdit) -> list[Doubt]:
    return [doubt for doubt in rank_doubts(objects) if doubt.kind != "object?"]


def test_the_decision_that_may_cost_most_comes_first_with_its_reason_and_place() -> None:
    objects = found(row_of_cells((0.9, 0.42, 0.55)))
    doubts = about_contacts(objects)
    assert {(doubt.kind, doubt.objects) for doubt in doubts} == {
        ("merge?", (2, 3)),
        ("split?", (2, 2)),
        ("merge?", (1, 2)),
    }
    by_place = {doubt.objects: doubt for doubt in doubts}
    for pair, words, column in (((2, 3), "boundary of 0.55", 36), ((2, 2), "72 % sure", 24), ((1, 2), "0.90", 12)):
        doubt = by_place[pair]
        assert words in doubt.reason
        assert abs(doubt.center[3] - column) <= 1
        sides = sorted(voxel[3] for voxel in doubt.at)
        assert sides[0] < column < sides[1]
    assert by_place[2, 3].score > by_place[2, 2].score > by_place[1, 2].score > 0
    assert [doubt.score for doubt in doubts] == sorted((doubt.score for doubt in doubts), reverse=True)


def test_a_score_is_both_sides_times_the_chance_of_an_error() -> None:
    objects = found(row_of_cells((0.9, 0.42, 0.55)))
    doubt = next(doubt for doubt in rank_doubts(objects) if doubt.objects == (2, 3))
    sizes = np.bincount(labels_of(objects).ravel())
    assert doubt.score == pytest.approx(int(sizes[2]) * int(sizes[3]) / (1 + np.exp(12 * (0.55 - 0.5))), rel=0.02)


def test_an_object_far_larger_than_the_others_is_a_doubt_until_it_is_confirmed() -> None:
    objects = found(row_of_cells((0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9)))
    sizes = np.bincount(labels_of(objects).ravel())
    largest = int(sizes[1:].argmax()) + 1
    doubt = next(doubt for doubt in rank_doubts(objects) if doubt.kind == "object?")
    assert doubt.objects == (largest, largest)
    assert "larger than the others" in doubt.reason
    apply_edit(objects, Confirm(doubt.at))
    assert doubt.at not in [each.at for each in rank_doubts(objects) if each.kind == "object?"]


def test_an_object_that_jumps_between_two_slices_is_a_doubt_that_says_where() -> None:
    values = np.full((8, 40, 40), 0.1, np.float32)
    values[:4, 14:26, 14:26] = 0.9
    values[4:, 2:38, 2:38] = 0.9
    objects = found(values, ObjectOptions("watershed", threshold=0.5, seed_distance=60))
    reasons = [doubt.reason for doubt in rank_doubts(objects) if doubt.kind == "object?"]
    assert any("between slices 3 and 4" in reason for reason in reasons), reasons


def test_what_was_decided_or_skipped_does_not_come_back() -> None:
    objects = found(row_of_cells((0.9, 0.42, 0.55)))
    doubts = {doubt.objects: doubt for doubt in about_contacts(objects)}
    first, second, third = doubts[2, 3], doubts[2, 2], doubts[1, 2]
    change = apply_edit(objects, Confirm(second.at))
    assert {doubt.objects for doubt in about_contacts(objects)} == {(2, 3), (1, 2)}
    apply_edit(objects, SkipDoubt(first.at))
    assert [doubt.at for doubt in about_contacts(objects)] == [third.at]
    apply_edit(objects, Lock((cell(0),)))
    assert about_contacts(objects) == []
    fresh = found(row_of_cells((0.9, 0.42, 0.55)))
    apply_edit(fresh, Merge(first.at))
    assert {doubt.kind for doubt in about_contacts(fresh)} == {"merge?", "split?"}
    assert first.at not in [doubt.at for doubt in about_contacts(fresh) if doubt.kind == "merge?"]
    assert change.objects == ()


def test_the_edit_that_a_doubt_proposes_makes_sense() -> None:
    objects = found(bumpy((10, 60, 60), 4), OPTIONS[0])
    doubts = about_contacts(objects)
    assert len(doubts) > 10
    for doubt in doubts[:12]:
        edit = Merge(doubt.at) if doubt.kind == "merge?" else Split(((doubt.at[0],), (doubt.at[1],)))
        change = apply_edit(objects, edit)
        assert set(doubt.objects) <= set(change.objects)
        objects.undo(change)


def test_labels_of_another_program_have_no_doubts() -> None:
    assert rank_doubts(labelled(np.arange(12, dtype=np.uint8).reshape(3, 4))) == []


@pytest.mark.parametrize(
    ("options", "axes", "shape"),
    [
        (OPTIONS[0], "ZYX", (6, 30, 40)),
        (OPTIONS[3], "TZYX", (2, 3, 30, 40)),
        (ObjectOptions("watershed", threshold=0.4, seed_distance=4), "YX", (40, 50)),
    ],
    ids=["volume", "slices of a series", "plane"],
)
def test_measuring_what_changed_gives_the_table_of_the_whole(
    options: ObjectOptions, axes: str, shape: tuple[int, ...]
) -> None:
    values, space = bumpy(shape, 7), Space(axes, (30, 6, 6), "nm", (10.0, 20.0, 30.0))
    source = image(values)
    source = type(source)(Stack(values, space, "row"))
    grey = Stack((255 * bumpy(shape, 9)).astype(np.uint8), space, "grey")
    objects, chance = found(values, options, axes), np.random.default_rng(3)
    object.__setattr__(objects.regions, "space", space)
    measured = measured_images(objects, source, grey)

    def whole() -> object:
        labels = Stack(labels_of(objects), space, "labels")
        return measure_objects(labels, grey, measured.probability, options.planes)

    table, done = whole(), 0
    while done < 12:
        try:
            change = apply_edit(objects, random_edit(objects, chance))
        except EditRefusedError:
            continue
        done += 1
        table = measure_changed(objects, table, change.objects, measured)
        expected = whole()
        assert table.names == expected.names
        for name in table.names:
            np.testing.assert_allclose(table.column(name), expected.column(name), rtol=1e-6, atol=1e-6, err_msg=name)
