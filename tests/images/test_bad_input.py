"""Damage in the middle of a stack: opening says it, or reading that slice does; never other values, never a crash."""

import struct

import numpy as np
import pytest
import tifffile
import zarr
from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, ZstdCodec

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.space import Space

OFFSETS, COUNTS, WIDTH = 273, 279, 256
LACKS = "is cut short or lacks planes: copy it again, with all its companion files"


def random(shape=(5, 64, 64)):
    return np.random.default_rng(0).integers(1, 100, shape, "uint8")


def make_tiff(path, values, compression=None, rows=64, **options):
    """Write one page per slice, each with its own list of strips."""
    with tifffile.TiffWriter(path) as writer:
        for plane in values:
            strips = {} if "tile" in options else {"rowsperstrip": rows}
            writer.write(plane, compression=compression, contiguous=False, metadata=None, **strips, **options)
    return path


def set_tag(path, page, tag, number):
    """Set all values of a tag of one page."""
    with tifffile.TiffFile(path) as file:
        found = file.pages[page].tags[tag]
    values = struct.pack(f"<{found.count}{'H' if found.dtype == 3 else 'I'}", *[number] * found.count)
    with path.open("r+b") as handle:
        handle.seek(found.valueoffset)
        handle.write(values)


# --- TIFF ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [64, 8])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits"])
@pytest.mark.parametrize(("tag", "number"), [(OFFSETS, 10**8), (OFFSETS, 0), (COUNTS, 2**16 - 1)])
def test_strips_of_a_middle_page_that_lie_nowhere_are_told_on_opening(tmp_path, compression, rows, tag, number):
    path = make_tiff(tmp_path / "a.tif", random(), compression, rows)
    set_tag(path, 2, tag, number)
    with pytest.raises(FileError, match=LACKS):
        read_stack(path)


@pytest.mark.parametrize("rows", [64, 8])
@pytest.mark.parametrize("compression", ["zlib", "lzw", "packbits"])
def test_a_compressed_page_cut_short_in_the_middle_is_named_and_the_others_are_whole(tmp_path, compression, rows):
    values = random()
    path = make_tiff(tmp_path / "a.tif", values, compression, rows)
    set_tag(path, 2, COUNTS, 40)
    stack = read_stack(path)
    for z in (0, 1, 3, 4):
        assert np.array_equal(stack.read((z, slice(None), slice(None))), values[z])
    with pytest.raises(FileError, match=r"Page 2 of '.*a.tif' is damaged and cannot be read: copy or export it again"):
        stack.read((2, slice(None), slice(None)))


def test_a_page_of_another_size_in_the_middle_does_not_move_the_slices_behind_it(tmp_path):
    path = make_tiff(tmp_path / "a.tif", random())
    set_tag(path, 2, WIDTH, 32)
    with pytest.raises(FileError, match=r"Page 2 of '.*a.tif' has a different size or kind than the pages around it"):
        read_stack(path)


def test_a_chain_of_pages_that_breaks_off_is_told_where_the_file_says_how_many_there_are(tmp_path):
    values = random()
    write_ome_tiff(tmp_path / "a.tif", values, Space("ZYX", (1, 1, 1), "pixel"))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page = file.pages[2]
        end = page.offset + 2 + 12 * len(page.tags)
    with (tmp_path / "a.tif").open("r+b") as handle:
        handle.seek(end)
        handle.write(bytes(4))
    with pytest.raises(FileError, match=LACKS):
        read_stack(tmp_path / "a.tif")


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"imagej": True}, {"bigtiff": True}])
def test_a_stack_cut_in_its_middle_is_told_on_opening(tmp_path, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, random(), photometric="minisblack", **options)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match=r"is cut short|is damaged"):
        read_stack(path)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("counted", [6, 9])
def test_a_description_that_counts_more_planes_than_there_are_is_told(tmp_path, compression, counted):
    values = np.random.default_rng(0).integers(0, 255, (5, 20, 30), "uint8")
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", compression=compression)
    content = (tmp_path / "a.tif").read_bytes()
    assert b'"shape": [5, ' in content
    (tmp_path / "a.tif").write_bytes(content.replace(b'"shape": [5, ', f'"shape": [{counted}, '.encode()))
    with pytest.raises(FileError, match="cut short"):
        read_stack(tmp_path / "a.tif")
    (tmp_path / "a.tif").write_bytes(content.replace(b'"shape": [5, ', b'"shape": [3, '))
    assert np.array_equal(read_stack(tmp_path / "a.tif").data, values)


@pytest.mark.parametrize("compression", ["zlib", "lzw"])
def test_a_compressed_tiff_that_is_cut_short_while_it_is_open_is_told_at_the_slice(tmp_path, compression):
    values = random((9, 64, 64))
    path = make_tiff(tmp_path / "a.tif", values, compression)
    stack = read_stack(path)
    with path.open("r+b") as handle:
        handle.truncate(len(path.read_bytes()) // 2)
    assert np.array_equal(stack.read((1, slice(None), slice(None))), values[1])
    with pytest.raises(FileError, match=r"Page 8 of '.*a.tif' is damaged"):
        stack.read((8, slice(None), slice(None)))


def test_tiles_that_were_left_out_are_zero_but_not_a_whole_page_of_them(tmp_path):
    values = random((1, 64, 64))
    path = make_tiff(tmp_path / "a.tif", values, "zlib", tile=(32, 32))
    with tifffile.TiffFile(path) as file:
        places = [file.pages[0].tags[code].valueoffset for code in (324, 325)]
        sizes = [4 if file.pages[0].tags[code].dtype == 4 else 2 for code in (324, 325)]
    with path.open("r+b") as handle:
        for place, size in zip(places, sizes, strict=True):
            handle.seek(place)
            handle.write(bytes(size))
    found = np.asarray(read_stack(path).data)
    assert not found[:32, :32].any()
    assert np.array_equal(found[32:], values[0, 32:])
    set_tag(path, 0, 324, 0)
    with pytest.raises(FileError, match=LACKS):
        read_stack(path)


@pytest.mark.filterwarnings("ignore:.*zero-size array")
@pytest.mark.parametrize("shape", [(0, 5, 6), (3, 0, 6), (3, 5, 0)])
def test_axes_of_no_length_get_a_sentence(tmp_path, shape):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, "u1"), photometric="minisblack")
    zarr.create_array(tmp_path / "a.zarr", shape=shape, dtype="u1", chunks=(2, 2, 2))
    for name in ("a.tif", "a.zarr"):
        with pytest.raises(InputError, match="is empty: its shape is"):
            read_stack(tmp_path / name)


@pytest.mark.parametrize("values", [2**62 + 1, -(2**62) - 1])
def test_whole_numbers_beyond_what_a_float_can_hold_stay_exact(tmp_path, values):
    stored = np.full((2, 3, 4), values, "int64")
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack")
    zarr.create_array(tmp_path / "a.zarr", data=stored)
    for name in ("a.tif", "a.zarr"):
        assert np.array_equal(read_stack(tmp_path / name).read((...,)), stored)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_numbers_in_a_tiff_are_refused(tmp_path, dtype, compression):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 4, 5), dtype), photometric="minisblack", compression=compression)
    with pytest.raises(InputError, match="contains complex numbers: save their magnitude"):
        read_stack(tmp_path / "a.tif")


# --- zarr ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["emptied", "halved", "a byte short"])
@pytest.mark.parametrize(
    ("zarr_format", "options"),
    [
        (2, {}),
        (2, {"compressors": None}),
        (3, {}),
        (3, {"compressors": None}),
        (3, {"compressors": GzipCodec()}),
        (3, {"compressors": BloscCodec(cname="lz4")}),
        (3, {"compressors": BloscCodec(cname="zstd", shuffle="noshuffle")}),
        (3, {"compressors": BloscCodec(clevel=0)}),
        (3, {"shards": (1, 64, 64), "chunks": (1, 32, 32)}),
    ],
)
def test_a_chunk_that_was_cut_short_is_named_and_the_others_are_whole(tmp_path, zarr_format, options, damage):
    values = random()
    chunks = {"chunks": (1, 64, 64)} | options
    array = zarr.create_array(tmp_path / "a.zarr", shape=values.shape, dtype="u1", zarr_format=zarr_format, **chunks)
    array[...] = values
    key = "c/2/0/0" if zarr_format == 3 else "2.0.0"
    chunk = tmp_path / "a.zarr" / key
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: {"emptied": 0, "halved": len(whole) // 2, "a byte short": -1}[damage]])
    stack = read_stack(tmp_path / "a.zarr")
    assert np.array_equal(stack.data[:2], values[:2])
    assert np.array_equal(stack.data[3:], values[3:])
    for part in (np.s_[2], np.s_[2, 3:9, 3:9]):
        with pytest.raises(FileError, match=f"Chunk {key} of '.*a.zarr' is damaged and cannot be read: copy or export"):
            stack.data[part]


def test_chunks_of_the_old_blosc_stores_that_were_cut_short_are_named(tmp_path):
    numcodecs = pytest.importorskip("numcodecs")
    values = random()
    array = zarr.create_array(
        tmp_path / "a.zarr",
        shape=values.shape,
        dtype="u1",
        zarr_format=2,
        chunks=(1, 64, 64),
        compressors=numcodecs.Blosc(),
    )
    array[...] = values
    assert np.array_equal(read_stack(tmp_path / "a.zarr").data, values)
    chunk = tmp_path / "a.zarr" / "2.0.0"
    chunk.write_bytes(chunk.read_bytes()[:3000])
    with pytest.raises(FileError, match=r"Chunk 2\.0\.0 of '.*a.zarr' is damaged"):
        read_stack(tmp_path / "a.zarr").read((2, slice(None), slice(None)))


@pytest.mark.parametrize("codec", [ZstdCodec(checksum=True), GzipCodec()])
def test_where_chunks_have_checksums_a_flipped_bit_is_found(tmp_path, codec):
    values = random()
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=values.shape, dtype="u1", chunks=(1, 64, 64), compressors=codec
    )
    array[...] = values
    chunk = tmp_path / "a.zarr" / "c" / "2" / "0" / "0"
    broken = bytearray(chunk.read_bytes())
    broken[len(broken) // 2] ^= 1
    chunk.write_bytes(broken)
    with pytest.raises(FileError, match=r"Chunk c/2/0/0 of '.*a.zarr' is damaged"):
        read_stack(tmp_path / "a.zarr").read((2, slice(None), slice(None)))


@pytest.mark.parametrize("dtype", ["uint16", "int64", "float32"])
def test_a_zarr_3_with_the_other_byte_order_is_read_right(tmp_path, dtype):
    values = np.arange(60, dtype=dtype).reshape(3, 4, 5)
    array = zarr.create_array(tmp_path / "a.zarr", shape=values.shape, dtype=dtype, serializer=BytesCodec(endian="big"))
    array[...] = values
    stack = read_stack(tmp_path / "a.zarr")
    assert stack.data.dtype.isnative
    assert np.array_equal(stack.data, values)


def test_a_store_of_others_may_leave_chunks_out(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(4, 64, 64), dtype="u1", chunks=(1, 64, 64), fill_value=9)
    array[1] = 7
    assert [int(plane[5, 5]) for plane in read_stack(tmp_path / "a.zarr").data] == [9, 7, 9, 9]
