"""A sparse array: numpy's own rules, every write heard, and no byte where nothing is."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_skipseg.corrections import sparse_array
from napari_skipseg.corrections.sparse_array import SparseArray

SHAPES = [(30, 41), (5, 30, 41), (2, 3, 19, 23)]


class Pair:
    """A sparse array, the dense one that it should be, and what was heard of the writes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.sparse, self.dense, self.heard = SparseArray(shape), np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        self.sparse.on_write = self._hear

    def _hear(self, box: tuple[slice, ...], values: NDArray[np.uint8]) -> None:
        assert self.heard[box].shape == values.shape
        self.heard[box] = values

    def write(self, key: Any, value: Any) -> None:
        self.sparse[key] = value
        self.dense[key] = value
        np.testing.assert_array_equal(self.sparse, self.dense)
        np.testing.assert_array_equal(self.heard, self.dense)

    def read(self, key: Any) -> None:
        found, wanted = self.sparse[key], self.dense[key]
        assert type(found) is type(wanted)
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == wanted.dtype


@pytest.fixture(autouse=True, params=[(16, 1), (256, 2**16)])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 16 and points looked up one by one; then as it is."""
    monkeypatch.setattr(sparse_array, "CHUNK_SIDE", request.param[0])
    monkeypatch.setattr(sparse_array, "DENSE_CHUNK", request.param[1])


def keys(shape: tuple[int, ...], generator: np.random.Generator) -> Iterator[Any]:
    """Indices of every kind that fit the shape."""
    yield from (
        Ellipsis,
        0,
        -1,
        slice(None),
        (Ellipsis, 3),
        (0, Ellipsis),
        slice(5, 2),
        (Ellipsis, slice(None, None, -2)),
    )
    yield tuple(length // 2 for length in shape)
    yield np.zeros(shape, bool)
    yield generator.random(shape) < 0.2
    yield generator.random(shape[:-1]) < 0.5
    yield tuple(generator.integers(0, length, 7) for length in shape)
    yield tuple(generator.integers(-length, length, (2, 3)) for length in shape)
    yield (0, *(generator.integers(0, length, 4) for length in shape[1:]))
    yield (*(0 for _ in shape[:-2]), slice(2, 9), [1, 5, 6])
    yield ([0, 0], *(slice(None) for _ in shape[1:-1]), [1, 2])
    yield tuple(np.array([], int) for _ in shape)
    for _ in range(20):
        ends = [sorted(generator.integers(0, length + 1, 2)) for length in shape]
        steps = generator.integers(1, 5, len(shape))
        yield tuple(slice(int(low), int(high), int(step)) for (low, high), step in zip(ends, steps, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_it_reads_and_writes_as_numpy_does(shape: tuple[int, ...]) -> None:
    generator, pair = np.random.default_rng(1), Pair(shape)
    for key in keys(shape, generator):
        pair.read(key)
        pair.write(key, 3)
        pair.read(key)
        pair.write(key, 0)
        if isinstance(key, np.ndarray) or not isinstance(key, tuple) or all(isinstance(part, slice) for part in key):
            pair.write(key, generator.integers(0, 4, pair.dense[key].shape).astype(np.uint8))
            pair.read(key)


def test_it_broadcasts_as_numpy_does() -> None:
    pair = Pair((4, 30, 40))
    pair.write((1, slice(None), slice(0, 3)), [[1, 2, 3]])
    pair.write((slice(None), 5), np.full((1, 40), 4))
    pair.write((slice(None), [1, 2], [3, 4]), np.array([[1], [2], [3], [4]]))
    pair.write((1, slice(20, 25), slice(20, 25)), np.ones((1, 5, 5), bool))


@pytest.mark.parametrize("key", [4, (0, 0, 0, 0), (0, 30), None, (0, [40, 1], 0), 1.5, np.array([0.5]), True])
def test_an_index_that_does_not_fit_is_refused(key: Any) -> None:
    array = SparseArray((4, 30, 40))
    with pytest.raises(IndexError):
        array[key]
    with pytest.raises(IndexError):
        array[key] = 1


@pytest.mark.parametrize("value", [256, -1, np.array([1000]), [[1, 2, 3]]])
def test_a_value_that_does_not_fit_is_refused(value: Any) -> None:
    array = SparseArray((4, 30, 40))
    with pytest.raises(ValueError, match=r"0 to 255|broadcast"):
        array[0, 0, :5] = value
    assert array.max() == 0


def test_what_changes_nothing_is_not_heard() -> None:
    heard: list[Any] = []
    array = SparseArray((4, 600, 700))
    array.on_write = lambda box, values: heard.append((box, values.copy()))
    array[...] = 0
    array[2, 3:14, 3:14] = 0
    assert heard == []
    array[2, 3:14, 3:14] = 5
    assert [box for box, _ in heard] == [(slice(2, 3), slice(3, 14), slice(3, 14))]
    array[2, 5:8, 5:8] = 5
    assert len(heard) == 1


def test_what_is_read_is_a_copy() -> None:
    array = SparseArray((30, 40))
    array[:] = 7
    array[:][0, 0] = 1
    array[[0], [0]][0] = 1
    array.read_chunk((0, 0))[...] = 1
    assert array[0, 0] == 7


def test_ten_terabytes_take_the_memory_of_what_was_painted() -> None:
    array = SparseArray((1000, 100_000, 100_000))
    assert (array.size, array.ndim, len(array), array.dtype) == (10**13, 3, 1000, np.uint8)
    for number in range(20):
        array[number * 50, 90_000 + number : 90_030 + number, 500:530] = 2
    array[([3, 999], [5, 99_999], [6, 99_999])] = [1, 9]
    assert array[999, 99_999, 99_999] == 9
    assert array[:, 90_010, 510].sum() == 2 * 11
    assert array.held_bytes <= 22 * 2 * 2**16
    assert np.max(array) == 9
    assert array.max() == 9
    array[:, 80_000:, :] = 0
    assert np.max(array) == 1
    assert copy.deepcopy(array)[3, 5, 6] == 1


def test_a_copy_is_independent() -> None:
    heard: list[Any] = []
    array = SparseArray((30, 40))
    array.on_write = lambda *_: heard.append(1)
    array[5:9] = 3
    for other in (array.copy(), copy.deepcopy(array), copy.copy(array).copy()):
        other[5:9] = 1
        other[20] = 2
        assert other.on_write is None
    assert (array[6, 6], array[20, 0], len(heard) > 0) == (3, 0, True)
    assert sum(heard) == len(heard)


def test_chunks_are_loaded_when_looked_at_and_let_go_when_clean() -> None:
    side = sparse_array.CHUNK_SIDE
    asked: list[tuple[int, ...]] = []

    def load(place: tuple[int, ...]) -> NDArray[np.uint8]:
        asked.append(place)
        return np.full((1, side, side), place[0] + 1, np.uint8)

    stored = [(z, 0, 0) for z in range(10)]
    array = SparseArray((10, 2 * side, 2 * side), stored, load, memory=3 * side * side)
    assert not array.is_empty()
    assert asked == []
    assert [int(array[z, 1, 1]) for z in range(10)] == list(range(1, 11))
    assert (asked, array.held_bytes) == (stored, 3 * side * side)
    assert int(array[0, 0, 0]) == 1
    assert len(asked) == 11
    array[:, 0, 0] = 77
    assert array.held_bytes == 10 * side * side
    for place in array.dirty():
        array.stored(place, array.keep(place))
    assert (array.held_bytes, array.dirty(), array.dirty_bytes) == (3 * side * side, [], 0)


def test_a_chunk_that_is_written_to_while_it_is_stored_stays_dirty() -> None:
    array = SparseArray((30, 40))
    array[3, 3] = 1
    kept = array.keep((0, 0))
    array[3, 3] = 2
    array.stored((0, 0), kept)
    assert array.dirty() == [(0, 0)]
    array[3, 3] = 0
    array.stored((0, 0), array.keep((0, 0)))
    assert (array.dirty(), array.chunk_numbers(), array.is_empty()) == ([], set(), True)


def test_every_edit_in_napari_is_heard() -> None:
    layers = pytest.importorskip("napari.layers")
    array = SparseArray((3, 300, 300))
    heard = np.zeros(array.shape, np.uint8)

    def hear(box: tuple[slice, ...], values: NDArray[np.uint8]) -> None:
        heard[box] = values

    array.on_write = hear
    layer = layers.Labels(array)
    assert layer.data is array
    steps: list[Any] = [
        lambda: layer.paint((0, 50, 60), 2),
        lambda: layer.fill((0, 200, 200), 3),
        layer.undo,
        layer.redo,
        lambda: layer.paint_polygon([[1, 10, 10], [1, 10, 90], [1, 80, 50]], 4),
        layer.undo,
        layer.redo,
        lambda: layer.data_setitem((np.array([2, 2]), np.array([5, 6]), np.array([7, 8])), 5),
        layer.undo,
    ]
    layer.brush_size = 20
    for step in steps:
        before = np.asarray(array)
        step()
        assert (np.asarray(array) != before).any()
        np.testing.assert_array_equal(heard, array)


def test_a_large_plane_that_napari_asks_for_its_type_is_not_read() -> None:
    array = SparseArray((2, 2048, 2048))
    array[0, 5:9, 2000:] = 3
    with mock.patch.object(SparseArray, "_read", side_effect=AssertionError("it was read")):
        part = array[0]
        assert (part.dtype, part.shape, part.ndim, len(part)) == (np.uint8, (2048, 2048), 2, 2048)
        with pytest.raises(IndexError):
            array[2]
    for read in (np.asarray(part), part[:], part + 0, np.add(part, 0)):
        assert type(read) is np.ndarray
        assert np.array_equal(read, array[0, :])
    assert (int((part == 3).sum()), part.max(), part[6, 2001], bool(array[-1].any())) == (4 * 48, 3, 3, False)
