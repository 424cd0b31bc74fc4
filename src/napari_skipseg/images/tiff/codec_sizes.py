"""The size in the header inside a strip or tile, for codecs that reserve memory according to it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

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
