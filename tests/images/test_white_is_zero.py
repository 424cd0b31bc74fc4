"""Where white is 0, grey values are inverted as picture programs do; masks and labels keep what is stored."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_skipseg.images.files import read_stack

GREYS = np.random.default_rng(0).integers(0, 200, (3, 20, 32), "uint8")


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
    Image.fromarray(mask[0]).save(tmp_path / "b.tif", compression="group4")
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
