"""OME-Zarr goes out valid from the first moment, chunk by chunk, whole or not at all, and goes on after a kill."""

import errno
import json
import os
import sys
import threading
from itertools import pairwise

import numpy as np
import pytest
from run_python import run_python

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.files import holds_labels, read_levels, read_recipe, read_stack
from napari_skipseg.images.space import Space
from napari_skipseg.images.zarr import chunk_writer, writer
from napari_skipseg.images.zarr.layout import Layout, default_chunks
from napari_skipseg.images.zarr.writer import OmeZarrWriter, create_ome_zarr, iter_write_ome_zarr, write_ome_zarr
from napari_skipseg.progress import run_to_end


def noise(shape, dtype="uint8", seed=0):
    return (np.random.default_rng(seed).random(shape) * 100).astype(dtype)


def layout(shape=(4, 700, 600), axes="ZYX", dtype="uint8", **options):
    options = {"chunks": (1, 256, 256)[-len(shape) :]} | options
    return Layout(shape, Space(axes, (50.0, 4.0, 4.5), "nm"), dtype, **options)


def content(folder):
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


# --- what is written is read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "shape", "dtype"),
    [
        ("YX", (33, 47), "uint8"),
        ("ZYX", (5, 33, 47), "float32"),
        ("CZYX", (2, 5, 33, 47), "uint16"),
        ("TCZYX", (2, 3, 4, 33, 47), "int16"),
        ("ZYX", (5, 33, 47), "bool"),
        ("ZYX", (5, 33, 47), "int64"),
        ("YX", (33, 47), "float16"),
    ],
)
def test_what_is_written_is_read_with_place_and_recipe(tmp_path, axes, shape, dtype):
    values = noise(shape, dtype)
    told = Layout(
        shape, Space(axes, (50.0, 4.6, 4.25), "nm", (100.0, -3.5, 0.1)), dtype, description={"model": "π", "tile": 5}
    )
    write_ome_zarr(tmp_path / "a.ome.zarr", values, told)
    stack = read_stack(tmp_path / "a.ome.zarr")
    assert (stack.space.axes, stack.shape, stack.name) == (axes, shape, "a")
    assert (stack.space.voxel_size[1:], stack.space.unit, stack.space.origin[1:]) == ((4.6, 4.25), "nm", (-3.5, 0.1))
    assert stack.data.dtype == values.dtype
    assert np.array_equal(stack.data, values)
    assert read_recipe(tmp_path / "a.ome.zarr") == {"model": "π", "tile": 5}
    assert not holds_labels(tmp_path / "a.ome.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["a.ome.zarr"]


def test_the_metadata_are_those_of_the_standard(tmp_path):
    space = Space("CZYX", (50.0, 4.0, 4.5), "nm", (1.0, 2.0, 3.0))
    told = Layout((2, 40, 700, 600), space, "uint8", chunks=(1, 1, 256, 256), channel_names=("a", "b"))
    create_ome_zarr(tmp_path / "a.ome.zarr", told)
    group = json.loads((tmp_path / "a.ome.zarr" / "zarr.json").read_text())
    assert (group["zarr_format"], group["node_type"]) == (3, "group")
    ome = group["attributes"]["ome"]
    assert ome["version"] == "0.5"
    (image,) = ome["multiscales"]
    assert [axis["name"] for axis in image["axes"]] == ["c", "z", "y", "x"]
    assert [axis["type"] for axis in image["axes"]] == ["channel", "space", "space", "space"]
    assert [axis.get("unit") for axis in image["axes"]] == [None, "nanometer", "nanometer", "nanometer"]
    assert [dataset["path"] for dataset in image["datasets"]] == ["0", "1"]
    first, second = (dataset["coordinateTransformations"] for dataset in image["datasets"])
    assert first == [
        {"type": "scale", "scale": [1.0, 50.0, 4.0, 4.5]},
        {"type": "translation", "translation": [0.0, 1.0, 2.0, 3.0]},
    ]
    assert second == [
        {"type": "scale", "scale": [1.0, 50.0, 8.0, 9.0]},
        {"type": "translation", "translation": [0.0, 1.0, 4.0, 5.25]},
    ]
    assert [channel["label"] for channel in ome["omero"]["channels"]] == ["a", "b"]
    assert all({"color", "window"} <= channel.keys() for channel in ome["omero"]["channels"])
    for number, shape in enumerate([[2, 40, 700, 600], [2, 40, 350, 300]]):
        array = json.loads((tmp_path / "a.ome.zarr" / str(number) / "zarr.json").read_text())
        assert (array["shape"], array["dimension_names"]) == (shape, ["c", "z", "y", "x"])
        assert array["codecs"][-1]["name"] == "zstd"


def test_pixels_have_no_unit_and_labels_say_so(tmp_path):
    told = Layout((5, 6), Space("YX"), "uint16", kind="labels")
    write_ome_zarr(tmp_path / "a.zarr", noise((5, 6), "uint16"), told)
    assert (read_stack(tmp_path / "a.zarr").space.unit, holds_labels(tmp_path / "a.zarr")) == ("pixel", True)
    image = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
    assert all("unit" not in axis for axis in image["axes"])
    assert image["type"] == "mode"


@pytest.mark.parametrize("kind", ["image", "labels"])
def test_levels_are_the_reduced_level_before(tmp_path, kind):
    values = noise((4, 701, 1100))
    told = Layout(values.shape, Space("ZYX", (4, 4, 4), "nm"), "uint8", (1, 256, 256), kind)
    write_ome_zarr(tmp_path / "a.zarr", values, told)
    reduce = writer.average if kind == "image" else writer.most_common
    levels = read_levels(tmp_path / "a.zarr")
    assert [level.shape for level in levels] == [(4, 701, 1100), (2, 351, 550), (1, 176, 275)]
    for finer, level in pairwise(levels):
        assert np.array_equal(level.data, reduce(np.asarray(finer.data), (2, 2, 2)))
    assert levels[1].space.voxel_size == (8, 8, 8)
    assert levels[1].space.origin == (2, 2, 2)


def test_the_same_input_gives_the_same_bytes(tmp_path):
    values = noise((4, 700, 600))
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        write_ome_zarr(tmp_path / name / "a.zarr", values, layout(description={"b": 1, "a": 2}))
    assert content(tmp_path / "1") == content(tmp_path / "2")


def test_default_chunks_are_slices_of_a_mebibyte_and_grow_before_there_are_too_many_files():
    assert default_chunks((100, 5000, 5000), "ZYX", 1) == (1, 1024, 1024)
    assert default_chunks((100, 300, 5000), "ZYX", 4) == (1, 300, 512)
    assert default_chunks((3, 7000, 20000, 20000), "TZYX", 1) == (1, 1, 4096, 4096)


# --- chunk by chunk --------------------------------------------------------------------------------------------------


def test_a_store_is_valid_from_the_beginning_and_what_is_missing_is_zero(tmp_path):
    writer = create_ome_zarr(tmp_path / "a.zarr", layout())
    levels = read_levels(tmp_path / "a.zarr")
    assert [level.shape for level in levels] == [(4, 700, 600), (4, 350, 300)]
    assert not any(np.asarray(level.data).any() for level in levels)
    region = (slice(1, 3), slice(256, 700), slice(0, 512))
    assert not writer.is_written(region)
    writer.write(region, np.full((2, 444, 512), 7, "u1"))
    assert writer.is_written(region)
    assert not writer.is_written((slice(1, 3), slice(0, 700), slice(0, 512)))
    assert int(np.asarray(levels[0].data).sum()) == 7 * 2 * 444 * 512
    with pytest.raises(FileError, match="is not finished: continue its run before its pyramid is made"):
        run_to_end(writer.iter_pyramid())


def test_a_chunk_of_zeros_counts_as_written(tmp_path):
    writer = create_ome_zarr(tmp_path / "a.zarr", layout())
    whole = (slice(0, 4), slice(0, 700), slice(0, 600))
    writer.write(whole, np.zeros((4, 700, 600), "u1"))
    assert writer.is_complete()
    assert create_ome_zarr(tmp_path / "a.zarr", layout()).is_complete()


@pytest.mark.parametrize("region", [(0, 1, 0, 255, 0, 256), (0, 1, 1, 256, 0, 256), (0, 1, 256, 600, 512, 600)])
def test_parts_of_chunks_are_refused(tmp_path, region):
    writer = create_ome_zarr(tmp_path / "a.zarr", layout())
    part = tuple(slice(*region[axis : axis + 2]) for axis in (0, 2, 4))
    with pytest.raises(ValueError, match="is not made of whole chunks"):
        writer.write(part, np.zeros([p.stop - p.start for p in part], "u1"))


def test_threads_write_different_chunks_at_once(tmp_path):
    values = noise((8, 700, 600))
    writer = create_ome_zarr(tmp_path / "a.zarr", layout(values.shape))

    def write(z):
        region = (slice(z, z + 1), slice(0, 700), slice(0, 600))
        writer.write(region, values[region])

    threads = [threading.Thread(target=write, args=(z,)) for z in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(read_stack(tmp_path / "a.zarr").data, values)


def test_whole_chunks_of_the_pyramid_are_left_alone(tmp_path):
    writer = create_ome_zarr(tmp_path / "a.zarr", layout())
    writer.write(tuple(slice(0, n) for n in (4, 700, 600)), noise((4, 700, 600)))
    for progress in writer.iter_pyramid():
        assert (progress.done, progress.total) == (1, 1)
    before = content(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "1" / "c" / "2" / "1" / "0").unlink()
    kept = (tmp_path / "a.zarr" / "1" / "zarr.json").stat().st_mtime_ns
    run_to_end(create_ome_zarr(tmp_path / "a.zarr", layout()).iter_pyramid())
    assert content(tmp_path / "a.zarr") == before
    assert (tmp_path / "a.zarr" / "1" / "zarr.json").stat().st_mtime_ns == kept


@pytest.mark.parametrize("kind", ["image", "labels"])
def test_a_pyramid_that_several_shared_out_is_that_of_one(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(writer, "PYRAMID_VOXELS", 2**14)
    told = layout((2, 1300, 1200), kind=kind)
    for name in "ab":
        made = create_ome_zarr(tmp_path / f"{name}.zarr", told)
        made.write(tuple(slice(0, length) for length in told.shape), noise(told.shape))
    run_to_end(made.iter_pyramid())
    many = [OmeZarrWriter(tmp_path / "a.zarr", told) for _ in range(3)]
    assert all(len(made.parts(level)) > 1 for level in (1, 2))
    for level in (1, 2):
        for number, region in reversed(list(enumerate(made.parts(level)))):
            many[number % 3].write_coarser(level, region)
            assert many[0].is_written(region, level)
    for level in "12":
        assert content(tmp_path / "a.zarr" / level) == content(tmp_path / "b.zarr" / level)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import numpy as np
    from napari_skipseg.images.space import Space
    from napari_skipseg.images.zarr.layout import Layout
    from napari_skipseg.images.zarr.writer import create_ome_zarr
    told = Layout((4, 700, 600), Space("ZYX", (50.0, 4.0, 4.5), "nm"), "uint8", chunks=(1, 256, 256))
    writer = create_ome_zarr(sys.argv[1], told)
    values = (np.random.default_rng(0).random((4, 700, 600)) * 100).astype("u1")
    if sys.argv[2] == "kill":
        replace = os.replace
        count = [0]
        def deadly(source, target):
            count[0] += 1
            if count[0] == 11:
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(source, target)
        os.replace = deadly
    for z in range(4):
        region = (slice(z, z + 1), slice(0, 700), slice(0, 600))
        if not writer.is_written(region):
            writer.write(region, values[region])
    for _ in writer.iter_pyramid():
        pass
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_run_goes_on_where_it_stopped_and_ends_with_the_same_bytes(tmp_path):
    assert run_python(KILLED, tmp_path / "whole.zarr", "live").returncode == 0
    assert run_python(KILLED, tmp_path / "a.zarr", "kill").returncode == -9
    left = content(tmp_path / "a.zarr")
    assert any(name.endswith(".part") for name in left)
    whole = content(tmp_path / "whole.zarr")
    half = {name: data for name, data in left.items() if not name.endswith((".part", "zarr.json"))}
    assert 0 < len(half) < 12
    assert all(whole[name] == data for name, data in half.items())
    done = run_python(KILLED, tmp_path / "a.zarr", "live")
    assert done.returncode == 0, done.stderr
    found = content(tmp_path / "a.zarr")
    assert {name: data for name, data in found.items() if name != "zarr.json"} == {
        name: data for name, data in whole.items() if name != "zarr.json"
    }


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="limits the file size by setrlimit")
def test_a_disk_that_fills_up_gets_a_sentence_and_what_was_written_stays_valid(tmp_path):
    script = """
        import resource, sys
        import numpy as np
        from napari_skipseg.images.space import Space
        from napari_skipseg.images.zarr.layout import Layout
        from napari_skipseg.images.zarr.writer import create_ome_zarr
        writer = create_ome_zarr(sys.argv[1], Layout((4, 700, 600), Space("ZYX"), "uint8", chunks=(1, 700, 600)))
        writer.write((slice(0, 1), slice(0, 700), slice(0, 600)), np.ones((1, 700, 600), "u1"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        noise = np.random.default_rng(0).integers(0, 255, (3, 700, 600), "uint8")
        writer.write((slice(1, 4), slice(0, 700), slice(0, 600)), noise)
    """
    done = run_python(script, tmp_path / "a.zarr")
    assert "FileError: " in done.stderr
    assert "is larger than the file system allows: choose a different disk." in done.stderr
    assert sorted(np.asarray(read_stack(tmp_path / "a.zarr").data).mean((1, 2)).tolist()) == [0, 0, 0, 1]
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "There is no space left to write '.*a.zarr': free some space or choose a different folder"),
        (errno.EROFS, "'.*a.zarr' may not be written: choose a folder in which you may write"),
    ],
)
def test_a_fault_of_the_disk_is_told_and_a_whole_write_leaves_nothing(tmp_path, monkeypatch, number, sentence):
    def fail(path, content):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(chunk_writer, "write_whole", fail)
    with pytest.raises(FileError, match=sentence):
        write_ome_zarr(tmp_path / "a.zarr", noise((4, 700, 600)), layout())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_or_closed_gets_a_sentence(tmp_path):
    with pytest.raises(FileError, match=r"The folder '.*nowhere' does not exist: create it or choose a different one"):
        create_ome_zarr(tmp_path / "nowhere" / "a.zarr", layout())
    assert list(tmp_path.iterdir()) == []


def test_something_else_of_that_name_is_left_alone(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "precious.txt").write_text("years of work")
    for attempt in (
        lambda: create_ome_zarr(tmp_path / "a.zarr", layout()),
        lambda: write_ome_zarr(tmp_path / "a.zarr", noise((4, 700, 600)), layout()),
    ):
        with pytest.raises(FileError, match="choose a different name, or remove it"):
            attempt()
    create_ome_zarr(tmp_path / "b.zarr", layout(description={"threshold": 0.5}))
    with pytest.raises(FileError, match="has different content already: choose a different name, or remove it"):
        create_ome_zarr(tmp_path / "b.zarr", layout(description={"threshold": 0.6}))
    assert content(tmp_path / "a.zarr") == {"precious.txt": b"years of work"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "b.zarr"]


def test_a_store_of_ours_is_replaced_only_when_the_new_one_is_whole(tmp_path):
    write_ome_zarr(tmp_path / "a.zarr", noise((4, 700, 600)), layout())
    new = noise((4, 700, 600), seed=1)
    work = iter_write_ome_zarr(tmp_path / "a.zarr", new, layout())
    next(work)
    work.close()
    assert np.array_equal(read_stack(tmp_path / "a.zarr").data, noise((4, 700, 600)))
    write_ome_zarr(tmp_path / "a.zarr", new, layout())
    assert np.array_equal(read_stack(tmp_path / "a.zarr").data, new)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dtype": "complex64"}, "is not written with complex64 values: convert them"),
        ({"axes": "YXC"}, "has its axes in the order T, C, Z, Y, X, not 'YXC': transpose"),
        ({"dtype": "float32", "kind": "labels"}, "Labels are whole numbers, not float32: convert them"),
        ({"channel_names": ("a", "b")}, "There are 2 names for 1 channels: give one for each"),
        ({"shape": (0, 4, 5)}, "is empty"),
        ({"axes": "YX"}, "name 2 dimensions, the image has 3"),
    ],
)
def test_what_ome_zarr_cannot_hold_is_refused_before_anything_is_made(options, sentence):
    with pytest.raises(InputError, match=sentence):
        layout(**options)


# --- memory ----------------------------------------------------------------------------------------------------------

PEAK = """
    import sys
    from pathlib import Path
    import numpy as np
    from napari_skipseg.images.files import write_ome_tiff
    from napari_skipseg.images.space import Space
    from napari_skipseg.images.zarr.layout import Layout
    from napari_skipseg.images.zarr.writer import write_ome_zarr
    class Made:
        dtype = np.dtype("u1")
        def __init__(self, *shape):
            self.shape = shape
        def __getitem__(self, key):
            size = [len(range(n)[part]) for part, n in zip(key, self.shape) if isinstance(part, slice)]
            return np.zeros((*size, *self.shape[len(key) - (Ellipsis in key):]), "u1")
    def peak():
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(dict(line.split(":", 1) for line in lines)["VmHWM"].split()[0]) // 1024
    folder = Path(sys.argv[1])
    Path("/proc/self/clear_refs").write_text("5")
    if sys.argv[2] == "zarr":
        made = Made(int(sys.argv[3]), 1024, 1024)
        write_ome_zarr(folder / "a.zarr", made, Layout(made.shape, Space("ZYX"), "uint8", chunks=(16, 256, 256)))
    else:
        write_ome_tiff(folder / "a.tif", Made(int(sys.argv[3]), 12000), Space("YX"))
    print(peak())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory by /proc")
@pytest.mark.parametrize(("kind", "small", "large"), [("zarr", 64, 192), ("tiff", 12000, 32000)])
def test_memory_does_not_grow_with_the_image(tmp_path, kind, small, large):
    peaks = []
    for number, length in enumerate((small, large)):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = run_python(PEAK, folder, kind, length)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.1 * peaks[0] + 32  # MiB
    assert peaks[1] < 400
