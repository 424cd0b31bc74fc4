"""Levels of a pyramid: which there are, and that each voxel is the mean, or the most common label, of those below."""

import math

import numpy as np
import pytest

from napari_skipseg.images.space import Space
from napari_skipseg.images.zarr.pyramid import average, most_common, plan_levels, region_below, regions


def test_z_of_serial_sections_waits_until_y_and_x_have_caught_up():
    levels = plan_levels((100, 9000, 9001), Space("ZYX", (50, 4, 4)))
    assert [level.factor for level in levels] == [(1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8), (2, 16, 16), (4, 32, 32)]
    assert levels[-1].shape == (25, 282, 282)
    assert levels[1].shape == (100, 4500, 4501)


def test_isotropic_volumes_are_halved_along_all_axes_and_time_and_channels_never():
    levels = plan_levels((3, 2, 600, 1025, 700), Space("TCZYX", (4, 4, 4)))
    assert [level.shape for level in levels] == [(3, 2, 600, 1025, 700), (3, 2, 300, 513, 350), (3, 2, 150, 257, 175)]


def test_a_small_image_has_one_level_and_a_deep_one_several():
    assert len(plan_levels((512, 512), Space("YX", (1, 1, 1)))) == 1
    assert len(plan_levels((100, 512, 512), Space("ZYX", (1, 1, 1)))) == 1
    assert plan_levels((3000, 300, 300), Space("ZYX", (1, 1, 1)))[-1].shape == (1500, 150, 150)
    assert plan_levels((1, 5000), Space("YX", (1, 1, 1)))[-1].shape == (1, 313)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "uint32", "float32", "float64", "float16"])
@pytest.mark.parametrize("steps", [(1, 2, 2), (2, 2, 2), (2, 1, 1)])
def test_the_average_is_the_mean_of_each_block_rounded_half_up(dtype, steps):
    values = (np.random.default_rng(0).random((4, 6, 8)) * 100).astype(dtype)
    blocks = values.reshape(4 // steps[0], steps[0], 6 // steps[1], steps[1], 8 // steps[2], steps[2])
    mean = blocks.astype("float64").mean(axis=(1, 3, 5))
    found = average(values, steps)
    assert found.dtype == values.dtype
    if values.dtype.kind == "f":
        np.testing.assert_allclose(found, mean, rtol=1e-3 if dtype == "float16" else 1e-6)
    else:
        assert np.array_equal(found, np.floor(mean + 0.5))


def test_a_rest_at_the_far_end_is_a_block_of_its_own_and_the_highest_values_do_not_overflow():
    assert average(np.array([[0, 10, 7]], "u1"), (1, 2)).tolist() == [[5, 7]]
    assert average(np.full((3, 3, 3), 255, "u1"), (2, 2, 2)).tolist() == np.full((2, 2, 2), 255).tolist()
    assert average(np.full((2, 2), 2**32 - 1, "u4"), (2, 2)).tolist() == [[2**32 - 1]]
    assert average(np.array([[True, False, True]]), (1, 2)).tolist() == [[True, True]]


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "int64", "bool"])
def test_the_most_common_label_wins_and_of_equals_the_highest(dtype):
    def most(*block):
        return int(most_common(np.array(block, dtype).reshape(2, -1), (2, 2)).flat[0])

    assert most(0, 0, 0, 1) == 0
    assert most(0, 0, 1, 1) == 1
    assert most(1, 0, 1, 0) == 1
    if dtype != "bool":
        assert most(7, 0, 7, 9) == 7
        assert most(4, 3, 2, 1) == 4
    values = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 3, (6, 8, 9)).astype(dtype)
    found = most_common(values, (2, 2, 2))
    for place in np.ndindex(found.shape):
        block = values[tuple(slice(2 * p, 2 * p + 2) for p in place)]
        labels, counts = np.unique(block, return_counts=True)
        if block.size == 8:
            assert found[place] == labels[counts == counts.max()].max()


@pytest.mark.parametrize(("shape", "chunks"), [((5, 70, 33), (1, 16, 16)), ((40, 40), (7, 40)), ((3, 1, 9), (2, 1, 2))])
@pytest.mark.parametrize("largest", [1, 300, 5000, 10**9])
def test_regions_cover_every_voxel_once_in_whole_chunks(shape, chunks, largest):
    count = np.zeros(shape, int)
    for region in regions(shape, chunks, largest):
        count[region] += 1
        for part, chunk, length in zip(region, chunks, shape, strict=True):
            assert part.start % chunk == 0
            assert part.stop % chunk == 0 or part.stop == length
        assert math.prod(p.stop - p.start for p in region) <= max(largest, math.prod(chunks))
    assert (count == 1).all()


def test_a_region_is_made_from_the_part_below_it():
    assert region_below((slice(0, 4), slice(3, 5)), (1, 2), (4, 9)) == (slice(0, 4), slice(6, 9))
