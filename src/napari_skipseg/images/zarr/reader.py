"""OME-Zarr 0.1 to 0.5, and plain zarr arrays, as a `Stack`: axes, voxel size, unit and place of its finest level."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from napari_skipseg.durable import is_draft
from napari_skipseg.errors import FileError
from napari_skipseg.images.calibration import AxisScale, FileImage, number_of, stack_from_file_image
from napari_skipseg.images.choice import ImageInfo, check_number, main_image, refuse_several
from napari_skipseg.images.faults import read_errors_as_sentences
from napari_skipseg.images.space import NOTHING_GIVEN, GivenSpace
from napari_skipseg.images.stack import GIVE_AXES, ArrayLike, FileAxes, Stack, name_axes
from napari_skipseg.images.zarr.array import ZarrArray
from napari_skipseg.images.zarr.layout import OURS
from napari_skipseg.images.zarr.metadata import METADATA, Node, is_node, read_node, store_root

NEWEST = (0, 5)
"""The newest version of OME-Zarr that is understood."""

GUESSED = {2: "YX", 3: "ZYX", 4: "TZYX", 5: "TCZYX"}
"""The axes of a plain array that does not name them."""

OLDEST = {5: "TCZYX"}
"""The axes of an OME-Zarr image that does not name them: those of 0.1 and 0.2 always had five."""


@dataclass(frozen=True)
class Level:
    """One resolution.

    path: of its array. names: one letter for each axis, "?" = unknown; "" if the axes are not named. scales: of each
    axis; empty if there are none. guessed: its axes by their number, if they are not named.
    """

    path: Path
    names: str
    scales: tuple[AxisScale, ...] = ()
    guessed: Mapping[int, str] = field(default_factory=lambda: GUESSED)


def read_zarr(
    path: Path,
    given: GivenSpace = NOTHING_GIVEN,
) -> Stack:
    """Return the finest level of an OME-Zarr image, or the array that `path` names, read chunk by chunk.

    Axes, voxel size, unit and origin come from the multiscales, the transformations of dataset and multiscale composed.
    Axes in a different order than Z, Y, X are turned; along a negative scale the image is turned round, with its origin
    at the other end. Of a plate, a well or a collection (bioformats2raw), its image where there is one. A plain array
    has the axes that its dimension names say, else YX, ZYX, TZYX or TCZYX. Chunks that are missing hold the fill value,
    as the standard wants.

    Raises:
        FileError: no such folder, a newer version, damaged, or stored in an unknown way.
        SeveralImagesError: a plate, a well or a collection contains several images.
        InputError: the axes, the voxel size, the unit or the type of the voxels cannot be used.
    """
    stack = replace(stack_from_file_image(_image_of(path, find_levels(path)[0]), given), file=str(path.absolute()))
    return replace(stack, notes=(*stack.notes, *_other_multiscales(path)))


def _other_multiscales(path: Path) -> tuple[str, ...]:
    """Return a sentence on images of a group after its first, if any: the first one is the image in OME-Zarr."""
    node = find_image(path)
    others = node.ome.get("multiscales", [])[1:] if node.array is None else []
    if not others:
        return ()
    place = node.path / str(others[0]["datasets"][0]["path"])
    count = f"{len(others)} other image{'s' * (len(others) > 1)}"
    return (f"'{node.path.name}' also contains {count}, left out: '{place}' is the path of one.",)


def read_zarr_levels(path: Path) -> list[Stack]:
    """Return all levels of an OME-Zarr image, finest first, or the one array that `path` names.

    Raises:
        FileError, InputError: as `read_zarr`.
    """
    levels = find_levels(path)
    images = [_image_of(path, level) for level in levels]
    first = stack_from_file_image(images[0])
    kept = name_axes(path, images[0].axes, None).names  # of a coarser level too, where one may have length 1
    others = [
        replace(stack_from_file_image(image, GivenSpace(kept)), file=str(level.path.absolute()))
        for image, level in zip(images[1:], levels[1:], strict=True)
    ]
    return [replace(first, file=str(path.absolute())), *others]


def _image_of(path: Path, level: Level) -> FileImage:
    data = ZarrArray(read_node(level.path))
    names, notes = level.names, data.notes
    if not names:
        names = level.guessed.get(data.ndim, "?" * data.ndim)
        if "?" in names and data.ndim > 1 and max((1, *data.shape[:-2])) == 1:
            names = "?" * (data.ndim - 2) + "YX"
        elif "?" not in names and sum(length > 1 for length in data.shape) > 2:
            notes = (*notes, f"The file does not name its axes: they were taken for {names} ({GIVE_AXES}).")
    if len(names) != data.ndim:
        raise FileError(f"'{path}' names {len(names)} axes for {data.ndim} dimensions: export it again.")
    if len(level.scales) not in (0, data.ndim):
        raise FileError(f"'{path}' has {len(level.scales)} scales for {data.ndim} dimensions: export it again.")
    backwards = {place for place, scale in enumerate(level.scales) if scale.size is not None and scale.size < 0}
    scales = tuple(
        replace(scale, size=-(size := scale.size or 0.0), start=scale.start + size * (length - 1))
        if place in backwards  # the last voxel becomes the first
        else scale
        for place, (scale, length) in enumerate(zip(level.scales, data.shape, strict=False))
    )

    def open_voxels(found: FileAxes) -> ArrayLike:
        return data.keep_axes(found.places)

    named = list(zip(names, data.shape, strict=True))
    return FileImage(path, _name_of(path), named, open_voxels, scales, {}, frozenset(backwards), notes)


def _name_of(path: Path) -> str:
    """Return a name for the image: its store's, and the path inside the store."""
    place = path.absolute()
    root = store_root(place)
    name = root.name.removesuffix(".zarr").removesuffix(".ome") or root.name
    return "_".join((name, *place.relative_to(root).parts))


def find_levels(path: Path) -> list[Level]:
    """Return the levels of the image at `path`, the finest first; if it is an array, only that one.

    Raises:
        FileError: there is no image, or it cannot be understood.
    """
    node = find_image(path)
    with read_errors_as_sentences(path, "The metadata of"):
        if node.array is None:
            return _levels(node)
        return [_level_of_array(node)]


def find_image(path: Path) -> Node:
    """Return the group or array of the image at `path`.

    Raises:
        FileError: it contains none; the message has a path to give instead.
        SeveralImagesError: it contains several.
    """
    node = read_node(path)
    with read_errors_as_sentences(path, "The metadata of"):
        if node.array is not None or "multiscales" in node.ome:
            return node
        held = _held_images(node)
        if held and (main := main_image(held)) is not None:
            return find_image(path / main.name)
        if held:
            refuse_several(path, held, str(path / held[min(1, len(held) - 1)].name))
        if _is_of_bioformats(node):
            return find_image(path / "0")
        if "plate" in node.ome:
            field = path / str(node.ome["plate"]["wells"][0]["path"]) / "0"
            raise FileError(f"'{path}' is a plate of many images: give the path of one field, such as '{field}'.")
        if "well" in node.ome:
            field = path / str(node.ome["well"]["images"][0]["path"])
            raise FileError(f"'{path}' is a well of several fields: give the path of one, such as '{field}'.")
        inside = next(node.children(), None)
    if inside is None:
        raise FileError(f"'{path}' contains no image: give the folder of an OME-Zarr image.")
    raise FileError(f"'{path}' is a group without an image of its own: give a path inside it, such as '{inside}'.")


def list_zarr_images(path: Path) -> tuple[ImageInfo, ...]:
    """Return the images of an OME-Zarr, named by their paths inside it: those of a plate, a well or a collection.

    Raises:
        FileError: as `find_image`.
    """
    node = read_node(path)
    with read_errors_as_sentences(path, "The metadata of"):
        if node.array is None and "multiscales" not in node.ome and (held := _held_images(node)):
            return tuple(held)
        return (_info(0, "", find_image(path)),)


def zarr_image(path: Path, number: int | None) -> Path:
    """Return the folder of image `number` in an OME-Zarr of several; `path` itself for one with one image.

    Raises:
        FileError: as `find_image`.
        InputError: there is no such image.
    """
    if number is None:
        return path
    images = list_zarr_images(path)
    check_number(path, images, number)
    return path / images[number].name if images[number].name else path


def _is_of_bioformats(node: Node) -> bool:
    return "bioformats2raw.layout" in node.ome or "bioformats2raw.layout" in node.attributes


def _held_images(node: Node) -> list[ImageInfo]:
    """Return the existing images of a plate, a well or a collection; none for any other group."""
    if _is_of_bioformats(node):
        around = read_node(node.path / "OME") if is_node(node.path / "OME") else node
        names = [str(name) for name in around.ome.get("series", ())]
        names = names or [str(number) for number in range(sum(1 for _ in node.children()))]
        plate = [] if "plate" not in node.ome else _fields(node)
        names = plate or names
    elif "plate" in node.ome:
        names = _fields(node)
    elif "well" in node.ome:
        names = [str(image["path"]) for image in node.ome["well"]["images"]]
    else:
        return []
    there = [name for name in names if is_node(_inside(node.path, name))]
    return [_info(number, name, read_node(node.path / name)) for number, name in enumerate(there)]


def _fields(plate: Node) -> list[str]:
    """Return the paths of the fields of a plate, well by well."""
    found = []
    for well in plate.ome["plate"]["wells"]:
        place = _inside(plate.path, str(well["path"]))
        if is_node(place):
            fields = read_node(place).ome.get("well", {}).get("images", ())
            found += [f"{well['path']}/{field['path']}" for field in fields]
    return found


def _info(number: int, name: str, node: Node) -> ImageInfo:
    """Return shape and type of the finest level of an image, from its metadata."""
    array, names = node.array, ""
    if array is None and node.ome.get("multiscales"):
        multiscale = node.ome["multiscales"][0]
        names, _ = _read_axes(multiscale.get("axes"))
        array = read_node(_inside(node.path, _datasets(node)[0]["path"])).array
    metadata = array or {}
    shape = [int(length) for length in metadata.get("shape", ())]
    names = names if len(names) == len(shape) else GUESSED.get(len(shape), "?" * len(shape))
    kept = [(axis, length) for axis, length in zip(names, shape, strict=True) if length != 1 or axis in "YX"]
    dtype = str(metadata.get("data_type") or metadata.get("dtype") or "")
    lengths = tuple(length for _, length in kept)
    return ImageInfo(number, name, "".join(axis for axis, _ in kept), lengths, dtype)


def _level_of_array(node: Node) -> Level:
    """Return an array as the level of the image that it belongs to, else alone."""
    place = node.path.absolute()
    for parent in place.parents:
        if not is_node(parent):
            break
        around = read_node(parent)
        if "multiscales" in around.ome and _is_understood(around):
            with suppress(FileError):  # its transformations are not understood: use the array alone
                found = [level for level in _levels(around) if level.path.absolute() == place]
                if found:
                    return found[0]
    metadata = node.array or {}
    names = metadata.get("dimension_names") or node.attributes.get("_ARRAY_DIMENSIONS") or ()
    letters = "".join(_letter(name) for name in names)
    return Level(node.path, "" if "?" in letters else letters, _scales_of_array(node, len(metadata.get("shape", ()))))


def _scales_of_array(node: Node, dimensions: int) -> tuple[AxisScale, ...]:
    """Return the scales in the attributes of a plain array, as gunpowder and daisy write them, empty if there are none.

    resolution or voxel_size, offset and units have one entry for each of the last axes.
    """
    attributes = node.attributes
    sizes, starts = attributes.get("resolution", attributes.get("voxel_size")), attributes.get("offset")
    if not isinstance(sizes, list) or not 1 < len(sizes) <= dimensions:
        return ()
    if not isinstance(starts, list) or len(starts) != len(sizes):
        starts = [0.0] * len(sizes)
    units = attributes.get("units", attributes.get("unit"))
    if not isinstance(units, list) or len(units) != len(sizes):
        units = [units if isinstance(units, str) else None] * len(sizes)
    axes = [
        AxisScale(number_of(size), None if unit is None else str(unit), number_of(start) or 0.0)
        for size, unit, start in zip(sizes, units, starts, strict=True)
    ]
    return (*(AxisScale() for _ in range(dimensions - len(axes))), *axes)


def _levels(node: Node) -> list[Level]:
    if not _is_understood(node):
        inside = next(node.children(), node.path)
        raise FileError(
            f"'{node.path}' is OME-Zarr {_version(node)}, which is not understood yet: give the path of its array, "
            f"such as '{inside}', with its axes and voxel size."
        )
    multiscale = node.ome["multiscales"][0]
    names, units = _read_axes(multiscale.get("axes"))
    levels = []
    for dataset in _datasets(node):
        steps = [*dataset.get("coordinateTransformations", ()), *multiscale.get("coordinateTransformations", ())]
        unknown = [
            step["type"]
            for step in steps
            if step["type"] != "identity" and (step["type"] not in ("scale", "translation") or step["type"] not in step)
        ]
        if unknown:
            raise FileError(
                f"'{node.path}' places its voxels by '{unknown[0]}', which cannot be read: give the path of its array, "
                f"such as '{_inside(node.path, dataset['path'])}', with its voxel size."
            )
        levels.append(Level(_inside(node.path, dataset["path"]), names, _scales(units, steps), OLDEST))
    return levels


def _datasets(node: Node) -> list[dict[str, Any]]:
    """Return the datasets of a multiscale, the finest first, as in the standard; some programs reverse them."""
    datasets: list[dict[str, Any]] = node.ome["multiscales"][0]["datasets"]
    places = [_inside(node.path, dataset["path"]) for dataset in datasets]
    sizes = [math.prod((read_node(place).array or {}).get("shape", [0])) if is_node(place) else 0 for place in places]
    if 0 in sizes:  # one is missing: reading it raises the error
        return datasets
    return [datasets[number] for number in sorted(range(len(sizes)), key=lambda number: -sizes[number])]


def _version(node: Node) -> str:
    return str(node.ome.get("version") or node.ome["multiscales"][0].get("version") or "0.4")


def _is_understood(node: Node) -> bool:
    numbers = re.match(r"(\d+)(?:\.(\d+))?", _version(node))
    return numbers is not None and (int(numbers[1]), int(numbers[2] or 0)) <= NEWEST


def _inside(folder: Path, path: str) -> Path:
    """Return the folder of a dataset, which must be inside its group on every system.

    On Windows a backslash is a slash, a colon marks a drive or a stream, and dots and spaces at the end of a name are
    ignored.
    """
    parts = PurePosixPath(path).parts
    odd = any(sign in path for sign in "\\:\0") or any(not part.strip(". ") for part in parts)
    if not parts or odd or PurePosixPath(path).is_absolute():
        raise FileError(f"'{folder}' points outside of itself ('{path}'), which is unsafe: export it again.")
    return folder.joinpath(*parts)


def _read_axes(axes: Sequence[Any] | None) -> tuple[str, tuple[str | None, ...]]:
    """Return one letter for each axis, and its unit; "" if there are none. OME-Zarr 0.3 has only names."""
    if axes is None:
        return "", ()
    entries = [axis if isinstance(axis, dict) else {"name": axis} for axis in axes]
    letters = [_letter(axis.get("name"), axis.get("type")) for axis in entries]
    unnamed = [place for place, axis in enumerate(entries) if letters[place] == "?" and axis.get("type") == "space"]
    free = [axis for axis in "ZYX" if axis not in letters]
    for place, letter in zip(reversed(unnamed), reversed(free), strict=False):
        letters[place] = letter
    return "".join(letters), tuple(None if axis.get("unit") is None else str(axis["unit"]) for axis in entries)


def _letter(name: Any, kind: str | None = None) -> str:
    """Return the letter of an axis: by its name, else by its type, else "?"."""
    letter = str(name or "").upper()
    if letter in ("T", "C", "Z", "Y", "X"):
        return letter
    words = {"TIME": "T", "CHANNEL": "C", "CHANNELS": "C"}
    return words.get(letter) or words.get(str(kind).upper(), "?")


def _scales(units: Sequence[str | None], steps: Sequence[dict[str, Any]]) -> tuple[AxisScale, ...]:
    """Return the scales of the axes after all transformations, empty without a scale.

    The sizes are NaN if a transformation has a different number of axes, or no numbers.
    """
    if not any(step["type"] == "scale" for step in steps):
        return ()
    count = len(units) or next(len(step["scale"]) for step in steps if step["type"] == "scale")
    size, start = [1.0] * count, [0.0] * count
    for step in steps:
        values = _numbers_of(step, count)
        if values is None:
            return tuple(AxisScale(math.nan, unit) for unit in units or [None] * count)
        if step["type"] == "translation":
            start = [old + new for old, new in zip(start, values, strict=True)]
        else:
            size = [old * new for old, new in zip(size, values, strict=True)]
            start = [old * new for old, new in zip(start, values, strict=True)]
    return tuple(map(AxisScale, size, units or [None] * count, start))


def _numbers_of(step: dict[str, Any], count: int) -> list[float] | None:
    """Return the numbers of a transformation, all 1 for the identity; None if there is not one per axis."""
    factors = step.get(step["type"], [1.0] * count)
    if not isinstance(factors, list) or len(factors) != count:
        return None
    numbers = [number for number in map(number_of, factors) if number is not None]
    return numbers if len(numbers) == count else None


def read_zarr_recipe(path: Path) -> dict[str, Any] | None:
    """Return the recipe that we stored in an OME-Zarr, None if there is none.

    Raises:
        FileError: no such folder, no image, or damaged.
    """
    ours = find_image(path).attributes.get(OURS)
    recipe = ours.get("recipe") if isinstance(ours, dict) else None
    return recipe if isinstance(recipe, dict) else None


def is_label_image(path: Path) -> bool:
    """Return whether an OME-Zarr image is marked as labels.

    Raises:
        FileError: no such folder, no image, or damaged.
    """
    return "image-label" in find_image(path).ome


_UNFINISHED = ".partial"
"""Ending of a chunk's file while zarr itself writes it."""

MOST_FILES = 100_000
"""Most files that are checked: the first ones by name, folder by folder."""


class ZarrChunkFiles(NamedTuple):
    """The number and size of an array's chunk files. size: in bytes. newest: latest time of change, in nanoseconds."""

    number: int
    size: int
    newest: int


def check_chunks(folder: Path, most: int = MOST_FILES) -> ZarrChunkFiles:
    """Return number, size and newest time of the chunks' files of the array in `folder`, at most of the first `most`.

    Files are not opened: 30,000 on a local disk take about 0.3 s.

    Raises:
        FileError: the folder cannot be read, or is gone.
    """
    with read_errors_as_sentences(folder, "The folder of"):
        found = [(status.st_size, status.st_mtime_ns) for status in islice(_statuses(folder), most)]
    return ZarrChunkFiles(len(found), sum(size for size, _ in found), max((time for _, time in found), default=0))


def _statuses(folder: str | Path) -> Iterator[os.stat_result]:
    with os.scandir(folder) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    for entry in inside:
        if entry.is_dir():
            yield from _statuses(entry.path)
        elif entry.name not in METADATA and not entry.name.endswith(_UNFINISHED) and not is_draft(entry.name):
            yield entry.stat()
