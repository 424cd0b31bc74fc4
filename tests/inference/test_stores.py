"""What a run writes, and how it is looked at again: by planes, each chunk read once, in little memory."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from identity import identity, make_model
from numpy.typing import NDArray

from napari_skipseg.errors import FileError
from napari_skipseg.images.files import read_recipe, read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.zarr.array import ZarrArray
from napari_skipseg.images.zarr.chunk_files import PlainChunks
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.metadata import read_node
from napari_skipseg.images.zarr.writer import create_ome_zarr
from napari_skipseg.inference import stores
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.predict import Run, iter_prepare
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.stores import (
    ArrayStore,
    PlaneView,
    ResultPiece,
    ZarrStore,
    describe_conversion,
    stored_order,
)
from napari_skipseg.progress import run_to_end

RNG = np.random.default_rng(8)


def stored(path: Path, values: NDArray[Any], axes: str, chunks: tuple[int, ...]) -> ZarrArray:
    """The values in a store of our own, whose axes are in the standard's order."""
    writer = create_ome_zarr(path, Layout(values.shape, Space(axes), str(values.dtype), chunks=chunks))
    writer.write(tuple(slice(0, length) for length in values.shape), values)
    return ZarrArray(read_node(path / "0"))


@pytest.fixture
def chunks_read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each chunk was read."""
    seen: Counter[str] = Counter()
    read = PlainChunks.read

    def counting(self: PlainChunks, place: tuple[int, ...]) -> Any:
        seen["/".join(map(str, ("c", *place)))] += 1
        return read(self, place)

    monkeypatch.setattr(PlainChunks, "read", counting)
    return seen


def run_of(values: NDArray[Any], axes: str, dimensions: int = 2, **options: Any) -> Run:
    """A run that is settled, its first tile not yet computed; of two classes."""
    stack = Stack(values, Space(axes, (5.0, 2.0, 3.0), "nm", (1.0, 2.0, 3.0)))
    model = make_model(dimensions, classes=("membrane", "vesicle"))
    chosen = SegmentOptions(**({"device": "cpu", "tile": 40} | options))
    return run_to_end(iter_prepare(RunSpec(stack, model, chosen, backend_maker=identity, with_binary=True)))


def store_of(run: Run, folder: Path, depth: Any = "uint8") -> ZarrStore:
    return ZarrStore(run.results, folder / "cells", run.stack, {"tile": 40}, depth, ("membrane", "vesicle"))


# ------------------------------------------------------------------------------------------------------------ stores


def test_every_piece_lands_in_its_place_and_type(tmp_path: Path) -> None:
    run = run_of(RNG.integers(0, 256, (2, 3, 70, 50)).astype(np.uint8), "TZYX", average=4)
    store, arrays = store_of(run, tmp_path), ArrayStore(run.results)
    for number in range(len(run.grid)):
        unit = run.grid.unit(number)
        assert not store.is_complete(run.grid, unit)
        for result in run.results:
            region = run.grid.region(unit, max(result.stride))
            whole = (slice(0, 2), *region) if "C" in result.axes else region
            values = RNG.random([part.stop - part.start for part in whole]).astype(np.float32)
            piece = ResultPiece(result.name, whole, (values > 0.5).astype(np.uint8) if result.is_labels else values)
            store.write(piece)
            arrays.write(piece)
        assert store.is_complete(run.grid, unit)
    for result in run.results:
        seen = store.plane_view(result.name)
        right = arrays.arrays[result.name]
        if result.name in ("probability", "attention_1"):
            right = np.round(right * 255)
        assert seen.dtype == (np.float32 if result.name == "uncertainty" else np.uint8)
        np.testing.assert_array_equal(np.asarray(seen), right)
    stack = read_stack(tmp_path / "cells_probability.ome.zarr")
    assert (stack.space.axes, stack.space.voxel_size, stack.space.unit, stack.space.origin) == (
        "TCZYX",
        (5, 2, 3),
        "nm",
        (1, 2, 3),
    )
    with pytest.raises(FileError, match="has different content"):
        store_of(run, tmp_path, "float32")


@pytest.mark.parametrize("lost", ["probability", "binary", "attention_1"])
def test_a_unit_is_there_when_all_of_it_is(tmp_path: Path, lost: str) -> None:
    run = run_of(RNG.integers(0, 256, (3, 70, 50)).astype(np.uint8), "ZYX")
    store, grid = store_of(run, tmp_path), run.grid
    for result in run.results:
        whole = tuple(slice(0, length) for length in result.shape)
        store.write(
            ResultPiece(result.name, whole, np.zeros(result.shape, np.uint8 if result.is_labels else np.float32))
        )
    assert all(store.is_complete(grid, grid.unit(number)) for number in range(len(grid)))
    chunks = [file for file in (tmp_path / f"cells_{lost}.ome.zarr" / "0" / "c").rglob("*") if file.is_file()]
    chunks[len(chunks) // 2].unlink()
    assert [store.is_complete(grid, grid.unit(number)) for number in range(len(grid))].count(False) == 1


def test_changes_are_told_in_the_recipe_and_nothing_else(tmp_path: Path) -> None:
    run = run_of(RNG.integers(0, 256, (3, 70, 50)).astype(np.uint8), "ZYX")
    store_of(run, tmp_path)
    path = tmp_path / "cells_binary.ome.zarr"
    before = json.loads((path / "zarr.json").read_bytes())
    for _ in range(2):
        describe_conversion(path, {"backend": "torch", "notes": ["it failed"]})
    assert read_recipe(path) == {"tile": 40, "layer": "labels", "backend": "torch", "notes": ["it failed"]}
    after = json.loads((path / "zarr.json").read_bytes())
    del before["attributes"]["napari-skipseg"], after["attributes"]["napari-skipseg"]
    assert after == before
    assert sorted(file.name for file in path.iterdir()) == ["0", "zarr.json"]
    with pytest.raises(FileError):
        describe_conversion(tmp_path / "nothing.ome.zarr", {})


# --------------------------------------------------------------------------------------------------------- plane view


INDICES: list[Any] = [
    ...,
    0,
    -1,
    (1, 2),
    (1, 1, 7),
    (1, 1, 7, 3, 4),
    (1, 1, 7, -3),
    (1, 1, 7, slice(2, 9)),
    (1, 1, -1, slice(2, 30, 3), slice(None, None, -1)),
    (0, 2, 4, slice(None, None, -2), 5),
    (0, 2, 4, slice(9, 9)),
    (0, 2, 4, slice(-4, 99), slice(0, 0)),
    (0, 2, 4, ..., slice(3, 8)),
    (slice(None), 1, 7, 3, 4),
    (0, slice(None, None, -1), 7),
    (..., 3, 4),
    (slice(1, 0), 1),
    (slice(None), slice(1, 3), slice(2, 9, 2), slice(None), slice(4, 7)),
    (np.int64(1), np.int32(2), np.uint8(3)),
]


@pytest.mark.parametrize("chunks", [(1, 1, 4, 8, 8), (1, 1, 1, 16, 16), (1, 2, 9, 31, 22)])
@pytest.mark.parametrize("in_file", [False, True])
def test_any_index_gives_what_numpy_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: tuple[int, ...], in_file: bool
) -> None:
    monkeypatch.setattr(stores, "RESULTS_IN_MEMORY", 0 if in_file else 2**20)
    values = RNG.integers(0, 2**16, (2, 3, 9, 31, 22)).astype(np.uint16)  # C, T, Z, Y, X
    order = stored_order("CTZYX")
    assert order == (1, 0, 2, 3, 4)
    data = stored(tmp_path / "a.ome.zarr", values.transpose(order), "TCZYX", chunks)
    view = PlaneView(data, order, tmp_path)
    assert (view.shape, view.dtype, view.ndim) == (values.shape, values.dtype, 5)
    for index in INDICES:
        found = view[index]
        assert isinstance(found, np.ndarray | np.generic)
        np.testing.assert_array_equal(found, values[index], err_msg=str(index))
    for wrong in (2, (0, 3), (0, 0, 0, 31), [0, 1], (0,) * 6):
        with pytest.raises(IndexError):
            view[wrong]


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("large", [False, True])
def test_a_tiff_of_deep_chunks_reads_each_chunk_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks_read: Counter[str], in_file: bool, large: bool
) -> None:
    from napari_skipseg.images.tiff import writer

    monkeypatch.setattr(stores, "RESULTS_IN_MEMORY", 0 if in_file else 2**25)
    if large:  # a plane is written in tiles, row by row
        monkeypatch.setattr(writer, "LARGEST_PLANE", 1000)
        monkeypatch.setattr(writer, "TILE", 64)
    values = RNG.integers(0, 9, (2, 70, 140, 200)).astype(np.uint8)
    data = stored(tmp_path / "a.ome.zarr", values, "CZYX", (1, 64, 64, 64))
    write_ome_tiff(tmp_path / "a.tif", PlaneView(data, (0, 1, 2, 3), tmp_path), Space("CZYX", (1.0, 1.0, 1.0), "pixel"))
    stack = read_stack(tmp_path / "a.tif")
    np.testing.assert_array_equal(stack.read((slice(None),) * 4), values)
    assert len(chunks_read) == 2 * 2 * 3 * 4
    assert set(chunks_read.values()) == {1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ome.zarr", "a.tif"]


def test_a_slab_that_is_too_large_lies_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (64, 512, 512)
    data = stored(tmp_path / "a.ome.zarr", np.ones(shape, np.float32), "ZYX", (64, 64, 64))
    peaks = {}
    for limit in (2**27, 2**20):
        monkeypatch.setattr(stores, "RESULTS_IN_MEMORY", limit)
        tracemalloc.start()
        view = PlaneView(data, (0, 1, 2), tmp_path)
        assert all((view[z] == 1).all() for z in range(0, 64, 9))
        peaks[limit] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[2**27] > 64 * 2**20
    assert peaks[2**20] < 40 * 2**20  # a row of chunks is 8 MiB


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    data = stored(tmp_path / "a.ome.zarr", RNG.random((8, 40, 40)).astype(np.float32), "ZYX", (4, 20, 20))
    (tmp_path / "a.ome.zarr" / "0" / "c" / "1" / "0" / "1").write_bytes(b"nonsense")
    view = PlaneView(data, (0, 1, 2), tmp_path)
    assert view[3].shape == (40, 40)
    with pytest.raises(FileError, match=r"Chunk c/1/0/1 of .* is damaged"):
        view[4]


def test_no_room_for_a_slab_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "RESULTS_IN_MEMORY", 0)
    data = stored(tmp_path / "a.ome.zarr", np.ones((8, 40, 40), np.uint8), "ZYX", (4, 20, 20))
    with pytest.raises(FileError, match="does not exist: create it"):
        PlaneView(data, (0, 1, 2), tmp_path / "missing")[0]
