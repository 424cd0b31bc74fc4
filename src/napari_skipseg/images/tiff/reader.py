"""TIFF, ImageJ TIFF and OME-TIFF as a `Stack`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_skipseg.images.calibration import AxisScale
from napari_skipseg.images.choice import Location
from napari_skipseg.images.faults import read_errors_as_sentences
from napari_skipseg.images.file_image import FileImage, stack_from_file_image
from napari_skipseg.images.space import NOTHING_GIVEN, GivenSpace
from napari_skipseg.images.stack import ArrayLike, FileAxes, Stack
from napari_skipseg.images.tiff.checks import OpenTiff, open_tiff, open_unread
from napari_skipseg.images.tiff.ome import find_recipe
from napari_skipseg.images.tiff.ome_set import is_companion
from napari_skipseg.images.tiff.pages import lazy_array
from napari_skipseg.images.tiff.pixel_values import note_samples, read_palette, with_zero_as_black
from napari_skipseg.images.tiff.scales import read_scales


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
    `pixel_values.as_meant`). Resolution tags of a plain TIFF count only below 1 µm per pixel: what is coarser (72, 96,
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
