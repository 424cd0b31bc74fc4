"""Read image files (TIFF, OME-Zarr, MRC, pictures, folders of slices) as a `Stack`, each with its reader."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.images.choice import (
    ImageInfo,
    Location,
    SeveralImagesError,
    check_number,
    find_number,
    location_of_files,
    parse_location,
)
from napari_skipseg.images.mrc import is_mrc, read_mrc
from napari_skipseg.images.pictures import is_lossy, is_picture, list_pictures, read_picture
from napari_skipseg.images.slices import TIFF_ENDINGS, files_matching, is_pattern, read_slices, slice_names
from napari_skipseg.images.space import NOTHING_GIVEN, GivenSpace, check_unit
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.tiff.checks import list_tiff_images, open_tiff
from napari_skipseg.images.tiff.reader import read_tiff, read_tiff_recipe
from napari_skipseg.images.tiff.writer import write_ome_tiff
from napari_skipseg.images.zarr.metadata import METADATA, is_zarr

__all__ = ["holds_labels", "location_of_image", "read_levels", "read_recipe", "read_stack", "write_ome_tiff"]

PACKED = (".zip", ".ozx", ".gz", ".bz2", ".xz", ".zst", ".tar", ".7z")
"""Endings of archives and files that are compressed as a whole: they cannot be read in parts."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""How an address begins: `Path` makes one slash of two, and C:/ has only one letter."""


def read_stack(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    axes: str | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    unit: str | None = None,
    are_labels: bool = False,
    image: int | str | None = None,
) -> Stack:
    """Return the image in a TIFF, an OME-Zarr, an MRC or a picture; voxels are read on demand.

    A folder with zarr metadata, or a path inside one, is OME-Zarr 0.1 to 0.5 or a plain zarr array (see
    `images.zarr.reader.read_zarr`); .mrc, .mrcs, .rec, .st, .ali, .map and .ccp4 are MRC (see `images.mrc.read_mrc`);
    .png, .jpg, .jpeg and .bmp are pictures, read whole (see `images.pictures.read_picture`); .ome is the companion of
    OME-TIFFs; all else is TIFF (see `images.tiff.reader.read_tiff`). At full resolution. Axes of length 1 are left out,
    except Y and X. If the file's order is not Z, Y, X, the axes are transposed to T, C, Z, Y, X, without reading a
    voxel. The type stays; the byte order becomes the machine's. Voxel size, unit and origin follow one rule for all
    formats (see `images.calibration.calibrate`); `Stack.notes` has the decisions and how to change them.

    Any other folder is a stack of its images, one slice each, in natural order (2 before 10); so is a pattern such as
    sections/s_*.tif, and a list of files, in its own order (see `images.slices.read_slices`).

    path: also with the number of an image, such as "positions.ome.tif#1" (see `images.choice`).
    axes: letters of "TCZYX", one per axis in the file's order; they override those of the file. "XYZ" means that the
    first axis of the file is x; the stack then has ZYX.
    voxel_size: (z, y, x) in `unit`; overrides that of the file; needs a unit, which may be "pixel".
    unit: of `voxel_size`; given alone, of the file's own numbers.
    are_labels: the values are numbers of classes or objects, so they are not inverted if white is 0.
    image: its number, from 0, or its name, if the file contains several (`list_images`). Without it, the only one is
    read, or the main one beside thumbnails, labels and macro images, which a note then lists.

    Raises:
        FileError: no such file, an address, no image, damaged, cut short, or stored in an unknown way.
        SeveralImagesError: the file contains several images of equal rank, and none is named.
        InputError: the axes, the voxel size, the unit, the image or the type of the voxels cannot be used.
    """
    if isinstance(image, str):
        if not isinstance(path, str | os.PathLike):
            raise InputError(f"A list of files is one image: leave out the image '{image}'.")
        image = find_number(location_of_image(path), list_images(path), image)
    address = _location_of(path, image)
    unit = None if unit is None else check_unit(unit)
    stack = _read_location(address, GivenSpace(axes, voxel_size, unit), are_labels)
    if voxel_size is not None and unit is None:
        sizes = " ".join(f"{size:g}" for size in voxel_size)
        known = f"has its voxel size in {stack.space.unit}" if stack.space.has_size else "has no unit of its own"
        raise InputError(
            f"The voxel size {sizes} has no unit, and '{address.path}' {known}: give the unit too (in a shell with "
            "--unit, such as nm)."
        )
    return stack


def list_images(path: str | os.PathLike[str]) -> tuple[ImageInfo, ...]:
    """Return the images in a file, by number: one, unless it is a TIFF, an OME-Zarr or a picture of several.

    Raises:
        FileError: as `read_stack`.
    """
    place = location_of_image(path)
    if is_zarr(place):
        from napari_skipseg.images.zarr.reader import list_zarr_images

        return list_zarr_images(place)
    if is_picture(place):
        return list_pictures(place)
    if is_mrc(place) or place.is_dir() or is_pattern(place):
        return (_only(read_stack(path)),)
    return list_tiff_images(place)


def images_to_read(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return a path for `read_stack` for each image of equal rank in a file, in order; mostly the path itself.

    For a file that cannot be read it is the path, too, so that reading it raises the error.
    """
    try:
        place, location = location_of_image(path), parse_location(path)
        images = () if location.image is not None or location.slices else list_images(place)
        if len(images) > 1:
            read_stack(place)  # the main one, beside thumbnails
    except SeveralImagesError as error:
        if is_zarr(place):
            return tuple(str(place / info.name) for info in error.images)
        return tuple(str(Location(place, info.number)) for info in error.images)
    except SkipsegError:
        pass
    return (os.fspath(path),)


def _location_of(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], image: int | None) -> Location:
    """Return the location of an image: its path, its number, and its slices if they are named."""
    if not isinstance(path, str | os.PathLike):
        found = location_of_files(path)
        return replace(found, image=image)
    place, named = location_of_image(path), parse_location(path).image
    if None not in (named, image) and named != image:
        raise InputError(f"'{path}' names image {named}, and image {image} is requested: give one of them.")
    number = named if image is None else image
    if is_pattern(place):
        return replace(location_of_files(files_matching(place)), image=number)
    return Location(place, number, parse_location(path).slices)


def _read_location(location: Location, given: GivenSpace, are_labels: bool) -> Stack:
    place = location.path
    if not location.slices and (not place.is_dir() or is_zarr(place)):
        stack = _read(place, given, are_labels, location.image)
        return stack if stack.file else replace(stack, file=str(place.absolute()))
    if location.image is not None:
        raise InputError(f"'{place}' is a folder of slices, which is one image: leave out the number of an image.")
    names = location.slices or slice_names(place)
    if len(names) == 1 or _is_one_set(place, names):
        stack = _read(place / names[0], given, are_labels)
        return replace(stack, file=str(place.absolute() if not location.slices else (place / names[0]).absolute()))

    def read_slice(path: Path) -> Stack:
        return _read(path, NOTHING_GIVEN, are_labels)

    stack = read_slices(place, names, read_slice, given)
    whole = not location.slices or list(names) == _names_in(place)
    return replace(stack, file=str(Location(place.absolute(), None, () if whole else tuple(names))))


def files_of_image(path: Path) -> tuple[str, ...]:
    """Return the names of the files that hold one image together with `path`, an OME-TIFF; empty for any other file."""
    if ".ome." not in path.name.lower() or path.suffix.lower() not in TIFF_ENDINGS:
        return ()
    try:
        opened = open_tiff(path)
    except SkipsegError:
        return ()
    opened.file.close()
    return opened.files


def _names_in(folder: Path) -> list[str]:
    """Return the slices of a folder, none if it is not one stack."""
    try:
        return slice_names(folder)
    except SkipsegError:
        return []


def _is_one_set(folder: Path, names: Sequence[str]) -> bool:
    """Return whether files are the OME-TIFFs of one image, so that any of them opens it.

    Raises:
        InputError: only some of them are.
    """
    first = folder / names[0]
    files = files_of_image(first)
    if not files:
        return False
    other = next((name for name in names if name not in files), None)
    if other is not None:
        raise InputError(
            f"'{names[0]}' in '{folder}' is part of a set of OME-TIFFs to which '{other}' does not belong: give one "
            f"file of the set, such as '{first}'."
        )
    return True


def _read(place: Path, given: GivenSpace, are_labels: bool, image: int | None = None) -> Stack:
    if is_picture(place):
        return read_picture(place, given, image)
    if is_zarr(place):
        from napari_skipseg.images.zarr.reader import read_zarr, zarr_image

        return read_zarr(zarr_image(place, image), given)
    if is_mrc(place):
        stack = read_mrc(place, given)
        check_number(place, [_only(stack)], image or 0)
        return stack
    return read_tiff(place, given, are_labels, image)


def _only(stack: Stack) -> ImageInfo:
    return ImageInfo(0, "", stack.space.axes, stack.shape, str(stack.data.dtype))


def read_levels(path: str | os.PathLike[str]) -> list[Stack]:
    """Return the image at all resolutions in the file, the finest first; most files have one.

    Raises:
        FileError, InputError: as `read_stack`.
    """
    place = location_of_image(path)
    if is_picture(place) or not is_zarr(place):
        return [read_stack(path)]
    from napari_skipseg.images.zarr.reader import read_zarr_levels

    return read_zarr_levels(zarr_place(path))


def zarr_place(path: str | os.PathLike[str]) -> Path:
    """Return the folder of the image that a path names in an OME-Zarr."""
    from napari_skipseg.images.zarr.reader import zarr_image

    return zarr_image(location_of_image(path), parse_location(path).image)


def read_recipe(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the recipe that we stored with an image (`description`), None if there is none.

    Raises:
        FileError: no such file, no image, or damaged.
    """
    place = location_of_image(path)
    if is_zarr(place):
        from napari_skipseg.images.zarr.reader import read_zarr_recipe

        return read_zarr_recipe(zarr_place(path))
    if is_picture(place) or is_mrc(place) or place.is_dir() or is_pattern(place):
        return None
    return read_tiff_recipe(place)


def slice_files(path: str | os.PathLike[str]) -> list[Path]:
    """Return the files of the stack that a folder, a pattern or the location of slices names, in their order.

    Raises:
        FileError, InputError: as `read_stack`.
    """
    place, slices = location_of_image(path), parse_location(path).slices
    return files_matching(place) if is_pattern(place) else [place / name for name in slices or slice_names(place)]


def holds_lossy(path: str | os.PathLike[str]) -> bool:
    """Return whether an image, or a slice of a stack, is a JPEG; its values differ slightly from those that were saved.

    Raises:
        FileError, InputError: as `read_stack` of a folder or a pattern.
    """
    place = location_of_image(path)
    is_stack = is_pattern(place) or (place.is_dir() and not is_zarr(place))
    return any(map(is_lossy, slice_files(path))) if is_stack else is_lossy(place)


def holds_labels(path: str | os.PathLike[str]) -> bool:
    """Return whether the metadata of a file mark its values as labels, not grey values.

    Raises:
        FileError: no such file, no image, or damaged.
    """
    recipe = read_recipe(path)
    if recipe is not None and "layer" in recipe:
        return bool(recipe["layer"] == "labels")
    place = location_of_image(path)
    if is_picture(place) or not is_zarr(place):
        return False
    from napari_skipseg.images.zarr.reader import is_label_image

    return is_label_image(zarr_place(path))


def is_there(path: str | os.PathLike[str]) -> bool:
    """Return whether a path names a file or a folder that exists."""
    try:
        return location_of_image(path).exists()
    except (SkipsegError, OSError, ValueError):
        return False


def location_of_image(path: str | os.PathLike[str]) -> Path:
    """Return the file or the folder that a path names, without the number of an image; it need not be there.

    Raises:
        FileError: the path is an address or an archive.
    """
    text = os.fspath(path)
    if _ADDRESS.match(text) and not Path(text).exists():
        raise FileError(f"'{text}' is an address, and nothing is downloaded: copy the image here and give its path.")
    place = parse_location(text).path
    if place.suffix.lower() in PACKED and place.is_file():
        raise FileError(f"'{text}' is packed: unpack it and give the image inside.")
    return place.parent if place.name in METADATA else place
