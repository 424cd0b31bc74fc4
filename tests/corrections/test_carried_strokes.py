"""Strokes that are carried between slices: where they go, and what they leave alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_skipseg.corrections.carried_strokes import (
    ONE_SLICE,
    CarriedBefore,
    CarriedStrokes,
    changed_voxels,
    iter_carry_strokes,
)
from napari_skipseg.corrections.store import Corrections, open_corrections
from napari_skipseg.errors import InputError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.progress import run_to_end

SIDE = 300
"""More than a chunk of the corrections, which has 256 pixels a side."""


def disc(radius: float, y: float = 256, x: float = 256) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[:SIDE, :SIDE]
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Iterator[Corrections]:
    axes = getattr(request, "param", "ZYX")
    shape = tuple({"T": 2, "Z": 9}.get(axis, SIDE) for axis in axes)
    corrections = open_corrections(Stack(np.zeros(shape, np.uint8), Space(axes, (50, 4, 4), "nm")))
    yield corrections
    corrections.close()


def carry(corrections: Corrections, before: CarriedBefore, value: int = 2, time: int = 0) -> CarriedStrokes:
    """Carry, and write what is carried."""
    carried = run_to_end(iter_carry_strokes(corrections, value, time, before))
    places, values = changed_voxels(carried, corrections)
    corrections.strokes[places] = values
    before.keep(carried, corrections.subject.space.axes)
    return carried


def areas(corrections: Corrections, value: int = 2, time: int | None = None) -> list[int]:
    strokes = np.asarray(corrections.strokes)
    return [int((plane == value).sum()) for plane in (strokes if time is None else strokes[time])]


def paint(corrections: Corrections, z: int, mask: NDArray[np.bool_], value: int = 2) -> None:
    corrections.strokes[z] = np.where(mask, value, np.asarray(corrections.strokes[z]))


def test_a_shape_over_the_border_of_chunks_is_carried_in_all_gaps(opened: Corrections) -> None:
    for z, radius in ((1, 40), (4, 20), (7, 30)):
        paint(opened, z, disc(radius))
    carried = carry(opened, CarriedBefore())
    assert (carried.slices, carried.left_out, carried.earlier) == ((2, 3, 5, 6), 0, ())
    found = areas(opened)
    np.testing.assert_allclose(found[1:8], [np.pi * r**2 for r in (40, 33.3, 26.7, 20, 23.3, 26.7, 30)], rtol=0.03)
    assert found[0] == found[8] == 0


def test_other_strokes_and_accepted_parts_stay(opened: Corrections) -> None:
    paint(opened, 1, disc(40))
    paint(opened, 5, disc(40))
    paint(opened, 3, disc(5), value=1)
    paint(opened, 3, disc(5, 240), value=3)
    opened.review((slice(2, 3), slice(250, 262), slice(250, 262)), np.ones((1, 12, 12), np.uint8))
    carry(opened, CarriedBefore())
    strokes = np.asarray(opened.strokes)
    assert (strokes[3][disc(5)] == 1).all()
    assert (strokes[3][disc(5, 240)] == 3).all()
    assert not strokes[2, 250:262, 250:262].any()
    assert strokes[2, 245, 256] == strokes[3, 256, 275] == 2


def test_classes_are_carried_each_by_itself(opened: Corrections) -> None:
    for z in (1, 4):
        paint(opened, z, disc(20, 100, 100))
        paint(opened, z, disc(20, 200, 200), value=3)
    before = CarriedBefore()
    carry(opened, before)
    assert areas(opened)[2] > 0
    assert areas(opened, 3)[2] == 0
    carry(opened, before, value=3)
    assert areas(opened, 3)[2] == areas(opened)[2]


def test_a_corrected_slice_counts_as_painted_and_the_rest_is_carried_again(opened: Corrections) -> None:
    before = CarriedBefore()
    paint(opened, 0, disc(40))
    paint(opened, 8, disc(40))
    carry(opened, before)
    opened.strokes[4] = np.where(disc(10), 2, 0)
    carried = carry(opened, before)
    assert carried.slices == carried.earlier == (1, 2, 3, 5, 6, 7)
    found = areas(opened)
    assert found[4] == disc(10).sum()
    assert (np.diff(found[:5]) < 0).all()
    assert (np.diff(found[4:]) > 0).all()


@pytest.mark.parametrize("opened", ["TZYX"], indirect=True)
def test_each_time_is_carried_by_itself(opened: Corrections) -> None:
    opened.strokes[0, 1] = opened.strokes[1, 2] = np.where(disc(20), 2, 0)
    opened.strokes[1, 4] = np.where(disc(20), 2, 0)
    with pytest.raises(InputError, match="Only slice 1 is painted"):
        carry(opened, CarriedBefore(), time=0)
    carry(opened, CarriedBefore(), time=1)
    assert areas(opened, time=1)[3] == disc(20).sum()
    assert sum(areas(opened, time=0)) == disc(20).sum()


@pytest.mark.parametrize("opened", ["YX", "TYX"], indirect=True)
def test_an_image_without_slices_is_told_so(opened: Corrections) -> None:
    with pytest.raises(InputError) as raised:
        carry(opened, CarriedBefore())
    assert str(raised.value) == ONE_SLICE


def test_nothing_is_written_before_it_is_accepted(opened: Corrections) -> None:
    paint(opened, 1, disc(20))
    paint(opened, 4, disc(20))
    version = opened.version
    carried = run_to_end(iter_carry_strokes(opened, 2, 0, CarriedBefore()))
    assert opened.version == carried.version == version
    assert (np.asarray(carried.array[2]) > 0).sum() == disc(20).sum()
