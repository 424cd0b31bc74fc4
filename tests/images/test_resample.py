"""Resampling: linear, averaging where voxels become larger, and without a seam between parts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_skipseg.images.resample import network_lengths, resample_axis, source_range
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack

RNG = np.random.default_rng(2)
FACTORS = [0.5, 0.64, 1.0, 1.37, 2.0, 3.5]
"""How many voxels of the new grid one of the old is long."""


def resampled(values: NDArray[np.float32], length: int, axis: int = 0) -> NDArray[np.float32]:
    """The whole of an axis on a grid of another `length`."""
    limit = values.shape[axis]
    return resample_axis(values, axis, 0, limit, limit / length, np.arange(length))


def grown(length: int, factor: float) -> int:
    return max(1, round(length * factor))


@pytest.mark.parametrize("factor", [1 / 16, *FACTORS, 16.0])
@pytest.mark.parametrize("length", [1, 2, 17, 100])
def test_constants_stay_constant(length: int, factor: float) -> None:
    new = resampled(np.full((length, 3), -2.5, np.float32), grown(length, factor))
    assert new.shape == (grown(length, factor), 3)
    assert new.dtype == np.float32
    np.testing.assert_allclose(new, -2.5, atol=1e-6)


@pytest.mark.parametrize("factor", FACTORS)
def test_a_ramp_stays_the_same_ramp_away_from_the_borders(factor: float) -> None:
    length, new = 100, grown(100, factor)
    centres = (np.arange(new) + 0.5) * length / new - 0.5
    found = resampled(np.arange(length, dtype=np.float32), new)
    inside = (centres >= max(1, length / new)) & (centres <= length - 1 - max(1, length / new))
    assert inside.sum() > 0.9 * new
    exact = factor >= 1 or (1 / factor).is_integer()
    np.testing.assert_allclose(found[inside], centres[inside], atol=1e-4 if exact else 0.06)


@pytest.mark.parametrize("factor", FACTORS)
def test_a_plane_is_resampled_as_torch_does_it_with_its_filter_against_aliases(factor: float) -> None:
    image = RNG.random((37, 52)).astype(np.float32)
    size = (grown(37, factor), grown(52, factor))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None, None], size=size, mode="bilinear", align_corners=False, antialias=True
    )[0, 0].numpy()
    np.testing.assert_allclose(resampled(resampled(image, size[0]), size[1], 1), expected, atol=1e-5)


@pytest.mark.parametrize("factor", [1.37, 2.0, 3.5])
def test_towards_smaller_voxels_a_volume_is_interpolated_linearly(factor: float) -> None:
    volume = RNG.random((9, 12, 7)).astype(np.float32)
    size = tuple(grown(length, factor) for length in volume.shape)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(volume)[None, None], size=size, mode="trilinear", align_corners=False
    )[0, 0].numpy()
    found = volume
    for axis, length in enumerate(size):
        found = resampled(found, length, axis)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_towards_larger_voxels_means_of_blocks_are_kept() -> None:
    blocks = RNG.random(20)
    found = resampled(np.repeat(blocks, 4).astype(np.float32), 20)
    neighbours = np.convolve(np.pad(blocks, 1, "edge"), [1, 6, 1], "valid") / 8
    np.testing.assert_allclose(found[1:-1], neighbours[1:-1], atol=1e-6)
    noise = RNG.normal(size=4000).astype(np.float32)
    assert resampled(noise, 1000).mean() == pytest.approx(noise.mean(), abs=2e-3)
    assert resampled(noise, 1000).std() < 0.6 * noise.std()


def test_half_as_many_voxels_by_hand() -> None:
    found = resampled(np.array([0, 8, 0, 0, 0, 0, 0, 8], np.float32), 4)
    np.testing.assert_allclose(found, [24 / 7, 1, 0, 24 / 7], atol=1e-6)


def test_twice_as_many_voxels_by_hand() -> None:
    np.testing.assert_allclose(resampled(np.array([0, 4, 2], np.float32), 6), [0, 1, 3, 3.5, 2.5, 2], atol=1e-6)


def test_borders_are_those_of_the_last_voxels() -> None:
    for factor in FACTORS:
        values = RNG.random(30).astype(np.float32)
        found = resampled(values, grown(30, factor))
        assert values.min() <= found.min() <= found.max() <= values.max()
        if factor > 1:
            assert (found[0], found[-1]) == pytest.approx((values[0], values[-1]), abs=1e-6)


def test_one_voxel_becomes_as_many_as_are_wanted_and_many_become_one() -> None:
    np.testing.assert_allclose(resampled(np.array([7], np.float32), 5), 7)
    assert resampled(np.arange(5, dtype=np.float32), 1) == pytest.approx(2)


@st.composite
def parts(draw: Any) -> tuple[int, int, list[int]]:
    """(old length, new length, borders of parts of the new)."""
    length = draw(st.integers(1, 80))
    new = max(1, round(length * draw(st.sampled_from([1 / 16, *FACTORS, 16.0]) | st.floats(0.1, 10))))
    return length, new, sorted({0, new, *draw(st.lists(st.integers(0, new), max_size=4))})


@settings(max_examples=40, deadline=None)
@given(parts(), st.integers(0, 9))
def test_parts_made_of_no_more_than_they_need_equal_the_whole_to_the_bit(
    cut: tuple[int, int, list[int]], seed: int
) -> None:
    length, new, borders = cut
    values = np.random.default_rng(seed).normal(size=(2, length)).astype(np.float32)
    whole, step = resampled(values, new, 1), length / new
    for start, stop in pairwise(borders):
        places = np.arange(start, stop)
        first, last = source_range(step, places, length)
        assert 0 <= first < last <= length
        part = resample_axis(values[:, first:last], 1, first, length, step, places)
        np.testing.assert_array_equal(part, whole[:, start:stop])
        more = resample_axis(values[:, max(0, first - 3) :], 1, max(0, first - 3), length, step, places)
        np.testing.assert_array_equal(more, part)


@settings(max_examples=50, deadline=None)
@given(parts(), st.data())
def test_places_may_come_in_any_order_and_more_than_once(cut: tuple[int, int, list[int]], data: Any) -> None:
    length, new, _ = cut
    values = RNG.random(length).astype(np.float32)
    places = np.array(data.draw(st.lists(st.integers(0, new - 1), min_size=1, max_size=20)))
    first, last = source_range(length / new, places, length)
    found = resample_axis(values[first:last], 0, first, length, length / new, places)
    np.testing.assert_array_equal(found, resampled(values, new)[places])


def test_a_grid_of_the_same_voxels_gives_the_same_values() -> None:
    values = RNG.random((3, 8)).astype(np.float32)
    np.testing.assert_array_equal(resample_axis(values, 1, 0, 8, 1.0, np.arange(8)), values)
    np.testing.assert_array_equal(resample_axis(values, 1, 0, 8, 1.0, np.array([2, 3, 2, 1])), values[:, [2, 3, 2, 1]])


@pytest.mark.parametrize(
    ("voxel_size", "wanted", "lengths"),
    [
        ((40.0, 8.0, 8.0), (40.0, 4.0, 4.0), (10, 200, 120)),
        ((40.0, 8.0, 8.0), (40.0, 8.3, 7.7), (10, 100, 60)),
        ((40.0, 8.0, 8.0), (40.0, 8.6, 7.4), (10, 93, 65)),
        ((40.0, 8.0, 8.0), (8.0, 8.0, 8.0), (50, 100, 60)),
        ((8.0, 8.0, 8.0), (4000.0, 8.0, 8.0), (1, 100, 60)),
    ],
)
def test_lengths_follow_voxel_sizes_that_differ_by_more_than_5_percent(
    voxel_size: tuple[float, float, float], wanted: tuple[float, float, float], lengths: tuple[int, ...]
) -> None:
    stack = Stack(np.zeros((10, 100, 60), np.uint8), Space("ZYX", voxel_size, "nm"))
    assert network_lengths(stack, "ZYX", wanted) == lengths
    assert network_lengths(stack, "YX", wanted) == lengths[1:]


def test_an_axis_of_one_voxel_stays_one() -> None:
    stack = Stack(np.zeros((1, 100, 60), np.uint8), Space("ZYX", (40.0, 8.0, 8.0), "nm"))
    assert network_lengths(stack, "ZYX", (4.0, 8.0, 8.0)) == (1, 100, 60)
