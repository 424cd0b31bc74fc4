"""The images in a TIFF that is no OME-TIFF: pages of one size and type are one stack."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from napari_skipseg.errors import FileError
from napari_skipseg.images.choice import ImageInfo
from napari_skipseg.images.set_files import printable_name
from napari_skipseg.images.tiff.bounds import check_inner_sizes, check_segments

MOST_COMPARED = 64 * 2**20
"""Most pixels of a plane that is compared with possible smaller copies."""

ALIKE = 0.8
"""Least correlation of a larger plane and a smaller copy of it.

Of 26 EM images at 1/2 to 1/8, averaged, interpolated or subsampled copies have 0.9 and more, the next section of the
same stack at most 0.65, other images at most 0.13."""

SAME_RATIO = 0.05
"""Tolerance of the proportions of a copy, because of rounding."""


@dataclass(frozen=True)
class HeldImage:
    """An image of a TIFF, and the tifffile series that reads it."""

    info: ImageInfo
    series: Any


def held_images(path: Path, file: Any) -> list[HeldImage]:
    """Return the images of an open `tifffile.TiffFile`, in the order of their first pages.

    Series of single pages of one shape and type, which `append=True` writes, are one stack in the order of the pages;
    so are pages that differ only in their compression. Levels of a pyramid are not separate images, unless the file
    does not mark them as levels and their content is different.

    Raises:
        FileError: a series lacks pages that its description counts.
    """
    series = list(series_of(file))
    for each in series:
        _check_whole(path, each)
    if series and series[0].kind == "imagej":
        series[:1] = _with_pages_behind(file, series[0])
    series = _with_unlike_levels(path, series)
    merged = sorted(_merged(series), key=_first_index)
    return [HeldImage(_describe(number, each, merged), each) for number, each in enumerate(merged)]


def series_of(file: Any) -> list[Any]:
    """Return the series that tifffile finds in an open file; for an ImageJ TIFF first the planes in its description.

    tifffile takes all pages of an ImageJ TIFF for planes; for others, it compares four pages and assumes the rest.
    """
    try:
        found: list[Any] = file.series
    except RuntimeError:
        if not (file.is_imagej or file.is_uniform):
            raise
        found = []
    if file.is_imagej and not file.is_ome and (not found or found[0].kind != "imagej"):
        listed = _listed_by_imagej(file)
        return [listed] if listed is not None else found
    if not found:
        file.is_uniform = False
        found = file.series
    return found


def _check_whole(path: Path, series: Any) -> None:
    """Raise if a series has fewer pages than in its description: tifffile would return only the first page."""
    page = series.keyframe
    if series.kind != "shaped" or page.shaped_description is None:
        return
    description = tifffile.tifffile.shaped_description_metadata(page.shaped_description)
    counted = math.prod(description["shape"]) // max(1, math.prod(page.shape))
    listed = len(series)
    if series.dataoffset is not None:  # the planes after the first are not listed, or not counted again
        all_pages = len(page.parent.pages)
        listed = counted if description.get("truncated") or all_pages == 1 else all_pages
    if counted > listed:
        raise FileError(
            f"'{path}' should have {counted} planes, but lacks some of them: it is cut short; copy it again."
        )


def _listed_by_imagej(file: Any) -> Any | None:
    """Return the series of the planes in ImageJ's description, None if there are fewer pages."""
    metadata = file.imagej_metadata or {}
    counts = [max(1, int(metadata.get(key, 1))) for key in ("frames", "slices", "channels")]
    if math.prod(counts) > len(file.pages):
        return None
    pages = [page_at(file, number) for number in range(math.prod(counts))]
    if len({page.hash for page in pages}) > 1:
        return None
    first = pages[0]
    return tifffile.TiffPageSeries(pages, (*counts, *first.shape), first.dtype, f"TZC{first.axes}", kind="imagej")


def page_at(file: Any, number: int) -> Any:
    """Return a page of an open TIFF with all its tags, which may be missing in the pages that tifffile has listed."""
    return file.pages.get(number, aspage=True)


def note_copies(path: Path, series: Any) -> str:
    """Return a sentence on smaller copies of an image among the pages of a TIFF that does not mark them, or ""."""
    levels = series.levels[1:] if series.kind == "generic" else []
    copies = [level for level in levels if not (level.keyframe.is_subifd or level.keyframe.is_reduced)]
    if not copies:
        return ""
    sizes = ", ".join(" × ".join(map(str, level.shape)) for level in copies)
    return f"'{path.name}' also contains the image at fewer pixels ({sizes}), which is left out."


def _first_index(series: Any) -> tuple[int, ...]:
    page = next(page for page in series if page is not None)
    return tuple(int(part) for part in page.treeindex)


def _with_pages_behind(file: Any, first: Any) -> list[Any]:
    """Return ImageJ's series, and one for each page after the planes in its description."""
    key = first.keyframe
    counted, there = math.prod(first.get_shape(False)) // max(1, math.prod(key.shape)), len(file.pages)
    if there == 1:
        return [first]
    # ImageJ lists all planes as pages; tifffile writes one page, and the data of the other planes follow it
    follows = first.dataoffset is not None and page_at(file, 1).dataoffsets[0] == first.dataoffset + key.nbytes
    start = counted if follows or first.dataoffset is None else 1
    if first.dataoffset is None and len(first) > counted:
        shape, axes = first.get_shape(False), first.get_axes(False)
        first = tifffile.TiffPageSeries(first[:counted], shape, first.dtype, axes, kind="imagej")
    behind = []
    for number in range(start, there):
        page = page_at(file, number)
        behind.append(tifffile.TiffPageSeries([page], (1, *page.shape), page.dtype, f"I{page.axes}", kind="generic"))
    return [first, *behind]


def _with_unlike_levels(path: Path, series: Sequence[Any]) -> list[Any]:
    """Return the series, with levels that are neither marked nor copies as separate series."""
    found = []
    for each in series:
        found.append(each)
        if each.kind != "generic":
            continue
        unmarked = [level for level in each.levels[1:] if not (level.keyframe.is_reduced or level.keyframe.is_subifd)]
        unlike = [level for level in unmarked if not is_copy(path, level, each)]
        each.levels[:] = [level for level in each.levels if level not in unlike]
        found += unlike
    return found


def _merged(series: Sequence[Any]) -> list[Any]:
    groups: dict[object, list[Any]] = {}
    for number, each in enumerate(series):
        page = each.keyframe
        key = (page.shape, str(page.dtype), page.axes, int(page.photometric or 0), bool(page.is_reduced))
        groups.setdefault(key if _is_of_pages(each) else number, []).append(each)
    return [group[0] if len(group) == 1 else _stack_of(group) for group in groups.values()]


def _is_of_pages(series: Any) -> bool:
    """Return whether a series has no metadata except its pages: it is a plain TIFF or a single page."""
    page = series.keyframe
    if page.is_subifd or len(series.levels) > 1:
        return False
    single = len(series) == 1 and _without_ones(series.get_shape(False)) == _without_ones(page.shape)
    return bool(series.kind == "generic" or (series.kind == "shaped" and single))


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [int(length) for length in shape if length != 1]


def _stack_of(group: Sequence[Any]) -> Any:
    """Return one series with the pages of several, in the order of the file."""
    pages = sorted((page for each in group for page in each), key=lambda page: page.index)
    first = group[0].keyframe
    shape = (len(pages), *first.shape)
    return tifffile.TiffPageSeries(pages, shape, first.dtype, f"I{first.axes}", kind="generic", name=group[0].name)


def _describe(number: int, series: Any, all_series: Sequence[Any]) -> ImageInfo:
    named = zip(series.get_axes(False), series.get_shape(False), strict=True)
    kept = [(axis, int(length)) for axis, length in named if axis in "YX" or length != 1]
    return ImageInfo(
        number,
        printable_name(series.name),
        "".join(axis for axis, _ in kept),
        tuple(length for _, length in kept),
        str(series.dtype),
        _is_beside(series, all_series),
    )


def _is_beside(series: Any, all_series: Sequence[Any]) -> bool:
    """Return whether the file marks a series as a smaller or different picture of the same object."""
    page = series.keyframe
    if page.is_reduced or page.is_mask:
        return True
    named = series.kind in ("svs", "ndpi", "philips", "bif", "avs", "qpi")
    if named and series.name.lower() not in ("", "baseline", "level", "unknown"):
        return any(other.name.lower() in ("", "baseline") for other in all_series)
    return bool(page.is_subifd) and any(not other.keyframe.is_subifd for other in all_series)


def mark_copies(path: Path, images: list[HeldImage]) -> list[HeldImage]:
    """Return the images, with `is_beside` set for single planes that are smaller copies of the largest one."""
    single = [each for each in images if each.info.planes == 1 and not each.info.is_beside]
    if len(images) == 1 or len(single) < 2 or len(single) != sum(not each.info.is_beside for each in images):
        return images
    largest = max(single, key=lambda each: math.prod(each.info.plane))
    marked = []
    for each in images:
        is_smaller = each in single and each is not largest and is_copy(path, each.series, largest.series)
        marked.append(HeldImage(replace(each.info, is_beside=True), each.series) if is_smaller else each)
    return marked


def is_copy(path: Path, small: Any, large: Any) -> bool:
    """Return whether the middle plane of a series is a smaller copy of that of a larger series."""
    (h, w), (height, width) = ((each.keyframe.imagelength, each.keyframe.imagewidth) for each in (small, large))
    if h * w >= height * width or abs(h * width / (w * height) - 1) > max(SAME_RATIO, 1 / min(h, w)):
        return False
    if height * width > MOST_COMPARED:
        return True
    planes = []
    for series in (small, large):
        try:
            page = series[len(series) // 2]
            check_segments(path, page)
            check_inner_sizes(path, page, range(len(page.databytecounts)))
            planes.append(_grey(page.asarray(), page.keyframe.axes))
        except Exception:  # a damaged page: reading it raises the error
            return True
    return any(_correlation(planes[0], each) >= ALIKE for each in _reduced(planes[1], h, w))


def _reduced(plane: NDArray[np.float32], height: int, width: int) -> Iterator[NDArray[np.float32]]:
    """Yield the usual reductions of a plane: means of blocks, and the first or the middle pixel of each block."""
    yield np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BOX))
    down, across = plane.shape[0] // height, plane.shape[1] // width
    for first in ((0, 0), (down // 2, across // 2)):
        yield plane[first[0] :: down, first[1] :: across][:height, :width]


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the correlation of two planes of the same size; 1 if both are constant, 0 if one is."""
    if one.shape != other.shape:
        return 0.0
    if one.std() == 0 or other.std() == 0:
        return float(one.std() == other.std())
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def _grey(values: NDArray[Any], axes: str) -> NDArray[np.float32]:
    """Return the plane of a page as float32, the mean of its samples."""
    grey: NDArray[Any] = np.asarray(values, np.float32)
    for axis in reversed(range(grey.ndim)):
        if axes[axis] not in "YX":
            grey = grey.mean(axis)
    return np.ascontiguousarray(grey, np.float32)
