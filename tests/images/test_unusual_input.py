"""Arrays and files out of the ordinary: dask, odd types, too many axes; each works or gets one sentence."""

import threading

import numpy as np
import pytest
import tifffile
from dask import array as dask_array

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.files import read_recipe, read_stack, write_ome_tiff
from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.views import MappedArray
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import write_ome_zarr


def counted(values, chunks):
    """Return a dask array of `values`, and the list of the chunks that were computed."""
    seen, lock = [], threading.Lock()

    def give(block, block_info=None):
        with lock:
            seen.append(block_info[0]["chunk-location"])
        return block

    return dask_array.from_array(values, chunks=chunks).map_blocks(give, dtype=values.dtype, meta=values[:0]), seen


def test_of_a_dask_array_only_the_chunks_asked_for_are_computed_also_by_several_threads():
    values = np.random.default_rng(0).integers(0, 255, (16, 64, 64), "uint8")
    data, seen = counted(values, (2, 32, 32))
    stack = Stack(data, Space("ZYX"))
    assert seen == []
    part = stack.read((slice(4, 6), slice(0, 32), slice(3, 9)))
    assert isinstance(part, np.ndarray)
    assert np.array_equal(part, values[4:6, :32, 3:9])
    assert seen == [(2, 0, 0)]
    wrong = []

    def read(seed):
        generator = np.random.default_rng(seed)
        for _ in range(8):
            z, x = generator.integers(0, 16), generator.integers(0, 40)
            if not np.array_equal(stack.read((int(z), slice(None), slice(x, x + 20))), values[z, :, x : x + 20]):
                wrong.append(z)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_dask_array_is_written_part_by_part(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (6, 64, 64), "uint8")
    data, seen = counted(values, (1, 64, 64))
    write_ome_tiff(tmp_path / "a.tif", data, Space("ZYX", (1, 1, 1), "pixel"))
    write_ome_zarr(tmp_path / "a.zarr", data, Layout(values.shape, Space("ZYX"), "uint8", chunks=(2, 32, 32)))
    assert np.array_equal(read_stack(tmp_path / "a.tif").data, values)
    assert np.array_equal(read_stack(tmp_path / "a.zarr").data, values)
    assert len(seen) == 12


@pytest.mark.parametrize("dtype", ["bool", "int64", "uint64", "float16", ">u2", ">f8"])
def test_odd_types_are_stacks_like_others(dtype):
    values = (np.random.default_rng(0).random((4, 20, 20)) * 90).astype(dtype)
    part = Stack(values, Space("ZYX")).read((1, slice(None), slice(None)))
    assert np.array_equal(part, values[1])
    if dtype != "bool":
        assert measure(Stack(values, Space("ZYX"))).deviation > 1


def test_two_values_complex_numbers_and_empty_axes_get_a_sentence(tmp_path):
    with pytest.raises(InputError, match="contains only two values"):
        measure(Stack(np.eye(20, dtype=bool), Space("YX")))
    with pytest.raises(InputError, match="contains complex64 values: convert it"):
        measure(Stack(np.ones((20, 20), "complex64"), Space("YX")))
    for shape in ((0, 5, 5), (5, 0, 5)):
        with pytest.raises(InputError, match="is empty"):
            Stack(np.ones(shape), Space("ZYX"))


def test_ten_dimensions_are_refused_with_what_to_do(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2,) * 10, "u1"), photometric="minisblack")
    with pytest.raises(InputError, match=r"has \d+ axes .* at most 5 can be used .*: save one part of it"):
        read_stack(tmp_path / "a.tif")
    with pytest.raises(InputError, match="at most 5 can be used"):
        read_stack(tmp_path / "a.tif", axes="ABCDEFGHYX")
    with pytest.raises(InputError, match="name 3 dimensions, the image has 10"):
        Stack(np.zeros((2,) * 10), Space("ZYX"))


@pytest.mark.parametrize(
    "name", ["https://a.org/em.tif", "https:/a.org/em.tif", "s3://bucket/em.zarr", "file:///em.tif"]
)
def test_addresses_are_not_followed(name):
    for read in (read_stack, read_recipe):
        with pytest.raises(FileError, match="is an address, and nothing is downloaded: copy the image here and give"):
            read(name)


def test_packed_files_are_to_be_unpacked(tmp_path):
    for name in ("a.zarr.zip", "a.mrc.gz", "a.tif.bz2"):
        (tmp_path / name).write_bytes(b"anything")
        with pytest.raises(FileError, match="is packed: unpack it and give the image inside"):
            read_stack(tmp_path / name)


def test_a_tiff_that_is_cut_short_while_it_is_open_gets_a_sentence_not_a_crash(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (40, 100, 100), "uint8")
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    stack = read_stack(tmp_path / "a.tif")
    assert isinstance(stack.data, MappedArray)
    with (tmp_path / "a.tif").open("r+b") as handle:
        handle.truncate(9000)
    with pytest.raises(FileError, match="was cut short while it was read"):
        stack.read((39, slice(None), slice(None)))


@pytest.mark.parametrize(("shape", "axes"), [((700, 1300), "YX"), ((2, 513, 512), "ZYX"), ((600, 700, 3), "YXC")])
def test_large_planes_are_written_in_tiles_and_read_the_same(tmp_path, monkeypatch, shape, axes):
    monkeypatch.setattr("napari_skipseg.images.tiff.writer.LARGEST_PLANE", 1000)
    values = np.random.default_rng(0).integers(0, 255, shape, "uint8")
    write_ome_tiff(tmp_path / "a.tif", values, Space(axes, (1, 4, 4), "nm"))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages.first.is_tiled
        assert np.array_equal(file.asarray(), values)
    stack = read_stack(tmp_path / "a.tif")
    assert stack.space.axes == axes
    assert np.array_equal(stack.data, values)


def test_beyond_4_gb_a_file_is_a_big_tiff(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_skipseg.images.tiff.writer.CLASSIC_TIFF", 100_000)
    for name, length, big in (("a.tif", 100, False), ("b.tif", 400, True)):
        write_ome_tiff(tmp_path / name, np.zeros((3, length, 100), "u1"), Space("ZYX", (1, 1, 1), "pixel"))
        with tifffile.TiffFile(tmp_path / name) as file:
            assert file.is_bigtiff is big
        assert read_stack(tmp_path / name).shape == (3, length, 100)
