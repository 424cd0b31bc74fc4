"""The files of chunks in a zarr array: how many there are, and whether a store of ours has all of them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from napari_skipseg.durable import is_draft
from napari_skipseg.images.ome_zarr import find_image, find_levels
from napari_skipseg.images.tiff import refusing
from napari_skipseg.images.zarr_layout import OURS
from napari_skipseg.images.zarr_nodes import METADATA, read_node

UNFINISHED = ".partial"
"""Ending of a chunk's file while zarr itself writes it."""

MOST_FILES = 100_000
"""Files that are looked at; of an array with more, the first ones by name, folder by folder."""


class ChunkFiles(NamedTuple):
    """What the files of an array's chunks come to. size: in bytes. newest: latest time of change, in nanoseconds."""

    number: int
    size: int
    newest: int


def look_at_chunks(folder: Path, most: int = MOST_FILES) -> ChunkFiles:
    """Return number, size and newest time of the chunks' files of the array in `folder`, at most of the first `most`.

    Files are not opened: 30,000 on a local disk take about 0.3 s.

    Raises:
        FileError: the folder cannot be read, or is gone.
    """
    with refusing(folder, "The folder of"):
        found = [(status.st_size, status.st_mtime_ns) for status in islice(_statuses(folder), most)]
    return ChunkFiles(len(found), sum(size for size, _ in found), max((time for _, time in found), default=0))


def _statuses(folder: str | Path) -> Iterator[os.stat_result]:
    with os.scandir(folder) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    for entry in inside:
        if entry.is_dir():
            yield from _statuses(entry.path)
        elif entry.name not in METADATA and not entry.name.endswith(UNFINISHED) and not is_draft(entry.name):
            yield entry.stat()


def is_finished(path: Path) -> bool:
    """Return False where we wrote the OME-Zarr at `path` and it lacks chunks, at any level: its run did not end.

    Of a store of others nothing can be said: a chunk that is not there holds the fill value, as the standard wants.
    We write every chunk, those of zeros too.

    Raises:
        FileError: no such folder, no image, or damaged.
    """
    if OURS not in find_image(path).attributes:
        return True
    return all(_has_all_chunks(level.path) for level in find_levels(path))


def _has_all_chunks(folder: Path) -> bool:
    told = read_node(folder).array or {}
    with refusing(folder, "The metadata of"):
        chunks = told["chunk_grid"]["configuration"]["chunk_shape"]
        wanted = math.prod(-(-length // chunk) for length, chunk in zip(told["shape"], chunks, strict=True))
    return bool(look_at_chunks(folder, wanted).number == wanted)
