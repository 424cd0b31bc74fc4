"""TIFF, ImageJ TIFF and OME-TIFF as a `Stack`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from napari_skipseg.images.axes import name_axes
from napari_skipseg.images.location import Location
from napari_skipseg.images.ome import Calibration, find_recipe, read_imagej, read_ome, read_resolution
from napari_skipseg.images.ome_set import is_companion
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.tiff import open_tiff, open_unread, refusing
from napari_skipseg.images.tiff_pages import lazy_array


def read_tiff(
    path: Path,
    axes: str | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    unit: str | None = None,
    image: int | None = None,
) -> Stack:
    """Return an image of a TIFF, or of an OME companion file, at full resolution; its voxels are read on demand.

    image: its number, where the file holds several. Without it, the only one or the main one beside thumbnails, labels
    and macro images.

    RGB samples become C; pages of which the file says nothing become Z, or T where there is a Z already. Resolution
    tags of a plain TIFF count only below 1 µm per pixel: what is coarser (72, 96, 300 dpi) is a print size.

    Raises:
        FileError: no such file, a folder, no TIFF, damaged, cut short, or compressed in an unknown way.
        InputError: the axes, the voxel size, the unit or the type of the voxels cannot be used; no such image.
        SeveralImagesError: several images have equal standing, and no number is given.
    """
    opened = open_tiff(path, image)
    file, series = opened.file, opened.series
    with ExitStack() as on_failure:
        on_failure.callback(file.close)
        with refusing(path):
            letters = series.get_axes(False).replace("S", "C")
            lengths = [int(length) for length in series.get_shape(False)]
            names, shape = name_axes(path, list(zip(letters, lengths, strict=True)), axes)
            calibration = _read_calibration(file, series)
        data = lazy_array(path, file, series, shape)
        on_failure.pop_all()
    name = path.name.removesuffix(path.suffix).removesuffix(".ome").removesuffix(".companion")
    file = str(Location(path.absolute(), opened.number))
    name += "" if opened.number is None else f"_{opened.number}"
    size = voxel_size or calibration.size_of(names)
    return Stack(data, names, size, unit or calibration.unit, calibration.origin, name, file, opened.notes)


def _read_calibration(file: Any, series: Any) -> Calibration:
    """Return what the file says of its voxels: OME-XML first, then ImageJ's notes, then resolution tags."""
    tags = file.pages.first.tags
    if file.is_ome and file.ome_metadata is not None:
        return read_ome(file.ome_metadata, (series.keyframe.imagelength, series.keyframe.imagewidth))
    resolution = (_per_pixel(tags.valueof(283)), _per_pixel(tags.valueof(282)))
    if file.is_imagej and file.imagej_metadata is not None:
        return read_imagej(file.imagej_metadata, resolution)
    return read_resolution(resolution, int(tags.valueof(296, default=2)))


def _per_pixel(rational: Any) -> float | None:
    """Return the value of a TIFF rational, None where it is missing or nonsense."""
    if not isinstance(rational, tuple) or len(rational) != 2 or not all(part > 0 for part in rational):
        return None
    return float(rational[0]) / float(rational[1])


def read_tiff_recipe(path: Path) -> dict[str, Any] | None:
    """Return the recipe in an OME-TIFF that we wrote, None where there is none.

    Raises:
        FileError: no such file, no TIFF, or damaged.
    """
    if is_companion(path):
        return None
    with refusing(path), open_unread(path) as file:
        return None if file.ome_metadata is None else find_recipe(file.ome_metadata)
