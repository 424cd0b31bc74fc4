"""Chunks of a zarr array are found where they are, bounded, decoded once, and never outside of the store."""

import json
import shutil
import threading
from pathlib import Path, PureWindowsPath

import numcodecs
import numpy as np
import pytest
import zarr

from napari_skipseg.errors import FileError
from napari_skipseg.images.files import read_stack
from napari_skipseg.images.zarr import array as zarr_array
from napari_skipseg.images.zarr import metadata, reader
from napari_skipseg.images.zarr.array import ZarrArray
from napari_skipseg.images.zarr.metadata import read_node, store_root

VALUES = np.random.default_rng(0).integers(1, 200, (3, 20, 30), "uint8")
FORMS = ("0.0.0", "0/0/0", "c.0.0.0", "c/0/0/0")


def write(path, values=VALUES, chunks=(1, 10, 10), **options):
    zarr.create_array(path, data=values, chunks=chunks, **options)
    return path


def rename_chunks(path, form, keep=lambda numbers: False):
    """Give the files of all chunks names of a different form, those whose numbers are not kept."""
    separator = "/" if "/" in form else "."
    for file in [each for each in sorted(path.rglob("*")) if each.is_file()]:
        parts = file.relative_to(path).as_posix().replace(".", "/").split("/")
        numbers = [part for part in parts if part.isdecimal()]
        if len(numbers) == len(form.replace("c", "").replace("/", "").replace(".", "")) and not keep(numbers):
            place = path / separator.join(["c", *numbers] if "c" in form else numbers)
            content = file.read_bytes()
            file.unlink()
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)


@pytest.fixture
def make(tmp_path):
    """Return a function that writes an array of one form and puts its chunks where another has them."""

    def make(zarr_format, named, lying):
        name = {"c": "default"}.get(named[0], "v2")
        encoding = {"name": name, "separator": "/" if "/" in named else "."}
        path = tmp_path / "a.zarr"
        write(path, zarr_format=zarr_format, chunk_key_encoding=encoding)
        rename_chunks(path, lying)
        return path

    return make


@pytest.mark.parametrize(
    ("zarr_format", "named"), [(2, "0.0.0"), (2, "0/0/0"), (3, "c/0/0/0"), (3, "c.0.0.0"), (3, "0.0.0")]
)
@pytest.mark.parametrize("lying", FORMS)
def test_chunks_are_found_in_every_form_and_a_note_says_where(make, zarr_format, named, lying):
    stack = read_stack(make(zarr_format, named, lying), axes="ZYX")
    assert np.array_equal(stack.data, VALUES)
    assert any("were read where they are" in note for note in stack.notes) == (named != lying)


def test_nested_chunks_of_which_the_metadata_say_nothing_are_found(tmp_path):
    path = write(tmp_path / "a.zarr", zarr_format=2, chunk_key_encoding={"name": "v2", "separator": "/"})
    told = json.loads((path / ".zarray").read_text())
    del told["dimension_separator"]
    (path / ".zarray").write_text(json.dumps(told))
    assert np.array_equal(read_stack(path).data, VALUES)


def test_an_image_of_which_some_chunks_lie_elsewhere_has_no_holes(tmp_path):
    path = write(tmp_path / "a.zarr", zarr_format=2)
    rename_chunks(path, "0/0/0", keep=lambda numbers: numbers[0] != "1")
    assert (path / "0.0.0").is_file()
    assert (path / "1/0/0").is_file()
    assert np.array_equal(read_stack(path).data, VALUES)


def test_of_two_chunks_of_one_place_the_one_that_the_metadata_name_counts(tmp_path):
    path = write(tmp_path / "a.zarr", zarr_format=2)
    old = write(tmp_path / "old.zarr", VALUES // 2, zarr_format=2, chunk_key_encoding={"name": "v2", "separator": "/"})
    for number in "012":
        shutil.copytree(old / number, path / number)
    assert np.array_equal(read_stack(path).data, VALUES)


@pytest.mark.parametrize("wrong", ["data/0.0.0", "0/0.0", "0.0", "0.0.0.0", "s0/0/0/0"])
def test_chunks_that_lie_elsewhere_get_a_sentence_and_are_never_zeros(tmp_path, wrong):
    path = write(tmp_path / "a.zarr", zarr_format=2)
    for file in path.glob("?.?.?"):
        file.unlink()
    (path / wrong).parent.mkdir(parents=True, exist_ok=True)
    (path / wrong).write_bytes(b"some chunk")
    with pytest.raises(FileError, match="are not where its metadata say") as error:
        read_stack(path)
    assert wrong in str(error.value)


def test_an_array_without_any_chunk_is_noted(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(5, 6), dtype="u1", chunks=(5, 6))
    (tmp_path / "a.zarr" / "README.txt").write_text("nothing")
    stack = read_stack(tmp_path / "a.zarr")
    assert "no chunks" in stack.notes[0]
    assert not np.asarray(stack.data).any()


# --- large chunks ----------------------------------------------------------------------------------------------------


def told_array(path, shape, chunks, **more):
    """Write the metadata of a zarr 3 array, and nothing else."""
    path.mkdir(parents=True)
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
    told = {"zarr_format": 3, "node_type": "array", "shape": shape, "data_type": "uint8", "fill_value": 0}
    told |= {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}}, "codecs": codecs}
    told |= {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}}, "attributes": {}, **more}
    (path / "zarr.json").write_text(json.dumps(told))
    return path


def shards(inside):
    index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
    options = {"chunk_shape": inside, "codecs": codecs, "index_codecs": index, "index_location": "end"}
    return {"codecs": [{"name": "sharding_indexed", "configuration": options}]}


@pytest.mark.parametrize(
    ("chunks", "more"),
    [
        ([2**16, 2**16], {}),
        ([50_000, 50_000], {}),
        ([2**17, 2**17], shards([2**16, 2**16])),
        ([2**20, 2**20], shards([8, 8])),
    ],
)
def test_a_chunk_that_takes_too_much_memory_is_refused_before_it_is_read(tmp_path, chunks, more):
    with pytest.raises(FileError, match=r"chunks of .* GiB.*: store it in smaller chunks"):
        read_stack(told_array(tmp_path / "a.zarr", [2**20, 2**20], chunks, **more))


@pytest.mark.parametrize(
    ("chunks", "more"), [([0, 5], {}), ([5, 0], {}), ([0, 0], {}), ([10, 10], shards([0, 5])), ([-5, 5], {})]
)
def test_chunks_without_voxels_get_a_sentence(tmp_path, chunks, more):
    with pytest.raises(FileError, match=r"chunks without voxels|is damaged"):
        read_stack(told_array(tmp_path / "a.zarr", [10, 10], chunks, **more))


@pytest.fixture
def decoded(monkeypatch):
    """The places of the chunks that are decoded."""
    places = []
    decode = ZarrArray.decode
    monkeypatch.setattr(ZarrArray, "decode", lambda array, place: places.append(place) or decode(array, place))
    return places


@pytest.fixture
def thick(tmp_path):
    """A volume in two chunks of 2 MiB, each of 8 slices."""
    values = np.random.default_rng(0).integers(1, 200, (16, 512, 512), "uint8")
    return write(tmp_path / "thick.zarr", values, (8, 512, 512)), values


def test_a_thick_chunk_that_is_read_slice_by_slice_is_decoded_once(thick, decoded):
    path, values = thick
    stack = read_stack(path)
    for z in range(16):
        assert np.array_equal(stack.read((z, slice(None), slice(100, 300))), values[z, :, 100:300])
    assert decoded == [(0, 0, 0), (1, 0, 0)]


@pytest.mark.parametrize("chunks", [(8, 512, 512), (16, 300, 300), (5, 512, 512)])
@pytest.mark.parametrize("shards", [None, 2])
def test_what_is_read_of_kept_chunks_is_what_is_stored(tmp_path, decoded, chunks, shards):
    values = np.random.default_rng(0).integers(1, 200, (16, 512, 512), "uint8")
    whole = None if shards is None else tuple(shards * n for n in chunks)
    stack = read_stack(write(tmp_path / "a.zarr", values, chunks, shards=whole))
    for key in (
        np.s_[3],
        np.s_[::-3, 10:500:7, 511:3:-300],
        np.s_[..., 5],
        np.s_[15, 511, 511],
        np.s_[4:4],
        np.s_[...],
    ):
        assert np.array_equal(stack.data[key], values[key])
        assert np.shape(stack.data[key]) == np.shape(values[key])
    assert decoded


def test_threads_that_want_the_same_chunk_decode_it_once(thick, decoded):
    path, values = thick
    stack, wrong = read_stack(path), []

    def read(z):
        if not np.array_equal(stack.read((z, slice(None), slice(None))), values[z]):
            wrong.append(z)

    threads = [threading.Thread(target=read, args=(z,)) for z in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, decoded) == ([], [(0, 0, 0)])


def test_the_oldest_chunks_go_where_memory_is_short(thick, decoded, monkeypatch):
    monkeypatch.setattr(zarr_array, "KEPT_CHUNKS", 3 * 2**20)
    path, _ = thick
    stack = read_stack(path)
    for z in (0, 15, 15, 1):
        stack.read((z, 0, 0))
    assert decoded == [(0, 0, 0), (1, 0, 0), (0, 0, 0)]


def test_a_chunk_that_is_not_written_yet_is_looked_for_again(thick, decoded):
    path, values = thick
    chunk = path / "c/1/0/0"
    content = chunk.read_bytes()
    chunk.unlink()
    stack = read_stack(path)
    assert not stack.read((15, slice(None), slice(None))).any()
    chunk.write_bytes(content)
    assert np.array_equal(stack.read((15, slice(None), slice(None))), values[15])


def test_a_damaged_thick_chunk_is_named_and_the_others_are_whole(thick):
    path, values = thick
    chunk = path / "c/1/0/0"
    chunk.write_bytes(chunk.read_bytes()[:1000])
    stack = read_stack(path)
    for _ in range(2):
        with pytest.raises(FileError, match=r"Chunk c/1/0/0 of .* is damaged"):
            stack.read((15, slice(None), slice(None)))
    assert np.array_equal(stack.read((7, slice(None), slice(None))), values[7])


def test_small_chunks_of_shards_are_left_to_zarr(tmp_path, decoded):
    assert np.array_equal(read_stack(write(tmp_path / "a.zarr", shards=(1, 20, 20))).data, VALUES)
    assert decoded == []
    assert ZarrArray(read_node(tmp_path / "a.zarr")).chunks == (1, 20, 20)


CODECS_3 = [
    [],
    [zarr.codecs.ZstdCodec()],
    [zarr.codecs.BloscCodec(cname="lz4", shuffle="bitshuffle")],
    [zarr.codecs.GzipCodec()],
]
CODECS_2 = [None, numcodecs.Zstd(), numcodecs.Blosc("lz4"), numcodecs.GZip()]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize(("version", "dtype"), [(3, "<u2"), (3, ">f4"), (2, ">i2"), (2, "|u1"), (2, "<f8")])
def test_plain_chunks_are_what_zarr_reads(tmp_path, number, version, dtype):
    values = np.random.default_rng(0).integers(1, 100, (5, 30, 33)).astype(dtype)
    codecs = [zarr.codecs.BytesCodec(endian="big" if dtype[0] == ">" else "little")] if version == 3 else None
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=values.shape, chunks=(2, 16, 16), dtype=values.dtype, zarr_format=version,
        fill_value=7, compressors=CODECS_3[number] if version == 3 else CODECS_2[number],
        **({"serializer": codecs[0]} if codecs else {}),
    )  # fmt: skip
    array[:, :16] = values[:, :16]  # the other chunks have no file
    ours = ZarrArray(read_node(tmp_path / "a.zarr"))
    assert ours._plain is not None
    for key in (np.s_[...], np.s_[3], np.s_[::-2, 1:29:5, 32:2:-7], np.s_[4, 29, 32], np.s_[2:2]):
        found, expected = ours[key], np.asarray(zarr.open_array(tmp_path / "a.zarr")[...])[key]
        assert np.array_equal(found, expected)
        assert np.asarray(found).dtype.isnative


@pytest.mark.parametrize("more", [{"order": "F"}, {"filters": [numcodecs.Delta("u2")]}])
def test_arrays_with_filters_or_another_order_are_left_to_zarr(tmp_path, more):
    values = np.random.default_rng(0).integers(1, 100, (4, 20, 20)).astype("u2")
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=values.shape, chunks=(2, 10, 10), dtype="u2", zarr_format=2, **more
    )
    array[...] = values
    ours = ZarrArray(read_node(tmp_path / "a.zarr"))
    assert ours._plain is None
    assert np.array_equal(ours[...], values)


@pytest.mark.parametrize("codec", [zarr.codecs.ZstdCodec(), zarr.codecs.BloscCodec(), zarr.codecs.GzipCodec(), None])
@pytest.mark.parametrize("left", [0, 10, -1])
def test_a_small_chunk_that_is_cut_short_is_named(tmp_path, codec, left):
    values = np.random.default_rng(0).integers(1, 200, (4, 40, 40), "uint8")
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=values.shape, chunks=(1, 40, 40), dtype="u1", compressors=codec and [codec]
    )
    array[...] = values
    chunk = tmp_path / "a.zarr/c/2/0/0"
    chunk.write_bytes(chunk.read_bytes()[:left])
    ours = ZarrArray(read_node(tmp_path / "a.zarr"))
    with pytest.raises(FileError, match="c/2/0/0"):
        ours[...]
    assert np.array_equal(ours[1], values[1])


def test_of_small_chunks_the_last_ones_are_kept(tmp_path, decoded, monkeypatch):
    monkeypatch.setattr(zarr_array, "KEPT_SMALL", 250)
    stack = read_stack(write(tmp_path / "a.zarr"))  # chunks of 100 bytes
    for z in (0, 1, 0, 2, 1):
        stack.read((z, slice(0, 10), slice(0, 10)))
    assert [place[0] for place in decoded] == [0, 1, 2, 1]


def test_a_kept_chunk_that_is_written_anew_is_read_anew(tmp_path):
    array = zarr.open_array(write(tmp_path / "a.zarr"), mode="r+")
    stack = read_stack(tmp_path / "a.zarr")
    assert np.array_equal(stack.read((0, slice(None), slice(None))), VALUES[0])
    array[0] = 7
    assert (stack.read((0, slice(None), slice(None))) == 7).all()


# --- nothing outside of the store ------------------------------------------------------------------------------------

OUTSIDE = [
    "../secret", "a/../../secret", "/etc", "..", "", ".", "..\\..\\secret", "C:\\Users\\me\\x.zarr\\0", "C:secret",
    "\\\\evil\\share\\x", "//evil/share/x", "0\\..\\..\\x", ".. /x", "... ", "0:stream", "a\0b",
]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("folder", [PureWindowsPath("C:\\data\\x.zarr"), Path("/data/x.zarr")])
def test_a_dataset_lies_below_its_store_on_every_system(folder, path):
    with pytest.raises(FileError, match="points outside of itself"):
        reader._inside(folder, path)


@pytest.mark.parametrize("path", ["0", "scale0/image", "s0/..data", "a b/0.5"])
def test_plain_dataset_paths_are_taken(path):
    assert reader._inside(Path("/data/x.zarr"), path) == Path("/data/x.zarr") / path
    windows = reader._inside(PureWindowsPath("C:\\data\\x.zarr"), path)
    assert windows.is_relative_to(PureWindowsPath("C:\\data\\x.zarr"))


@pytest.mark.parametrize("path", OUTSIDE)
def test_an_image_that_points_outside_is_refused(tmp_path, path):
    secret = write(tmp_path / "secret")
    group = zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=2)
    group.attrs["multiscales"] = [{"axes": ["z", "y", "x"], "version": "0.3", "datasets": [{"path": path}]}]
    with pytest.raises(FileError):
        read_stack(tmp_path / "x.zarr")
    assert secret.exists()


@pytest.mark.parametrize("place", ["/", "/0", "/a/0"])
def test_a_store_at_the_root_of_a_drive_has_a_root(monkeypatch, place):
    monkeypatch.setattr(metadata, "is_node", lambda path: path in (Path("/"), Path("/0"), Path("/a"), Path("/a/0")))
    assert store_root(Path(place)) == Path("/")
