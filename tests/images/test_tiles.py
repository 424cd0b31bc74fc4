"""Tile geometry: every voxel is kept once, with its margin around it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_skipseg.images.tiles import Tile, plan_tiles, reflected


@st.composite
def plans(draw):
    """(shape, largest, margin, stride) in one to three dimensions."""
    dimensions = draw(st.integers(1, 3))
    most = (200, 60, 24)[dimensions - 1]
    shape = draw(st.tuples(*[st.integers(1, most)] * dimensions))
    largest = draw(st.tuples(*[st.integers(1, most)] * dimensions))
    return shape, largest, draw(st.integers(0, 12)), draw(st.sampled_from([1, 2, 3, 4, 8, 16]))


def counted(shape, tiles, stride=1):
    """How often each pixel of a map with one pixel per `stride` voxels is kept."""
    times = np.zeros([-(-length // stride) for length in shape], int)
    for tile in tiles:
        times[tile.keep_of_level(stride)] += 1
    return times


@settings(max_examples=150, deadline=None)
@given(plans())
def test_every_voxel_is_kept_once(plan):
    shape, *_ = plan
    times = np.zeros(shape, int)
    for tile in plan_tiles(*plan):
        times[tile.keep] += 1
    assert np.all(times == 1)


@settings(max_examples=150, deadline=None)
@given(plans())
def test_every_pixel_of_every_level_is_kept_once(plan):
    shape, _, _, stride = plan
    tiles = plan_tiles(*plan)
    for level in {1, stride} | ({2, 4} if stride % 4 == 0 else set()):
        assert np.all(counted(shape, tiles, level) == 1)


@settings(max_examples=150, deadline=None)
@given(plans())
def test_margins_are_respected_but_at_the_borders_of_the_image(plan):
    shape, _, margin, _ = plan
    for tile in plan_tiles(*plan):
        for axis, length in enumerate(shape):
            keep, start, size = tile.keep[axis], tile.start[axis], tile.size[axis]
            assert 0 <= keep.start < keep.stop <= length
            assert start <= keep.start
            assert keep.stop <= start + size
            assert keep.start == 0 or keep.start - start >= margin
            assert keep.stop == length or start + size - keep.stop >= margin


@settings(max_examples=150, deadline=None)
@given(plans())
def test_tiles_are_of_one_size_on_the_stride_and_end_less_than_a_stride_beyond_the_image(plan):
    shape, largest, margin, stride = plan
    tiles = plan_tiles(*plan)
    assert len({tile.size for tile in tiles}) == 1
    for tile in tiles:
        for start, size, length, most in zip(tile.start, tile.size, shape, largest, strict=True):
            assert start % stride == size % stride == 0
            assert start >= 0
            assert start + size < length + stride
            assert size <= max(most, 2 * -(-margin // stride) * stride + stride)


@settings(max_examples=100, deadline=None)
@given(plans())
def test_what_is_kept_lies_at_the_same_place_in_tile_and_image(plan):
    *_, stride = plan
    for tile in plan_tiles(*plan):
        for keep, inside, start in zip(tile.keep, tile.keep_in_read, tile.start, strict=True):
            assert (inside.start, inside.stop) == (keep.start - start, keep.stop - start)
        for keep, inside, start, size in zip(
            tile.keep_of_level(stride), tile.keep_in_read_of_level(stride), tile.start, tile.size, strict=True
        ):
            assert (inside.start, inside.stop) == (keep.start - start // stride, keep.stop - start // stride)
            assert inside.start >= 0
            assert inside.stop <= size // stride


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(0, 5))
def test_an_image_read_and_put_together_by_tiles_is_the_image(plan, seed):
    shape, _, _, stride = plan
    image = np.random.default_rng(seed).random(shape)
    whole = image[np.ix_(*(reflected(n, 0, -(-n // stride) * stride) for n in shape))]
    level = whole[(slice(None, None, stride),) * len(shape)]
    out, level_out = np.full(shape, np.nan), np.full(level.shape, np.nan)
    for tile in plan_tiles(*plan):
        read = image[np.ix_(*(reflected(*part) for part in zip(shape, tile.start, tile.size, strict=True)))]
        out[tile.keep] = read[tile.keep_in_read]
        small = read[(slice(None, None, stride),) * len(shape)]
        level_out[tile.keep_of_level(stride)] = small[tile.keep_in_read_of_level(stride)]
    assert np.array_equal(out, image)
    assert np.array_equal(level_out, level)


def test_an_image_that_fits_is_one_tile_of_no_more_than_it_needs():
    assert tuple(plan_tiles((100, 61), (512, 512), 32, 8)) == (Tile((0, 0), (104, 64), (slice(0, 100), slice(0, 61))),)


def test_a_row_of_tiles_by_hand():
    tiles = plan_tiles((100,), (48,), 8, 4)
    assert [(tile.start, tile.size, tile.keep) for tile in tiles] == [
        ((0,), (44,), (slice(0, 36),)),
        ((28,), (44,), (slice(36, 64),)),
        ((56,), (44,), (slice(64, 100),)),
    ]


def test_tiles_too_small_for_their_margins_grow_to_what_is_needed():
    sizes = {tile.size for tile in plan_tiles((500,), (16,), 20, 16)}
    assert sizes == {(80,)}


@pytest.mark.parametrize(
    ("shape", "largest", "margin", "stride"),
    [((8, 8), (8,), 0, 1), ((8,), (0,), 0, 1), ((0,), (8,), 0, 1), ((8,), (8,), -1, 1), ((8,), (8,), 0, 0)],
)
def test_impossible_plans_are_a_programmers_mistake(shape, largest, margin, stride):
    with pytest.raises(ValueError, match="cannot plan tiles"):
        plan_tiles(shape, largest, margin, stride)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(-30, 30), st.integers(1, 40))
def test_reflection_is_that_of_numpy(length, start, size):
    places = np.arange(length)
    before, after = max(0, -start), max(0, start + size - length)
    expected = np.pad(places, (before, after), mode="reflect")[start + before :][:size]
    assert reflected(length, start, size).tolist() == expected.tolist()
