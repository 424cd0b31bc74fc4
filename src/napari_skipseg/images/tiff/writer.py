"""Write OME-TIFF plane by plane, or a large plane tile by tile; a file appears only when it is whole."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.faults import replacing
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import ArrayLike, Stack
from napari_skipseg.images.tiff.ome import PIXEL_TYPES, ome_xml

CLASSIC_TIFF = 4_000_000_000
"""Bytes up to which a file is a classic TIFF; beyond, BigTIFF."""

LARGEST_PLANE = 64 * 2**20
"""Bytes up to which a plane is written whole; a larger one in tiles, read a row of tiles at a time."""

TILE = 512
"""Side of those tiles, in pixels."""

EFFORT = 1
"""The level of zlib: about twice as fast as its default, with files 0 to 5 % larger (masks, which are tiny, 50 %).

No predictor is used: it makes soft probabilities 12 % smaller, but sharp ones and masks larger."""


def write_ome_tiff(
    path: str | os.PathLike[str],
    array: ArrayLike,
    space: Space,
    channel_names: Sequence[str] | None = None,
    description: Mapping[str, Any] | None = None,
    synced: bool = True,
    title: str = "",
) -> None:
    """Write an OME-TIFF, compressed by zlib, BigTIFF where it may exceed 4 GB; memory holds one plane.

    Of a plane over 64 MiB it contains a row of 512-pixel tiles. The same input gives the same bytes. The file appears
    under its name when it is whole, never before. A leading axis of length 1 is left out when the file is read again.

    array: anything that can be sliced, with Y and X last, or followed by C: samples of each pixel, as in RGB.
    space: where it lies; if the unit is "pixel" and all sizes are 1, no physical size is written.
    description: what was run, as JSON; `read_recipe` gives it back. synced: the file is on disk when this returns.
    title: the name of the image in the OME-XML, such as that of a stage position; "" = none.

    Raises:
        FileError: the file cannot be written: no space, no permission, no such folder.
        InputError: the axes, the names or the type of the voxels cannot be stored.
    """
    path = Path(path)
    stack = Stack(array, space, path.name)
    dtype = np.dtype(array.dtype).newbyteorder("=")
    _check_storable(stack, dtype, channel_names)
    planar = len(space.axes) - (3 if space.axes.endswith("C") else 2)
    xml = ome_xml(stack.shape, space, dtype, channel_names, description, title)
    with replacing(path, synced) as handle:
        _write_pages(handle, stack, planar, dtype, xml)


def _check_storable(stack: Stack, dtype: np.dtype[Any], channel_names: Sequence[str] | None) -> None:
    if dtype.name not in PIXEL_TYPES:
        raise InputError(f"OME-TIFF does not support {dtype.name}: convert it to one of {', '.join(PIXEL_TYPES)}.")
    if not stack.space.axes.endswith(("YX", "YXC")):
        raise InputError(f"The axes '{stack.space.axes}' do not end with Y, X (or Y, X, C): transpose the image.")
    if channel_names is not None and len(channel_names) != stack.length("C"):
        count = stack.length("C")
        raise InputError(f"There are {len(channel_names)} names for {count} channels: give one for each.")


def _write_pages(handle: BinaryIO, stack: Stack, planar: int, dtype: np.dtype[Any], xml: bytes) -> None:
    pages, page = math.prod(stack.shape[:planar]), stack.shape[planar:]
    big = math.prod(stack.shape) * dtype.itemsize * 1.01 + pages * 2048 > CLASSIC_TIFF
    rgb = len(page) == 3 and page[-1] in (3, 4) and dtype.name in ("uint8", "uint16")
    large = math.prod(page) * dtype.itemsize > LARGEST_PLANE
    with tifffile.TiffWriter(handle, bigtiff=big, byteorder="<") as writer:
        writer.write(
            (_tiles if large else _planes)(stack, planar, dtype),
            shape=(pages, *page),
            dtype=dtype,
            tile=(TILE, TILE) if large else None,
            photometric="rgb" if rgb else "minisblack",
            planarconfig="contig" if len(page) == 3 else None,
            extrasamples=("unspecified",) if rgb and page[-1] == 4 else None,  # a channel, not transparency
            compression="zlib",
            compressionargs={"level": EFFORT},
            description=xml,
            software="napari-skipseg",
            metadata=None,
        )


def _planes(stack: Stack, planar: int, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    for place in np.ndindex(*stack.shape[:planar]):
        yield np.ascontiguousarray(stack.read((*place, ...)), dtype)  # type: ignore[arg-type]


def _tiles(stack: Stack, planar: int, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """Yield the tiles of every plane, row by row; those at the far borders are filled up with zeros."""
    height, width, *samples = stack.shape[planar:]
    for place in np.ndindex(*stack.shape[:planar]):
        for top in range(0, height, TILE):
            band = stack.read((*place, slice(top, min(top + TILE, height)), ...))  # type: ignore[arg-type]
            for left in range(0, width, TILE):
                tile = np.zeros((TILE, TILE, *samples), dtype)
                seen = band[:, left : left + TILE]
                tile[: seen.shape[0], : seen.shape[1]] = seen
                yield tile
