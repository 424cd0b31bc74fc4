"""Shapes that are carried from painted slices to those between them."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_skipseg.corrections.between_slices import LONGEST_GAP, between, carry_shapes, matched_parts
from napari_skipseg.errors import InputError

SIDE = 80


def disc(y: float, x: float, radius: float, shape: tuple[int, int] = (SIDE, SIDE)) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_a_cone_is_carried_slice_by_slice() -> None:
    found, alone = between(disc(40, 40, 8), disc(40, 40, 20), 5)
    radii = [10, 12, 14, 16, 18]
    assert alone == 0
    assert all(overlap(each, disc(40, 40, radius)) > 0.95 for each, radius in zip(found, radii, strict=True))


def test_a_shape_that_moves_is_moved_even_if_the_slices_do_not_overlap() -> None:
    found, alone = between(disc(20, 20, 8), disc(31, 32, 8), 3)
    expected = [disc(20 + 11 * share, 20 + 12 * share, 8) for share in (0.25, 0.5, 0.75)]
    assert alone == 0
    assert all(overlap(each, disc_) > 0.95 for each, disc_ in zip(found, expected, strict=True))


def test_a_hole_stays_a_hole() -> None:
    ring = disc(40, 40, 20) & ~disc(40, 40, 8)
    found, _ = between(ring, disc(40, 40, 24) & ~disc(40, 40, 10), 3)
    assert not found[:, 40, 40].any()
    assert overlap(found[1], disc(40, 40, 22) & ~disc(40, 40, 9)) > 0.95


def test_a_part_may_divide() -> None:
    two = disc(30, 40, 9) | disc(52, 40, 9)
    found, alone = between(disc(40, 40, 18), two, 3)
    assert alone == 0
    assert found[0].any()
    assert found[2][30, 40]
    assert found[2][52, 40]
    assert np.diff([each.sum() for each in found]).max() < 0  # from the large part to the smaller two


def test_a_part_without_a_counterpart_is_not_carried_and_counted() -> None:
    found, alone = between(disc(20, 20, 8) | disc(70, 70, 4), disc(20, 22, 8), 2)
    assert alone == 1
    assert not found[:, 60:, 60:].any()
    assert overlap(found[0], disc(20, 20.7, 8)) > 0.95


def test_two_shapes_far_apart_do_not_become_one() -> None:
    groups, alone = matched_parts(disc(15, 15, 5), disc(60, 60, 5), (1.0, 1.0))
    assert (groups, alone) == ([], 2)
    assert not between(disc(15, 15, 5), disc(60, 60, 5), 3)[0].any()


def test_the_distance_is_measured_in_the_unit_of_the_image() -> None:
    wide = np.zeros((SIDE, SIDE), np.bool_)
    wide[38:43, 10:70] = True
    tall = wide.T.copy()
    flat, _ = between(wide, tall, 1, (4.0, 1.0))
    square, _ = between(wide, tall, 1)
    assert not np.array_equal(flat, square)


def test_all_gaps_are_carried_and_painted_slices_are_left_alone() -> None:
    masks = np.zeros((12, SIDE, SIDE), np.bool_)
    for z, radius in ((1, 8), (4, 14), (5, 15), (9, 7)):
        masks[z] = disc(40, 40, radius)
    carried = carry_shapes(masks, [9, 1, 4, 5])
    assert np.flatnonzero(carried.any(axis=(1, 2))).tolist() == [2, 3, 6, 7, 8]
    assert overlap(carried[7], disc(40, 40, 11)) > 0.95


@pytest.mark.parametrize(
    ("painted", "said"),
    [
        ([], "Nothing is painted here"),
        ([7], "Only slice 7 is painted"),
        ([3, 4, 5], "Slices 3 to 5 are all painted"),
        ([0, LONGEST_GAP + 2], f"more than {LONGEST_GAP} slices apart"),
    ],
)
def test_what_cannot_be_carried_is_said(painted: list[int], said: str) -> None:
    masks = np.zeros((LONGEST_GAP + 3, 4, 4), np.bool_)
    masks[painted] = True
    with pytest.raises(InputError, match=said):
        carry_shapes(masks, painted)


@pytest.mark.parametrize("count", [1, 9])
def test_a_slice_of_1024_pixels_takes_less_than_the_target(count: int) -> None:
    shape = 1024, 1024
    first, last = disc(512, 512, 480, shape), disc(520, 500, 440, shape)
    between(disc(4, 4, 3), disc(4, 5, 3), 1)  # compiles, if no other test did
    begun = time.process_time()
    between(first, last, count)
    assert (time.process_time() - begun) / count < 0.2


def test_many_parts_take_no_longer_than_one() -> None:
    rows, columns = np.ogrid[:1024, :1024]
    grid = ((rows % 64 - 32) ** 2 + (columns % 64 - 32) ** 2) <= 400  # 256 discs
    begun = time.process_time()
    found, alone = between(grid, np.roll(grid, 2, axis=1), 1)
    assert time.process_time() - begun < 0.4
    assert alone == 0
    assert overlap(found[0], np.roll(grid, 1, axis=1)) > 0.95
