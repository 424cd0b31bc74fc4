"""Axes in a different order are turned, axes that run backwards are turned round; images lie where their files say."""

from itertools import permutations

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_skipseg.errors import InputError, SkipsegError
from napari_skipseg.images.files import read_levels, read_stack, write_ome_tiff
from napari_skipseg.images.views import TurnedArray
from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.writer import write_ome_zarr

VALUES = np.random.default_rng(0).integers(1, 200, (3, 20, 30), "uint8")
SIZES = {"z": 50.0, "y": 4.0, "x": 5.0}
KEYS = (np.s_[...], 1, np.s_[..., 2], np.s_[::-2, 3:15:4, ::-1], np.s_[1, 1, 1], np.s_[2:2], np.s_[:, -1])


def stored(names, values=VALUES):
    """Return ZYX values in a different order of axes."""
    return values.transpose(["zyx".index(name) for name in names])


def write_zarr(path, values, names, scale=None, translation=None, unit="nanometer", levels=1, **multiscale):
    """Write an OME-Zarr 0.4 with these axes; names of None are left out."""
    group = zarr.open_group(path, mode="w", zarr_format=2)
    datasets = []
    for level in range(levels):
        small = values[tuple(slice(None, None, 2**level) for _ in values.shape)]
        chunks = tuple(min(8, n) for n in small.shape)
        group.create_array(str(level), data=small, chunks=chunks)
        steps = [{"type": "scale", "scale": [side * 2**level for side in scale or [1.0] * values.ndim]}]
        steps += [{"type": "translation", "translation": translation}] if translation else []
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    if names is not None:
        kinds = {"c": "channel", "t": "time"}
        multiscale["axes"] = [
            {"name": name, "type": kinds[name]} if name in kinds else {"name": name, "type": "space", "unit": unit}
            for name in names
        ]
    group.attrs["multiscales"] = [{"version": "0.4", "datasets": datasets, **multiscale}]
    return path


def same(stack, values):
    return all(np.array_equal(stack.data[key], values[key]) for key in KEYS)


# --- named orders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["".join(order) for order in permutations("zyx")])
def test_a_zarr_with_its_axes_in_any_order_is_a_stack_of_z_y_x(tmp_path, names):
    scale, shift = [SIZES[name] for name in names], [float("zyx".index(name)) for name in names]
    stack = read_stack(write_zarr(tmp_path / "a.zarr", stored(names), names, scale, shift))
    assert (stack.space.axes, stack.shape) == ("ZYX", VALUES.shape)
    assert (stack.space.voxel_size, stack.space.unit, stack.space.origin) == ((50, 4, 5), "nm", (0, 1, 2))
    assert same(stack, VALUES)
    assert any("turned" in note for note in stack.notes) == (names != "zyx")
    inside = read_stack(tmp_path / "a.zarr" / "0")
    assert (inside.space.axes, inside.space.voxel_size) == ("ZYX", (50, 4, 5))


def test_channels_and_times_go_in_front_of_turned_axes(tmp_path):
    values = np.stack([VALUES, VALUES + 1])
    stack = read_stack(write_zarr(tmp_path / "a.zarr", values.transpose(0, 3, 2, 1), "cxyz", [1, 5, 4, 50]))
    assert (stack.space.axes, stack.space.voxel_size) == ("CZYX", (50, 4, 5))
    assert np.array_equal(stack.data, values)
    assert np.array_equal(stack.channel(1).data[2], values[1, 2])
    stack = read_stack(write_zarr(tmp_path / "b.zarr", values.transpose(3, 2, 1, 0), "xyzt", [5, 4, 50, 1]))
    assert (stack.space.axes, stack.shape) == ("TZYX", values.shape)
    assert np.array_equal(stack.data, values)
    stack = read_stack(write_zarr(tmp_path / "c.zarr", values.transpose(0, 3, 2, 1)[:1], "cxyz", [1, 5, 4, 50]))
    assert (stack.space.axes, stack.space.voxel_size) == ("ZYX", (50, 4, 5))
    assert np.array_equal(stack.data, VALUES)


def test_dimension_names_of_a_plain_array_are_turned_too(tmp_path):
    array = zarr.create_array(
        tmp_path / "a.zarr", data=stored("xyz"), dimension_names=("x", "y", "z"), chunks=(7, 7, 3)
    )
    assert array.shape == (30, 20, 3)
    assert same(read_stack(tmp_path / "a.zarr"), VALUES)
    zarr.create_array(tmp_path / "b.zarr", data=VALUES[0].T, dimension_names=("x", "y"))
    assert np.array_equal(read_stack(tmp_path / "b.zarr").data, VALUES[0])


@pytest.mark.parametrize("names", ["XYZ", "YXZ", "ZXY"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_that_names_another_order_is_turned(tmp_path, names, compression):
    values = stored(names.lower())
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="minisblack", metadata={"axes": names}, compression=compression
    )
    stack = read_stack(tmp_path / "a.tif")
    assert (stack.space.axes, stack.shape) == ("ZYX", VALUES.shape)
    assert same(stack, VALUES)


def test_axes_may_be_named_in_small_letters(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", stored("xyz"), photometric="minisblack", metadata={"axes": "xyz"})
    assert same(read_stack(tmp_path / "a.tif"), VALUES)
    tifffile.imwrite(tmp_path / "b.tif", stored("xyz"), photometric="minisblack")
    assert same(read_stack(tmp_path / "b.tif", axes="xyz"), VALUES)


# --- what a user says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["XYZ", "YXZ", "ZXY", "ZYX"])
def test_axes_are_given_in_the_order_of_the_file_whatever_its_format(tmp_path, axes):
    values = np.ascontiguousarray(stored(axes.lower()))
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    zarr.create_array(tmp_path / "a.zarr", data=values)
    write_zarr(tmp_path / "b.zarr", values, None)
    for name in ("a.tif", "a.zarr", "b.zarr", "b.zarr/0"):
        stack = read_stack(tmp_path / name, axes=axes, voxel_size=(50, 4, 5), unit="nm")
        assert (stack.space.axes, stack.shape, stack.space.voxel_size) == ("ZYX", VALUES.shape, (50, 4, 5)), name
        assert same(stack, VALUES), name


def test_a_picture_and_an_mrc_are_turned_where_a_user_says_so(tmp_path):
    mrcfile = pytest.importorskip("mrcfile")
    Image.fromarray(VALUES[0].T).save(tmp_path / "a.png")
    assert np.array_equal(read_stack(tmp_path / "a.png", axes="XY").data, VALUES[0])
    with mrcfile.new(tmp_path / "a.mrc", np.ascontiguousarray(stored("xyz")).astype("i2")) as file:
        file.voxel_size = (50, 4, 5)
    stack = read_stack(tmp_path / "a.mrc", axes="XYZ")
    assert np.array_equal(stack.data, VALUES)
    assert (stack.space.voxel_size, stack.space.unit) == (
        (50, 4, 5),
        "Å",
    )  # a size belongs to the file's axis, not to its name


def test_a_scale_belongs_to_the_axis_of_the_file_that_a_user_names(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", stored("xyz"), None, [5, 4, 50])
    stack = read_stack(path, axes="XYZ", unit="nm")
    assert (stack.space.voxel_size, stack.space.unit) == ((50, 4, 5), "nm")
    path = write_zarr(tmp_path / "b.zarr", VALUES, "xyz", [50, 4, 5])  # the store is wrong: it holds z, y, x
    stack = read_stack(path, axes="ZYX")
    assert (stack.space.voxel_size, stack.shape) == ((50, 4, 5), VALUES.shape)
    assert any("names its axes XYZ; they were taken for ZYX" in note for note in stack.notes)


def test_axes_that_are_not_named_are_asked_for_and_never_called_damaged(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", VALUES, None, [50, 4, 5])
    for place in (path, path / "0"):
        with pytest.raises(InputError, match="does not name its axes") as error:
            read_stack(place)
        assert "--axes" in str(error.value)
        assert "damaged" not in str(error.value)
        stack = read_stack(place, axes="ZYX")
        assert (stack.space.axes, stack.space.voxel_size, stack.space.unit) == ("ZYX", (50, 4, 5), "pixel")
        assert "--unit" in stack.notes[-1]
    one = write_zarr(tmp_path / "c.zarr", VALUES[:1], None, [50, 4, 5])
    assert (read_stack(one).space.axes, read_stack(one).space.voxel_size) == ("YX", (1, 4, 5))
    five = write_zarr(tmp_path / "b.zarr", VALUES[None, None], None)
    assert read_stack(five).space.axes == "ZYX"  # as OME-Zarr 0.1 and 0.2 say


def test_axes_that_cannot_be_are_refused_with_the_flag(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", VALUES, "xxz")
    with pytest.raises(InputError, match="not clear") as error:
        read_stack(path)
    assert "--axes" in str(error.value)
    assert np.array_equal(read_stack(path, axes="ZYX").data, VALUES)
    for axes in ("XY", "XYZT", "XXZ", "ABC", "XZT"):
        with pytest.raises(SkipsegError):
            read_stack(path, axes=axes)


def test_guessed_axes_are_noted(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=VALUES)
    assert "--axes" in read_stack(tmp_path / "a.zarr").notes[0]
    tifffile.imwrite(tmp_path / "a.tif", VALUES.reshape(3, 2, 10, 30), photometric="minisblack")
    assert "--axes" in read_stack(tmp_path / "a.tif").notes[0]
    zarr.create_array(tmp_path / "b.zarr", data=VALUES[0])
    assert read_stack(tmp_path / "b.zarr").notes == ()


# --- axes that run backwards -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flipped", ["z", "y", "x", "zy", "zyx"])
@pytest.mark.parametrize("names", ["zyx", "xyz"])
def test_along_a_negative_scale_the_image_is_turned_round_and_lies_where_it_lay(tmp_path, flipped, names):
    lengths = dict(zip("zyx", VALUES.shape, strict=True))
    scale = [-SIZES[name] if name in flipped else SIZES[name] for name in names]
    shift = [100.0 + (lengths[name] - 1) * SIZES[name] if name in flipped else 100.0 for name in names]
    stack = read_stack(write_zarr(tmp_path / "a.zarr", stored(names), names, scale, shift))
    assert (stack.space.voxel_size, stack.space.unit, stack.space.origin) == ((50, 4, 5), "nm", (100, 100, 100))
    turned = VALUES[tuple(slice(None, None, -1 if name in flipped else 1) for name in "zyx")]
    assert same(stack, turned)
    assert any("negative" in note for note in stack.notes)


def test_a_negative_scale_of_the_whole_multiscale_counts(tmp_path):
    after = [{"type": "scale", "scale": [-1, 1, 1]}]
    stack = read_stack(write_zarr(tmp_path / "a.zarr", VALUES, "zyx", [50, 4, 5], coordinateTransformations=after))
    assert (stack.space.voxel_size, stack.space.origin) == ((50, 4, 5), (-100, 0, 0))
    assert np.array_equal(stack.data, VALUES[::-1])


def test_all_levels_of_a_turned_image_lie_on_each_other(tmp_path):
    values = np.zeros((1, 32, 16, 4), "u1")
    shift = [0.0, 31 * 5.0, 0.0, 0.0]
    path = write_zarr(tmp_path / "a.zarr", values, "cxyz", [1, -5, 4, 50], shift, levels=3)
    levels = read_levels(path)
    assert [level.space.axes for level in levels] == ["ZYX"] * 3
    assert [level.shape for level in levels] == [(4, 16, 32), (2, 8, 16), (1, 4, 8)]
    assert [level.space.voxel_size for level in levels] == [(50, 4, 5), (100, 8, 10), (200, 16, 20)]
    assert [level.space.origin[2] for level in levels] == [0, 155 - 15 * 10, 155 - 7 * 20]


def test_a_turned_view_has_the_chunks_of_its_file(tmp_path):
    stack = read_stack(write_zarr(tmp_path / "a.zarr", stored("xyz"), "xyz", [5, 4, 50]))
    assert isinstance(stack.data, TurnedArray)
    assert stack.data.chunks == (3, 8, 8)


# --- results ---------------------------------------------------------------------------------------------------------


def test_what_is_written_of_a_turned_image_reads_back_in_other_programs(tmp_path):
    stack = read_stack(write_zarr(tmp_path / "a.zarr", stored("xyz"), "xyz", [-5, 4, 50], [145.0, 0.0, 0.0]))
    write_ome_tiff(tmp_path / "a.tif", stack.data, stack.space)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        assert np.array_equal(file.asarray(), VALUES[..., ::-1])
    assert [pixels[f"PhysicalSize{axis}"] for axis in "XYZ"] == [5, 4, 50]
    layout = Layout(stack.shape, stack.space, "uint8")
    write_ome_zarr(tmp_path / "b.zarr", stack.data, layout)
    group = zarr.open_group(tmp_path / "b.zarr", mode="r")
    multiscale = group.attrs["ome"]["multiscales"][0]
    assert [axis["name"] for axis in multiscale["axes"]] == ["z", "y", "x"]
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"] == [50, 4, 5]
    assert np.array_equal(group["0"][...], VALUES[..., ::-1])
    for name in ("a.tif", "b.zarr"):
        again = read_stack(tmp_path / name)
        assert again.space == stack.space
