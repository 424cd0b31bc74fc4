"""Pictures: PNG, JPEG and BMP as a `Stack`, whole in memory, their pixels as they are stored."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.file_image import FileImage, stack_of
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.tiff import refusing

LOSSY = (".jpg", ".jpeg")
"""Endings of pictures whose values are near what was saved, not what was saved."""

ENDINGS = (".png", ".bmp", *LOSSY)
"""Endings of the files that are read as pictures."""

GREY_OR_COLOUR = ("1", "L", "I;16", "RGB")
"""Pillow's names of the pixels that are taken as they are: bits, 8-bit grey, 16-bit grey, colour."""

PNG_START = b"\x89PNG\r\n\x1a\n"


def is_picture(path: Path) -> bool:
    """Return whether `path` is named as a PNG, JPEG or BMP."""
    return path.suffix.lower() in ENDINGS


def is_lossy(path: Path) -> bool:
    """Return whether `path` is named as a JPEG, whose values are not exactly those that were saved."""
    return path.suffix.lower() in LOSSY


def read_picture(
    path: Path,
    axes: str | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    unit: str | None = None,
) -> Stack:
    """Return the picture in a PNG, JPEG or BMP: "YX" where it is grey, "YXC" with 3 channels where it has colours.

    Pixels are those stored: an EXIF orientation turns nothing, so that image and mask stay together. Alpha is left
    out. Bits become bool, 16-bit colours stay 16-bit. A palette of greys gives those greys; one of colours is refused:
    it may stand for colours or for labels. Resolutions are print sizes and do not count.

    Raises:
        FileError: no such file, no picture, damaged, cut short, or of more pixels than are read whole.
        InputError: a palette of colours, other colours than RGB, or axes that do not fit.
    """
    with refusing(path):
        if path.is_dir():
            raise IsADirectoryError(path)
        values = _read_pixels(path)
    named = list(zip("YXC", values.shape, strict=False))
    return stack_of(FileImage(path, path.stem, named, lambda _: values), axes, voxel_size, unit)


def _read_pixels(path: Path) -> NDArray[Any]:
    """Return (Y, X) or (Y, X, 3) values."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # beyond its error there is a sentence
            picture = Image.open(path, formats=("PNG", "JPEG", "BMP"))
    except UnidentifiedImageError as error:
        raise FileError(f"'{path}' is no PNG, JPEG or BMP: export the picture again, or save it as TIFF.") from error
    except Image.DecompressionBombError as error:
        raise FileError(f"'{path}' has too many pixels to be read whole: save it as TIFF.") from error
    with picture:
        if _is_deep_colour(path):  # Pillow would keep 8 of its 16 bits
            values = np.asarray(imagecodecs.png_decode(path.read_bytes()))
            return values[..., 0] if values.shape[-1] < 3 else values[..., :3]
        return _values(path, picture)


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
    if picture.mode == "I":  # 16-bit grey, as older Pillow gives it
        return np.asarray(picture).astype(np.uint16)
    if picture.mode not in GREY_OR_COLOUR:
        raise InputError(f"'{path}' has {picture.mode} colours: save it as grey or RGB.")
    return np.asarray(picture)


def _greys_of_palette(path: Path, picture: Image.Image) -> NDArray[Any]:
    """Return the grey values that a palette of greys stands for, as ImageJ and others save 8-bit images."""
    numbers = np.asarray(picture.convert("P") if picture.mode == "PA" else picture)
    colours = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    if (colours[np.unique(numbers)] != colours[np.unique(numbers), :1]).any():
        raise InputError(
            f"'{path}' has a palette of colours: save it as RGB, or, where its values are labels, as 8-bit grey."
        )
    greys: NDArray[np.uint8] = colours[numbers, 0]
    return greys
