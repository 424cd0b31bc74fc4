"""Limits on the memory for strips, tiles and metadata of a TIFF, checked before these are decoded or built.

Codecs such as JPEG have a size in a header inside of each strip or tile, and reserve memory for it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
import tifffile

from napari_skipseg.errors import FileError
from napari_skipseg.images.set_files import find_beside
from napari_skipseg.images.tiff.ome import (
    BYTES_PER_PLANE,
    FEW_PLANES,
    LARGEST_TEXT,
    check_text,
    local_name,
    too_many_planes,
)

JPEG, JPEG_2000, PNG, JPEG_XR = (6, 7, 33007, 34892), (33003, 33004, 33005, 34712), (34933,), (22610, 34934)
WEBP, LERC, JPEG_XL = (34927, 50001), (34887,), (50002, 52546)

HEAD = 2**16
"""Bytes of a strip or tile that are searched for its header."""

_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}
"""Markers of JPEG and JPEG-LS that are followed by height and width."""

_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
"""Width to height of a JPEG XL that gives its height alone."""


def inner_pixels(compression: int, data: bytes) -> int | None:
    """Return the number of pixels in the header of a strip or tile; None if it is unknown, or the codec has none.

    data: at least its first `HEAD` bytes.
    """
    read = _READERS.get(compression)
    if read is None:
        return None
    try:
        size = read(data)
    except (struct.error, IndexError, ValueError, StopIteration):
        return None
    return None if size is None else size[0] * size[1]


def _jpeg(data: bytes) -> tuple[int, int] | None:
    place = 2
    while place + 9 <= len(data):
        if data[place] != 0xFF:
            place += 1
            continue
        marker = data[place + 1]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return height, width
        if marker in (0xFF, 0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            place += 1 if marker == 0xFF else 2
            continue
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    return None


def _jpeg_2000(data: bytes) -> tuple[int, int] | None:
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0:
        return None
    width, height, left, top = struct.unpack_from(">IIII", data, start + 8)
    components = struct.unpack_from(">H", data, start + 40)[0]
    return max(0, height - top), max(0, width - left) * max(1, components)


def _png(data: bytes) -> tuple[int, int] | None:
    start = data.find(b"IHDR")
    if start < 0:
        return None
    width, height = struct.unpack_from(">II", data, start + 4)
    return height, width


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8X":
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    return None


def _lerc(data: bytes) -> tuple[int, int] | None:
    if data.startswith(b"Lerc2 "):
        version = struct.unpack_from("<i", data, 6)[0]
        height, width = struct.unpack_from("<ii", data, 10 if version < 3 else 14)
        return max(0, height), max(0, width)
    if data.startswith(b"CntZImage "):
        height, width = struct.unpack_from("<ii", data, 18)
        return max(0, height), max(0, width)
    return None


def _jpeg_xr(data: bytes) -> tuple[int, int] | None:
    start = struct.unpack_from("<I", data, 4)[0]
    sizes = {}
    for number in range(struct.unpack_from("<H", data, start)[0]):
        tag, kind, _, value = struct.unpack_from("<HHII", data, start + 2 + 12 * number)
        sizes[tag] = value & 0xFFFF if kind == 3 else value
    return (sizes[0xBC81], sizes[0xBC80]) if {0xBC80, 0xBC81} <= sizes.keys() else None


def _jpeg_xl(data: bytes) -> tuple[int, int] | None:
    start = 0
    if data[4:8] == b"JXL ":
        start = next(place for name, place in _boxes(data) if name in (b"jxlc", b"jxlp"))
        start += 4 * (data[start - 4 : start] == b"jxlp")
    if data[start : start + 2] != b"\xff\x0a":
        return None
    bits, used = int.from_bytes(data[start + 2 : start + 18], "little"), 0

    def take(count: int) -> int:
        nonlocal used
        value = bits >> used & ((1 << count) - 1)
        used += count
        return value

    is_small = take(1)

    def length() -> int:
        return (take(5) + 1) * 8 if is_small else take((9, 13, 18, 30)[take(2)]) + 1

    height, ratio = length(), take(3)
    if not ratio:
        return height, length()
    across, down = _RATIOS[ratio]
    return height, height * across // down


def _boxes(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the name of each box of a container, and where its content begins."""
    place = 0
    while place + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, place)
        yield name, place + 8
        if size < 8:
            return
        place += size


_READERS: dict[int, Callable[[bytes], Any]] = {
    code: read
    for codes, read in (
        (JPEG, _jpeg),
        (JPEG_2000, _jpeg_2000),
        (PNG, _png),
        (JPEG_XR, _jpeg_xr),
        (WEBP, _webp),
        (LERC, _lerc),
        (JPEG_XL, _jpeg_xl),
    )
    for code in codes
}


def has_inner_size(compression: int) -> bool:
    """Return whether a codec reserves the memory that the header inside a strip or tile claims."""
    return compression in _READERS


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
