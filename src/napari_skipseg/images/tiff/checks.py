"""Open a TIFF safely: its claims are checked before anything is read."""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import tifffile

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.choice import ImageChoice, ImageInfo, choose_image, main_image, note_beside
from napari_skipseg.images.faults import read_errors_as_sentences
from napari_skipseg.images.set_files import check_regular, find_beside
from napari_skipseg.images.tiff.bounds import check_metadata, check_segments
from napari_skipseg.images.tiff.images import held_images, mark_copies, note_copies, page_at, series_of
from napari_skipseg.images.tiff.ome import (
    BYTES_PER_PLANE,
    FEW_PLANES,
    OmeImage,
    OmeSet,
    check_claims,
    check_own_planes,
    is_companion,
    parse_set,
    read_companion,
    too_many_planes,
)

# tifffile logs oddities of files; without a handler Python would print them on the user's terminal
logging.getLogger("tifffile").addHandler(logging.NullHandler())

SHORT_CIRCLE = 100
"""tifffile itself detects a circle in the chain of pages if it has fewer pages than this."""

WHOLE_PAGE = 64 * 2**20
"""Most bytes of a page that is decoded whole; of a larger one only the needed strips or tiles are decoded."""

EXPANSION = 10_000
"""A page larger than this many times its compressed data (and than `WHOLE_PAGE`) is refused.

zlib reaches 1,032 and LZW about 2,700; only an invented size goes beyond."""

_MOST_LOOKED_AT = 100
"""Most pages that are read one by one to count those that are not in an OME-XML."""

SEPARATE = 2
"""The planar configuration of pages that store one colour after the other."""


class OpenTiff(NamedTuple):
    """An open TIFF and the series of the chosen image: checked, but not read.

    file: the `tifffile.TiffFile`; its own series must not be used. number: of the image, if a user named one of
    several. images: all in the file. notes: on images that are left out. files: names of the files of the image, if
    there are several.
    """

    file: Any
    series: Any
    number: int | None
    images: tuple[ImageInfo, ...]
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def open_tiff(path: Path, image: int | None = None) -> OpenTiff:
    """Return an image of a TIFF, or of the set of TIFFs that an OME companion file describes.

    image: its number, from 0; None = the only or main one.

    Raises:
        FileError: there is no such file, it is no TIFF, cut short, damaged or claims an impossible size.
        SeveralImagesError: no number is given, and several images are of equal rank.
        InputError: there is no image of this number.
    """
    with read_errors_as_sentences(path), ExitStack() as on_failure:
        opened = _open_companion(path, image) if is_companion(path) else _open_file(path, image, on_failure)
        on_failure.callback(opened.file.close)
        _check_pages(path, opened)
        on_failure.pop_all()
    return opened


def list_tiff_images(path: Path) -> tuple[ImageInfo, ...]:
    """Return the images of a TIFF, or of an OME companion file; nothing of them is read.

    Raises:
        FileError: as `open_tiff`.
    """
    with read_errors_as_sentences(path), ExitStack() as leaving:
        if is_companion(path):
            return tuple(each.info for each in _known_set(path, read_companion(path)).images)
        file = open_unread(path)
        leaving.callback(file.close)
        if (found := _set_of(path, file)) is not None:
            return tuple(each.info for each in found.images)
        return tuple(each.info for each in held_images(path, file))


def open_unread(path: Path) -> Any:
    """Return the open `tifffile.TiffFile` of a path, its chain of pages followed and no series made.

    Raises:
        FileError: it is no TIFF, or cut short, or its metadata cannot be read.
    """
    if path.is_dir():
        raise FileError(f"'{path}' is a folder: give an image file, or the folder of an OME-Zarr.")
    check_regular(path)
    with path.open("rb") as handle:
        start = handle.read(4)
    if not start:
        raise FileError(f"'{path}' is empty (0 bytes): copy or export it again.")
    if start[:2] not in (b"II", b"MM", b"EP") or len(start) < 4:
        raise FileError(f"'{path}' is not a TIFF file: export the image as TIFF.")
    file = tifffile.TiffFile(path)
    try:
        _check_chain(path, file)
        check_metadata(path, file)
    except BaseException:
        file.close()
        raise
    return file


@contextmanager
def first_page(path: Path) -> Iterator[tuple[Any, int]]:
    """Yield the first page of a TIFF and how many pages it has; no series is made of them.

    Raises:
        FileError: it is no TIFF, or cut short.
    """
    with open_unread(path) as file:
        yield file.pages.first, len(file.pages)


def _open_file(path: Path, image: int | None, on_failure: ExitStack) -> OpenTiff:
    file = open_unread(path)
    on_failure.callback(file.close)
    found = _set_of(path, file)
    if found is not None and found.images:
        return _open_of_set(path, file, found, image)
    held = held_images(path, file)
    if not held or (file.is_imagej and not file.is_ome and all(each.series.kind != "imagej" for each in held)):
        raise _cut_short(path)
    if image is None and main_image([each.info for each in held]) is None:
        held = mark_copies(path, held)
    infos = tuple(each.info for each in held)
    chosen = choose_image(path, infos, image)
    series = held[chosen.number].series
    notes = tuple(note for note in (chosen.note, note_copies(path, series)) if note)
    return OpenTiff(file, series, image if len(held) > 1 else None, infos, notes)


def _set_of(path: Path, file: Any) -> OmeSet | None:
    """Return the images in the OME-XML of a file, or of the companion that it names; None without any."""
    text = file.ome_metadata
    found = None if text is None else parse_set(path, text)
    if found is None or not found.metadata_file:
        if found is not None:
            check_own_planes(path, found)
        return found
    companion = find_beside(path, found.metadata_file)
    with companion.open("rb") as handle:
        is_tiff = handle.read(2) in (b"II", b"MM")
    if not is_tiff:
        return replace(_known_set(companion, read_companion(companion)), is_elsewhere=True)
    with open_unread(companion) as other:
        text = other.ome_metadata
    if text is None:
        raise FileError(f"'{companion}', which has the metadata of '{path.name}', has no OME-XML: export it again.")
    return replace(_known_set(companion, text), is_elsewhere=True)


def _known_set(path: Path, text: str) -> OmeSet:
    found = parse_set(path, text)
    if found is None or not found.images:
        raise FileError(f"'{path}' names no image: give the image file, or export it again.")
    return found


def _open_companion(path: Path, image: int | None) -> OpenTiff:
    found = _known_set(path, read_companion(path))
    chosen = choose_image(path, [each.info for each in found.images], image)
    named = [name for name in found.images[chosen.number].files if name]
    if not named:
        raise FileError(f"'{path}' names no file with the planes of its image: give the image file.")
    first = find_beside(path, named[0])
    return _open_alone(first, found, chosen, image, path)


def _open_of_set(path: Path, file: Any, found: OmeSet, image: int | None) -> OpenTiff:
    """Return an image of the OME-XML in `file`; if several files have images of their own, that of this file."""
    infos = [each.info for each in found.images]
    own = [each.info for each in found.images if "" in each.files or path.name in each.files]
    if image is None and 0 < len(own) < len(infos) and (main := main_image(own)) is not None:
        chosen = ImageChoice(main.number, note_beside(path, main, infos))
    else:
        chosen = choose_image(path, infos, image)
    if len(infos) > 1 or found.is_elsewhere:
        file.close()
        return _open_alone(path, found, chosen, image, path)
    only = found.images[0]
    check_claims(path, found, only)
    series = series_of(file)
    if not series or series[0].kind != "ome":
        held = held_images(path, file)
        return OpenTiff(file, held[choose_image(path, [each.info for each in held], image).number].series, None, ())
    notes = [note] if (note := _unnamed_pages(path, file, series[0])) else []
    return OpenTiff(file, series[0], None, tuple(infos), tuple(notes), _names_of(path, only))


def _open_alone(path: Path, found: OmeSet, chosen: ImageChoice, image: int | None, given: Path) -> OpenTiff:
    """Return one image of a set, with an OME-XML of this image only. given: the path from the user."""
    only = found.images[chosen.number]
    check_claims(path, found, only)
    file = tifffile.TiffFile(path, omexml=found.text_of(only))
    try:
        series = series_of(file)
        if not series or series[0].kind != "ome":
            raise _cut_short(given)
    except BaseException:
        file.close()
        raise
    infos = tuple(each.info for each in found.images)
    number = image if len(infos) > 1 else None
    return OpenTiff(file, series[0], number, infos, (chosen.note,) if chosen.note else (), _names_of(path, only))


def _names_of(path: Path, image: OmeImage) -> tuple[str, ...]:
    """Return the names of the files of an image, none if it is in one file."""
    names = tuple(dict.fromkeys(name or path.name for name in image.files))
    return names if len(names) > 1 else ()


def _unnamed_pages(path: Path, file: Any, series: Any) -> str:
    """Return a sentence on pages that are not in the OME-XML, "" if there are none."""
    used = {page.index for page in series if page is not None and page.parent is file}
    others = [number for number in range(len(file.pages)) if number not in used] if used else []
    count = sum(not page_at(file, number).is_reduced for number in others[:_MOST_LOOKED_AT])
    count += max(0, len(others) - _MOST_LOOKED_AT)
    return f"'{path.name}' has pages that are not in its OME-XML ({count}); they are left out." if count else ""


def _cut_short(path: Path) -> FileError:
    return FileError(f"'{path}' is cut short or lacks planes: copy it again, with all its companion files.")


def _check_chain(path: Path, file: Any) -> None:
    """Raise for a broken chain of pages, and for a long circle of pages, which tifffile would follow for ever."""
    if file.is_ndpi:
        return
    tiff, handle = file.tiff, file.filehandle
    seen: set[int] = set()
    following = file.pages.first.offset
    while following:
        if following in seen:
            if len(seen) < SHORT_CIRCLE:
                return
            raise FileError(f"The pages of '{path}' run in a circle: it is damaged, export it again.")
        seen.add(following)
        try:
            handle.seek(following)
            count = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))[0]
            handle.seek(following + tiff.tagnosize + count * tiff.tagsize)
            following = struct.unpack(tiff.offsetformat, handle.read(tiff.offsetsize))[0]
        except (struct.error, OSError, ValueError) as error:
            raise _cut_short(path) from error
    if len(seen) > max(FEW_PLANES, handle.size // BYTES_PER_PLANE):
        raise too_many_planes(path)


def _check_pages(path: Path, opened: OpenTiff) -> None:
    """Raise if pages are missing, outside the file, or claim a size that their data cannot fill."""
    series = opened.series
    page = series.keyframe
    _check_kind(path, series)
    if is_plain(series):
        size = page.parent.filehandle.size
        if series.dataoffset + math.prod(series.get_shape(False)) * series.dtype.itemsize > size:
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
        check_segments(path, part)


def is_plain(series: Any) -> bool:
    """Return whether the voxels of a series are plain numbers in one contiguous part of a file."""
    return series.transform is None and not series.is_multifile and series.dataoffset is not None


def _check_kind(path: Path, series: Any) -> None:
    """Raise for voxels that cannot be read, an image without voxels, and one with pages of a different kind."""
    page = series.keyframe
    if series.dtype is None or page.dtype is None:
        raise FileError(f"'{path}' has pixels of an unknown kind: save it as 8-bit, 16-bit or float grey.")
    if series.dtype.kind == "c":
        raise InputError(f"'{path}' contains complex numbers: save their magnitude.")
    if 0 in series.get_shape(False):
        raise InputError(f"'{path}' is empty: its shape is {tuple(series.get_shape(False))}.")
    if page.compression not in tifffile.TIFF.DECOMPRESSORS:
        kind = getattr(page.compression, "name", page.compression)
        raise FileError(f"'{path}' is compressed by {kind}, which cannot be read: save it uncompressed.")
    _check_order(path, series)


def _check_order(path: Path, series: Any) -> None:
    """Raise if a few pages in the middle of a stack have a different size or kind: without them slices would move."""
    if series.kind != "generic":
        return
    numbers = [part.index for part in series if part is not None and len(part.treeindex) == 1]
    others = sorted(set(range(numbers[0], numbers[-1])) - set(numbers)) if numbers else []
    if others and 4 * len(others) <= len(numbers):
        raise FileError(
            f"Page {others[0]} of '{path}' has a different size or kind than the pages around it: it is damaged; copy "
            "or export it again."
        )


def _has_its_data(page: Any) -> bool:
    """Return whether all strips of a page are in the file.

    Tiles and colours may be left out on purpose, as slide scanners do, and are 0 then; but not all of a page.
    """
    places = zip(page.dataoffsets, page.databytecounts, strict=False)
    there = [offset > 0 and (count > 0 or page.is_final) for offset, count in places]
    return any(there) if page.keyframe.is_tiled or page.keyframe.planarconfig == SEPARATE else all(there)
