"""Pictures: PNG, JPEG and BMP as a `Stack` in memory, with unchanged pixels."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.calibration import FileImage, stack_from_file_image
from napari_skipseg.images.choice import ImageInfo, Location, choose_image
from napari_skipseg.images.faults import read_errors_as_sentences
from napari_skipseg.images.set_files import check_regular
from napari_skipseg.images.space import NOTHING_GIVEN, GivenSpace
from napari_skipseg.images.stack import Stack

LOSSY = (".jpg", ".jpeg")
"""Endings of lossy pictures: their values differ slightly from those that were saved."""

PICTURE_ENDINGS = (".png", ".bmp", *LOSSY)
"""Endings of the files that are read as pictures."""

GREY_OR_COLOUR = ("1", "L", "I;16", "RGB")
"""Pillow's names of pixels that need no conversion: bits, 8-bit grey, 16-bit grey, colour."""

MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**27)
"""Most pixels of all frames of a picture, as it is read whole."""

MOST_FRAMES = 10_000
"""Most frames of a picture."""

PNG_START = b"\x89PNG\r\n\x1a\n"


def is_picture(path: Path) -> bool:
    """Return whether `path` has the ending of a PNG, JPEG or BMP."""
    return path.suffix.lower() in PICTURE_ENDINGS


def is_lossy(path: Path) -> bool:
    """Return whether `path` has the ending of a JPEG; its values differ slightly from those that were saved."""
    return path.suffix.lower() in LOSSY


def read_picture(
    path: Path,
    given: GivenSpace = NOTHING_GIVEN,
    image: int | None = None,
) -> Stack:
    """Return the picture in a PNG, JPEG or BMP: "YX" for grey, "YXC" with 3 channels for colours.

    Frames of one size, such as those of an animated PNG, are slices: "ZYX" or "ZYXC". Of frames of several sizes, such
    as those of a JPEG of several pictures, `image` is read; without it the largest, if the others are smaller copies.

    Pixels are not rotated by an EXIF orientation, so that image and mask match. Alpha is left out. Bits become bool,
    16-bit colours stay 16-bit. A palette of greys is applied; one of colours is refused, because its numbers may mean
    colours or labels. Resolutions are print sizes and are ignored.

    Raises:
        FileError: no such file, no picture, damaged, cut short, or of more pixels than are read whole.
        InputError: a palette of colours, different colours than RGB, axes that do not fit, or no such image.
        SeveralImagesError: it contains several pictures of equal rank, and none is named.
    """
    with read_errors_as_sentences(path):
        if path.is_dir():
            raise IsADirectoryError(path)
        check_regular(path)
        images = list_pictures(path)
        chosen = choose_image(path, images, image)
        frames = images[chosen.number].planes
        values = (
            np.stack([_read_pixels(path, frame) for frame in range(frames)])
            if frames > 1
            else _read_pixels(path, chosen.number)
        )
    letters = ("Z" if frames > 1 else "") + "YXC"
    frames_note = f"'{path.name}' has {frames} frames: they were taken as slices." if frames > 1 else ""
    notes = tuple(note for note in (frames_note, chosen.note) if note)
    number = chosen.number if image is not None and len(images) > 1 else None
    name = path.stem if number is None else f"{path.stem}_{number}"
    named = list(zip(letters, values.shape, strict=False))
    stack = stack_from_file_image(FileImage(path, name, named, lambda _: values, notes=notes), given)
    return replace(stack, file=str(Location(path.absolute(), number)))


def list_pictures(path: Path) -> tuple[ImageInfo, ...]:
    """Return the images in a picture: frames of one size are one.

    Raises:
        FileError: no such file, no picture, or of more pixels than are read whole.
    """
    with read_errors_as_sentences(path), _opened(path) as picture:
        frames = int(getattr(picture, "n_frames", 1))
        if frames > MOST_FRAMES or frames * picture.width * picture.height > MOST_PIXELS:
            raise FileError(f"'{path}' has too many pixels to be read whole: save it as TIFF.")
        sizes = [picture.size]
        if frames > 1 and picture.format != "PNG":  # all frames of a PNG have its size
            for number in range(1, frames):
                picture.seek(number)
                sizes.append(picture.size)
        mode = picture.mode
    if len(set(sizes)) == 1:
        width, height = sizes[0]
        shape, axes = ((height, width), "YX") if frames == 1 else ((frames, height, width), "ZYX")
        return (ImageInfo(0, "", axes, shape, mode),)
    return tuple(
        ImageInfo(number, "", "YX", (height, width), mode, number > 0 and _is_smaller((width, height), sizes[0]))
        for number, (width, height) in enumerate(sizes)
    )


def _is_smaller(size: tuple[int, int], first: tuple[int, int]) -> bool:
    """Return whether a picture has the proportions of the first one at fewer pixels."""
    (w, h), (width, height) = size, first
    return w < width and abs(h * width / (w * height) - 1) < 0.02


def picture_header(path: Path) -> tuple[int, int, int, str]:
    """Return height, width, channels and type of a picture, as read by `read_picture`; no pixel is decoded.

    Raises:
        FileError: no such file, no picture, or of more pixels than are read whole.
    """
    with read_errors_as_sentences(path):
        is_deep = _is_deep_colour(path)
        with _opened(path) as picture:
            channels = 3 if picture.mode in ("RGB", "RGBA") else 1
            dtypes = {"1": "bool", "I": "uint16", "I;16": "uint16"}
            dtype = "uint16" if is_deep else dtypes.get(picture.mode, "uint8")
            return picture.height, picture.width, channels, dtype


def _read_pixels(path: Path, frame: int) -> NDArray[Any]:
    """Return (Y, X) or (Y, X, 3) values."""
    with _opened(path) as picture:
        if frame:
            picture.seek(frame)
        elif _is_deep_colour(path):  # Pillow would keep 8 of its 16 bits
            values = np.asarray(imagecodecs.png_decode(path.read_bytes()))
            return values[..., 0] if values.shape[-1] < 3 else values[..., :3]
        return _values(path, picture)


def _opened(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # its error gets a sentence below
            return Image.open(path, formats=("PNG", "JPEG", "BMP"))
    except UnidentifiedImageError as error:
        raise FileError(f"'{path}' is no PNG, JPEG or BMP: export the picture again, or save it as TIFF.") from error
    except Image.DecompressionBombError as error:
        raise FileError(f"'{path}' has too many pixels to be read whole: save it as TIFF.") from error


def _is_deep_colour(path: Path) -> bool:
    """Return whether `path` is a PNG with 16 bits in each of several channels."""
    with path.open("rb") as handle:
        start = handle.read(26)
    return start.startswith(PNG_START) and start[24] == 16 and start[25] != 0


def _values(path: Path, picture: Image.Image) -> NDArray[Any]:
    if picture.mode in ("P", "PA"):
        return _greys_of_palette(path, picture)
    if picture.mode in ("LA", "RGBA"):
        return _values(path, picture.convert(picture.mode[:-1]))
    if picture.mode == "I":  # 16-bit grey in older versions of Pillow
        return np.asarray(picture).astype(np.uint16)
    if picture.mode not in GREY_OR_COLOUR:
        raise InputError(f"'{path}' has {picture.mode} colours: save it as grey or RGB.")
    return np.asarray(picture)


def _greys_of_palette(path: Path, picture: Image.Image) -> NDArray[Any]:
    """Return the grey values of a palette of greys, with which ImageJ and others save 8-bit images."""
    numbers = np.asarray(picture.convert("P") if picture.mode == "PA" else picture)
    colours = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    if (colours[np.unique(numbers)] != colours[np.unique(numbers), :1]).any():
        raise InputError(
            f"'{path}' has a palette of colours: save it as RGB, or, if its values are labels, as 8-bit grey."
        )
    greys: NDArray[np.uint8] = colours[numbers, 0]
    return greys
