"""Small files that claim much cost little: strips and tiles of any codec, chains of pages, sets of Micro-Manager."""

import json
import lzma
import struct
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from test_ome_sets import read_in_a_process

from napari_skipseg.errors import FileError
from napari_skipseg.images.files import read_stack
from napari_skipseg.images.tiff import bounds
from napari_skipseg.images.tiff.bounds import HEAD, inner_pixels

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads its memory from /proc")


MICRO_MANAGER, NOTES = (51123, 2, None), b"{}      "
"""The tag that tells a file of Micro-Manager from others, and what it points to: the end of the head."""


def hand_made(path, content, compression, side, *, samples=1, tile=False, head=b"", more=()):
    """Write a TIFF of one strip or tile with this content. head: what lies before the tags. more: further tags."""
    tags = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, compression), (262, 3, 2 if samples > 1 else 1)]
    tags += [(277, 3, samples), *more]
    tags += [(322, 4, side), (323, 4, side), (324, 4, None), (325, 4, len(content))] if tile else []
    tags += [] if tile else [(273, 4, None), (278, 4, side), (279, 4, len(content))]
    first = 8 + len(head)
    data = first + 2 + 12 * len(tags) + 4
    packed = struct.pack("<H", len(tags))
    for code, kind, value in sorted(tags, key=lambda tag: tag[0]):
        if kind == 2:
            packed += struct.pack("<HHII", code, kind, len(NOTES), first - len(NOTES))
        elif kind == 3:
            packed += struct.pack("<HHIHH", code, kind, 1, value, 0)
        else:
            packed += struct.pack("<HHII", code, kind, 1, data if value is None else value)
    path.write_bytes(b"II*\0" + struct.pack("<I", first) + head + packed + bytes(4) + content)
    return path


# --- strips and tiles ------------------------------------------------------------------------------------------------

LONG = bytes(60_000_000)
STREAMS = {
    "zlib": (8, lambda: zlib.compress(LONG, 1)),
    "old-zlib": (32946, lambda: zlib.compress(LONG, 1)),
    "zstd": (50000, lambda: imagecodecs.zstd_encode(LONG, level=1)),
    "lzma": (34925, lambda: lzma.compress(LONG, preset=0)),
}


@linux
def test_one_strip_or_tile_that_claims_gigabytes_is_refused_before_it_is_decoded(tmp_path):
    paths = []
    for name, (code, content) in STREAMS.items():
        for tile in (False, True):
            paths += [
                hand_made(tmp_path / f"{name}-{tile}-{side}.tif", content(), code, side, tile=tile)
                for side in (40_000, 50_000)
            ]
    found = read_in_a_process(*paths)
    assert all("memory" in said or "far larger than its data" in said for said in found.values()), found


@linux
def test_a_stream_that_is_longer_than_its_strip_costs_no_more_than_the_strip(tmp_path):
    paths = [hand_made(tmp_path / f"{name}.tif", content(), code, 64) for name, (code, content) in STREAMS.items()]
    read_in_a_process(*paths)


def test_a_strip_of_ordinary_size_is_read_and_a_share_of_the_memory_is_the_limit(tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(0, 9, (300, 400), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, compression="zlib", rowsperstrip=300, metadata=None)
    assert np.array_equal(read_stack(tmp_path / "a.tif").data, values)
    monkeypatch.setattr(bounds, "LARGEST_SEGMENT", 300 * 400 - 1)
    with pytest.raises(FileError, match=r"One strip of .* would take"):
        read_stack(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", values, rowsperstrip=300, metadata=None)
    assert np.array_equal(read_stack(tmp_path / "b.tif").data, values)


def jpeg_that_claims(height, width):
    content = bytearray(imagecodecs.jpeg8_encode(np.zeros((16, 16), np.uint8)))
    place = content.index(b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(content)


SIDE = 3000
PICTURES = {
    "jpeg": (7, lambda side: imagecodecs.jpeg8_encode(np.zeros((side, side), np.uint8))),
    "jpeg2000": (34712, lambda side: imagecodecs.jpeg2k_encode(np.zeros((side, side), np.uint8), level=0)),
    "png": (34933, lambda side: imagecodecs.png_encode(np.zeros((side, side), np.uint8), level=1)),
    "webp": (50001, lambda side: imagecodecs.webp_encode(np.zeros((side, side, 3), np.uint8), lossless=True)),
    "webp-lossy": (50001, lambda side: imagecodecs.webp_encode(np.zeros((side, side, 3), np.uint8), level=50)),
    "lerc": (34887, lambda side: imagecodecs.lerc_encode(np.zeros((side, side), np.uint8))),
    "jpegxl": (50002, lambda side: imagecodecs.jpegxl_encode(np.zeros((side, side), np.uint8), effort=1)),
    "jpegxr": (34934, lambda side: imagecodecs.jpegxr_encode(np.zeros((side, side), np.uint8))),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_inside_a_strip_that_is_larger_than_the_strip_is_refused(tmp_path, name):
    code, encode = PICTURES[name]
    content = encode(SIDE)
    assert inner_pixels(code, content[:HEAD]) == SIDE * SIDE
    path = hand_made(tmp_path / "a.tif", content, code, 64, samples=3 if "webp" in name else 1)
    with pytest.raises(FileError, match="claims to be larger than its page"):
        read_stack(path)
    small = encode(64)
    assert inner_pixels(code, small[:HEAD]) == 64 * 64
    path = hand_made(tmp_path / "b.tif", small, code, 64, samples=3 if "webp" in name else 1)
    assert read_stack(path).shape[:2] == (64, 64)


def test_a_jpeg_that_claims_the_largest_size_there_is_costs_nothing(tmp_path):
    assert inner_pixels(7, jpeg_that_claims(65500, 65500)) == 65500**2
    with pytest.raises(FileError, match="claims to be larger than its page"):
        read_stack(hand_made(tmp_path / "a.tif", jpeg_that_claims(65500, 65500), 7, 64))


@pytest.mark.parametrize("code", [code for code, _ in PICTURES.values()])
@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"\xff\xd8\xff\xc0", bytes(40), b"\xff" * 40, b"RIFF" * 9, b"Lerc2 "]
)
def test_content_without_a_size_has_none_and_raises_nothing(code, content):
    assert inner_pixels(code, content) is None or inner_pixels(code, content) >= 0


# --- pages -----------------------------------------------------------------------------------------------------------


def chain(path, count, back_to):
    """Write pages of which the last points back to page `back_to`; None = the chain ends."""
    size = 2 + 12 * 9 + 4
    content = b"II*\0" + struct.pack("<I", 16) + bytes(8)
    for number in range(count):
        following = 16 + size * (number + 1) if number < count - 1 else 0 if back_to is None else 16 + size * back_to
        tags = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 1)]
        content += struct.pack("<H", 9) + b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in tags)
        content += struct.pack("<I", following)
    path.write_bytes(content)
    return path


@linux
def test_a_chain_of_pages_that_runs_in_a_circle_ends(tmp_path):
    found = read_in_a_process(chain(tmp_path / "long.tif", 300, 150), chain(tmp_path / "last.tif", 300, 299))
    assert all("in a circle" in said for said in found.values())
    assert read_stack(chain(tmp_path / "whole.tif", 300, None)).shape == (300, 1, 1)
    assert read_stack(chain(tmp_path / "short.tif", 5, 0)).shape == (5, 1, 1)


@pytest.mark.parametrize("kind", ["plain", "imagej", "ome"])
def test_a_photometric_tag_of_several_numbers_gets_a_sentence(tmp_path, kind):
    told = {} if kind == "plain" else {kind: True, "metadata": {"axes": "ZYX"}}
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 8, 9), np.uint8), photometric="minisblack", **told)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        order, place = file.byteorder, file.pages.first.tags[262].offset
    content = bytearray((tmp_path / "a.tif").read_bytes())
    struct.pack_into(f"{order}HHII", content, place, 262, 3, 40, 10)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(FileError):
        read_stack(tmp_path / "a.tif")


# --- Micro-Manager ---------------------------------------------------------------------------------------------------


def ndtiff(folder, places):
    """Write an NDTiff of one plane, and an index that names files for (axes, name)."""
    summary = json.dumps({"MicroManagerVersion": "2"}).encode()
    head = struct.pack("<IIII", 483729, 2, 2355492, len(summary)) + summary + NOTES
    path = hand_made(folder / "a.tif", bytes(range(64)), 1, 8, head=head, more=[MICRO_MANAGER])
    with tifffile.TiffFile(path) as file:
        offset = file.pages.first.dataoffsets[0]
    index = b""
    for axes, name in places:
        told, name = json.dumps(axes).encode(), name.encode()
        index += struct.pack("<I", len(told)) + told + struct.pack("<I", len(name)) + name
        index += struct.pack("<IiiiiIii", offset, 8, 8, 0, 0, 0, 0, 0)
    (folder / "NDTiff.index").write_bytes(index)
    return path


def test_an_ndtiff_opens_only_what_lies_beside_it(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    assert read_stack(ndtiff(folder, [({"z": 0}, "a.tif"), ({"z": 1}, "a.tif")])).shape == (2, 8, 8)
    tifffile.imwrite(tmp_path / "secret.tif", np.full((8, 8), 42, np.uint8))
    for name in ("../secret.tif", str(tmp_path / "secret.tif"), "..\\secret.tif"):
        with pytest.raises(FileError, match="names a file in a different place"):
            read_stack(ndtiff(folder, [({"z": 0}, "a.tif"), ({"z": 1}, name)]))
    with pytest.raises(FileError, match="claims more planes"):
        read_stack(ndtiff(folder, [({"z": 0}, "a.tif"), ({"z": 2**31 - 2}, "a.tif")]))


def test_a_micro_manager_stack_that_claims_much_is_refused(tmp_path):
    def write(summary, places):
        told = json.dumps({"MicroManagerVersion": "1.4", "Frames": 1, **summary}).encode()
        start = 8 + 32 + len(told)
        index = struct.pack("<II", 3453623, len(places)) + b"".join(struct.pack("<5I", *place, 0) for place in places)
        head = struct.pack("<8I", 54773648, start, 0, 0, 0, 0, 2355492, len(told)) + told + index + NOTES
        return hand_made(tmp_path / "a_MMStack.tif", bytes(64), 1, 8, head=head, more=[MICRO_MANAGER])

    for summary, places in (({"Slices": 10**9}, [(0, 0, 0, 0)]), ({}, [(0, 2**31, 0, 0)])):
        with pytest.raises(FileError, match="claims more planes"):
            read_stack(write(summary, places))
    assert read_stack(write({}, [(0, 0, 0, 0)])).shape == (8, 8)
