"""TIFFs whose photometric interpretation says that 0 is white: grey values as they are meant."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_skipseg.images.stack import ArrayLike
from napari_skipseg.images.views import InvertedArray

WHITE_IS_ZERO = 0
"""The value of the tag PhotometricInterpretation."""

MOST_LOOKED_AT = 32 * 2**20
"""Voxels that are looked at to tell a mask from an image."""

SLICES = 16
"""Slices that are looked at, spread over the stack."""


def as_meant(data: ArrayLike, file: Any, series: Any, are_labels: bool) -> tuple[ArrayLike, tuple[str, ...]]:
    """Return the values of a TIFF as they are meant, and notes: inverted if the file says that 0 is white.

    They become top - value, with the largest value of the file's bits as `top`, as Pillow does. These stay as they are
    stored: labels, which are numbers and no greys; masks of two values, in which ImageJ, for one, stores the object as
    255 and shows it black; the bits that tifffile writes, with this tag, for an array of true and false; signed numbers
    and fractions, which have no top.

    file: an open `tifffile.TiffFile`. series: one of its series, of which `data` are the voxels.
    """
    page = series.keyframe
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
        return data, (f"The file says that white is 0, but holds only 0 and {top}: a mask, taken as it is stored.",)
    return InvertedArray(data, top), (f"The file says that white is 0: its values were inverted ({top} - value).",)


def _is_mask(data: ArrayLike, top: int) -> bool:
    """Return whether there are only two values, 0 and `top`, in slices that are spread over an image."""
    leading = tuple(int(length) for length in data.shape[:-2])
    count = int(np.prod(leading, dtype=np.int64))
    slice_size = int(data.shape[-2]) * int(data.shape[-1])
    looked_at = max(1, min(count, SLICES, MOST_LOOKED_AT // slice_size))
    rows = slice(0, max(1, MOST_LOOKED_AT // int(data.shape[-1])))
    for number in np.unique(np.linspace(0, count - 1, looked_at).astype(int)):
        values = np.asarray(data[(*(int(part) for part in np.unravel_index(number, leading)), rows)])
        if ((values != 0) & (values != top)).any():
            return False
    return True
