"""Limits on the memory for strips, tiles and metadata of a TIFF, checked before these are decoded or built."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
import tifffile

from napari_skipseg.errors import FileError
from napari_skipseg.images.set_files import find_beside
from napari_skipseg.images.tiff.codec_sizes import HEAD, has_inner_size, inner_pixels
from napari_skipseg.images.tiff.ome_set import (
    BYTES_PER_PLANE,
    FEW_PLANES,
    LARGEST_TEXT,
    check_text,
    local_name,
    too_many_planes,
)

LARGEST_SEGMENT = 2 * 2**30
"""Most bytes of one decoded strip or tile, on any computer."""

FREE_SHARE = 0.25
"""The share of the free memory that one decoded strip or tile may take."""

USUAL_SEGMENT = 256 * 2**20
"""Most bytes of a decoded strip or tile that may have any compression ratio."""

ROOM, FEW_PIXELS = 4, 2**20
"""A strip or tile may claim at most so many times its pixels on the page, plus so many."""

USUAL_EXPANSION = 500
"""Largest compression ratio of larger ones; only an image of one value exceeds it."""


def check_segments(path: Path, page: Any) -> None:
    """Raise if a strip or tile of a page would take too much memory when it is decoded.

    Raises:
        FileError: there is one.
    """
    key = page.keyframe
    if key.compression == 1 and page.is_final:
        return
    bits = key.bitspersample if isinstance(key.bitspersample, int) else sum(key.bitspersample)
    decoded = math.prod(key.chunks) * max(bits / 8, key.dtype.itemsize)
    largest = min(LARGEST_SEGMENT, FREE_SHARE * psutil.virtual_memory().available)
    compressed = max(page.databytecounts, default=0)
    if decoded > largest or decoded > max(USUAL_SEGMENT, USUAL_EXPANSION * compressed):
        part = "tile" if key.is_tiled else "strip"
        raise FileError(
            f"One {part} of '{path}' would take {decoded / 2**30:.2g} GiB in memory (from {compressed:,} bytes): save "
            f"the image in tiles, or in strips of fewer rows."
        )


def check_inner_sizes(path: Path, page: Any, segments: Iterable[int]) -> None:
    """Raise if the header of a strip or tile claims far more pixels than it has on the page.

    The decoders of JPEG, PNG and similar codecs reserve and fill that memory before they check anything.

    Raises:
        FileError: there is one.
    """
    key = page.keyframe
    if not has_inner_size(key.compression):
        return
    most = ROOM * max(1, math.prod(key.chunks)) + FEW_PIXELS
    for segment in segments:
        count = page.databytecounts[segment]
        if not count:
            continue
        page.parent.filehandle.seek(page.dataoffsets[segment])
        pixels = inner_pixels(key.compression, page.parent.filehandle.read(min(count, HEAD)))
        if pixels is not None and pixels > most:
            raise FileError(f"A part of '{path}' claims to be larger than its page: it is damaged, export it again.")


def check_metadata(path: Path, file: Any) -> None:
    """Raise if metadata of special kinds of TIFF would make tifffile build huge lists, or open files elsewhere.

    Raises:
        FileError: the file has such metadata.
    """
    first = file.pages.first
    text = first.tags.get(270)
    if text is not None and text.count > LARGEST_TEXT:
        raise FileError(f"'{path}' has over {LARGEST_TEXT // 2**20} MiB of metadata: export it again.")
    if first.description.lstrip()[:1] == "<":
        check_text(path, first.description)
    most = max(FEW_PLANES, file.filehandle.size // BYTES_PER_PLANE)
    if file.is_scn:
        for element in ElementTree.fromstring(file.scn_metadata).iter():
            if local_name(element) == "dimension" and any(int(element.get(key, "0")) >= most for key in "czr"):
                raise too_many_planes(path)
    elif file.is_mmstack:
        _check_mmstack(path, file, most)
    elif file.is_ndtiff:
        _check_ndtiff(path)


def _check_mmstack(path: Path, file: Any, most: int) -> None:
    metadata = file.micromanager_metadata
    summary, places = metadata["Summary"], metadata["IndexMap"]
    keys = ("Channels", "Slices", "Frames", "Positions")
    lengths = [max(int(summary.get(key, 1)), int(places[:, n].max(initial=0)) + 1) for n, key in enumerate(keys)]
    beside = [each for each in path.parent.iterdir() if "_MMStack" in each.name and each.suffix.lower() == ".tif"]
    for each in beside:
        find_beside(path, each.name)
    size = sum(each.stat().st_size for each in beside)
    if math.prod(lengths) > max(most, size // BYTES_PER_PLANE):
        raise too_many_planes(path)


def _check_ndtiff(path: Path) -> None:
    index = find_beside(path, "NDTiff.index")
    names: set[str] = set()
    lengths: dict[str, tuple[int, int]] = {}
    for axes, name, *_ in tifffile.read_ndtiff_index(index):
        names.add(name)
        for axis, place in axes.items():
            if isinstance(place, int):
                low, high = lengths.get(axis, (place, place))
                lengths[axis] = (min(low, place), max(high, place))
    size = sum(find_beside(path, name).stat().st_size for name in names)
    if math.prod(high - low + 1 for low, high in lengths.values()) > max(FEW_PLANES, size // BYTES_PER_PLANE):
        raise too_many_planes(path)
