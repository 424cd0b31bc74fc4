"""Pictures are read with the pixels that were stored, in the axes that TIFFs have; bad ones get one clear sentence."""

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.images import pictures
from napari_skipseg.images.files import read_recipe, read_stack

ORIENTATION = 0x0112


def random(shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


@pytest.mark.parametrize("ending", ["png", "bmp", "PNG"])
@pytest.mark.parametrize(("shape", "axes"), [((20, 30), "YX"), ((20, 30, 3), "YXC"), ((1, 1), "YX")])
def test_pixels_are_those_stored(tmp_path, ending, shape, axes):
    values = random(shape)
    Image.fromarray(values).save(tmp_path / f"a.b.{ending}")
    stack = read_stack(tmp_path / f"a.b.{ending}")
    assert (stack.space.axes, stack.shape, stack.data.dtype, stack.name) == (axes, shape, np.uint8, "a.b")
    assert np.array_equal(stack.data, values)
    assert (stack.space.voxel_size, stack.space.unit) == ((1, 1, 1), "pixel")


@pytest.mark.parametrize("ending", ["jpg", "jpeg", "JPG"])
@pytest.mark.parametrize(("shape", "axes"), [((16, 24), "YX"), ((16, 24, 3), "YXC")])
def test_a_jpeg_is_read_as_near_as_it_was_saved(tmp_path, ending, shape, axes):
    values = np.full(shape, 90, np.uint8)
    values[:8] = 200
    Image.fromarray(values).save(tmp_path / f"a.{ending}", format="JPEG", quality=95)
    stack = read_stack(tmp_path / f"a.{ending}")
    assert (stack.space.axes, stack.shape) == (axes, shape)
    assert np.abs(np.asarray(stack.data, int) - values).max() <= 3


def test_a_colour_picture_has_the_axes_of_the_same_colour_tiff(tmp_path):
    values = random((20, 30, 3))
    Image.fromarray(values).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    picture, tiff = read_stack(tmp_path / "a.png"), read_stack(tmp_path / "a.tif")
    assert (picture.space.axes, picture.shape) == (tiff.space.axes, tiff.shape)
    assert np.array_equal(picture.channel(2).read((slice(None), slice(None))), values[..., 2])


@pytest.mark.parametrize(("channels", "axes"), [((), "YX"), ((2,), "YX"), ((3,), "YXC"), ((4,), "YXC")])
def test_16_bits_stay_16_bits(tmp_path, channels, axes):
    values = random((9, 11, *channels), np.uint16)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(values))
    stack = read_stack(tmp_path / "a.png")
    assert (stack.space.axes, stack.data.dtype) == (axes, np.uint16)
    assert np.array_equal(stack.data, {(): values, (2,): values[..., 0]}.get(channels, values[..., :3]))


@pytest.mark.parametrize(("channels", "axes"), [(2, "YX"), (4, "YXC")])
def test_alpha_is_left_out(tmp_path, channels, axes):
    values = random((9, 11, channels))
    Image.fromarray(values).save(tmp_path / "a.png")
    stack = read_stack(tmp_path / "a.png")
    assert stack.space.axes == axes
    assert np.array_equal(stack.data, values[..., 0] if channels == 2 else values[..., :3])


def test_bits_are_true_and_false(tmp_path):
    mask = random((9, 11)) > 100
    Image.fromarray(mask).save(tmp_path / "a.png")
    stack = read_stack(tmp_path / "a.png")
    assert stack.data.dtype == bool
    assert np.array_equal(stack.data, mask)


def test_exif_turns_nothing(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(random((16, 24, 3))).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.getexif()[ORIENTATION] == 6
    assert read_stack(tmp_path / "a.jpg").shape == (16, 24, 3)


def test_a_palette_of_greys_gives_greys_and_one_of_colours_is_refused(tmp_path):
    numbers = random((9, 11)) // 64
    picture = Image.fromarray(numbers)
    picture.putpalette([value for grey in (10, 20, 30, 200) for value in (grey, grey, grey)])
    picture.save(tmp_path / "grey.png")
    with Image.open(tmp_path / "grey.png") as saved:
        assert saved.mode == "P"
    assert np.array_equal(read_stack(tmp_path / "grey.png").data, np.array([10, 20, 30, 200])[numbers])
    picture.putpalette(range(12))
    picture.save(tmp_path / "colour.png")
    with pytest.raises(InputError, match="has a palette of colours: save it as RGB, or, if its values are labels"):
        read_stack(tmp_path / "colour.png")


def test_axes_voxel_size_and_unit_can_be_named(tmp_path):
    Image.fromarray(random((9, 11))).save(tmp_path / "a.png", dpi=(300, 300))
    stack = read_stack(tmp_path / "a.png", "YX", (1.0, 0.5, 0.5), "µm")
    assert (stack.space.voxel_size, stack.space.unit) == ((1.0, 0.5, 0.5), "µm")
    with pytest.raises(InputError, match="'ZYX' name 3 dimensions, the image has 2"):
        read_stack(tmp_path / "a.png", "ZYX")


def test_a_picture_has_no_recipe(tmp_path):
    Image.fromarray(random((9, 11))).save(tmp_path / "a.png")
    assert read_recipe(tmp_path / "a.png") is None


def test_what_is_no_picture_gets_a_sentence(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("this is no picture")
    tifffile.imwrite(tmp_path / "tiff.png", random((9, 11)))
    Image.fromarray(random((9, 11, 4)), "CMYK").save(tmp_path / "print.jpg")
    for name, sentence in {
        "missing.png": "does not exist: check the name",
        "folder.png": "is a folder: give a",
        "empty.png": "is no PNG, JPEG or BMP: export the picture again",
        "text.jpg": "is no PNG, JPEG or BMP",
        "tiff.png": "is no PNG, JPEG or BMP",
        "print.jpg": "has CMYK colours: save it as grey or RGB",
    }.items():
        with pytest.raises(SkipsegError, match=sentence) as error:
            read_stack(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "deep PNG"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_picture_cut_short_is_refused(tmp_path, kind, share):
    file = tmp_path / f"a.{kind.split()[-1].lower()}"
    if kind == "deep PNG":
        file.write_bytes(imagecodecs.png_encode(random((64, 64, 3), np.uint16)))
    else:
        Image.fromarray(random((64, 64, 3))).save(file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(FileError, match=r"is damaged and cannot be read: copy or export it again|is no PNG"):
        read_stack(file)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures.Image, "MAX_IMAGE_PIXELS", 40)
    Image.fromarray(random((9, 5))).save(tmp_path / "large.png")
    assert read_stack(tmp_path / "large.png").shape == (9, 5)
    Image.fromarray(random((9, 11))).save(tmp_path / "huge.png")
    with pytest.raises(FileError, match="has too many pixels to be read whole: save it as TIFF"):
        read_stack(tmp_path / "huge.png")


@pytest.mark.data
def test_real_pictures_and_their_masks_are_read(data_folder):
    folder = data_folder / "ham10000_skin"
    for file in sorted((folder / "images").glob("*.jpg")):
        image, mask = read_stack(file), read_stack(folder / "masks" / f"{file.stem}.png")
        assert (image.space.axes, image.shape, mask.space.axes, mask.shape) == ("YXC", (450, 600, 3), "YX", (450, 600))
        assert np.unique(mask.data).tolist() == [0, 255]
