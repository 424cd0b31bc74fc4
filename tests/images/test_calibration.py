"""One rule gives voxel size, unit and origin, whatever the format; what a file does not say is noted with its flag."""

import json
import math
import struct

import mrcfile
import numpy as np
import pytest
import tifffile
import zarr

from napari_skipseg.errors import InputError
from napari_skipseg.images.calibration import AxisScale, calibrate
from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.space import Space, convert_length, find_unit

SHAPE = (3, 20, 30)
VALUES = np.random.default_rng(0).integers(1, 100, SHAPE, "uint8")


def scales(x=None, y=None, z=None):
    """Return what a file says, from (size, unit) or a size with nm."""
    told = {axis: value for axis, value in (("X", x), ("Y", y), ("Z", z)) if value is not None}
    return {
        axis: AxisScale(*value) if isinstance(value, tuple) else AxisScale(value, "nm") for axis, value in told.items()
    }


def found(*args, axes="ZYX", unit=None):
    calibration = calibrate(scales(*args), axes, unit)
    return calibration.space.voxel_size, calibration.space.unit


def noted(*args, axes="ZYX"):
    return " ".join(calibrate(scales(*args), axes).notes)


# --- units -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "unit"),
    [
        (("µm", "μm", "um", "Micron", "microns", "\\u00B5m", "\\u03BCm", "micrometres", "Âµm", "[µm]"), "µm"),
        (("Å", "Å", "A", "angstrom", "Angstroms", "\\u00C5", "ångström", "A\u030a"), "Å"),
        (("nm", "NM", "nanometer", " nanometres "), "nm"),
        (("pm", "picometer"), "pm"),
        (("mm", "millimetre"), "mm"),
        (("cm", "centimeters"), "cm"),
        (("m", "meter"), "m"),
        (("pixel", "pixels", "px", "voxel"), "pixel"),
        (("furlong", "", None, "s", "km", "inch"), None),
    ],
)  # fmt: skip
def test_units_are_known_in_all_their_spellings(names, unit):
    assert [find_unit(name) for name in names] == [unit] * len(names)


@pytest.mark.parametrize(
    ("value", "unit", "into", "result"),
    [
        (0.05, "µm", "nm", 50.0),
        (40, "Å", "nm", 4.0),
        (0.1, "nm", "Å", 1.0),
        (4e-9, "m", "nm", 4.0),
        (1 / 3, "µm", "nm", 1000 / 3),
    ],
)
def test_lengths_are_converted_exactly(value, unit, into, result):
    assert convert_length(value, unit, into) == result


@pytest.mark.parametrize(
    ("x", "y", "z", "result"),
    [
        ((0.004, "micron"), (4, "nm"), (500, "A"), ((0.05, 0.004, 0.004), "µm")),
        ((4, "nm"), (40, "Å"), (0.05, "µm"), ((50, 4, 4), "nm")),
        ((1, "Å"), (1, "Å"), (100, "pm"), ((1, 1, 1), "Å")),
        ((0.001, "cm"), (10, "µm"), (0.00005, "m"), ((50, 10, 10), "µm")),
        ((4e-9, "m"), (4e-9, "m"), (5e-8, "m"), ((50, 4, 4), "nm")),
        ((1e-8, "km"), (1e-8, "km"), (1e-8, "km"), ((10, 10, 10), "µm")),
        ((1e-4, "inch"), (1e-4, "inch"), (1e-3, "inch"), ((25.4, 2.54, 2.54), "µm")),
        ((2, "m"), (2, "m"), (2, "m"), ((2000, 2000, 2000), "mm")),
        ((2, "mm"), (2, "mm"), (0.5, "mm"), ((0.5, 2, 2), "mm")),
    ],
)
def test_sizes_in_several_units_become_those_of_x_or_of_a_microscope(x, y, z, result):
    assert found(x, y, z) == result
    assert calibrate(scales(x, y, z), "ZYX").notes == ()


def test_of_an_unknown_unit_the_proportions_are_kept():
    assert found((40, "furlong"), (40, "furlong"), (500, "furlong")) == ((12.5, 1, 1), "pixel")
    assert "'furlong' is not a known unit" in noted((40, "furlong"), (40, "furlong"), (500, "furlong"))
    assert "--unit" in noted((40, "furlong"), (40, "furlong"), (500, "furlong"))
    assert found((40, "furlong"), (40, "furlong"), (500, "furlong"), unit="Å") == ((500, 40, 40), "Å")


def test_without_a_unit_the_numbers_are_kept_and_the_flag_is_named():
    assert found((4, None), (4, None), (50, None)) == ((50, 4, 4), "pixel")
    assert "--unit" in noted((4, None), (4, None), (50, None))
    assert noted((1, None), (1, None), (1, None)) == ""
    assert noted((2, "pixel"), (2, "pixel"), (5, "pixel")) == ""
    assert found((4, None), (4, None), (50, None), unit="nm") == ((50, 4, 4), "nm")


def test_an_axis_without_a_unit_has_that_of_the_others():
    assert found(4, 4, (50, None)) == ((50, 4, 4), "nm")
    assert "names no unit for the size of z (50): nm was taken" in noted(4, 4, (50, None))
    assert found((4, None), (4, None), (50, "nm")) == ((50, 4, 4), "nm")


def test_a_user_s_unit_is_of_the_file_s_own_numbers():
    assert found((4, "µm"), (4, "µm"), (50, "µm"), unit="nm") == ((50, 4, 4), "nm")
    assert found((0.004, "µm"), (0.004, "µm"), (50, "nm"), unit="mm") == ((0.05, 0.004, 0.004), "mm")
    assert found((0.001, "cm"), (0.001, "cm"), (0.005, "cm"), unit="cm") == ((0.005, 0.001, 0.001), "cm")


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_negative_size_counts_by_its_absolute_value_and_is_noted(axis):
    sizes = [4.0, 4.0, 50.0]
    sizes[axis] *= -1
    assert found(*sizes) == ((50, 4, 4), "nm")
    assert "absolute value" in noted(*sizes)


@pytest.mark.parametrize("value", [0, math.nan, math.inf, -math.inf, 1e30, 1e-30, -0.0])
def test_of_numbers_that_make_no_sense_x_and_y_make_the_size_unknown_and_z_takes_that_of_y(value):
    assert found(value, 4.0, 50.0) == ((1, 1, 1), "pixel")
    assert found(4.0, value, 50.0) == ((1, 1, 1), "pixel")
    assert found(4.0, 5.0, value) == ((5, 5, 4), "nm")
    for sizes in ((value, 4.0, 50.0), (4.0, value, 50.0), (4.0, 5.0, value)):
        assert "makes no sense" in noted(*sizes)
        assert "--voxel-size" in noted(*sizes)


def test_no_size_that_is_there_is_replaced_by_another():
    assert found(4, 5, 50) == ((50, 5, 4), "nm")
    assert found(4, None, 50) == ((50, 4, 4), "nm")
    assert found(None, 5, 50) == ((50, 5, 5), "nm")
    assert "size of x; that of y was taken" in noted(None, 5, 50)
    assert found(None, None, 50) == ((1, 1, 1), "pixel")
    assert "the size of z (50 nm) but not of x and y" in noted(None, None, 50)
    assert found(4, (5, "furlong"), 50) == ((1, 1, 1), "pixel")
    assert "cannot be compared" in noted(4, (5, "furlong"), 50)


def test_an_unknown_z_takes_that_of_y_with_a_note_and_is_1_where_there_is_no_z():
    assert found(4, 5) == ((5, 5, 4), "nm")
    assert "that of y was taken (5 nm)" in noted(4, 5)
    assert found(4, 5, (50, "furlong")) == ((5, 5, 4), "nm")
    assert "cannot be compared" in noted(4, 5, (50, "furlong"))
    assert found((4e-9, "m"), (5e-9, "m"), axes="YX") == ((1, 5, 4), "nm")
    assert noted(4, 5, axes="CYX") == ""
    assert noted(4, 5, 0, axes="YX") == ""


def test_the_origin_comes_in_the_unit_of_the_size():
    told = {
        "X": AxisScale(4, "nm", 0.1, "µm"),
        "Y": AxisScale(4, "nm", 7, "reference frame"),
        "Z": AxisScale(0.05, "µm", 1),
    }
    assert calibrate(told, "ZYX").space.origin == (1000, 0, 100)
    del told["Z"]
    told["Z"] = AxisScale(None, "µm", 1)
    assert calibrate(told, "ZYX").space.origin == (1000, 0, 100)
    assert calibrate({"X": AxisScale(4, "nm", math.nan)}, "YX").space.origin == (0, 0, 0)


# --- ImageJ and resolution tags --------------------------------------------------------------------------------------


def imagej(path, resolution=(250.0, 250.0), **notes):
    tifffile.imwrite(path, VALUES, imagej=True, resolution=resolution, metadata={"axes": "ZYX", **notes})
    return read_stack(path)


def size(stack):
    return stack.space.voxel_size, stack.space.unit


@pytest.mark.parametrize(
    ("resolution", "notes", "result"),
    [
        ((250, 250), {"unit": "micron", "zunit": "nm", "spacing": 50}, ((0.05, 0.004, 0.004), "µm")),
        ((0.25, 0.025), {"unit": "nm", "yunit": "A", "spacing": 50}, ((50, 4, 4), "nm")),
        ((250, 0.2), {"unit": "um", "yunit": "nm", "zunit": "\\u00C5", "spacing": 500}, ((0.05, 0.005, 0.004), "µm")),
        ((250, 250), {"unit": "micron", "spacing": -0.05}, ((0.05, 0.004, 0.004), "µm")),
        ((0.025, 0.025), {"unit": "A", "spacing": 500}, ((500, 40, 40), "Å")),
        ((1000, 1000), {"unit": "cm", "spacing": 0.005}, ((50, 10, 10), "µm")),
        ((50800, 50800), {"unit": "inch", "spacing": 1e-4}, ((2.54, 0.5, 0.5), "µm")),
        ((250, 250), {"unit": "mm", "spacing": 0.05}, ((0.05, 0.004, 0.004), "mm")),
        ((0.025, 0.025), {"unit": "furlong", "spacing": 500}, ((12.5, 1, 1), "pixel")),
        ((0.25, 0.25), {"unit": "nm"}, ((1, 4, 4), "nm")),
        ((1000, 1000), {"unit": "cm"}, ((10, 10, 10), "µm")),
        ((1, 1), {}, ((1, 1, 1), "pixel")),
        ((300, 300), {"spacing": 5}, ((5, 1, 1), "pixel")),
        ((0.025, 0.025), {"spacing": 500}, ((500, 40, 40), "pixel")),
        ((0.25, 0.25), {"unit": "nm", "spacing": 0}, ((4, 4, 4), "nm")),
        ((0.25, 0.25), {"unit": "nm", "spacing": math.nan}, ((4, 4, 4), "nm")),
        ((0.25, 0.25), {"unit": "nm", "spacing": 1e30}, ((4, 4, 4), "nm")),
    ],
)
def test_imagej_s_notes(tmp_path, resolution, notes, result):
    assert size(imagej(tmp_path / "a.tif", resolution, **notes)) == result


@pytest.mark.parametrize(
    ("unit", "per"), [("inch", 72), ("inch", 300), ("inch", 1200), ("cm", 28.3465), ("cm", 118.11)]
)
def test_the_print_size_of_a_picture_program_is_no_voxel_size_of_imagej_s(tmp_path, unit, per):
    stack = imagej(tmp_path / "a.tif", (per, per), unit=unit)
    assert size(stack) == ((1, 1, 1), "pixel")
    assert "print size" in stack.notes[0]
    assert "--voxel-size" in stack.notes[0]


@pytest.mark.parametrize(("unit", "per"), [("INCH", 72), ("INCH", 96), ("CENTIMETER", 118.11), ("CENTIMETER", 1000)])
def test_a_print_size_is_noted(tmp_path, unit, per):
    tifffile.imwrite(tmp_path / "a.tif", VALUES, photometric="minisblack", resolution=(per, per), resolutionunit=unit)
    stack = read_stack(tmp_path / "a.tif")
    assert size(stack) == ((1, 1, 1), "pixel")
    assert "print size" in stack.notes[0]


def test_imagej_s_missing_distance_of_slices_is_noted(tmp_path):
    assert any("1 nm" in note and "--voxel-size" in note for note in imagej(tmp_path / "a.tif", unit="nm").notes)
    assert imagej(tmp_path / "a.tif", unit="nm", spacing=2).notes == ()


@pytest.mark.parametrize("rational", [(0, 1), (1, 0), (0, 0)])
@pytest.mark.parametrize("tag", [282, 283])
def test_a_resolution_with_a_zero_makes_the_size_unknown(tmp_path, rational, tag):
    imagej(tmp_path / "a.tif", unit="micron", spacing=0.05)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        offset, order = file.pages[0].tags[tag].valueoffset, file.byteorder
    with (tmp_path / "a.tif").open("r+b") as handle:
        handle.seek(offset)
        handle.write(struct.pack(f"{order}II", *rational))
    stack = read_stack(tmp_path / "a.tif")
    assert size(stack) == ((1, 1, 1), "pixel")
    assert any("makes no sense" in note for note in stack.notes)


@pytest.mark.parametrize(("spacing", "z"), [("0,05", 0.05), ("-0,05", 0.05), ("1,5e-1", 0.15), ("5e-2", 0.05)])
def test_a_comma_is_a_decimal_point(tmp_path, spacing, z):
    assert imagej(tmp_path / "a.tif", unit="micron", spacing=spacing).space.voxel_size[0] == z


@pytest.mark.parametrize("spacing", ["50 nm", "fifty", "nan", "1,000,000"])
def test_text_for_a_size_is_noted_as_no_number(tmp_path, spacing):
    stack = imagej(tmp_path / "a.tif", unit="micron", spacing=spacing)
    assert stack.space.voxel_size[0] == stack.space.voxel_size[1]
    assert any("size of z" in note and "no number" in note for note in stack.notes)


def test_a_unit_of_z_alone_is_that_of_x_and_y_too(tmp_path):
    stack = imagej(tmp_path / "a.tif", (0.25, 0.25), zunit="nm", spacing=50)
    assert size(stack) == ((50, 4, 4), "nm")
    assert any("nm was taken" in note for note in stack.notes)


@pytest.mark.parametrize(("z", "factor"), [(50_000, "1.25e+04"), (0.05, "0.0125"), (4000, "1e+03")])
def test_a_z_that_is_a_thousandfold_wrong_is_kept_and_noted(z, factor):
    assert found((4, "nm"), (4, "nm"), (z, "nm")) == ((z, 4, 4), "nm")
    assert f"{factor} times that of x (4 nm)" in noted(4, 4, z)
    assert "times that of" in noted((0.004, "µm"), (0.004, "µm"), (z, "nm"))
    assert "times that of" not in noted(4, 4, z, axes="YX")


@pytest.mark.parametrize("z", [0.5, 4, 50, 300, 3000])
def test_a_z_of_usual_thickness_is_not_noted(z):
    assert "times that of" not in noted(4, 4, z)


def test_pixels_that_are_a_thousand_times_as_high_as_wide_are_noted():
    assert "size of y, which is 2.5e+08 times that of x" in noted(4, 1e9, 50)


@pytest.mark.parametrize(("resolution", "proportions"), [((1, 2), (0.5, 0.5, 1)), ((300, 100), (3, 3, 1))])
def test_a_resolution_without_a_unit_tells_the_proportions_of_a_pixel(tmp_path, resolution, proportions):
    options = {"photometric": "minisblack", "metadata": None, "resolutionunit": 1}
    tifffile.imwrite(tmp_path / "a.tif", VALUES, resolution=resolution, **options)
    stack = read_stack(tmp_path / "a.tif")
    assert size(stack) == (proportions, "pixel")
    assert any("--unit" in note for note in stack.notes)
    tifffile.imwrite(tmp_path / "b.tif", VALUES, resolution=(300, 300), **options)
    assert read_stack(tmp_path / "b.tif").notes == ()


@pytest.mark.parametrize(("unit", "per"), [("INCH", 2.54e6 * 2.5), ("CENTIMETER", 2.5e6), (4, 2.5e5), (5, 250)])
def test_resolutions_of_every_unit_are_read(tmp_path, unit, per):
    options = {"photometric": "minisblack", "metadata": None, "resolutionunit": unit}
    tifffile.imwrite(tmp_path / "a.tif", VALUES, resolution=(per, per), **options)
    assert size(read_stack(tmp_path / "a.tif")) == ((4, 4, 4), "nm")


@pytest.mark.parametrize(
    ("told", "per", "unit", "result"),
    [
        ({"unit": "nm", "spacing": 50}, 2.5e6, "CENTIMETER", ((50, 4, 4), "nm")),
        ({"unit": "micron", "spacing": 0.05}, 2.5e6, "CENTIMETER", ((50, 4, 4), "nm")),
        ({"unit": "um", "spacing": 0.05}, 250, "NONE", ((0.05, 0.004, 0.004), "µm")),
        ({"unit": "micron", "zunit": "nm", "spacing": -50}, 250, "NONE", ((0.05, 0.004, 0.004), "µm")),
        ({"unit": "um", "spacing": 0.05}, 250, "INCH", ((1, 1, 1), "pixel")),
        ({"PhysicalSizeX": 4, "PhysicalSizeXUnit": "nm", "PhysicalSizeZ": 0.05}, 1, "NONE", ((50, 4, 4), "nm")),
        ({"spacing": "wide"}, 2.5e6, "CENTIMETER", ((4, 4, 4), "nm")),
        ({"PhysicalSizeX": "wide"}, 1, "NONE", ((1, 1, 1), "pixel")),
    ],
)
def test_words_of_imagej_and_ome_in_a_tiff_that_is_neither_count(tmp_path, told, per, unit, result):
    options = {"photometric": "minisblack", "resolution": (per, per), "resolutionunit": unit}
    tifffile.imwrite(tmp_path / "a.tif", VALUES, metadata={"axes": "ZYX", **told}, **options)
    stack = read_stack(tmp_path / "a.tif")
    assert size(stack) == result
    assert bool(stack.notes) == (result[0][0] not in (50, 0.05) or "PhysicalSizeX" in told or told["spacing"] < 0)


# --- OME-XML ---------------------------------------------------------------------------------------------------------


def ome(path, **sizes):
    tifffile.imwrite(path, VALUES, photometric="minisblack", metadata={"axes": "ZYX", **sizes})
    return read_stack(path)


@pytest.mark.parametrize(
    ("sizes", "result"),
    [
        ({"X": (4, "nm"), "Y": (0.004, "µm"), "Z": (500, "Å")}, ((50, 4, 4), "nm")),
        ({"X": (0.004, None), "Y": (0.004, None), "Z": (0.05, None)}, ((0.05, 0.004, 0.004), "µm")),
        ({"X": (4, "nm"), "Y": (4, "nm"), "Z": (-50, "nm")}, ((50, 4, 4), "nm")),
        ({"X": (4, "nm"), "Y": (4, "nm"), "Z": (0, "nm")}, ((4, 4, 4), "nm")),
        ({"Y": (4, "nm"), "Z": (50, "nm")}, ((50, 4, 4), "nm")),
        ({"X": (40, "thou"), "Y": (40, "thou"), "Z": (40, "thou")}, ((1.016, 1.016, 1.016), "mm")),
        ({axis: (side, "reference frame") for axis, side in {"X": 2, "Y": 2, "Z": 5}.items()}, ((2.5, 1, 1), "pixel")),
        ({"X": (math.nan, "nm"), "Y": (4, "nm"), "Z": (50, "nm")}, ((1, 1, 1), "pixel")),
        ({"X": (2, "pixel"), "Y": (2, "pixel"), "Z": (5, "pixel")}, ((5, 2, 2), "pixel")),
    ],
)  # fmt: skip
def test_ome_s_physical_sizes(tmp_path, sizes, result):
    told = {f"PhysicalSize{axis}": value for axis, (value, _) in sizes.items()}
    told |= {f"PhysicalSize{axis}Unit": unit for axis, (_, unit) in sizes.items() if unit is not None}
    assert size(ome(tmp_path / "a.ome.tif", **told)) == result


@pytest.mark.parametrize(("old", "new"), [(b'SizeX="30"', b'SizeX="31"'), (b"</OME>", b"</OMX>")])
def test_an_ome_xml_that_is_damaged_or_of_another_image_is_noted(tmp_path, old, new):
    sizes = {f"PhysicalSize{axis}": 0.004 for axis in "XYZ"}
    ome(tmp_path / "a.ome.tif", **sizes)
    content = (tmp_path / "a.ome.tif").read_bytes()
    assert old in content
    (tmp_path / "b.ome.tif").write_bytes(content.replace(old, new))
    stack = read_stack(tmp_path / "b.ome.tif")
    assert stack.shape == SHAPE
    assert size(stack) == ((1, 1, 1), "pixel")
    assert any("OME-XML" in note and "--voxel-size" in note for note in stack.notes)


def test_where_an_ome_xml_says_no_size_the_tags_count(tmp_path):
    options = {"photometric": "minisblack", "metadata": {"axes": "ZYX"}, "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.ome.tif", VALUES, resolution=(2.5e6, 2.5e6), **options)
    assert size(read_stack(tmp_path / "a.ome.tif")) == ((4, 4, 4), "nm")


# --- what a user says ------------------------------------------------------------------------------------------------


def test_a_user_s_voxel_size_leaves_the_first_voxel_where_it_was_and_notes_nothing_more(tmp_path):
    write_ome_tiff(tmp_path / "a.tif", VALUES, Space("ZYX", (0.05, 0.004, 0.004), "µm", (1.0, 0.2, 0.1)))
    stack = read_stack(tmp_path / "a.tif", voxel_size=(60, 5, 5), unit="nm")
    assert (stack.space.voxel_size, stack.space.unit, stack.space.origin) == ((60, 5, 5), "nm", (1000, 200, 100))
    write_ome_tiff(tmp_path / "b.tif", VALUES, Space("ZYX", (1, 2, 2), "pixel", (3, 4, 2)))
    assert read_stack(tmp_path / "b.tif", voxel_size=(50, 8, 8), unit="nm").space.origin == (150, 16, 8)
    stack = imagej(tmp_path / "c.tif", (0.025, 0.025), unit="furlong", spacing=500)
    assert stack.notes
    assert read_stack(tmp_path / "c.tif", voxel_size=(50, 4, 4), unit="nm").notes == ()
    assert size(read_stack(tmp_path / "c.tif", unit="Å")) == ((500, 40, 40), "Å")


# --- the same image in several formats -------------------------------------------------------------------------------


def write_zarr(path, scale, units):
    axes = [{"name": axis, "type": "space", "unit": unit} for axis, unit in zip("zyx", units, strict=True)]
    steps = [{"type": "scale", "scale": scale}]
    multiscale = {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    group = zarr.open_group(path, mode="w", zarr_format=2, attributes={"multiscales": [multiscale]})
    group.create_array("0", data=VALUES)
    return path


def test_the_same_sizes_are_the_same_in_every_format(tmp_path):
    with mrcfile.new(tmp_path / "a.mrc", VALUES.astype("i2")) as file:
        file.voxel_size = (40, 40, 500)
    imagej(tmp_path / "a.tif", (0.025, 0.025), unit="Angstrom", spacing=500)
    told = {f"PhysicalSize{axis}": value for axis, value in (("X", 40), ("Y", 40), ("Z", 500))}
    ome(tmp_path / "a.ome.tif", **told, **{f"PhysicalSize{axis}Unit": "Å" for axis in "XYZ"})
    write_zarr(tmp_path / "a.zarr", [500, 40, 40], ["angstrom"] * 3)
    for name in ("a.mrc", "a.tif", "a.ome.tif", "a.zarr"):
        assert size(read_stack(tmp_path / name)) == ((500, 40, 40), "Å"), name


def test_mixed_and_odd_units_of_zarr_axes(tmp_path):
    for number, (scale, units, result) in enumerate(
        [
            ([50, 0.004, 0.004], ["nanometer", "micrometer", "micron"], ((0.05, 0.004, 0.004), "µm")),
            ([50, 4, 4], [None, "nanometer", "nanometer"], ((50, 4, 4), "nm")),
            ([500, 40, 40], ["furlong"] * 3, ((12.5, 1, 1), "pixel")),
            ([5e-8, 4e-9, 4e-9], ["meter"] * 3, ((50, 4, 4), "nm")),
        ]
    ):
        assert size(read_stack(write_zarr(tmp_path / f"{number}.zarr", scale, units))) == result
    stack = read_stack(write_zarr(tmp_path / "d.zarr", [50, float("nan"), 4], ["nanometer"] * 3))
    assert size(stack) == ((1, 1, 1), "pixel")
    assert any("makes no sense" in note for note in stack.notes)


@pytest.mark.parametrize(
    ("cell", "result", "word"),
    [
        ((-40, -40, 500), ((500, 40, 40), "Å"), "absolute value"),
        ((40, 40, -500), ((500, 40, 40), "Å"), "absolute value"),
        ((0, 40, 500), ((1, 1, 1), "pixel"), "makes no sense"),
        ((40, 40, 0), ((40, 40, 40), "Å"), "that of y was taken"),
        ((0, 0, 0), ((1, 1, 1), "pixel"), "gives no voxel size"),
        ((1, 1, 1), ((1, 1, 1), "pixel"), "1 Å"),
        ((math.inf, 40, 500), ((1, 1, 1), "pixel"), "makes no sense"),
    ],
)
def test_mrc_cells(tmp_path, cell, result, word):
    with mrcfile.new(tmp_path / "a.mrc", VALUES.astype("i2")) as file:
        file.header.cella = tuple(side * n for side, n in zip(cell, SHAPE[::-1], strict=True))
    stack = read_stack(tmp_path / "a.mrc")
    assert size(stack) == result
    assert any(word in note for note in stack.notes)
    assert "--voxel-size" in stack.notes[-1] or word == "absolute value"


def test_an_unknown_unit_of_a_user_is_refused():
    with pytest.raises(InputError, match="'inch' is not a unit of length: use one of"):
        read_stack("a.tif", unit="inch")


def test_notes_are_sentences_and_survive_as_json(tmp_path):
    stack = imagej(tmp_path / "a.tif", (0.025, 0.025), unit="furlong", spacing=-500)
    assert json.loads(json.dumps(stack.notes)) == list(stack.notes)
    assert all(note.endswith(".") and "\n" not in note for note in stack.notes)
