"""A fingerprint is the same while the image is, another once it changes, and cheap for large ones."""

import json
import os
import time

import numpy as np
import pytest
import tifffile
import zarr

from napari_skipseg.errors import FileError
from napari_skipseg.images.files import read_levels, read_stack, write_ome_tiff
from napari_skipseg.images.identity import check_unchanged, fingerprint
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.zarr import reader
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import write_ome_zarr

CHANGED = "was changed while it was read: wait until nothing writes to it any more, and run again from the beginning"


def random(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 255, shape, "uint8")


def make_store(path, shape=(4, 700, 600)):
    write_ome_zarr(
        path, random(shape), Layout(shape, Space("ZYX", (50.0, 4.0, 4.0), "nm"), "uint8", chunks=(1, 256, 256))
    )
    return path


def test_of_a_file_it_holds_size_time_and_ends_and_no_folder(tmp_path):
    write_ome_tiff(tmp_path / "a.tif", random((3, 300, 400)), Space("ZYX", (1, 1, 1), "pixel"))
    found = fingerprint(tmp_path / "a.tif")
    assert json.loads(json.dumps(found)) == found
    assert found["name"] == "a.tif"
    assert found["bytes"] == (tmp_path / "a.tif").stat().st_size
    assert str(tmp_path) not in json.dumps(found)
    check_unchanged(tmp_path / "a.tif", json.loads(json.dumps(found)))


def rewrite(path, place, seconds):
    with path.open("r+b") as handle:
        handle.seek(place, os.SEEK_END if place < 0 else os.SEEK_SET)
        handle.write(b"\xff")
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 10**9))


@pytest.mark.parametrize("place", [10, 200_000, -1])
def test_a_file_that_is_written_to_grows_or_goes_is_noticed(tmp_path, place):
    path = tmp_path / "a.tif"
    path.write_bytes(bytes(400_000))
    before = fingerprint(path)
    rewrite(path, place, seconds=1)
    with pytest.raises(FileError, match=f"'.*a.tif' {CHANGED}"):
        check_unchanged(path, before)
    before = fingerprint(path)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(FileError, match=CHANGED):
        check_unchanged(path, before)
    path.unlink()
    with pytest.raises(FileError, match=r"'.*a.tif' was removed while it was read: put it back, and run again"):
        check_unchanged(path, before)


def test_its_ends_are_seen_even_where_the_time_is_set_back(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(bytes(400_000))
    before, status = fingerprint(path), path.stat()
    for place, noticed in ((0, True), (65535, True), (-1, True), (65536, False)):
        path.write_bytes(bytes(400_000))
        rewrite(path, place, seconds=0)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert (fingerprint(path) != before) is noticed


def test_a_store_is_the_same_by_any_of_its_names(tmp_path):
    store = make_store(tmp_path / "a.zarr")
    found = fingerprint(store)
    assert json.loads(json.dumps(found)) == found
    assert (found["name"], found["chunks"]) == ("a.zarr", 4 * 3 * 3)
    assert fingerprint(str(store / "zarr.json")) == found
    assert fingerprint(store / "0") == found | {"name": "0"}
    assert str(tmp_path) not in json.dumps(found)
    check_unchanged(store, found)


@pytest.mark.parametrize("change", ["rewrite", "remove", "add", "metadata", "group"])
def test_a_store_that_changes_is_noticed(tmp_path, change):
    store = make_store(tmp_path / "a.zarr")
    chunk = store / "0" / "c" / "2" / "1" / "0"
    before = fingerprint(store)
    if change == "rewrite":
        zarr.open_array(store / "0")[2, 300, 5] = 7
        os.utime(chunk, ns=(0, before["changed_ns"] + 10**9))
    elif change == "remove":
        chunk.unlink()
    elif change == "add":
        chunk.with_name("9").write_bytes(b"")
    else:
        told = (store if change == "group" else store / "0") / "zarr.json"
        told.write_text(
            told.read_text().replace("nanometer", "micrometer").replace('"fill_value": 0', '"fill_value": 1')
        )
    with pytest.raises(FileError, match=f"'.*a.zarr' {CHANGED}"):
        check_unchanged(store, before)


def test_coarser_levels_and_unfinished_chunks_do_not_count(tmp_path):
    store = make_store(tmp_path / "a.zarr")
    before = fingerprint(store)
    (store / "1" / "c" / "0" / "0" / "0").write_bytes(b"other")
    (store / "0" / "c" / "0" / "0" / "0.abc.partial").write_bytes(b"half")  # zarr's own
    (store / "0" / "c" / "0" / "0" / ".skipseg-0123abcd.part").write_bytes(b"half")
    check_unchanged(store, before)


def test_many_chunks_take_no_time_and_of_too_many_some_are_looked_at(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(30, 100, 100), chunks=(1, 10, 10), dtype="u1")
    for z in range(30):
        for y in range(10):
            (tmp_path / "a.zarr" / "c" / str(z) / str(y)).mkdir(parents=True)
            for x in range(10):
                (tmp_path / "a.zarr" / "c" / str(z) / str(y) / str(x)).touch()
    begun = time.process_time()
    assert fingerprint(tmp_path / "a.zarr")["chunks"] == 3000
    assert time.process_time() - begun < 1
    assert reader.check_chunks(tmp_path / "a.zarr", most=50).number == 50


def test_what_cannot_be_read_has_none(tmp_path):
    with pytest.raises(FileError, match="does not exist: check the name"):
        fingerprint(tmp_path / "missing.tif")
    with pytest.raises(FileError, match="does not exist: check the name"):
        fingerprint(tmp_path / "missing.zarr")
    with pytest.raises(FileError, match="is a folder: give an image file"):
        fingerprint(tmp_path)
    with pytest.raises(FileError, match="is an address"):
        fingerprint("https://somewhere.org/a.tif")


def test_a_stack_knows_its_file_and_keeps_it_through_a_channel(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_ome_tiff("a.tif", random((2, 30, 40)), Space("CYX", (1, 1, 1), "pixel"))
    assert read_stack("a.tif").file == str(tmp_path / "a.tif")
    assert read_stack("a.tif").channel(1).file == str(tmp_path / "a.tif")
    store = make_store(tmp_path / "a.zarr")
    assert read_stack("a.zarr/zarr.json").file == str(store)
    assert [level.file for level in read_levels("a.zarr")] == [str(store), str(store / "1")]
    assert Stack(random((3, 4)), Space("YX")).file == ""
    tifffile.imwrite("a.mrc", random((3, 4)))
    with pytest.raises(FileError):
        read_stack("a.mrc")
