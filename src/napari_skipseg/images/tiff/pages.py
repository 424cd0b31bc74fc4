"""The pages of a TIFF as one lazy array."""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import FileError
from napari_skipseg.images.faults import read_errors_as_sentences
from napari_skipseg.images.stack import ArrayLike, LazyArray
from napari_skipseg.images.tiff.bounds import check_inner_sizes
from napari_skipseg.images.tiff.checks import WHOLE_PAGE, is_plain
from napari_skipseg.images.views import MappedArray

_KEPT = 2 * WHOLE_PAGE
"""Most bytes of decoded pages, strips and tiles in the cache, because neighbouring parts need the same ones."""

PageIndex = tuple[int | slice, ...]


def lazy_array(path: Path, file: Any, series: Any, shape: tuple[int, ...]) -> ArrayLike:
    """Return the voxels of `series` as a lazy array of `shape` in native byte order.

    It is a memory map if the file has plain numbers; otherwise pages are decoded on demand, and the file stays open.

    Raises:
        FileError: the first page cannot be decoded.
    """
    with read_errors_as_sentences(path):
        if is_plain(series):
            owner = series.keyframe.parent  # of a set of files it may be a different one than `path`
            file.close()
            stored = np.dtype(owner.byteorder + series.dtype.char)
            return MappedArray(Path(owner.filehandle.path), stored, series.dataoffset, shape)
        array = TiffArray(path, file, series, shape)
    if 0 not in shape:
        array[(0,) * len(shape)]
    return array


class TiffArray(LazyArray):
    """The pages of a TIFF series as one array; only what is requested is decoded."""

    def __init__(self, path: Path, file: Any, series: Any, shape: tuple[int, ...]) -> None:
        self.shape, self.dtype = shape, np.dtype(series.dtype)
        self._path, self._series = path, series
        self._leading = _leading_axes(path, shape, len(series))
        self._kept: OrderedDict[tuple[int, int | None], Any] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.RLock()
        weakref.finalize(self, file.close)

    def _read(self, index: PageIndex) -> NDArray[Any]:
        leading, inner = index[: self._leading], index[self._leading :]
        places = [
            range(part, part + 1) if isinstance(part, int) else range(*part.indices(length))
            for part, length in zip(leading, self.shape, strict=False)
        ]
        counts = [len(place) for place, part in zip(places, leading, strict=True) if isinstance(part, slice)]
        page = self.shape[self._leading :]
        window = tuple(len(range(n)[p]) for p, n in zip(inner, page, strict=True) if isinstance(p, slice))
        with read_errors_as_sentences(self._path, "The part requested of"):
            result = np.empty((math.prod(counts), *window), self.dtype)
        for number, place in enumerate(product(*places)):
            result[number] = self._read_page(place, inner)
        return result.reshape((*counts, *window))[()]

    def _read_page(self, place: tuple[int, ...], inner: PageIndex) -> NDArray[Any]:
        number = int(np.ravel_multi_index(place, self.shape[: self._leading])) if place else 0
        shape = self.shape[self._leading :]
        with self._lock, read_errors_as_sentences(self._path, f"Page {number} of"):
            page = self._series[number]
            if page.is_final and self._series.transform is None:
                stored = np.dtype(page.parent.byteorder + self.dtype.char)
                handle = page.parent.filehandle
                return np.asarray(MappedArray(Path(handle.path), stored, page.dataoffsets[0], shape)[inner])
            if math.prod(shape) * self.dtype.itemsize <= WHOLE_PAGE or page.keyframe.imagedepth > 1:
                whole: NDArray[Any] = self._decoded(page, number, None)
                return whole.reshape(shape)[inner]
            return self._part_of_page(page, number, inner)

    def _decoded(self, page: Any, number: int, segment: int | None) -> Any:
        """Return a whole page, or one strip or tile of it as `_decode` gives it; the last ones are kept."""
        key = (number, segment)
        if key not in self._kept:
            with _opened(page.parent.filehandle):
                check_inner_sizes(self._path, page, range(len(page.databytecounts)) if segment is None else (segment,))
                values = page.asarray() if segment is None else _decode(page, segment)
            if segment is None and self._series.transform is not None:
                values = self._series.transform(values)
            self._kept[key] = values
            self._kept_bytes += _bytes(values)
            while len(self._kept) > 1 and self._kept_bytes > _KEPT:
                self._kept_bytes -= _bytes(self._kept.popitem(last=False)[1])
        self._kept.move_to_end(key)
        return self._kept[key]

    def _part_of_page(self, page: Any, number: int, inner: PageIndex) -> NDArray[Any]:
        """Return `inner` of a large page, decoding only the strips or tiles that it touches."""
        samples, _, length, width, contiguous = page.keyframe.shaped
        cut, inside = list(self.shape[self._leading :]), list(inner)
        behind = len(cut) - (1 if contiguous > 1 else 0)
        spatial = (behind - 2, behind - 1)
        bounds = [_bounds(inner[axis], cut[axis]) for axis in spatial]
        (top, bottom), (left, right) = bounds
        part = np.zeros((samples, 1, bottom - top, right - left, contiguous), self.dtype)
        for segment in _segments_in(page.keyframe, samples, bounds):
            values, (sample, _, y, x, _), size = self._decoded(page, number, segment)
            if values is None:
                continue
            y0, y1 = max(y, top), min(y + size[1], bottom, length)
            x0, x1 = max(x, left), min(x + size[2], right, width)
            seen = values[0, y0 - y : y1 - y, x0 - x : x1 - x]
            part[sample, 0, y0 - top : y1 - top, x0 - left : x1 - left] = seen
        for axis, (first, last) in zip(spatial, bounds, strict=True):
            inside[axis] = _shifted(inner[axis], cut[axis], first)
            cut[axis] = last - first
        return part.reshape(cut)[tuple(inside)]


def _bytes(decoded: Any) -> int:
    values = decoded[0] if isinstance(decoded, tuple) else decoded
    return 0 if values is None else int(values.nbytes)


def _leading_axes(path: Path, shape: tuple[int, ...], pages: int) -> int:
    """Return the number of leading axes of `shape` that the pages fill."""
    for count in range(len(shape) - 1):
        if math.prod(shape[:count]) == pages:
            return count
    raise FileError(f"'{path}' has {pages} pages, which do not fill its shape {shape}: export it again.")


def _bounds(part: int | slice, length: int) -> tuple[int, int]:
    places = range(part, part + 1) if isinstance(part, int) else range(length)[part]
    return (min(places), max(places) + 1) if len(places) else (0, 0)


def _shifted(part: int | slice, length: int, first: int) -> int | slice:
    """Return `part` of an axis of `length` as an index into an array that begins at `first`."""
    if isinstance(part, int):
        return part - first
    places = range(length)[part]
    end = places.stop - first
    return slice(places.start - first, end if end >= 0 else None, places.step)


def _segments_in(page: Any, samples: int, bounds: list[tuple[int, int]]) -> Iterator[int]:
    """Yield the numbers of the strips or tiles of `page` that touch `bounds` (rows, columns)."""
    tiled = page.is_tiled
    height, width = (page.tilelength, page.tilewidth) if tiled else (page.rowsperstrip, page.imagewidth)
    rows, columns = math.ceil(page.imagelength / height), math.ceil(page.imagewidth / width)
    (top, bottom), (left, right) = bounds
    for sample in range(samples):
        for row in range(top // height, math.ceil(bottom / height)):
            for column in range(left // width, math.ceil(right / width)):
                yield (sample * rows + row) * columns + column


def _decode(page: Any, index: int) -> Any:
    """Return the decoded strip or tile `index` of `page`, its position and its size, from tifffile."""
    data = None
    if page.databytecounts[index]:
        page.parent.filehandle.seek(page.dataoffsets[index])
        data = page.parent.filehandle.read(page.databytecounts[index])
    tables = {"jpegtables": page.jpegtables, "jpegheader": page.keyframe.jpegheader}
    return page.keyframe.decode(data, index, **tables)


@contextmanager
def _opened(handle: Any) -> Iterator[None]:
    """Keep `handle` open; the other files of a multi-file OME-TIFF are closed between reads."""
    closed = handle.closed
    if closed:
        handle.open()
    try:
        yield
    finally:
        if closed:
            handle.close()
