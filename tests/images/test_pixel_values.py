"""Numbers of a TIFF come out as the greys that they stand for, or as they are stored, with a note."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_skipseg.images.files import read_stack, write_ome_tiff
from napari_skipseg.images.space import Space

GREYS = np.random.default_rng(0).integers(0, 200, (3, 20, 32), "uint8")

CCITT_T6 = 4


def write(path, values, **options):
    tifffile.imwrite(path, values, photometric="miniswhite", **options)
    return read_stack(path)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(("dtype", "top"), [("uint8", 255), ("uint16", 65535), ("uint32", 2**32 - 1)])
def test_grey_values_count_down_from_the_largest(tmp_path, dtype, top, compression):
    stack = write(tmp_path / "a.tif", GREYS.astype(dtype), compression=compression)
    assert stack.data.dtype == dtype
    assert np.array_equal(stack.data, top - GREYS.astype("uint64"))
    assert np.array_equal(stack.data[1, 3:9, ::-2], (top - GREYS.astype("uint64"))[1, 3:9, ::-2])
    assert f"inverted ({top} - value)" in stack.notes[0]


def test_8_bits_are_inverted_as_pillow_does(tmp_path):
    stack = write(tmp_path / "a.tif", GREYS[0])
    with Image.open(tmp_path / "a.tif") as picture:
        assert np.array_equal(stack.data, np.asarray(picture))


@pytest.mark.parametrize("bits", [2, 4])
def test_few_bits_are_inverted_within_their_own_range(tmp_path, bits):
    values = GREYS[0] % 2**bits
    packed = np.packbits(np.unpackbits(values[..., None], axis=-1)[..., -bits:].reshape(20, -1), axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", packed, photometric="miniswhite", metadata=None)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = file.pages[0].tags
        for tag, value in ((256, 32), (258, bits)):
            content[tags[tag].valueoffset] = value
    (tmp_path / "a.tif").write_bytes(content)
    assert np.array_equal(read_stack(tmp_path / "a.tif").data, 2**bits - 1 - values)


def test_where_black_is_zero_nothing_is_inverted_or_noted(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREYS, photometric="minisblack")
    stack = read_stack(tmp_path / "a.tif")
    assert np.array_equal(stack.data, GREYS)
    assert stack.notes == ()


@pytest.mark.parametrize("imagej", [True, False])
@pytest.mark.parametrize(("dtype", "top"), [("uint8", 255), ("uint16", 65535)])
def test_a_mask_of_two_values_keeps_them(tmp_path, imagej, dtype, top):
    mask = ((GREYS > 100) * top).astype(dtype)
    stack = write(tmp_path / "a.tif", mask, imagej=imagej, metadata={"axes": "ZYX"})
    assert np.array_equal(stack.data, mask)
    assert "mask" in stack.notes[0]


def test_an_image_with_few_greys_is_no_mask(tmp_path):
    values = np.zeros((40, 16, 16), "u1")
    values[:, 3, 5] = 7
    assert np.array_equal(write(tmp_path / "a.tif", values).data, 255 - values)


def test_labels_keep_their_numbers(tmp_path):
    write(tmp_path / "a.tif", GREYS // 40)
    labels = read_stack(tmp_path / "a.tif", are_labels=True)
    assert np.array_equal(labels.data, GREYS // 40)
    assert "labels" in labels.notes[0]


def test_bits_are_those_that_tifffile_or_pillow_was_given(tmp_path):
    mask = GREYS > 100
    tifffile.imwrite(tmp_path / "a.tif", mask)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].photometric == 0
    assert np.array_equal(read_stack(tmp_path / "a.tif").data, mask)
    # older codecs cannot read faxes
    compression = "group4" if CCITT_T6 in tifffile.TIFF.DECOMPRESSORS else "packbits"
    Image.fromarray(mask[0]).save(tmp_path / "b.tif", compression=compression)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        fax_is_white = file.pages[0].photometric == 0
    for are_labels in (False, True):
        assert np.array_equal(read_stack(tmp_path / "b.tif", are_labels=are_labels).data, mask[0]), fax_is_white


def test_bits_of_others_in_which_white_is_zero_are_inverted_as_pillow_does(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREYS[0] > 100, photometric="miniswhite", software="scanner", metadata=None)
    with Image.open(tmp_path / "a.tif") as picture:
        assert np.array_equal(read_stack(tmp_path / "a.tif").data, np.asarray(picture))


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_values_without_a_largest_one_are_noted_and_kept(tmp_path, dtype):
    stack = write(tmp_path / "a.tif", GREYS.astype(dtype))
    assert np.array_equal(stack.data, GREYS.astype(dtype))
    assert "not inverted" in stack.notes[0]


# --- palettes --------------------------------------------------------------------------------------------------------


def palette(*greys):
    """Return a palette of 256 greys from numbers of 16 bits, one alike for red, green and blue."""
    return np.broadcast_to(np.asarray(greys, "uint16"), (3, 256)).copy()


def write_palette(path, values, colours, **options):
    tifffile.imwrite(path, values, photometric="palette", colormap=colours, **options)
    return path


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_palette_of_greys_gives_these_as_pillow_does(tmp_path, compression):
    backwards = palette(*(np.arange(255, -1, -1) * 257))
    path = write_palette(tmp_path / "a.tif", GREYS[0], backwards, compression=compression)
    stack = read_stack(path)
    with Image.open(path) as picture:
        assert np.array_equal(stack.data, np.asarray(picture.convert("L")))
    assert np.array_equal(stack.data[3:9, ::-2], 255 - GREYS[0][3:9, ::-2])
    assert "palette of greys" in stack.notes[0]


def test_a_palette_of_greys_is_the_same_in_tiff_and_png(tmp_path):
    gamma = np.round(255 * (np.arange(256) / 255) ** 0.5).astype("uint16")
    picture = Image.fromarray(GREYS[0]).convert("P")
    picture.putpalette(np.repeat(gamma, 3).tolist())
    picture.save(tmp_path / "a.png")
    stack = read_stack(write_palette(tmp_path / "a.tif", GREYS[0], palette(*(gamma * 257))))
    assert np.array_equal(stack.data, read_stack(tmp_path / "a.png").data)


@pytest.mark.parametrize("step", [257, 256, 1])
def test_a_palette_that_rises_in_step_changes_nothing(tmp_path, step):
    stack = read_stack(write_palette(tmp_path / "a.tif", GREYS, palette(*(np.arange(256) * step))))
    assert np.array_equal(stack.data, GREYS)
    assert stack.notes == ()


def test_of_a_palette_of_colours_the_numbers_are_taken(tmp_path):
    colours = np.random.default_rng(1).integers(0, 65536, (3, 256), "uint16")
    path = write_palette(tmp_path / "a.tif", GREYS, colours)
    assert np.array_equal(read_stack(path).data, GREYS)
    assert "palette" in read_stack(path).notes[0]


@pytest.mark.parametrize("falling", [True, False])
def test_labels_and_masks_with_a_palette_keep_their_numbers(tmp_path, falling):
    colours = palette(*(np.arange(255, -1, -1) * 257))
    colours[0] = colours[0] if falling else 7
    path = write_palette(tmp_path / "a.tif", GREYS // 50, colours)
    stack = read_stack(path, are_labels=True)
    assert np.array_equal(stack.data, GREYS // 50)
    assert stack.notes == ()
    mask = ((GREYS > 100) * 255).astype("uint8")
    assert np.array_equal(read_stack(write_palette(tmp_path / "b.tif", mask, colours)).data, mask)


# --- what is neither grey nor RGB ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "options", "word"),
    [
        (4, {"photometric": "separated"}, "CMYK"),
        (3, {"photometric": "cielab"}, "CIELAB"),
        (4, {"photometric": "rgb", "extrasamples": ["unassalpha"]}, "transparency"),
        (2, {"photometric": "minisblack", "extrasamples": ["assocalpha"], "planarconfig": "contig"}, "transparency"),
    ],
)
def test_other_colours_and_transparency_are_noted(tmp_path, samples, options, word):
    values = np.stack([GREYS] * samples, axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    stack = read_stack(tmp_path / "a.tif")
    assert np.array_equal(stack.data, values)
    assert any(word in note for note in stack.notes)


@pytest.mark.parametrize("samples", [3, 4])
def test_colours_and_our_own_channels_are_not_noted(tmp_path, samples):
    write_ome_tiff(tmp_path / "a.tif", np.stack([GREYS] * samples, axis=-1), Space("ZYXC", (50, 4, 4), "nm"))
    assert read_stack(tmp_path / "a.tif").notes == ()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_that_is_to_be_shown_turned_is_taken_as_stored_and_noted(tmp_path, orientation):
    tag = (274, 3, 1, orientation, True)
    tifffile.imwrite(tmp_path / "a.tif", GREYS, photometric="minisblack", metadata=None, extratags=[tag])
    stack = read_stack(tmp_path / "a.tif")
    assert np.array_equal(stack.data, GREYS)
    assert any(f"orientation {orientation}" in note for note in stack.notes) == (orientation > 1)
