"""Units of a stack: which part of the results each writes, and in which order they come."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.tiles import plan_tiles
from napari_skipseg.inference.prediction import Focus
from napari_skipseg.inference.tiling import Order, TileGrid, make_tile_grid


def cut(
    axes: str,
    shape: tuple[int, ...],
    seen: str,
    largest: int,
    margin: int = 0,
    stride: int = 1,
    chunk: int = 1,
    factor: float = 1.0,
) -> TileGrid:
    """The units of a stack of this shape, that a network sees with voxels `factor` times as many along each axis."""
    stack = Stack(np.empty(shape, np.uint8), Space(axes))
    lengths = tuple(stack.length(axis) for axis in seen)
    network = tuple(max(1, round(length * factor)) for length in lengths)
    tiles = plan_tiles(lengths, (largest,) * len(seen), margin, stride, chunk, network)
    return make_tile_grid(stack, seen, tiles)


@st.composite
def grids(draw: Any) -> tuple[TileGrid, int]:
    """(grid, stride) of small stacks in 2D and 3D."""
    seen = draw(st.sampled_from(["YX", "ZYX"]))
    axes = draw(st.permutations([*draw(st.sampled_from(["", "T", "C", "TC"]))]))
    axes = "".join(axes) + draw(st.sampled_from(["YX", "ZYX"]) if seen == "YX" else st.just("ZYX"))
    shape = tuple(draw(st.integers(1, 60 if axis in seen else 3)) for axis in axes)
    stride = draw(st.sampled_from([1, 2, 4, 8]))
    return (
        cut(
            axes,
            shape,
            seen,
            draw(st.integers(1, 50)),
            draw(st.integers(0, 9)),
            stride,
            draw(st.sampled_from([1, 8, 12, 16, 64])),
            draw(st.sampled_from([1.0, 1.0, 0.4, 0.64, 1.37, 2.5])),
        ),
        stride,
    )


@settings(max_examples=40, deadline=None)
@given(grids())
def test_regions_cover_every_result_once(made: tuple[TileGrid, int]) -> None:
    grid, stride = made
    for level in {1, stride // 2 or 1, stride}:
        times = np.zeros(grid.shape_of_level(level), int)
        for number in range(len(grid)):
            times[grid.region(grid.unit(number), level)] += 1
        assert times.min() == times.max() == 1


@settings(max_examples=40, deadline=None)
@given(grids())
def test_every_region_is_whole_chunks(made: tuple[TileGrid, int]) -> None:
    grid, stride = made
    for level in (1 << power for power in range(stride.bit_length())):
        chunks, shape = grid.chunks(level), grid.shape_of_level(level)
        for number in range(len(grid)):
            for part, chunk, length in zip(grid.region(grid.unit(number), level), chunks, shape, strict=True):
                assert part.start % chunk == 0 or part.start == part.stop
                assert part.stop % chunk == 0 or part.stop == length
                assert 1 <= chunk <= length


def test_units_are_numbered_part_by_part() -> None:
    grid = cut("TCZYX", (2, 3, 4, 10, 20), "YX", 10)
    assert (grid.axes, grid.shape, grid.looped, grid.loops) == ("TZYX", (2, 4, 10, 20), "TZ", (2, 4))
    assert len(grid) == 16
    unit = grid.unit(11)
    assert (unit.number, unit.place, unit.fixed) == (11, (5, 1), {"T": 1, "Z": 1})
    assert grid.region(unit) == (slice(1, 2), slice(1, 2), slice(0, 10), slice(10, 20))
    assert grid.region(unit, 4) == (slice(1, 2), slice(1, 2), slice(0, 3), slice(3, 5))
    assert grid.chunks() == (1, 1, 1, 1)


def taken(order: Order) -> list[int]:
    return [order.take() for _ in range(len(order))]


@st.composite
def views(draw: Any) -> Focus:
    view = {}
    for axis in draw(st.lists(st.sampled_from("TZYXC"), unique=True)):
        ends = st.floats(-100, 200) | st.integers(-5, 70).map(float)
        low, high = draw(ends), draw(ends)
        view[axis] = draw(st.sampled_from([(low, low), (low, high), (low, float("inf")), (float("-inf"), high)]))
    return Focus(view)


@settings(max_examples=40, deadline=None)
@given(grids(), st.lists(views() | st.integers(1, 9), max_size=12), st.data())
def test_each_unit_is_taken_once_wherever_one_looks(made: tuple[TileGrid, int], steps: list[Any], data: Any) -> None:
    grid, _ = made
    done = data.draw(st.lists(st.integers(0, len(grid) - 1), unique=True, max_size=20))
    order, came = Order(grid, done), []
    for step in steps:
        if isinstance(step, Focus):
            order.reorder(step)
        else:
            came += [order.take() for _ in range(min(step, len(order)))]
        assert len(order) == len(grid) - len(done) - len(came)
    came += taken(order)
    assert sorted([*came, *done]) == list(range(len(grid)))


def test_units_come_in_their_order_until_one_looks() -> None:
    assert taken(Order(cut("ZYX", (2, 20, 20), "YX", 10), [1, 4])) == [0, 2, 3, 5, 6, 7]


def placed(grid: TileGrid, numbers: list[int], axis: str) -> list[int]:
    return [grid.region(grid.unit(number))[grid.axes.index(axis)].start for number in numbers]


def test_the_slice_that_is_shown_comes_first_and_then_its_neighbours() -> None:
    grid = cut("ZYX", (6, 20, 20), "YX", 10)
    order = Order(grid)
    order.reorder(Focus({"Z": (2.0, 2.0), "Y": (0.0, 19.0), "X": (0.0, 19.0)}))
    assert placed(grid, taken(order), "Z")[::4] == [2, 1, 3, 0, 4, 5]


def test_time_comes_before_slice() -> None:
    grid = cut("ZTYX", (3, 3, 8, 8), "YX", 8)
    order = Order(grid)
    order.reorder(Focus({"T": (1.0, 1.0), "Z": (2.0, 2.0)}))
    came = taken(order)
    assert placed(grid, came, "T") == [1, 1, 1, 0, 2, 0, 2, 0, 2]
    assert placed(grid, came, "Z") == [2, 1, 0, 2, 2, 1, 1, 0, 0]


def middles(grid: TileGrid, numbers: list[int]) -> NDArray[np.float64]:
    regions = [grid.region(grid.unit(number)) for number in numbers]
    return np.array([[(part.start + part.stop - 1) / 2 for part in region] for region in regions])


def test_in_a_slice_the_tiles_nearest_to_the_views_centre_come_first() -> None:
    grid = cut("YX", (100, 100), "YX", 10)
    order = Order(grid)
    order.reorder(Focus({"Y": (0.0, 99.0), "X": (0.0, 99.0)}))
    came = middles(grid, taken(order))
    away = np.linalg.norm(np.maximum(0, np.abs(came - 49.5) - 4.5), axis=1)
    assert np.all(np.diff(away) >= -1e-9)
    assert sorted(map(tuple, came[:4])) == [(44.5, 44.5), (44.5, 54.5), (54.5, 44.5), (54.5, 54.5)]


def test_what_is_in_view_comes_before_what_is_not_and_then_the_nearest_to_it_in_any_direction() -> None:
    grid = cut("YX", (100, 100), "YX", 10)
    order = Order(grid)
    order.reorder(Focus({"Y": (41.0, 48.0), "X": (12.0, 87.0)}))
    came = middles(grid, taken(order))
    assert sorted(map(tuple, came[:8])) == [(44.5, 10 * step + 4.5) for step in range(1, 9)]
    assert tuple(came[0]) in {(44.5, 44.5), (44.5, 54.5)}
    gaps = np.maximum(0, np.maximum(came - 4.5 - [48, 87], np.array([41, 12]) - (came + 4.5)))
    assert np.all(np.diff(np.linalg.norm(gaps, axis=1)) >= -1e-9)


def test_a_tile_that_holds_the_views_centre_comes_first_however_large_it_is() -> None:
    grid = cut("YX", (8, 2600), "YX", 1088, 32, 16, 512)
    order = Order(grid)
    order.reorder(Focus({"X": (980.0, 1020.0)}))
    assert grid.region(grid.unit(order.take()))[1] == slice(0, 1024)


def test_a_volume_shown_as_slices_across_y_is_ordered_along_y_first() -> None:
    grid = cut("ZYX", (40, 40, 40), "ZYX", 10)
    order = Order(grid)
    order.reorder(Focus({"Y": (25.0, 25.0), "Z": (0.0, 39.0), "X": (0.0, 39.0)}))
    assert placed(grid, taken(order), "Y") == [20] * 16 + [30] * 16 + [10] * 16 + [0] * 16


def test_a_focus_while_units_are_taken_orders_what_is_left() -> None:
    grid = cut("ZYX", (5, 8, 8), "YX", 8)
    order = Order(grid, [4])
    order.reorder(Focus({"Z": (3.0, 3.0)}))
    assert [order.take(), order.take()] == [3, 2]
    order.reorder(Focus({"Z": (2.0, 2.0)}))
    assert taken(order) == [1, 0]
    order.reorder(Focus({"Z": (2.0, 2.0)}))
    assert len(order) == 0


def test_a_focus_on_no_axis_of_the_stack_leaves_the_order() -> None:
    grid = cut("ZYX", (5, 8, 8), "YX", 4)
    order = Order(grid)
    order.reorder(Focus({"T": (3.0, 3.0)}))
    assert taken(order) == list(range(20))


@pytest.mark.parametrize("seen", ["YX", "ZYX"])
def test_a_million_units_are_put_in_another_order_within_half_a_second(seen: str) -> None:
    lengths = {"YX": (1000, 320, 320), "ZYX": (1000, 1000, 1000)}[seen]
    data = np.broadcast_to(np.uint8(0), lengths)
    sides = tuple(length for axis, length in zip("ZYX", lengths, strict=True) if axis in seen)
    grid = make_tile_grid(Stack(data, Space("ZYX")), seen, plan_tiles(sides, (10,) * len(seen), 0, 1))
    assert len(grid) >= 10**6
    order = Order(grid)
    seconds = []
    for place in (500.0, 100.0):
        start = time.process_time()
        order.reorder(Focus({"Z": (place, place), "Y": (100.0, 200.0), "X": (30.0, 300.0)}))
        seconds.append(time.process_time() - start)
        order.take()
    assert min(seconds) < 3
