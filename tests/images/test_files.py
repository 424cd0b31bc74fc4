"""Images come out of files with the values, axes and voxel size that went in; bad files get one clear sentence."""

import errno
import os
import sys
import tracemalloc

import imagecodecs
import numpy as np
import pytest
import tifffile
from run_python import run_python

from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.images.files import read_recipe, read_stack, write_ome_tiff
from napari_skipseg.images.space import Space
from napari_skipseg.images.tiff import pages
from napari_skipseg.images.views import MappedArray

ISBI = (50.0, 4.0, 4.0)


def random(shape, dtype="uint8", seed=0):
    values = np.random.default_rng(seed).random(shape)
    return values > 0.5 if dtype == "bool" else (values * 100).astype(dtype)


def imwrite(path, values, photometric="minisblack", **options):
    """Write by tifffile, which would take three planes for RGB if not told otherwise."""
    tifffile.imwrite(path, values, photometric=photometric, **options)


# --- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "shape", "dtype"),
    [
        ("YX", (33, 47), "uint8"),
        ("ZYX", (5, 33, 47), "uint16"),
        ("TZYX", (2, 3, 33, 47), "float32"),
        ("CYX", (3, 33, 47), "int16"),
        ("TCZYX", (2, 3, 4, 33, 47), "uint8"),
        ("ZCYX", (4, 3, 33, 47), "int32"),
        ("CTYX", (4, 3, 33, 47), "float64"),
        ("YXC", (33, 47, 3), "uint8"),
        ("YXC", (33, 47, 2), "float32"),
        ("ZYXC", (4, 33, 47, 4), "uint16"),
        ("ZYX", (5, 33, 47), "bool"),
        ("ZYX", (5, 33, 47), ">u2"),
        ("YX", (1, 1), "int8"),
        ("YX", (1, 300), "uint32"),
    ],
)
def test_what_is_written_is_read(tmp_path, axes, shape, dtype):
    values = random(shape, dtype)
    write_ome_tiff(tmp_path / "a.ome.tif", values, Space(axes, ISBI, "nm"))
    stack = read_stack(tmp_path / "a.ome.tif")
    assert (stack.space.axes, stack.shape, stack.name) == (axes, shape, "a")
    assert stack.data.dtype == values.dtype.newbyteorder("=")
    assert np.array_equal(stack.data, values)


@pytest.mark.parametrize(
    ("size", "unit", "origin"),
    [
        ((50.0, 4.6, 4.25), "nm", (100.0, -3.5, 0.1)),
        ((0.05, 0.004, 0.004), "µm", (0.0, 0.0, 0.0)),
        ((1 / 3, 0.1, 1e-7), "mm", (0.0, 12345.678, 0.0)),
        ((2.0, 3.0, 4.0), "Å", (1.0, 2.0, 3.0)),
        ((1.0, 1.0, 1.0), "pixel", (0.0, 0.0, 0.0)),
        ((5.0, 1.0, 1.0), "pixel", (2.0, 0.0, 0.0)),
    ],
)
def test_voxel_size_unit_and_origin_survive_exactly(tmp_path, size, unit, origin):
    write_ome_tiff(tmp_path / "a.tif", random((2, 4, 5)), Space("ZYX", size, unit, origin))
    stack = read_stack(tmp_path / "a.tif")
    assert (stack.space.voxel_size, stack.space.unit, stack.space.origin) == (size, unit, origin)


def test_without_a_voxel_size_none_is_written(tmp_path):
    write_ome_tiff(tmp_path / "a.tif", random((4, 5)), Space("YX", (1, 1, 1), "pixel"))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_ome
        assert "PhysicalSize" not in file.ome_metadata


def test_the_recipe_comes_back_and_others_have_none(tmp_path):
    recipe = {"model": "em-membrane", "options": {"tile": [512, 512], "π": 0.1}, "text": "<&>\x00\n"}
    write_ome_tiff(tmp_path / "a.tif", random((4, 5)), Space("YX", ISBI, "nm"), description=recipe)
    assert read_recipe(tmp_path / "a.tif") == recipe
    write_ome_tiff(tmp_path / "b.tif", random((4, 5)), Space("YX", ISBI, "nm"))
    assert read_recipe(tmp_path / "b.tif") is None
    imwrite(tmp_path / "c.tif", random((4, 5)))
    assert read_recipe(tmp_path / "c.tif") is None


def test_channel_names_stand_in_the_file(tmp_path):
    names = ["membrane", "Mitochondrium ä"]
    write_ome_tiff(tmp_path / "a.tif", random((2, 4, 5)), Space("CYX", ISBI, "nm"), channel_names=names)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        channels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]["Channel"]
    assert [channel["Name"] for channel in channels] == names


def test_the_same_input_gives_the_same_bytes_under_any_name(tmp_path):
    for name in ("a.tif", "b.tif"):
        write_ome_tiff(tmp_path / name, random((3, 40, 50)), Space("ZYX", ISBI, "nm"), description={"b": 1, "a": 2})
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_napari_opens_what_is_written(tmp_path):
    napari_io = pytest.importorskip("napari_builtins.io")
    labels = random((3, 40, 50)) // 50
    write_ome_tiff(tmp_path / "a.tif", labels, Space("ZYX", ISBI, "nm"))
    path = str(tmp_path / "a.tif")
    (values, *_), *_ = napari_io.napari_get_reader(path)(path)
    assert values.dtype == np.uint8
    assert np.array_equal(values, labels)


def test_writing_holds_a_plane_in_memory_not_the_stack(tmp_path):
    class Planes:
        shape, dtype = (40, 512, 512), np.dtype("float32")

        def __getitem__(self, key):
            return np.full(self.shape[1:], key[0], self.dtype)

    tracemalloc.start()
    write_ome_tiff(tmp_path / "a.tif", Planes(), Space("ZYX", ISBI, "nm"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20
    assert np.array_equal(read_stack(tmp_path / "a.tif").data[:, 7, 9], np.arange(40))


# --- what other programs write ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["micron", "\\u00B5m", "um", "microns"])
def test_imagej_spacing_unit_and_order(tmp_path, unit):
    values = random((2, 4, 3, 30, 40), "uint16")
    notes = {"axes": "TZCYX", "spacing": 0.05, "unit": unit}
    imwrite(tmp_path / "a.tif", values, imagej=True, resolution=(1 / 0.004, 1 / 0.0046), metadata=notes)
    stack = read_stack(tmp_path / "a.tif")
    assert (stack.space.axes, stack.shape) == ("TZCYX", values.shape)
    assert (stack.space.voxel_size, stack.space.unit) == ((0.05, 0.0046, 0.004), "µm")
    assert stack.data.dtype == np.dtype("uint16")
    assert np.array_equal(stack.data, values)
    assert np.array_equal(stack.data[1, 2, 0, 5:9, ::2], values[1, 2, 0, 5:9, ::2])


def test_imagej_without_a_unit_keeps_only_the_relative_spacing(tmp_path):
    notes = {"axes": "ZYX", "spacing": 5.0}
    imwrite(tmp_path / "a.tif", random((3, 8, 9)), imagej=True, resolution=(72, 72), metadata=notes)
    stack = read_stack(tmp_path / "a.tif")
    assert (stack.space.voxel_size, stack.space.unit) == ((5.0, 1.0, 1.0), "pixel")


@pytest.mark.parametrize("dpi", [72, 96, 300, 1200])
def test_a_print_resolution_is_no_voxel_size(tmp_path, dpi):
    imwrite(tmp_path / "a.tif", random((8, 9)), resolution=(dpi, dpi), resolutionunit="INCH")
    stack = read_stack(tmp_path / "a.tif")
    assert (stack.space.voxel_size, stack.space.unit) == ((1.0, 1.0, 1.0), "pixel")


def test_a_resolution_finer_than_any_printer_is_the_microscope_s(tmp_path):
    imwrite(tmp_path / "a.tif", random((3, 8, 9)), resolution=(2.5e6, 2e6), resolutionunit="CENTIMETER")
    stack = read_stack(tmp_path / "a.tif")
    assert (stack.space.voxel_size, stack.space.unit, stack.space.axes) == ((5.0, 5.0, 4.0), "nm", "ZYX")


def test_ome_sizes_in_several_units_become_those_of_x(tmp_path):
    notes = {
        "axes": "ZYX",
        "PhysicalSizeX": 4.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 40.0,
        "PhysicalSizeYUnit": "Å",
        "PhysicalSizeZ": 0.05,
        "PhysicalSizeZUnit": "µm",
    }
    imwrite(tmp_path / "a.ome.tif", random((3, 8, 9)), metadata=notes)
    stack = read_stack(tmp_path / "a.ome.tif")
    assert (stack.space.voxel_size, stack.space.unit) == ((50.0, 4.0, 4.0), "nm")


def test_a_pyramid_is_read_at_full_resolution(tmp_path):
    values = random((64, 64))
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        writer.write(values, subifds=1)
        writer.write(values[::2, ::2], subfiletype=1)
    assert np.array_equal(read_stack(tmp_path / "a.ome.tif").data, values)


@pytest.mark.parametrize(
    ("shape", "options", "axes", "read"),
    [
        ((4, 8, 9), {}, "ZYX", (4, 8, 9)),
        ((2, 4, 8, 9), {}, "TZYX", (2, 4, 8, 9)),
        ((1, 1, 8, 9), {}, "YX", (8, 9)),
        ((8, 9, 3), {"photometric": "rgb"}, "YXC", (8, 9, 3)),
        ((2, 8, 9, 3), {"photometric": "rgb"}, "ZYXC", (2, 8, 9, 3)),
        ((3, 8, 9), {"photometric": "rgb", "planarconfig": "separate"}, "CYX", (3, 8, 9)),
    ],
)
def test_axes_of_plain_files(tmp_path, shape, options, axes, read):
    values = random(shape)
    imwrite(tmp_path / "a.tif", values, **options)
    stack = read_stack(tmp_path / "a.tif")
    assert (stack.space.axes, stack.shape) == (axes, read)
    assert np.array_equal(stack.data, values.reshape(read))


def test_the_user_has_the_last_word(tmp_path):
    values = random((4, 8, 9))
    imwrite(tmp_path / "a.tif", values)
    stack = read_stack(tmp_path / "a.tif", axes="TYX", voxel_size=(1, 2, 3), unit="microns")
    assert (stack.space.axes, stack.space.voxel_size, stack.space.unit) == ("TYX", (1, 2, 3), "µm")
    imwrite(tmp_path / "b.tif", values[:1])
    assert read_stack(tmp_path / "b.tif").space.axes == "YX"
    assert read_stack(tmp_path / "b.tif", axes="ZYX").shape == (1, 8, 9)
    with pytest.raises(InputError, match="name 2 dimensions, the image has 3"):
        read_stack(tmp_path / "a.tif", axes="YX")
    with pytest.raises(InputError, match="unknown letters"):
        read_stack(tmp_path / "a.tif", axes="QYX")
    with pytest.raises(InputError, match="'furlong' is not a unit of length: use one of"):
        read_stack(tmp_path / "a.tif", unit="furlong")
    with pytest.raises(InputError, match="give three positive numbers"):
        read_stack(tmp_path / "a.tif", voxel_size=(0, 1, 1), unit="nm")


def test_a_voxel_size_without_a_unit_is_refused(tmp_path):
    values = np.zeros((2, 8, 8), np.uint8)
    known = {"resolution": (250, 250), "metadata": {"axes": "ZYX", "unit": "um", "spacing": 0.05}}
    tifffile.imwrite(tmp_path / "known.tif", values, imagej=True, **known)
    with pytest.raises(InputError, match=r"The voxel size 50 4 4 has no unit, .* in µm: give the unit too .*--unit"):
        read_stack(tmp_path / "known.tif", voxel_size=(50, 4, 4))
    assert read_stack(tmp_path / "known.tif", voxel_size=(50, 4, 4), unit="nm").space.unit == "nm"
    (tmp_path / "plain.png").write_bytes(imagecodecs.png_encode(values[0]))
    with pytest.raises(InputError, match="has no unit of its own: give the unit too"):
        read_stack(tmp_path / "plain.png", voxel_size=(50, 4, 4))


@pytest.mark.parametrize("dtype", ["bool", "int64", "uint64", "float16", "float64", "int8", "uint32"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_every_type_is_read_in_native_order(tmp_path, dtype, byteorder, compression):
    values = random((3, 17, 16), dtype)
    imwrite(tmp_path / "a.tif", values, byteorder=byteorder, compression=compression)
    stack = read_stack(tmp_path / "a.tif")
    assert stack.data.dtype == values.dtype
    assert stack.data.dtype.isnative
    assert np.array_equal(stack.read((slice(1, 3), slice(None), 5)), values[1:, :, 5])


def test_plain_numbers_are_memory_mapped_and_pages_read_one_by_one(tmp_path, monkeypatch):
    values = random((50, 64, 64), "uint16")
    imwrite(tmp_path / "a.tif", values)
    assert isinstance(read_stack(tmp_path / "a.tif").data, MappedArray)
    imwrite(tmp_path / "b.tif", values, compression="zlib")
    stack = read_stack(tmp_path / "b.tif")
    decoded = []
    whole = tifffile.TiffFrame.asarray
    monkeypatch.setattr(tifffile.TiffFrame, "asarray", lambda page: decoded.append(page.index) or whole(page))
    assert np.array_equal(stack.data[20:23, 5], values[20:23, 5])
    assert np.array_equal(stack.data[22, 6:9], values[22, 6:9])
    assert decoded == [20, 21, 22]


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((3, 100, 77), {"compression": "zlib", "rowsperstrip": 7}),
        ((3, 100, 77), {"compression": "zlib", "tile": (16, 32)}),
        ((3, 100, 77), {"tile": (32, 16)}),
        ((3, 100, 77), {"compression": "lzw", "predictor": True, "rowsperstrip": 5}),
        ((2, 3, 100, 77), {"compression": "zlib", "planarconfig": "separate", "photometric": "rgb"}),
        ((2, 100, 77, 3), {"compression": "zlib", "tile": (16, 32), "photometric": "rgb"}),
    ],
)
def test_of_large_pages_only_the_strips_looked_at_are_decoded(tmp_path, monkeypatch, shape, options):
    monkeypatch.setattr(pages, "WHOLE_PAGE", 1000)
    values = random(shape)
    imwrite(tmp_path / "a.tif", values, **options)
    data = read_stack(tmp_path / "a.tif").data
    assert np.array_equal(data, values)
    for key in (
        np.s_[1],
        np.s_[..., 5:40, 2],
        np.s_[0, ..., 90:10:-3, ::2],
        np.s_[::-1, ..., 5:5],
        np.s_[..., -1],
        np.s_[..., 30::-1, :0:-1],
    ):
        assert np.array_equal(data[key], values[key])


# --- bad files -------------------------------------------------------------------------------------------------------


def test_what_is_no_image_file_gets_a_sentence(tmp_path):
    (tmp_path / "empty.tif").touch()
    (tmp_path / "text.tif").write_text("II or not II: this is no image")
    (tmp_path / "photo.tif").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    imwrite(tmp_path / "complex.tif", np.zeros((4, 4), np.complex64))
    for name, sentence in {
        "missing.tif": "does not exist: check the name",
        ".": "is a folder: give an image file, or the folder of an OME-Zarr",
        "empty.tif": "is empty \\(0 bytes\\): copy or export it again",
        "photo.tif": "is not a TIFF file: export the image as TIFF",
        "text.tif": "is damaged and cannot be read: copy or export it again",
        "complex.tif": "contains complex numbers: save their magnitude",
    }.items():
        with pytest.raises(SkipsegError, match=sentence) as error:
            read_stack(tmp_path / name)
        assert "\n" not in str(error.value)


def make_files(folder):
    """One small file of each way to store a stack, and its values."""
    values = random((3, 24, 32), "uint16")
    imwrite(folder / "plain.tif", values, metadata=None)
    imwrite(folder / "big.tif", values, bigtiff=True, byteorder=">")
    imwrite(folder / "imagej.tif", values, imagej=True, metadata={"axes": "ZYX"})
    imwrite(folder / "tiles.tif", values, compression="zlib", tile=(16, 16), metadata=None)
    imwrite(folder / "strips.tif", values, compression="lzw", rowsperstrip=5, predictor=True)
    with tifffile.TiffWriter(folder / "pages.tif") as writer:
        for plane in values:
            writer.write(plane, metadata=None, photometric="minisblack")
    write_ome_tiff(folder / "ours.ome.tif", values, Space("ZYX", ISBI, "nm"), description={"a": 1})
    return values, sorted(folder.iterdir())


def test_a_file_cut_short_is_refused_or_whole_never_something_else(tmp_path):
    values, files = make_files(tmp_path)
    for file in files:
        whole = file.read_bytes()
        refused = 0
        for length in range(4, len(whole), max(1, len(whole) // 60)):
            file.write_bytes(whole[:length])
            try:
                stack = read_stack(file)
                assert np.array_equal(stack.data, values), (file.name, length)
            except SkipsegError:
                refused += 1
        assert refused > 50, file.name


def test_a_flipped_byte_raises_nothing_but_our_errors(tmp_path):
    _, files = make_files(tmp_path)
    chance = np.random.default_rng(1)
    for file in files:
        whole = file.read_bytes()
        for _ in range(60):
            broken = bytearray(whole)
            for place in chance.integers(4, len(whole), 4):
                broken[place if chance.random() < 0.3 else 4 + place % 400] = chance.integers(256)
            file.write_bytes(broken)
            try:
                stack = read_stack(file)
                stack.read(next(stack.slices("YX")))
                read_recipe(file)
            except SkipsegError:
                continue


def test_a_page_that_cannot_be_decoded_is_named(tmp_path):
    values = random((5, 64, 64))
    imwrite(tmp_path / "a.tif", values, compression="zlib", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        offset = file.pages[3].dataoffsets[0]
    with (tmp_path / "a.tif").open("r+b") as handle:
        handle.seek(offset)
        handle.write(bytes(40))
    stack = read_stack(tmp_path / "a.tif")
    assert np.array_equal(stack.data[:3], values[:3])
    with pytest.raises(FileError, match=r"Page 3 of '.*a.tif' is damaged and cannot be read"):
        stack.read((slice(None), 0, 0))


@pytest.mark.parametrize(
    "pixels",
    [
        'SizeZ="900000000" SizeC="1" SizeT="1"><TiffData/>',
        'SizeZ="1" SizeC="1" SizeT="1"><TiffData IFD="0" PlaneCount="2000000000"/>',
        'SizeZ="9" SizeC="1" SizeT="1"><TiffData/>',
        'SizeZ="nine" SizeC="1" SizeT="1"><TiffData/>',
    ],
)
def test_ome_xml_that_claims_too_much_is_refused_at_once(tmp_path, pixels):
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        f'DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="8" {pixels}</Pixels></Image></OME>'
    )
    imwrite(tmp_path / "a.tif", random((8, 8)), description=xml, metadata=None)
    with pytest.raises(FileError):
        read_stack(tmp_path / "a.tif")


# --- writing that fails ----------------------------------------------------------------------------------------------


def write(path, values=None, **options):
    write_ome_tiff(path, random((3, 40, 50)) if values is None else values, Space("ZYX", ISBI, "nm"), **options)


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "There is no space left to write '.*a.tif': free some space or choose a different folder"),
        (errno.EACCES, "'.*a.tif' may not be written: choose a folder in which you may write"),
        (errno.EROFS, "may not be written"),
        (errno.EIO, "cannot be written"),
    ],
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, number, sentence):
    write(tmp_path / "a.tif")
    before = (tmp_path / "a.tif").read_bytes()

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FileError, match=sentence):
        write(tmp_path / "a.tif", random((3, 40, 50), seed=1))
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    assert (tmp_path / "a.tif").read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="limits the file size by setrlimit")
def test_a_disk_that_fills_up_in_the_middle_leaves_nothing(tmp_path):
    script = """
        import resource, sys
        import numpy as np
        from napari_skipseg.images.files import write_ome_tiff
        from napari_skipseg.images.space import Space
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        noise = np.random.default_rng(0).integers(0, 255, (20, 200, 200), "uint8")
        write_ome_tiff(sys.argv[1], noise, Space("ZYX", (50, 4, 4), "nm"))
    """
    done = run_python(script, tmp_path / "a.tif")
    assert "FileError: " in done.stderr
    assert "is larger than the file system allows: choose a different disk." in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_write_leaves_no_file_under_the_final_name_and_can_be_repeated(tmp_path):
    script = """
        import os, signal, sys
        import numpy as np
        from napari_skipseg.images.files import write_ome_tiff
        from napari_skipseg.images.space import Space
        class Deadly:
            shape, dtype = (9, 40, 50), np.dtype("uint8")
            def __getitem__(self, key):
                if key[0] == 5:
                    os.kill(os.getpid(), signal.SIGKILL)
                return np.zeros((40, 50), "uint8")
        write_ome_tiff(sys.argv[1], Deadly(), Space("ZYX", (50, 4, 4), "nm"))
    """
    assert run_python(script, tmp_path / "a.tif").returncode == -9
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    write(tmp_path / "a.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, MemoryError, FileError])
def test_an_array_that_fails_in_the_middle_leaves_nothing(tmp_path, fault):
    class Failing:
        shape, dtype = (9, 40, 50), np.dtype("uint8")

        def __getitem__(self, key):
            if key[0] == 5:
                raise fault("no more")
            return np.zeros((40, 50), "uint8")

    with pytest.raises(fault, match="no more"):
        write(tmp_path / "a.tif", Failing())
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_get_a_sentence(tmp_path):
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(FileError, match="is a folder: give the name of a file"):
        write(tmp_path / "folder.tif")
    with pytest.raises(FileError, match=r"The folder '.*nowhere' does not exist: create it or choose a different one"):
        write(tmp_path / "nowhere" / "a.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.tif"]


def test_what_ome_tiff_cannot_hold_is_refused_before_a_file_appears(tmp_path):
    path = tmp_path / "a.tif"
    with pytest.raises(InputError, match="int64: convert it to one of"):
        write(path, random((3, 4, 5), "int64"))
    with pytest.raises(InputError, match="float16"):
        write(path, random((3, 4, 5), "float16"))
    with pytest.raises(InputError, match="There are 2 names for 1 channels: give one for each"):
        write(path, channel_names=["a", "b"])
    with pytest.raises(InputError, match="do not end with Y, X"):
        write_ome_tiff(path, random((4, 5, 3)), Space("YXT", ISBI, "nm"))
    with pytest.raises(InputError, match="name 2 dimensions, the image has 3"):
        write_ome_tiff(path, random((4, 5, 3)), Space("YX", ISBI, "nm"))
    with pytest.raises(InputError, match="is not a unit of length"):
        write_ome_tiff(path, random((4, 5)), Space("YX", ISBI, "parsec"))
    with pytest.raises(InputError, match="is empty"):
        write(path, np.zeros((0, 4, 5), "uint8"))
    assert list(tmp_path.iterdir()) == []
