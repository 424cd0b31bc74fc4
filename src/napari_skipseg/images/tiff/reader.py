"""TIFF, ImageJ TIFF and OME-TIFF as a `Stack`, and what the numbers in them mean: palettes, 0 as white, colours."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_skipseg.images.calibration import AxisScale, FileImage, stack_from_file_image
from napari_skipseg.images.choice import Location
from napari_skipseg.images.faults import read_errors_as_sentences
from napari_skipseg.images.space import NOTHING_GIVEN, GivenSpace
from napari_skipseg.images.stack import ArrayLike, FileAxes, Stack
from napari_skipseg.images.tiff.checks import OpenTiff, open_tiff, open_unread
from napari_skipseg.images.tiff.ome import find_recipe, is_companion
from napari_skipseg.images.tiff.pages import lazy_array
from napari_skipseg.images.tiff.scales import read_scales
from napari_skipseg.images.views import InvertedArray, LookupArray


def read_tiff(
    path: Path,
    given: GivenSpace = NOTHING_GIVEN,
    are_labels: bool = False,
    image: int | None = None,
) -> Stack:
    """Return an image of a TIFF, or of an OME companion file, at full resolution; its voxels are read on demand.

    image: its number, where the file contains several. Without it, the only one or the main one beside thumbnails,
    labels and macro images.

    RGB samples become C; pages without metadata become Z, or T where there is a Z already. Axes in a different order
    than Z, Y, X are turned. If white is 0, grey values are inverted, and a palette of greys gives these (see
    `with_zero_as_black`). Resolution tags of a plain TIFF count only below 1 µm per pixel: what is coarser (72, 96,
    300 dpi) is a print size.

    are_labels: the values are numbers of classes or objects; they stay as they are stored.

    Raises:
        FileError: no such file, a folder, no TIFF, damaged, cut short, or compressed in an unknown way.
        InputError: the axes, the voxel size, the unit or the type of the voxels cannot be used; no such image.
        SeveralImagesError: several images are of equal rank, and no number is given.
    """
    opened = open_tiff(path, image)
    file, series = opened.file, opened.series
    with ExitStack() as on_failure:
        on_failure.callback(file.close)
        with read_errors_as_sentences(path):
            letters = series.get_axes(False).replace("S", "C")
            lengths = [int(length) for length in series.get_shape(False)]
            scales, notes = read_scales(file, series)
            palette = read_palette(series.keyframe)
            notes = (*note_samples(series.keyframe), *notes)

        def open_voxels(found: FileAxes) -> ArrayLike:
            return lazy_array(path, file, series, found.shape)

        name = path.name.removesuffix(path.suffix).removesuffix(".ome").removesuffix(".companion")
        found_image = FileImage(
            path,
            name if opened.number is None else f"{name}_{opened.number}",
            list(zip(letters, lengths, strict=True)),
            open_voxels,
            tuple(scales.get(letter, AxisScale()) for letter in letters),
            scales,
            notes=notes,
        )
        stack = stack_from_file_image(found_image, given)
        with read_errors_as_sentences(path):  # tags of a damaged file may hold several numbers in place of one
            data, shown = with_zero_as_black(stack.data, file, series, palette, are_labels)
        on_failure.pop_all()
    location = Location(path.absolute(), opened.number)
    notes = (*opened.notes, *shown, *stack.notes)
    return replace(stack, data=data, file=str(location), notes=notes, title=_title_of(opened))


def _title_of(opened: OpenTiff) -> str:
    """Return the name of the image in an OME-XML; tifffile invents the names of other series."""
    number = 0 if opened.number is None and len(opened.images) == 1 else opened.number
    return opened.images[number].name if number is not None and opened.file.is_ome else ""


def read_tiff_recipe(path: Path) -> dict[str, Any] | None:
    """Return the recipe in an OME-TIFF that we wrote, None if there is none.

    Raises:
        FileError: no such file, no TIFF, or damaged.
    """
    if is_companion(path):
        return None
    with read_errors_as_sentences(path), open_unread(path) as file:
        return None if file.ome_metadata is None else find_recipe(file.ome_metadata)


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
