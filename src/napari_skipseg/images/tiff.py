"""Opening a TIFF with suspicion: what it claims is checked before anything is read."""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import tifffile

from napari_skipseg.errors import FileError, InputError, SkipsegError

# tifffile logs what it finds odd; without a handler Python would print that on the user's terminal.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

WHOLE_PAGE = 64 * 2**20
"""Pages of up to so many bytes are decoded whole; of larger ones only the strips or tiles looked at."""

EXPANSION = 10_000
"""A page larger than this many times its compressed data (and than `WHOLE_PAGE`) is refused.

zlib reaches 1,032 and LZW about 2,700; only an invented size goes beyond."""

SEPARATE = 2
"""The planar configuration of pages that hold one colour after the other."""

MOST_PLANES = 4_000_000
"""An OME-XML that claims more planes is refused: tifffile makes a list of them."""


@contextmanager
def refusing(path: Path, what: str = "The file") -> Iterator[None]:
    """Turn whatever reading a damaged file raises into a FileError, SkipsegErrors excepted.

    tifffile and its codecs trust the file: a hostile one makes them raise anything (IndexError, TypeError,
    struct.error, MemoryError, errors of the codecs).
    """
    try:
        yield
    except (SkipsegError, KeyboardInterrupt):
        raise
    except FileNotFoundError as error:
        raise FileError(f"'{path}' does not exist: check the name.") from error
    except IsADirectoryError as error:
        raise FileError(f"'{path}' is a folder: give an image file, or the folder of an OME-Zarr.") from error
    except PermissionError as error:
        raise FileError(f"'{path}' may not be read: ask its owner for permission.") from error
    except MemoryError as error:
        raise FileError(f"{what} '{path}' needs more memory than there is: read a smaller part.") from error
    except NotImplementedError as error:
        raise FileError(f"'{path}' is stored in a way that cannot be read: save it uncompressed.") from error
    except Exception as error:
        raise FileError(f"{what} '{path}' is damaged and cannot be read: copy or export it again.") from error


def open_tiff(path: Path) -> tuple[Any, Any]:
    """Return the open `tifffile.TiffFile` of `path` and its first series, checked but not read.

    Raises:
        FileError: there is no such file, it is no TIFF, cut short, damaged or claims an impossible size.
    """
    if path.is_dir():
        raise FileError(f"'{path}' is a folder: give an image file, or the folder of an OME-Zarr.")
    with refusing(path):
        with path.open("rb") as handle:
            start = handle.read(4)
        if not start:
            raise FileError(f"'{path}' is empty (0 bytes): copy or export it again.")
        if start[:2] not in (b"II", b"MM", b"EP") or len(start) < 4:
            raise FileError(f"'{path}' is not a TIFF file: export the image as TIFF.")
        file = tifffile.TiffFile(path)
        with ExitStack() as on_failure:
            on_failure.callback(file.close)
            _check_claims(path, file)
            series = file.series[0]
            _check_pages(path, file, series)
            on_failure.pop_all()
    return file, series


def _cut_short(path: Path) -> FileError:
    return FileError(f"'{path}' is cut short or lacks planes: copy it again, with all its companion files.")


def _check_claims(path: Path, file: Any) -> None:
    """Refuse a broken chain of pages, and OME-XML that would exhaust memory before a page is looked at."""
    last = file.pages.next_page_offset
    if last is not None and not file.is_ndpi:
        file.filehandle.seek(last)
        pointer = file.filehandle.read(file.tiff.offsetsize)
        if len(pointer) < file.tiff.offsetsize:
            raise _cut_short(path)
        following = struct.unpack(file.tiff.offsetformat, pointer)[0]
        if following and all(page.offset != following for page in file.pages):
            raise _cut_short(path)
    description = file.ome_metadata
    if description is None:
        return
    if "<!DOCTYPE" in description or "<!ENTITY" in description:
        raise FileError(f"'{path}' has OME-XML with entities, which is unsafe: export it again.")
    for pixels in _elements(description):
        sizes = [int(value) for key, value in pixels.attrib.items() if key in ("SizeT", "SizeC", "SizeZ")]
        counts = [int(value) for key, value in pixels.attrib.items() if key in ("PlaneCount", "NumPlanes")]
        if max(math.prod(sizes), *counts, 0) > MOST_PLANES:
            raise FileError(f"'{path}' claims over {MOST_PLANES} planes: it is damaged, export it again.")


def _elements(description: str) -> Iterator[ElementTree.Element]:
    """Yield the elements of an OME-XML, none where it is broken: tifffile then reads the pages without it."""
    try:
        yield from ElementTree.fromstring(description).iter()
    except ElementTree.ParseError:
        return


def _check_pages(path: Path, file: Any, series: Any) -> None:
    """Refuse pages that are missing, lie outside the file, or claim a size their data cannot fill."""
    if file.is_imagej and series.kind != "imagej":
        raise _cut_short(path)
    page = series.keyframe
    _check_kind(path, series)
    if series.dataoffset is not None:
        if series.dataoffset + math.prod(series.get_shape(False)) * series.dtype.itemsize > file.filehandle.size:
            raise _cut_short(path)
        return
    bits = page.bitspersample if isinstance(page.bitspersample, int) else sum(page.bitspersample)
    claimed = max(math.prod(page.shape), math.prod(page.chunks)) * bits // 8
    for part in series:
        if part is None or min(len(part.dataoffsets), len(part.databytecounts)) < math.prod(part.chunked):
            raise _cut_short(path)
        end = max((a + b for a, b in zip(part.dataoffsets, part.databytecounts, strict=False)), default=0)
        if end > part.parent.filehandle.size or not _has_its_data(part):
            raise _cut_short(path)
        if claimed > max(WHOLE_PAGE, EXPANSION * sum(part.databytecounts)):
            raise FileError(f"'{path}' claims to be far larger than its data: export it again.")


def _check_kind(path: Path, series: Any) -> None:
    """Refuse voxels of a kind that cannot be read, an image without any, and one among whose pages are others."""
    page = series.keyframe
    if series.dtype is None or page.dtype is None:
        raise FileError(f"'{path}' has pixels of an unknown kind: save it as 8-bit, 16-bit or float grey.")
    if series.dtype.kind == "c":
        raise InputError(f"'{path}' holds complex numbers: save their magnitude.")
    if 0 in series.get_shape(False):
        raise InputError(f"'{path}' is empty: its shape is {tuple(series.get_shape(False))}.")
    if page.compression not in tifffile.TIFF.DECOMPRESSORS:
        kind = getattr(page.compression, "name", page.compression)
        raise FileError(f"'{path}' is compressed by {kind}, which cannot be read: save it uncompressed.")
    _check_order(path, series)


def _check_order(path: Path, series: Any) -> None:
    """Refuse a stack in the middle of which a few pages are of another size or kind: without them slices would move."""
    if series.kind != "generic":
        return
    numbers = [part.index for part in series if part is not None and len(part.treeindex) == 1]
    others = sorted(set(range(numbers[0], numbers[-1])) - set(numbers)) if numbers else []
    if others and 4 * len(others) <= len(numbers):
        raise FileError(
            f"Page {others[0]} of '{path}' has another size or kind than the pages around it: it is damaged; copy or "
            "export it again."
        )


def _has_its_data(page: Any) -> bool:
    """Return whether all strips of a page are in the file.

    Tiles and colours may be left out on purpose, as slide scanners do, and are 0 then; but not all of a page.
    """
    places = zip(page.dataoffsets, page.databytecounts, strict=False)
    there = [offset > 0 and (count > 0 or page.is_final) for offset, count in places]
    return any(there) if page.keyframe.is_tiled or page.keyframe.planarconfig == SEPARATE else all(there)
