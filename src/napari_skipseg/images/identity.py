"""The identity of an image by its voxels: equal for equal content, in any file or layer."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_skipseg.errors import FileError
from napari_skipseg.images.choice import parse_location
from napari_skipseg.images.faults import read_errors_as_sentences
from napari_skipseg.images.files import location_of_image, slice_files, zarr_place
from napari_skipseg.images.slices import is_pattern
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.zarr.metadata import METADATA, is_zarr, store_root

WHOLE = 2**20
"""Most voxels of an image that is hashed whole."""

HASHED_BLOCKS = 16
"""Blocks of a larger image that are hashed, each in a different slice if there are enough slices."""

HASHED_SIDE = 128
"""Side of a block along Y and X in pixels; along C it has the whole length, along other axes 1."""


def identify(stack: Stack) -> str:
    """Return a hexadecimal SHA-256 of shape, type and voxels; of a large image only a sample of blocks is hashed.

    Name, file, voxel size, byte order and the names of the axes except C do not count. Of a terabyte it reads 16 blocks
    of 128 by 128; changes elsewhere are not noticed.

    Raises:
        FileError, InputError: the voxels cannot be read or are no numbers.
    """
    digest = hashlib.sha256()
    channel = stack.space.axes.find("C")
    digest.update(f"{stack.shape} {np.dtype(stack.data.dtype).name} {channel}\n".encode())
    for index in _blocks(stack, channel):
        values = stack.read(index)
        digest.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _blocks(stack: Stack, channel: int) -> Iterator[tuple[int | slice, ...]]:
    if math.prod(stack.shape) <= WHOLE:
        yield (slice(None),) * len(stack.shape)
        return
    planes = [axis for axis, name in enumerate(stack.space.axes) if name not in "CYX"]
    slices = math.prod(stack.shape[axis] for axis in planes)
    for number in range(HASHED_BLOCKS):
        low, high = (
            number * slices // HASHED_BLOCKS,
            max(number * slices // HASHED_BLOCKS + 1, (number + 1) * slices // HASHED_BLOCKS),
        )
        chosen = low + _draw(f"slice {number} of {stack.shape}", high - low)
        places = np.unravel_index(chosen, [stack.shape[axis] for axis in planes]) if planes else ()
        index: list[int | slice] = [slice(0, length) for length in stack.shape]
        for axis, place in zip(planes, places, strict=True):
            index[axis] = int(place)
        for axis, length in enumerate(stack.shape):
            if axis != channel and axis not in planes:
                start = _draw(f"axis {axis} of block {number} of {stack.shape}", max(1, length - HASHED_SIDE + 1))
                index[axis] = slice(start, min(start + HASHED_SIDE, length))
        yield tuple(index)


def _draw(what: str, count: int) -> int:
    """Return a number from 0 to `count` - 1, always the same for `what`; numpy's generators may change."""
    return int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "little") % count


END = 64 * 2**10
"""Bytes at the beginning and at the end of a file that are hashed."""


def fingerprint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return a fingerprint, as JSON values, that changes when an image on disk changes, with its name but no folder.

    Of a file: size, time of change, and the SHA-256 of its first and last 64 KiB. It does not notice changes between
    these with the time set back, nor changes in the other files of an OME-TIFF of several.

    Of a stack of slices: the SHA-256 of their names, sizes and times of change, and that of the first and last of them.

    Of an OME-Zarr or zarr: the SHA-256 of the metadata from the store's root down to the finest level, which
    `read_stack` reads, and number, size and newest time of its chunks' files (about 0.3 s for 30,000; at most 100,000
    files are checked). So it notices chunks that are added, removed, resized or rewritten, unless times are set back;
    it ignores coarser levels, labels and other images in the store.

    Raises:
        FileError: no such file, or no image in it that `read_stack` would read.
    """
    place, location = location_of_image(path), parse_location(path)
    if is_zarr(place):
        return _of_zarr(place if location.image is None else zarr_place(path))
    if place.is_dir() or is_pattern(place):
        return _of_slices(path)
    with read_errors_as_sentences(place), place.open("rb") as handle:
        status = os.fstat(handle.fileno())
        content = hashlib.sha256(handle.read(END))
        handle.seek(max(END, status.st_size - END))
        content.update(handle.read(END))
    return {
        "name": place.name,
        "bytes": status.st_size,
        "changed_ns": status.st_mtime_ns,
        "ends_sha256": content.hexdigest(),
    }


def _of_slices(path: str | os.PathLike[str]) -> dict[str, Any]:
    files = slice_files(path)
    digest, total, newest = hashlib.sha256(), 0, 0
    for file in files:
        with read_errors_as_sentences(file):
            status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        total, newest = total + status.st_size, max(newest, status.st_mtime_ns)
    ends = [fingerprint(file)["ends_sha256"] for file in (files[0], files[-1])]
    return {
        "name": location_of_image(path).name,
        "files": len(files),
        "bytes": total,
        "changed_ns": newest,
        "files_sha256": digest.hexdigest(),
        "ends_sha256": ends,
    }


def _of_zarr(place: Path) -> dict[str, Any]:
    from napari_skipseg.images.zarr.reader import check_chunks, find_levels

    finest = find_levels(place)[0].path
    root, folder = store_root(place), finest.absolute()
    metadata = hashlib.sha256()
    with read_errors_as_sentences(place, "The metadata of"):
        for inside in (root, *(root.joinpath(*folder.relative_to(root).parts[:n]) for n in range(1, 99))):
            for name in METADATA:
                content = (inside / name).read_bytes() if (inside / name).is_file() else b""
                metadata.update(f"{inside.relative_to(root).as_posix()}/{name} {len(content)}\n".encode() + content)
            if inside == folder:
                break
    files = check_chunks(finest)
    return {
        "name": place.name,
        "metadata_sha256": metadata.hexdigest(),
        "chunks": files.number,
        "bytes": files.size,
        "changed_ns": files.newest,
    }


def check_unchanged(path: str | os.PathLike[str], before: Mapping[str, Any]) -> None:
    """Check that the fingerprint of the image at `path` is still the one `before`.

    Raises:
        FileError: it was changed or removed meanwhile.
    """
    place = location_of_image(path)
    if not place.exists() and not is_pattern(place):
        raise FileError(f"'{path}' was removed while it was read: put it back, and run again.")
    now = fingerprint(path)
    if now != dict(before):
        raise FileError(
            f"'{path}' was changed while it was read: wait until nothing writes to it any more, and run again from the "
            "beginning."
        )
