"""The meaning of the numbers in a TIFF: grey values with 0 as white, palettes, colour spaces, transparency."""

from __future__ import annotations

from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_skipseg.images.stack import ArrayLike
from napari_skipseg.images.views import InvertedArray, LookupArray

WHITE_IS_ZERO, PALETTE, YCBCR = 0, 3, 6
"""Values of the tag PhotometricInterpretation."""

OTHER_COLOURS = {5: "CMYK", 8: "CIELAB", 9: "ICCLAB", 10: "ITULAB", 32803: "raw camera", 32844: "LogL", 32845: "LogLuv"}
"""Colours that are neither grey nor RGB, and that tifffile returns unchanged."""

LOSSLESS = ("NONE", "LZW", "DEFLATE", "ADOBE_DEFLATE", "PACKBITS", "LZMA", "ZSTD")
"""Compressions within which YCbCr colours stay YCbCr; those of pictures, such as JPEG, give RGB."""

TRANSPARENCY = (1, 2)
"""Values of the tag ExtraSamples for the two kinds of alpha."""

_MOST_LOOKED_AT = 32 * 2**20
"""Voxels that are read to recognise a mask."""

_SLICES = 16
"""Slices that are read for that, spread over the stack."""


def with_zero_as_black(
    data: ArrayLike, file: Any, series: Any, palette: NDArray[Any] | None, are_labels: bool
) -> tuple[ArrayLike, tuple[str, ...]]:
    """Return the values of a TIFF with 0 as black, and notes if they differ from the stored ones.

    A palette of greys is applied, as in a PNG; with a palette of colours the stored numbers are kept. If white is 0,
    values become top - value, with the largest value of the file's bits as `top`, as in Pillow. These values are not
    inverted: labels, which are no greys; masks of two values, in which for example ImageJ stores the object as 255 and
    shows it black; bits, which tifffile writes with the tag for white as 0; signed numbers and fractions, which have no
    largest value.

    file: a `tifffile.TiffFile`. series: one of its series, with the voxels `data`. palette: from `read_palette`.
    """
    page = series.keyframe
    if palette is not None and not are_labels:
        return _by_palette(data, palette)
    if int(page.photometric) != WHITE_IS_ZERO:
        return data, ()
    kind, bits = np.dtype(data.dtype).kind, int(page.bitspersample)
    if kind == "b" or bits == 1:
        if (are_labels and file.is_imagej) or str(file.pages.first.software).startswith("tifffile"):
            return data, ()
        return InvertedArray(data, top=1), ("The file says that white is 0: its bits were inverted.",)
    if kind != "u":
        return data, ("The file says that white is 0, but its values have no largest one: they were not inverted.",)
    top = 2**bits - 1
    if are_labels:
        return data, ("The file says that white is 0: as labels its values were taken as they are stored.",)
    if _is_mask(data, top):
        return data, (f"The file says that white is 0, but contains only 0 and {top}: a mask, taken as it is stored.",)
    return InvertedArray(data, top), (f"The file says that white is 0: its values were inverted ({top} - value).",)


def _is_mask(data: ArrayLike, top: int) -> bool:
    """Return whether there are only two values, 0 and `top`, in slices that are spread over an image."""
    leading = tuple(int(length) for length in data.shape[:-2])
    count = int(np.prod(leading, dtype=np.int64))
    slice_size = int(data.shape[-2]) * int(data.shape[-1])
    looked_at = max(1, min(count, _SLICES, _MOST_LOOKED_AT // slice_size))
    rows = slice(0, max(1, _MOST_LOOKED_AT // int(data.shape[-1])))
    for number in np.unique(np.linspace(0, count - 1, looked_at).astype(int)):
        values = np.asarray(data[(*(int(part) for part in np.unravel_index(number, leading)), rows)])
        if ((values != 0) & (values != top)).any():
            return False
    return True


def read_palette(page: Any) -> NDArray[Any] | None:
    """Return the palette of a page of an open TIFF, (3, N) numbers for red, green and blue; None if it has none."""
    return page.colormap if int(page.photometric) == PALETTE else None


def _by_palette(data: ArrayLike, palette: NDArray[Any]) -> tuple[ArrayLike, tuple[str, ...]]:
    """Return the greys of a palette of greys; the stored numbers for other palettes and if they rise with the greys."""
    if palette.ndim != 2 or data.dtype.kind != "u":
        return data, ()
    if (palette != palette[:1]).any():
        return data, ("The file shows its values in colours, by a palette: they were taken as they are stored.",)
    greys: NDArray[Any] = palette[0]
    if greys.max() > 255 and data.dtype.itemsize == 1:  # the standard requires 16 bits; some programs store 8
        greys = greys >> 8
    greys = greys.astype(data.dtype)
    top = len(greys) - 1
    if np.abs(greys - np.linspace(0, int(greys.max()), len(greys))).max() <= 1:
        return data, ()
    if _is_mask(data, top):
        return data, (
            f"The file has a palette of greys, but contains only 0 and {top}: a mask, taken as it is stored.",
        )
    return LookupArray(data, greys), ("The file shows its values by a palette of greys: these greys were taken.",)


def note_samples(page: Any) -> tuple[str, ...]:
    """Return sentences on samples that are neither grey nor RGB, and on rows or columns in another direction."""
    photometric, notes = int(page.photometric), []
    colours = OTHER_COLOURS.get(photometric, "")
    if photometric == YCBCR and tifffile.COMPRESSION(page.compression).name in LOSSLESS:
        colours = "YCbCr"
    if colours:
        notes.append(f"The image has {colours} colours, neither grey nor RGB: they were taken as they are stored.")
    extra = page.extrasamples if isinstance(page.extrasamples, tuple) else (page.extrasamples,)
    if any(int(kind) in TRANSPARENCY for kind in extra):
        notes.append("The last channel is transparency (alpha), not a grey value or a colour.")
    orientation = page.tags.valueof(274, default=1)
    if orientation not in (0, 1):
        notes.append(
            f"The file marks its picture as turned or mirrored (orientation {orientation}): it was taken as it is "
            "stored."
        )
    return tuple(notes)
