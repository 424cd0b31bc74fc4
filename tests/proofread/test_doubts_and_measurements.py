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
from napari_skipseg.proofread.doubts import rank_doubts
from napari_skipseg.proofread.edits import Confirm, EditRefusedError, Lock, Merge, Split
from napari_skipseg.proofread.measure import measure_changed, measured_images


def test_the_least_sure_decision_comes_first_with_its_reason_and_place() -> None:
    objects = found(row_of_cells((0.9, 0.42, 0.55)))
    first, second, third = rank_doubts(objects)
    assert (first.kind, second.kind, third.kind) == ("merge?", "split?", "merge?")
    assert [doubt.objects for doubt in (first, second, third)] == [(2, 3), (2, 2), (1, 2)]
    for doubt, strength, column in ((first, "0.55", 36), (second, "0.42", 24), (third, "0.90", 12)):
        assert strength in doubt.reason
        assert abs(doubt.center[3] - column) <= 1
        sides = sorted(voxel[3] for voxel in doubt.at)
        assert sides[0] < column < sides[1]
    assert first.score > second.score > third.score > 0


def test_of_equal_doubts_the_larger_objects_come_first() -> None:
    values = row_of_cells((0.55, 0.9, 0.55))[..., :42]  # the last cell is half as wide
    doubts = [doubt for doubt in rank_doubts(found(values)) if "0.55" in doubt.reason]
    assert doubts[0].center[3] < 24 < doubts[-1].center[3]
    assert doubts[0].score > doubts[-1].score


def test_what_was_decided_does_not_come_back() -> None:
    objects = found(row_of_cells((0.9, 0.42, 0.55)))
    first, second, third = rank_doubts(objects)
    change = apply_edit(objects, Confirm(second.at))
    assert [doubt.at for doubt in rank_doubts(objects)] == [first.at, third.at]
    apply_edit(objects, Confirm(first.at))
    assert [doubt.at for doubt in rank_doubts(objects)] == [third.at]
    apply_edit(objects, Lock((cell(0),)))
    assert rank_doubts(objects) == []
    fresh = found(row_of_cells((0.9, 0.42, 0.55)))
    apply_edit(fresh, Merge(first.at))
    assert {doubt.kind for doubt in rank_doubts(fresh)} == {"merge?", "split?"}
    assert first.at not in [doubt.at for doubt in rank_doubts(fresh) if doubt.kind == "merge?"]
    assert change.objects == ()


def test_the_edit_that_a_doubt_proposes_makes_sense() -> None:
    objects = found(bumpy((10, 60, 60), 4), OPTIONS[0])
    doubts = rank_doubts(objects)
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
