"""Tile geometry: every voxel is kept once, with its margin around it."""

import time
from itertools import pairwise
from math import ceil, floor, prod

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


@settings(max_examples=40, deadline=None)
@given(plans())
def test_every_voxel_is_kept_once(plan):
    shape, *_ = plan
    times = np.zeros(shape, int)
    for tile in plan_tiles(*plan):
        times[tile.keep] += 1
    assert np.all(times == 1)


@settings(max_examples=40, deadline=None)
@given(plans())
def test_every_pixel_of_every_level_is_kept_once(plan):
    shape, _, _, stride = plan
    tiles = plan_tiles(*plan)
    for level in {1, stride} | ({2, 4} if stride % 4 == 0 else set()):
        assert np.all(counted(shape, tiles, level) == 1)


@settings(max_examples=40, deadline=None)
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


@settings(max_examples=40, deadline=None)
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


@settings(max_examples=50, deadline=None)
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


@settings(max_examples=40, deadline=None)
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


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(-30, 30), st.integers(1, 40))
def test_reflection_is_that_of_numpy(length, start, size):
    places = np.arange(length)
    before, after = max(0, -start), max(0, start + size - length)
    expected = np.pad(places, (before, after), mode="reflect")[start + before :][:size]
    assert reflected(length, start, size).tolist() == expected.tolist()


@st.composite
def chunked_rows(draw):
    """(length, largest, margin, stride, chunk) of one axis."""
    stride = draw(st.sampled_from([1, 2, 3, 4, 8, 16]))
    return (
        draw(st.integers(1, 3000)),
        draw(st.integers(1, 600)),
        draw(st.integers(0, 40)),
        stride,
        draw(st.sampled_from([1, 7, 16, 64, 100, 512])),
    )


def planned(length, largest, margin, stride, chunk, seen=None):
    """The plan of one axis, and its tiles as (start, size, keep)."""
    plan = plan_tiles((length,), (largest,), margin, stride, chunk, seen and (seen,))
    return plan.axes[0], [(tile.start[0], tile.size[0], tile.keep[0]) for tile in plan]


@settings(max_examples=40, deadline=None)
@given(chunked_rows())
def test_every_border_but_the_last_is_a_multiple_of_the_plans_chunk(row):
    axis, tiles = planned(*row)
    length, _, _, stride, _ = row
    keeps = [keep for _, _, keep in tiles]
    assert (keeps[0].start, keeps[-1].stop) == (0, length)
    for keep, following in pairwise(keeps):
        assert keep.stop == following.start
        assert keep.stop % axis.chunk == 0
    for start, size, keep in tiles:
        assert keep.stop - keep.start >= 1
        assert start % stride == size % stride == 0
    assert len(tiles) == 1 or axis.chunk % stride == 0


@settings(max_examples=40, deadline=None)
@given(chunked_rows())
def test_no_tile_could_keep_a_chunk_more_so_that_fewer_would_not_do(row):
    axis, tiles = planned(*row)
    length, _, margin, stride, _ = row
    margin = ceil(margin / stride) * stride
    for _, size, keep in tiles[:-1]:
        latest = max(0, keep.start - margin)
        assert latest + size < ceil(length / stride) * stride
        assert keep.stop + axis.chunk + margin > latest + size


@settings(max_examples=40, deadline=None)
@given(chunked_rows())
def test_tiles_are_no_larger_than_their_number_takes(row):
    length, _, margin, stride, chunk = row
    _, tiles = planned(*row)
    size = tiles[0][1]
    if size > stride:
        smaller, fewer = planned(length, size - stride, margin, stride, chunk)
        assert len(fewer) > len(tiles) or fewer[0][1] >= size or smaller.chunk < planned(*row)[0].chunk


@pytest.mark.parametrize(
    ("length", "count", "size"), [(2048, 2, 1056), (4096, 4, 1088), (1024, 1, 1024), (1088, 1, 1088), (1100, 2, 624)]
)
def test_chunks_of_512_by_hand(length, count, size):
    axis, tiles = planned(length, 1088, 32, 16, 512)
    assert (len(tiles), axis.size, axis.chunk) == (count, size, 512)
    assert all(border % 512 == 0 for border in axis.borders[:-1])


def test_a_million_voxels_along_every_axis_are_planned_at_once():
    start = time.process_time()
    plan = plan_tiles((10**6,) * 3, (1088,) * 3, 32, 16, 512)
    assert time.process_time() - start < 1
    assert plan.counts == (977,) * 3
    assert len(plan) == 977**3
    assert plan[-1].keep == (slice(999424, 10**6),) * 3


@settings(max_examples=40, deadline=None)
@given(plans(), st.data())
def test_a_plan_is_a_sequence_of_its_tiles(plan, data):
    tiles = plan_tiles(*plan)
    everything = list(tiles)
    assert len(everything) == len(tiles) == prod(tiles.counts)
    number = data.draw(st.integers(-len(tiles), len(tiles) - 1))
    part = slice(
        *(data.draw(st.none() | st.integers(-99, 99)) for _ in range(2)), data.draw(st.sampled_from([1, 2, -1]))
    )
    assert tiles[number] == everything[number]
    assert tiles[part] == everything[part]
    assert everything[number] in tiles
    assert [tile.start for tile in everything] == sorted(tile.start for tile in everything)
    for beyond in (len(tiles), -len(tiles) - 1):
        with pytest.raises(IndexError, match="there is no tile"):
            tiles[beyond]


@st.composite
def rescaled_rows(draw):
    """(length, largest, margin, stride, chunk, seen) of one axis."""
    length, *others = draw(chunked_rows())
    factor = draw(st.sampled_from([1 / 16, 0.3, 0.5, 0.64, 0.9, 1.0, 1.1, 1.37, 2.0, 3.5, 16.0]) | st.floats(0.07, 15))
    return length, *others, max(1, round(length * factor))


@settings(max_examples=50, deadline=None)
@given(rescaled_rows())
def test_a_rescaled_row_keeps_whole_chunks_and_every_voxel_once(row):
    length, _, _, stride, _, seen = row
    axis, tiles = planned(*row)
    assert [keep.start for _, _, keep in tiles] == [0, *(keep.stop for _, _, keep in tiles)][:-1]
    assert tiles[-1][2].stop == length
    for start, size, keep in tiles:
        assert keep.stop > keep.start
        assert start % stride == size % stride == 0
        assert 0 <= start <= start + size < seen + stride
        assert keep.start % axis.chunk == 0
    assert len(tiles) == 1 or axis.chunk % stride == 0


@settings(max_examples=50, deadline=None)
@given(rescaled_rows())
def test_a_rescaled_tile_reads_what_interpolation_takes_and_the_margin_beyond(row):
    _, _, margin, _, _, seen = row
    axis, tiles = planned(*row)
    step = seen / axis.length
    more = margin if step != 1 else 0
    for start, size, keep in tiles:
        first, last = interpolated(step, keep.start, keep.stop)
        assert start <= max(0, first - more)
        assert min(seen - 1, last + more) < start + size


@settings(max_examples=50, deadline=None)
@given(rescaled_rows())
def test_a_rescaled_tile_holds_the_map_pixels_that_interpolation_takes(row):
    *_, stride, _, seen = row
    axis, tiles = planned(*row)
    step = seen / axis.length
    for level in {1, stride} | ({2, 4} if stride % 4 == 0 else set()):
        for start, size, keep in tiles:
            kept = Tile((start,), (size,), (keep,)).keep_of_level(level)[0]
            if kept.start < kept.stop:
                first, last = interpolated(step, kept.start, kept.stop)
                assert start // level <= max(0, first)
                assert min(ceil(seen / level) - 1, last) < (start + size) // level


def interpolated(step, start, stop):
    """First and last voxel of a grid `step` times as fine that give something to [start, stop)."""
    if step == 1:
        return start, stop - 1
    reach = max(step, 1)
    return ceil((start + 0.5) * step - 0.5 - reach + 1e-9), floor((stop - 0.5) * step - 0.5 + reach - 1e-9)
