"""TIFF, ImageJ TIFF and OME-TIFF as a `Stack`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_skipseg.images.axes import FileAxes
from napari_skipseg.images.calibration import AxisScale
from napari_skipseg.images.file_image import FileImage, stack_of
from napari_skipseg.images.ome import find_recipe
from napari_skipseg.images.stack import ArrayLike, Stack
from napari_skipseg.images.tiff import open_tiff, refusing
from napari_skipseg.images.tiff_pages import lazy_array
from napari_skipseg.images.tiff_scales import read_scales
from napari_skipseg.images.white_is_zero import as_meant


def read_tiff(
    path: Path,
    axes: str | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    unit: str | None = None,
    are_labels: bool = False,
) -> Stack:
    """Return the first series of a TIFF at full resolution, its voxels read only where they are looked at.

    RGB samples become C; pages of which the file says nothing become Z, or T where there is a Z already. Axes in
    another order than Z, Y, X are turned. If white is 0, grey values are inverted (see `white_is_zero.as_meant`).
    Resolution tags of a plain TIFF count only below 1 µm per pixel: what is coarser (72, 96, 300 dpi) is a print size.

    are_labels: the values are numbers of classes or objects; they stay as they are stored.

    Raises:
        FileError: no such file, a folder, no TIFF, damaged, cut short, or compressed in an unknown way.
        InputError: the axes, the voxel size, the unit or the type of the voxels cannot be used.
    """
    file, series = open_tiff(path)
    with ExitStack() as on_failure:
        on_failure.callback(file.close)
        with refusing(path):
            letters = series.get_axes(False).replace("S", "C")
            lengths = [int(length) for length in series.get_shape(False)]
            scales, notes = read_scales(file, series)

        def open_voxels(found: FileAxes) -> ArrayLike:
            return lazy_array(path, file, series, found.shape)

        image = FileImage(
            path,
            path.name.removesuffix(path.suffix).removesuffix(".ome"),
            list(zip(letters, lengths, strict=True)),
            open_voxels,
            tuple(scales.get(letter, AxisScale()) for letter in letters),
            scales,
            notes=notes,
        )
        stack = stack_of(image, axes, voxel_size, unit)
        data, shown = as_meant(stack.data, file, series, are_labels)
        on_failure.pop_all()
    return replace(stack, data=data, notes=(*shown, *stack.notes))


def read_tiff_recipe(path: Path) -> dict[str, Any] | None:
    """Return the recipe in an OME-TIFF that we wrote, None where there is none.

    Raises:
        FileError: no such file, no TIFF, or damaged.
    """
    file, _ = open_tiff(path)
    with refusing(path), file:
        return None if file.ome_metadata is None else find_recipe(file.ome_metadata)
