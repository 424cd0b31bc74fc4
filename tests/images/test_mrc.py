"""MRC comes in with its voxel size, byte order and axes; what is cut short or of an unknown kind gets one sentence."""

from contextlib import suppress

import mrcfile
import numpy as np
import pytest

from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.images.files import holds_labels, read_levels, read_recipe, read_stack


def make_mrc(path, values, voxel_size=13.3, **header):
    with mrcfile.new(path, values, overwrite=True) as file:
        file.voxel_size = voxel_size
        for name, value in header.items():
            file.header[name] = value
    return path


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float16", "float32"])
@pytest.mark.parametrize("shape", [(30, 40), (5, 30, 40)])
def test_every_mode_is_read_as_it_is_stored(tmp_path, dtype, shape):
    values = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    stack = read_stack(make_mrc(tmp_path / "a.rec", values))
    assert (stack.space.axes, stack.shape, stack.name) == ("ZYX"[-len(shape) :], shape, "a")
    assert (stack.space.voxel_size[1:], stack.space.unit) == ((13.3, 13.3), "Å")
    assert stack.data.dtype == values.dtype
    assert np.array_equal(stack.data, values)
    assert np.array_equal(stack.data[..., 3:9, ::-2], values[..., 3:9, ::-2])
    assert (read_recipe(tmp_path / "a.rec"), holds_labels(tmp_path / "a.rec")) == (None, False)
    assert len(read_levels(tmp_path / "a.rec")) == 1


def test_the_other_byte_order_and_an_extended_header_are_understood(tmp_path):
    values = np.arange(60, dtype=">i2").reshape(3, 4, 5)
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(values)
        file.set_extended_header(np.frombuffer(bytes(700), "V1"))
        file.voxel_size = (4, 5, 50)
    stack = read_stack(tmp_path / "a.mrc")
    assert (tmp_path / "a.mrc").read_bytes()[:4] == b"\x00\x00\x00\x05"
    assert (stack.space.voxel_size, stack.space.unit) == ((50.0, 5.0, 4.0), "Å")
    assert stack.data.dtype == np.dtype("int16")
    assert np.array_equal(stack.data, values)


@pytest.mark.parametrize("size", [0, 1.0, (0, 4, 4)])
def test_a_voxel_size_of_nothing_or_of_one_is_unknown(tmp_path, size):
    stack = read_stack(make_mrc(tmp_path / "a.mrc", np.zeros((3, 4, 5), "i2"), size))
    assert (stack.space.voxel_size, stack.space.unit, stack.space.origin) == ((1.0, 1.0, 1.0), "pixel", (0.0, 0.0, 0.0))


def test_the_first_column_row_and_section_give_the_origin(tmp_path):
    path = make_mrc(tmp_path / "a.mrc", np.zeros((3, 4, 5), "i2"), (2, 3, 4), nxstart=-2, nystart=1, nzstart=10)
    assert read_stack(path).space.origin == (40.0, 3.0, -4.0)


def test_axes_in_another_order_are_turned_into_z_y_x(tmp_path):
    values = np.arange(60, dtype="i2").reshape(3, 4, 5)  # sections along y, rows along x, columns along z
    path = make_mrc(tmp_path / "a.mrc", values, (2, 3, 4), mapc=3, mapr=1, maps=2, mx=4, my=3, mz=5, nxstart=7)
    stack = read_stack(path)
    assert np.array_equal(stack.data, values.transpose(2, 0, 1))
    assert stack.shape == (5, 3, 4)
    assert stack.space.origin[0] == 7 * stack.space.voxel_size[0]
    assert stack.space.origin[1:] == (0.0, 0.0)


def test_a_stack_of_volumes_has_times(tmp_path):
    values = np.arange(120, dtype="i2").reshape(2, 3, 4, 5)
    with mrcfile.new(tmp_path / "a.mrc", values) as file:
        assert file.header.ispg == 401
    stack = read_stack(tmp_path / "a.mrc")
    assert stack.space.axes == "TZYX"
    assert np.array_equal(stack.data, values)
    assert read_stack(make_mrc(tmp_path / "b.mrc", values[0]), axes="TYX").space.axes == "TYX"


@pytest.mark.parametrize(("flags", "dtype"), [(0, "uint8"), (1, "int8"), (None, "int8")])
def test_imod_says_whether_bytes_are_signed(tmp_path, flags, dtype):
    values = np.array([[0, 1, 2], [3, 4, -5]], "int8")
    path = make_mrc(tmp_path / "a.st", values)
    if flags is not None:
        content = bytearray(path.read_bytes())
        content[152:160] = np.array([1146047817, flags], "<i4").tobytes()
        path.write_bytes(content)
    assert np.array_equal(read_stack(path).data, values.view(dtype))


def test_without_imod_s_mark_a_maximum_over_127_means_unsigned_bytes(tmp_path):
    path = make_mrc(tmp_path / "a.mrc", np.array([[0, -1]], "int8"), dmax=255)
    assert np.array_equal(read_stack(path).data, [[0, 255]])


def smooth(low, high, shape=(6, 40, 50)):
    """Return greys that change slowly, as images do, from `low` to `high`."""
    z, y, x = np.indices(shape)
    wave = np.sin(y / 7 + z) * np.cos(x / 9)
    return ((wave + 1) / 2 * (high - low) + low).round()


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (54, 208, "uint8"),
        (0, 255, "uint8"),
        (128, 255, "uint8"),
        (200, 210, "uint8"),
        (120, 135, "uint8"),
        (-100, 100, "int8"),
        (-128, 127, "int8"),
        (-20, 5, "int8"),
        (-3, 3, "int8"),
    ],
)
@pytest.mark.parametrize(
    "statistics", [(0, -1, -2), (0, 0, 0), (5, 5, 5), (float("nan"),) * 3, (0, 1e30, 5), (0, 127, -5), (10, 90, 50)]
)
def test_where_the_header_does_not_say_it_the_values_tell_whether_bytes_are_signed(
    tmp_path, low, high, dtype, statistics
):
    values = smooth(low, high).astype(dtype)
    told = dict(zip(("dmin", "dmax", "dmean"), statistics, strict=True))
    stack = read_stack(make_mrc(tmp_path / "a.mrc", values.view("int8"), **told))
    assert stack.data.dtype == dtype
    assert np.array_equal(stack.data, values)
    word = "unsigned" if dtype == "uint8" else "are signed"
    assert any("does not say whether bytes are signed" in note and word in note for note in stack.notes)


def test_noise_does_not_hide_the_sign(tmp_path):
    chance = np.random.default_rng(0)
    for dtype, middle in (("uint8", 128), ("uint8", 170), ("int8", 0), ("int8", -30)):
        values = (smooth(middle - 40, middle + 40) + chance.normal(0, 12, (6, 40, 50))).round().astype(dtype)
        stack = read_stack(make_mrc(tmp_path / "a.mrc", values.view("int8"), dmin=0, dmax=0, dmean=0))
        assert np.array_equal(stack.data, values)


def test_a_mask_in_bytes_is_unsigned(tmp_path):
    values = (smooth(0, 2) > 1).astype("u1") * 255
    stack = read_stack(make_mrc(tmp_path / "a.mrc", values.view("int8"), dmin=0, dmax=0, dmean=0))
    assert np.array_equal(stack.data, values)


@pytest.mark.parametrize(("low", "high", "dtype"), [(-5, 90, "int8"), (0, 200, "uint8")])
def test_a_header_that_says_it_is_believed_and_nothing_is_noted(tmp_path, low, high, dtype):
    values = np.random.default_rng(0).integers(0, 255, (3, 40, 50), "uint8")
    stack = read_stack(make_mrc(tmp_path / "a.mrc", values.view("int8"), dmin=low, dmax=high, dmean=40))
    assert np.array_equal(stack.data, values.view(dtype))
    assert stack.notes == ()


@pytest.mark.parametrize(
    ("low", "high", "dtype"), [(54, 208, "uint8"), (0, 255, "uint8"), (-128, 127, "int8"), (-90, 100, "int8")]
)
def test_a_header_of_the_whole_signed_range_is_checked_against_the_values(tmp_path, low, high, dtype):
    chance = np.random.default_rng(0)
    values = np.clip(smooth(low, high) + chance.normal(0, 8, (6, 40, 50)), low, high).round().astype(dtype)
    stack = read_stack(make_mrc(tmp_path / "a.mrc", values.view("int8"), dmin=-128, dmax=127, dmean=-10))
    assert np.array_equal(stack.data, values)
    assert any("but by their values they are unsigned" in note for note in stack.notes) == (dtype == "uint8")


def test_what_cannot_be_read_gets_a_sentence(tmp_path):
    path = make_mrc(tmp_path / "a.mrc", np.ones((3, 40, 50), "i2"))
    whole = path.read_bytes()
    for length, sentence in {
        0: "is no MRC file, or cut short: copy or export it again",
        1000: "is no MRC file, or cut short",
        1024: r"is cut short \(it has 1024 bytes, not 13024\): copy it again",
        13023: "is cut short",
    }.items():
        path.write_bytes(whole[:length])
        with pytest.raises(FileError, match=sentence):
            read_stack(path)
    (tmp_path / "text.map").write_text("no volume at all, only words and words. " * 40)
    with pytest.raises(FileError, match="is no MRC file: export the volume as MRC or TIFF"):
        read_stack(tmp_path / "text.map")
    with pytest.raises(InputError, match="contains complex numbers: save their magnitude"):
        read_stack(make_mrc(tmp_path / "c.mrc", np.ones((3, 4), "complex64")))
    with pytest.raises(FileError, match=r"voxels of an unknown kind \(mode 101\)"):
        read_stack(make_mrc(tmp_path / "m.mrc", np.ones((3, 4), "i1"), mode=101))
    with pytest.raises(FileError, match="does not exist"):
        read_stack(tmp_path / "missing.rec")
    (tmp_path / "folder.st").mkdir()
    with pytest.raises(FileError, match="is a folder"):
        read_stack(tmp_path / "folder.st")


def test_a_file_that_is_cut_short_while_it_is_open_gets_a_sentence_not_a_crash(tmp_path):
    values = np.ones((30, 400, 500), "i2")
    path = make_mrc(tmp_path / "a.mrc", values)
    stack = read_stack(path)
    assert np.array_equal(stack.read((29, ...)), values[29])
    with path.open("r+b") as handle:
        handle.truncate(5000)
    with pytest.raises(FileError, match="was cut short while it was read: copy it again, and open it again"):
        stack.read((29, ...))


def test_a_flipped_byte_of_the_header_raises_nothing_but_our_errors(tmp_path):
    path = make_mrc(tmp_path / "a.mrc", np.ones((3, 4, 5), "i2"))
    whole, chance = path.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(whole)
        for place in chance.integers(0, 256, 3):
            broken[place] = chance.integers(256)
        path.write_bytes(broken)
        with suppress(SkipsegError):
            stack = read_stack(path)
            stack.read(next(stack.slices("YX")))
