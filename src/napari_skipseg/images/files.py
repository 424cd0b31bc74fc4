"""Image files: TIFF, OME-Zarr, MRC or a picture in as a `Stack`; which reader a path belongs to."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.calibration import check_unit
from napari_skipseg.images.mrc import is_mrc, read_mrc
from napari_skipseg.images.pictures import is_picture, read_picture
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.tiff_stack import read_tiff, read_tiff_recipe
from napari_skipseg.images.tiff_writer import write_ome_tiff
from napari_skipseg.images.zarr_nodes import METADATA, is_zarr

__all__ = ["holds_labels", "place_of", "read_levels", "read_recipe", "read_stack", "write_ome_tiff"]

PACKED = (".zip", ".ozx", ".gz", ".bz2", ".xz", ".zst", ".tar", ".7z")
"""Endings of files that hold other files or are compressed as a whole: they cannot be read in parts."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""How an address begins: `Path` makes one slash of two, and C:/ has only one letter."""


def read_stack(
    path: str | os.PathLike[str],
    axes: str | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    unit: str | None = None,
    are_labels: bool = False,
) -> Stack:
    """Return the image in a TIFF, an OME-Zarr, an MRC or a picture, its voxels read only where they are looked at.

    A folder with zarr metadata, or a path inside one, is OME-Zarr 0.1 to 0.5 or a plain zarr array (see
    `images.ome_zarr.read_zarr`); .mrc, .mrcs, .rec, .st, .ali, .map and .ccp4 are MRC (see `images.mrc.read_mrc`);
    .png, .jpg, .jpeg and .bmp are pictures, read whole (see `images.pictures.read_picture`); all else is TIFF (see
    `images.tiff_stack.read_tiff`). At full resolution. Axes of length 1 are left out, except Y and X. Axes that the
    file has in another order than Z, Y, X are turned into T, C, Z, Y, X, without reading a voxel. The type stays; byte
    order becomes the machine's. Voxel size, unit and origin follow one rule for all formats (see
    `images.calibration.calibrate`); `Stack.notes` says what was decided and how to change it.

    axes: letters of "TCZYX", one per axis in the file's order, in place of what the file says. "XYZ" says that the
    first axis of the file is x; the stack then has ZYX.
    voxel_size: (z, y, x) in `unit`, in place of the file's; never without a unit, which may be "pixel".
    unit: of `voxel_size`; given alone, of the file's own numbers.
    are_labels: the values are numbers of classes or objects, so they are not inverted where white is 0.

    Raises:
        FileError: no such file, an address, no image, damaged, cut short, or stored in an unknown way.
        InputError: the axes, the voxel size, the unit or the type of the voxels cannot be used.
    """
    place = place_of(path)
    unit = None if unit is None else check_unit(unit)
    stack = replace(_read(place, axes, voxel_size, unit, are_labels), file=str(place.absolute()))
    if voxel_size is not None and unit is None:
        sizes = " ".join(f"{size:g}" for size in voxel_size)
        known = "says no unit of its own" if stack.unit == "pixel" else f"gives its voxel size in {stack.unit}"
        raise InputError(
            f"The voxel size {sizes} has no unit, and '{place}' {known}: give the unit too (in a shell with --unit, "
            "such as nm)."
        )
    return stack


def _read(
    place: Path,
    axes: str | None,
    voxel_size: tuple[float, float, float] | None,
    unit: str | None,
    are_labels: bool,
) -> Stack:
    if is_picture(place):
        return read_picture(place, axes, voxel_size, unit)
    if is_zarr(place):
        from napari_skipseg.images.ome_zarr import read_zarr

        return read_zarr(place, axes, voxel_size, unit)
    if is_mrc(place):
        return read_mrc(place, axes, voxel_size, unit)
    return read_tiff(place, axes, voxel_size, unit, are_labels)


def read_levels(path: str | os.PathLike[str]) -> list[Stack]:
    """Return the image at all resolutions that the file holds for viewers, finest first; of most files that is one.

    Raises:
        FileError, InputError: as `read_stack`.
    """
    place = place_of(path)
    if is_picture(place) or not is_zarr(place):
        return [read_stack(place)]
    from napari_skipseg.images.ome_zarr import read_zarr_levels

    return read_zarr_levels(place)


def read_recipe(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the recipe that we stored with an image (`description`), None where there is none.

    Raises:
        FileError: no such file, no image, or damaged.
    """
    place = place_of(path)
    if is_picture(place) or (is_mrc(place) and not is_zarr(place)):
        return None
    if is_zarr(place):
        from napari_skipseg.images.ome_zarr import read_zarr_recipe

        return read_zarr_recipe(place)
    return read_tiff_recipe(place)


def holds_labels(path: str | os.PathLike[str]) -> bool:
    """Return whether a file says that its values are labels, not grey values.

    Raises:
        FileError: no such file, no image, or damaged.
    """
    recipe = read_recipe(path)
    if recipe is not None and "layer" in recipe:
        return bool(recipe["layer"] == "labels")
    place = place_of(path)
    if is_picture(place) or not is_zarr(place):
        return False
    from napari_skipseg.images.ome_zarr import is_label_image

    return is_label_image(place)


def place_of(path: str | os.PathLike[str]) -> Path:
    """Return the file, or the folder of a zarr, that a path names; it need not be there.

    Raises:
        FileError: the path is an address, or of a file that is packed.
    """
    text = os.fspath(path)
    if _ADDRESS.match(text) and not Path(text).exists():
        raise FileError(f"'{text}' is an address, and nothing is downloaded: copy the image here and give its path.")
    place = Path(text)
    if place.suffix.lower() in PACKED and place.is_file():
        raise FileError(f"'{text}' is packed: unpack it and give what was inside.")
    return place.parent if place.name in METADATA else place
