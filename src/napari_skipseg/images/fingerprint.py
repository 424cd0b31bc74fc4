"""Whether an input on disk is still what it was: cheap enough for terabytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_skipseg.errors import FileError
from napari_skipseg.images.files import place_of, slice_files, zarr_place
from napari_skipseg.images.location import parse_location
from napari_skipseg.images.slices import is_pattern
from napari_skipseg.images.tiff import refusing
from napari_skipseg.images.zarr_nodes import METADATA, is_zarr, store_root

END = 64 * 2**10
"""Bytes at the beginning and at the end of a file that are hashed."""


def fingerprint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what tells an image on disk from a changed one, as JSON, with the name of `path` and no folder.

    Of a file: size, time of change, and the SHA-256 of its first and last 64 KiB. What is rewritten in between with
    its time set back is not noticed, nor are the other files of an OME-TIFF that has several.

    Of a stack of slices: the SHA-256 of their names, sizes and times of change, and that of the first and last of them.

    Of an OME-Zarr or zarr: the SHA-256 of the metadata from the store's root down to the finest level, which is what
    `read_stack` reads, and number, size and newest time of its chunks' files (about 0.3 s for 30,000; after 100,000
    files no more are looked at). So chunks that come, go, grow or are rewritten are noticed, unless times are set
    back; coarser levels, labels and other images in the store are not.

    Raises:
        FileError: no such file, or no image in it that `read_stack` would read.
    """
    place, location = place_of(path), parse_location(path)
    if is_zarr(place):
        return _of_zarr(place if location.image is None else zarr_place(path))
    if place.is_dir() or is_pattern(place):
        return _of_slices(path)
    with refusing(place), place.open("rb") as handle:
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
    told, total, newest = hashlib.sha256(), 0, 0
    for file in files:
        with refusing(file):
            status = file.stat()
        told.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        total, newest = total + status.st_size, max(newest, status.st_mtime_ns)
    ends = [fingerprint(file)["ends_sha256"] for file in (files[0], files[-1])]
    return {
        "name": place_of(path).name,
        "files": len(files),
        "bytes": total,
        "changed_ns": newest,
        "files_sha256": told.hexdigest(),
        "ends_sha256": ends,
    }


def _of_zarr(place: Path) -> dict[str, Any]:
    from napari_skipseg.images.ome_zarr import find_levels
    from napari_skipseg.images.zarr_chunks import look_at_chunks

    finest = find_levels(place)[0].path
    root, folder = store_root(place), finest.absolute()
    metadata = hashlib.sha256()
    with refusing(place, "The metadata of"):
        for inside in (root, *(root.joinpath(*folder.relative_to(root).parts[:n]) for n in range(1, 99))):
            for name in METADATA:
                content = (inside / name).read_bytes() if (inside / name).is_file() else b""
                metadata.update(f"{inside.relative_to(root).as_posix()}/{name} {len(content)}\n".encode() + content)
            if inside == folder:
                break
    files = look_at_chunks(finest)
    return {
        "name": place.name,
        "metadata_sha256": metadata.hexdigest(),
        "chunks": files.number,
        "bytes": files.size,
        "changed_ns": files.newest,
    }


def check_unchanged(path: str | os.PathLike[str], before: Mapping[str, Any]) -> None:
    """Raise where the image at `path` is not what `fingerprint` said `before`.

    Raises:
        FileError: it was changed, or removed, meanwhile.
    """
    place = place_of(path)
    if not place.exists() and not is_pattern(place):
        raise FileError(f"'{path}' was removed while it was read: put it back, and run again.")
    now = fingerprint(path)
    if now != dict(before):
        raise FileError(
            f"'{path}' was changed while it was read: wait until nothing writes to it any more, and run again from the "
            "beginning."
        )
