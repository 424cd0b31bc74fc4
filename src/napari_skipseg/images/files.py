"""Image files: any TIFF or picture in as a `Stack`, OME-TIFF out, nothing half-written."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.ome import (
    PIXEL_TYPES,
    Calibration,
    check_unit,
    find_recipe,
    ome_xml,
    read_imagej,
    read_ome,
    read_resolution,
)
from napari_skipseg.images.pictures import is_picture, read_picture
from napari_skipseg.images.stack import ArrayLike, Stack, check_axes
from napari_skipseg.images.tiff import open_tiff, refusing
from napari_skipseg.images.tiff_pages import lazy_array

CLASSIC_TIFF = 4_000_000_000
"""Bytes up to which a file is a classic TIFF; beyond, BigTIFF."""


def read_stack(
    path: str | os.PathLike[str],
    axes: str | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    unit: str | None = None,
) -> Stack:
    """Return the image in a TIFF, ImageJ TIFF or OME-TIFF, its voxels read only where they are looked at.

    Files named .png, .jpg, .jpeg or .bmp are pictures, read whole: see `read_picture`. Of a TIFF, the first series of
    the file at full resolution. Axes of length 1 are left out, except Y and X. RGB samples become C; pages of which
    the file says nothing become Z, or T where there is a Z already. Order and type stay; byte order becomes the
    machine's. Where x and y are known but z is not, z takes y's size. Resolution tags of a plain TIFF count only below
    1 µm per pixel: what is coarser (72, 96, 300 dpi) is a print size.

    axes: letters of "TCZYX", one per axis, in place of what the file says; they name, they do not transpose.
    voxel_size: (z, y, x) in `unit`, in place of the file's.
    unit: of `voxel_size`; given alone, of the file's own numbers.

    Raises:
        FileError: no such file, a folder, no TIFF or picture, damaged, cut short, or compressed in an unknown way.
        InputError: the axes, the voxel size, the unit or the type of the voxels cannot be used.
    """
    path = Path(path)
    unit = None if unit is None else check_unit(unit)
    if is_picture(path):
        return read_picture(path, axes, voxel_size, unit or "pixel")
    file, series = open_tiff(path)
    with ExitStack() as on_failure:
        on_failure.callback(file.close)
        with refusing(path):
            names, shape = _name_axes(path, series, axes)
            calibration = _read_calibration(file, series)
        data = lazy_array(path, file, series, shape)
        on_failure.pop_all()
    z, y, x = calibration.voxel_size
    size = voxel_size or (z or (y if "Z" in names else 1.0), y, x)
    name = path.name.removesuffix(path.suffix).removesuffix(".ome")
    return Stack(data, names, size, unit or calibration.unit, calibration.origin, name)


def _name_axes(path: Path, series: Any, axes: str | None) -> tuple[str, tuple[int, ...]]:
    """Return the axes of a tifffile series in our letters, and their lengths."""
    full = list(zip(series.get_axes(False).replace("S", "C"), series.get_shape(False), strict=True))
    kept = [(name, int(length)) for name, length in full if length != 1 or name in "YX"]
    if axes is not None:
        return axes, _shape_for(axes, full, kept)
    names = [name for name, _ in kept]
    for place in reversed(range(len(names))):
        if names[place] in "IQ":
            names[place] = next((free for free in "ZT" if free not in names), names[place])
    found = "".join(names)
    try:
        check_axes(found, len(kept))
    except InputError as error:
        lengths = " × ".join(str(length) for _, length in kept)
        raise InputError(
            f"The axes of '{path}' ({found}: {lengths}) are not clear: say what they are, such as 'ZYX'."
        ) from error
    return found, tuple(length for _, length in kept)


def _shape_for(axes: str, full: Sequence[tuple[str, int]], kept: Sequence[tuple[str, int]]) -> tuple[int, ...]:
    """Return the lengths of the axes that a user has named; they may name axes of length 1 too."""
    if len(axes) == len(full) != len(kept):
        check_axes(axes, len(full))
        return tuple(int(length) for _, length in full)
    named = [(name, int(length)) for name, length in full if (name, length) in kept or name in axes]
    if len(axes) == len(named) != len(kept):
        check_axes(axes, len(named))
        return tuple(length for _, length in named)
    check_axes(axes, len(kept))
    return tuple(length for _, length in kept)


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


def read_recipe(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the recipe that `write_ome_tiff` stored in a file (its `description`), None where there is none.

    Raises:
        FileError: no such file, no TIFF or picture, or damaged.
    """
    if is_picture(Path(path)):
        return None
    file, _ = open_tiff(Path(path))
    with refusing(Path(path)), file:
        return None if file.ome_metadata is None else find_recipe(file.ome_metadata)


def write_ome_tiff(
    path: str | os.PathLike[str],
    array: ArrayLike,
    axes: str,
    voxel_size: tuple[float, float, float],
    unit: str,
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
    channel_names: Sequence[str] | None = None,
    description: Mapping[str, Any] | None = None,
) -> None:
    """Write an OME-TIFF, compressed by zlib, plane by plane: memory holds one plane.

    The same input gives the same bytes. The file appears under its name when it is whole, never before; until
    then it is `<name>.part`. A leading axis of length 1 is left out when the file is read again.

    array: anything that can be sliced, with Y and X last, or followed by C: samples of each pixel, as in RGB.
    voxel_size, origin: (z, y, x) in `unit`; with "pixel" and sizes of 1 no physical size is written.
    description: what was run, as JSON; `read_recipe` gives it back.

    Raises:
        FileError: the file cannot be written: no space, no permission, no such folder.
        InputError: the axes, the voxel size, the unit, the names or the type of the voxels cannot be stored.
    """
    path = Path(path)
    stack = Stack(array, axes, voxel_size, check_unit(unit), origin, path.name)
    dtype = np.dtype(array.dtype).newbyteorder("=")
    _check_storable(stack, dtype, channel_names)
    planar = len(axes) - (3 if axes.endswith("C") else 2)
    xml = ome_xml(
        stack.shape,
        axes,
        dtype,
        Calibration(stack.voxel_size, stack.unit, stack.origin),
        channel_names,
        description,
    )
    with _replacing(path) as part:
        _write_pages(part, stack, planar, dtype, xml)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write beside `path`; it takes that name at the end, or disappears on any fault."""
    part = path.with_name(path.name + ".part")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        yield part
        part.replace(path)
    except OSError as error:
        raise FileError(_write_fault(path, error)) from error
    finally:
        _remove(part)


def _check_storable(stack: Stack, dtype: np.dtype[Any], channel_names: Sequence[str] | None) -> None:
    if dtype.name not in PIXEL_TYPES:
        raise InputError(f"OME-TIFF cannot hold {dtype.name}: convert it to one of {', '.join(PIXEL_TYPES)}.")
    if not stack.axes.endswith(("YX", "YXC")):
        raise InputError(f"The axes '{stack.axes}' do not end with Y, X (or Y, X, C): transpose the image.")
    if channel_names is not None and len(channel_names) != stack.length("C"):
        count = stack.length("C")
        raise InputError(f"There are {len(channel_names)} names for {count} channels: give one for each.")


def _write_pages(part: Path, stack: Stack, planar: int, dtype: np.dtype[Any], xml: bytes) -> None:
    pages, page = math.prod(stack.shape[:planar]), stack.shape[planar:]
    big = math.prod(stack.shape) * dtype.itemsize * 1.01 + pages * 2048 > CLASSIC_TIFF
    rgb = len(page) == 3 and page[-1] in (3, 4) and dtype.name in ("uint8", "uint16")
    with part.open("w+b") as handle:
        with tifffile.TiffWriter(handle, bigtiff=big, byteorder="<") as writer:
            writer.write(
                _planes(stack, planar, dtype),
                shape=(pages, *page),
                dtype=dtype,
                photometric="rgb" if rgb else "minisblack",
                planarconfig="contig" if len(page) == 3 else None,
                compression="zlib",
                description=xml,
                software="napari-skipseg",
                metadata=None,
            )
        handle.flush()
        os.fsync(handle.fileno())


def _planes(stack: Stack, planar: int, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    for place in np.ndindex(*stack.shape[:planar]):
        yield np.ascontiguousarray(stack.read((*place, ...)), dtype)  # type: ignore[arg-type]


def _write_fault(path: Path, error: OSError) -> str:
    """Return the sentence for a fault of the file system, with its cure."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"There is no space left to write '{path}': free some space or choose another folder."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"'{path}' may not be written: choose a folder in which you may write."
    if error.errno == errno.EFBIG:
        return f"'{path}' is larger than the file system allows: choose another disk."
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"The folder '{path.parent}' does not exist: create it or choose another."
    if error.errno == errno.EISDIR:
        return f"'{path}' is a folder: give the name of a file."
    return f"'{path}' cannot be written ({error.strerror or error}): choose another place."


def _remove(part: Path) -> None:
    try:
        part.unlink(missing_ok=True)
    except OSError:
        return  # its folder is gone or closed to us: there is nothing of ours to remove
