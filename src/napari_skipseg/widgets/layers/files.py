"""Files for napari: readers, writers of OME-TIFF and OME-Zarr, the samples, and how results from files look."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_skipseg.batch.inputs import MICROSCOPE_ENDINGS
from napari_skipseg.corrections.subject import CLASS_COLORS
from napari_skipseg.errors import FileError, SkipsegError
from napari_skipseg.foreign_text import without_bidi_marks
from napari_skipseg.images.choice import parse_location
from napari_skipseg.images.files import (
    holds_labels,
    images_to_read,
    list_images,
    location_of_image,
    read_levels,
    read_recipe,
    read_stack,
    slice_files,
    write_ome_tiff,
)
from napari_skipseg.images.formats import RESULT_FILE
from napari_skipseg.images.mrc import is_mrc
from napari_skipseg.images.pictures import is_picture
from napari_skipseg.images.slices import TIFF_ENDINGS, gaps_in, holds_slices, natural_key, slice_names
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.tiff.ome import is_companion
from napari_skipseg.images.zarr.layout import LayerKind, Layout
from napari_skipseg.images.zarr.metadata import METADATA, is_zarr
from napari_skipseg.images.zarr.writer import write_ome_zarr
from napari_skipseg.widgets.layers.axes import GUESSED_AXES, along_space

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer
    from napari.utils.colormaps import DirectLabelColormap

    from napari_skipseg.images.synthetic.sample import SyntheticSample


PROBABILITY_LOOKS: dict[str, Any] = {"contrast_limits": (0, 1), "blending": "additive", "opacity": 0.6}
"""Its colormap goes from black, which adds nothing to the image, to the colour of the class."""
HIDDEN_MAP: dict[str, Any] = {"blending": "translucent", "opacity": 0.75, "visible": False}
"""A map that the user shows to read its values; additive blending would hide it in a bright image."""

MAP = {name: value for name, value in HIDDEN_MAP.items() if name != "visible"}
LOOKS: dict[str, dict[str, Any]] = {
    "attention": {"colormap": "viridis", **MAP},
    "uncertainty": {"colormap": "inferno", **MAP},
    "probability": PROBABILITY_LOOKS,
    "binary": {"opacity": 0.25},
    "objects": {"opacity": 0.5},
}
"""By kind of result, from the bottom of the layer list to the top."""


def choose_colors(names: Sequence[str], known: Mapping[str, str]) -> tuple[str, ...]:
    """Return a colour for each class: the known one of its name in small letters, else the first free one."""
    colors: list[str] = []
    for name in names:
        taken = {*known.values(), *colors}
        free = [color for color in CLASS_COLORS if color not in taken] or CLASS_COLORS
        colors.append(known.get(name.casefold()) or free[0])
    return tuple(colors)


def label_colors(colors: Sequence[str]) -> DirectLabelColormap:
    """Return the colormap of labels: transparent for 0, then the colours of the classes."""
    from napari.utils.colormaps import DirectLabelColormap

    table: dict[int | None, str] = {None: "transparent", 0: "transparent"}
    table.update(enumerate(colors, start=1))
    return DirectLabelColormap(color_dict=table)


def result_kind(file: str) -> str:
    """Return the kind of result in a file by its name, one of `LOOKS`; "" if it is not a result."""
    found = RESULT_FILE.search(Path(file).name)
    return "" if found is None else found.group(1).partition("_")[0]


def looks_of(file: str, recipe: Mapping[str, Any] | None, data: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the layer arguments of a result that is opened from a file; empty without a recipe of ours.

    arguments: the layer arguments so far.
    """
    kind = result_kind(file) if recipe else ""
    if not recipe or not kind:
        return {}
    looks, classes = dict(LOOKS[kind]), [str(name) for name in recipe.get("classes", ())]
    if kind in ("probability", "uncertainty", "attention"):
        dtype = np.dtype((data[0] if arguments.get("multiscale") else data).dtype)
        highest = 255 if dtype.kind in "ui" else 0.5 if kind == "uncertainty" else 1
        looks["contrast_limits"] = (0, highest)
    colors = list(choose_colors(classes, {})) if classes else []
    if kind == "binary" and colors and recipe.get("layer") == "labels":
        looks["colormap"] = label_colors(colors)
    if kind == "probability" and colors:
        several = "channel_axis" in arguments and len(colors) > 1
        looks["colormap"] = colors if several else colors[0]
    if "channel_axis" in arguments and len(classes) > 1:
        looks["name"] = [f"{name} {arguments['name']}" for name in classes]
    return looks


LayerData = tuple[Any, dict[str, Any], str]

LAYER_IN_MEMORY = 256 * 2**20
"""Bytes up to which a file is read at once; a larger one is read lazily."""

_RGB_TYPES = ("uint8", "uint16", "float32")


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return the reader of TIFF, OME-Zarr, MRC, and folders and lists of slices; None for anything else.

    A single picture (PNG, JPEG, BMP) is left to napari; several pictures are a stack.
    """
    if isinstance(path, str):
        return _read_for_napari if _is_known(Path(path)) or holds_slices(Path(path)) else None
    files = [Path(each) for each in path]
    known = all(_is_known(file) or (is_picture(file) and len(files) > 1) for file in files)
    return _read_for_napari if files and known else None


def _read_for_napari(path: str | Sequence[str]) -> list[LayerData]:
    try:
        return read_layers(path)
    except SkipsegError as error:
        # napari shows an error in a label that would take the name of a file for HTML
        raise type(error)(without_bidi_marks(str(error))) from error


def _is_known(path: Path) -> bool:
    is_tiff = path.suffix.lower() in (*TIFF_ENDINGS, *MICROSCOPE_ENDINGS)
    return is_tiff or is_zarr(path) or is_mrc(path) or is_companion(path)


def read_layers(path: str | Sequence[str]) -> list[LayerData]:
    """Return the layers in a file, or in a stack of slices, each with scale, translate, units and axis labels.

    A list of files, or a folder with a file for each slice, is one stack in the natural order of the names. A file with
    several images becomes one layer each, the first one visible; thumbnails, labels and macro images beside a main
    image are skipped. Channels become separate layers, RGB stays one layer, and files of labels become labels. A large
    OME-Zarr has all its levels, so that napari reads only what the screen shows.

    Raises:
        FileError: a file cannot be read.
        InputError: the axes or values are not those of an image.
    """
    if not isinstance(path, str):
        if len(path) > 1:
            files = sorted(path, key=lambda file: natural_key(Path(file).name))
            stack = read_stack(files)
            return [_layer_of([stack], {"opened": stack.file})]
        (path,) = path
    places = images_to_read(path)
    if len(places) == 1:
        recipe = read_recipe(path)
        facts: dict[str, Any] = {} if recipe is None else {"recipe": dict(recipe)}
        data, arguments, kind = _layer_of(read_levels(path), facts, labels=holds_labels(path))
        return [(data, {**arguments, **looks_of(path, recipe, data, arguments)}, kind)]
    names = {image.number: image.name for image in list_images(path)}
    found = []
    for number, place in enumerate(places):
        levels = read_levels(place)
        which = parse_location(place).image  # the name has a path in a store already
        name = "" if which is None else names[which]
        position = name or (os.path.relpath(place, path) if which is None else f"image {which}")
        levels[0] = replace(levels[0], name=f"{levels[0].name} {name}".strip())
        facts = {"opened": levels[0].file, "one_of": path, "position": position, "behind": number > 0}
        data, looks, kind = _layer_of(levels, facts, labels=holds_labels(place), most=LAYER_IN_MEMORY // len(places))
        found.append((data, {**looks, "visible": number == 0}, kind))
    return found


def open_image(viewer: ViewerModel, file: str) -> list[Layer]:
    """Add the layers of a file, in any format that `read_layers` reads, and return them.

    Raises:
        FileError: the file cannot be read.
        InputError: the axes or values are not those of an image.
    """
    return add_layers(viewer, read_layers(file), file)


def add_layers(viewer: ViewerModel, found: Sequence[LayerData], file: str) -> list[Layer]:
    """Add layers that were read from a file and return them; their metadata have its path."""
    layers: list[Layer] = []
    for data, arguments, kind in found:
        metadata = arguments.get("metadata", {})
        metadata = {**metadata, "skipseg": {"opened": file, **metadata.get("skipseg", {})}}
        added = getattr(viewer, f"add_{kind}")(data, **{**arguments, "metadata": metadata})
        layers += added if isinstance(added, list) else [added]
    return layers


def opened_from(layer: Layer) -> str:
    """Return the path that a layer was opened from, by any reader, as `read_stack` takes it; "" if there is none."""
    return str(layer.metadata.get("skipseg", {}).get("opened") or layer.source.path or "")


def _layer_of(levels: list[Stack], facts: dict[str, Any], labels: bool = False, most: int | None = None) -> LayerData:
    """Return the layer of an image. facts: of its metadata. most: bytes up to which it is read at once."""
    stack = levels[0]
    axes, metadata = stack.space.axes, layer_arguments(stack)
    known = {"notes": stack.notes, "title": stack.title, "slices": stack.slice_names}
    facts = {**facts, **{name: value for name, value in known.items() if value}}
    size = math.prod(stack.shape) * np.dtype(stack.data.dtype).itemsize
    is_small = size <= (LAYER_IN_MEMORY if most is None else most)
    data = finest = np.asarray(stack.data) if is_small else _lazy(stack)
    if len(levels) > 1 and not isinstance(data, np.ndarray):
        data, metadata["multiscale"] = [finest, *(_lazy(level) for level in levels[1:])], True
    if not labels and "C" not in axes and not isinstance(finest, np.ndarray):
        facts |= {"file": stack.file, "array": finest.name, "stamp": _stamp(stack.file)}
    if facts:
        metadata["metadata"] = {"skipseg": facts}
    if labels:
        return data, metadata, "labels"
    if "C" not in axes:
        return data, metadata, "image"
    if axes.endswith("C") and stack.length("C") in (3, 4) and np.dtype(stack.data.dtype).name in _RGB_TYPES:
        return data, {**metadata, "rgb": True}, "image"
    return data, {**metadata, "channel_axis": axes.index("C")}, "image"


def notes_of_stack(layer: Layer) -> tuple[str, ...]:
    """Return the notes of an image's reader, such as missing numbers of slices."""
    if "skipseg" in layer.metadata:
        return tuple(layer.metadata["skipseg"].get("notes", ()))
    # napari's own reader of *Open Files as Stack* keeps only the first path: missing numbers can be found if the layer
    # has all pictures of its folder
    path = Path(str(layer.source.path or ""))
    if not is_picture(path) or layer.ndim != 3:
        return ()
    try:
        names = slice_names(path.parent)
    except SkipsegError:
        return ()
    gap = gaps_in(names) if len(names) == len(layer.data) and names[0] == path.name else ""
    return (gap,) if gap else ()


def file_of(layer: Layer, data: Any) -> str:
    """Return the file with exactly the voxels `data`, the finest of the layer; "" if there is none.

    Raises:
        FileError: the file was changed or removed since it was opened.
    """
    facts = layer.metadata.get("skipseg", {})
    file = str(facts.get("file", ""))
    if not file or getattr(data, "name", "") != facts.get("array"):
        return ""
    stamp = _stamp(file)
    if not stamp:
        raise FileError(f"'{file}' is no longer there: put it back, or open the image from where it is now.")
    if stamp != facts.get("stamp", stamp):
        raise FileError(f"'{file}' has changed since it was opened: open it again.")
    return file


def _stamp(file: str) -> list[tuple[str, int, int]]:
    """Return name, size and time of a file, of each slice, or of a zarr's metadata; empty if it was removed."""
    place = location_of_image(file)
    if place.is_dir() and not is_zarr(place):
        try:
            found = slice_files(file)
        except SkipsegError:
            return []
    else:
        found = [place] if place.is_file() else [place / name for name in METADATA if (place / name).is_file()]
    return [(each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in found if each.is_file()]


def layer_arguments(stack: Stack) -> dict[str, Any]:
    """Return name, scale, translate, units and axis labels of the layer that shows `stack`, channels left out."""
    space, axes = stack.space, stack.space.axes.replace("C", "")
    return {
        "name": stack.name,
        "scale": [space.size_along(axis) for axis in axes],
        "translate": [space.origin_along(axis) for axis in axes],
        "units": [space.unit if axis in "ZYX" else "pixel" for axis in axes],
        "axis_labels": tuple(axes.lower()),
    }


def _lazy(stack: Stack) -> Any:
    """Return the voxels as a dask array with the chunks of the file, else with a chunk for each plane."""
    from dask import array

    chunks = getattr(stack.data, "chunks", None) or tuple(
        n if axis in "YX" or (stack.space.axes.endswith("C") and axis == "C") else 1
        for axis, n in zip(stack.space.axes, stack.shape, strict=True)
    )
    return array.from_array(stack.data, chunks=chunks, name=False)


def write_image(path: str, data: Any, attributes: Mapping[str, Any]) -> list[str]:
    """Write an image layer as OME-TIFF or OME-Zarr (.zarr) with its axes, voxel size and unit; return the path.

    Raises:
        FileError: the file cannot be written.
        InputError: the format cannot hold such an image.
    """
    array = data[0] if attributes.get("multiscale") else data
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    _write(path, array, attributes, "image")
    return [path]


def write_labels(path: str, data: Any, attributes: Mapping[str, Any]) -> list[str]:
    """Write a labels layer as OME-TIFF or OME-Zarr (.zarr) in the smallest type that contains its values.

    Raises:
        FileError: the file cannot be written.
        InputError: the format cannot hold such labels.
    """
    array = data[0] if attributes.get("multiscale") else data
    if array.dtype.itemsize > 1:
        lowest, highest = int(array.min()), int(array.max())
        array = array.astype(np.result_type(np.min_scalar_type(lowest), np.min_scalar_type(highest)))
    _write(path, array, attributes, "labels")
    return [path]


def _write(path: str, array: Any, attributes: Mapping[str, Any], kind: LayerKind) -> None:
    rgb = bool(attributes.get("rgb"))
    ndim = array.ndim - int(rgb)
    axes = "".join(str(label) for label in attributes.get("axis_labels") or ()).upper()
    if len(axes) != ndim or not set(axes) <= set("TCZYX"):
        axes = GUESSED_AXES.get(ndim, "?" * ndim)
    units = attributes.get("units") or ("pixel",) * ndim
    if isinstance(units, str):
        units = (units,) * ndim
    scale = np.abs(attributes.get("scale", np.ones(ndim)))
    sizes, unit = along_space(scale, units, axes, default=1.0)
    places, _ = along_space(attributes.get("translate", np.zeros(ndim)), units, axes, default=0.0)
    title = str(attributes.get("metadata", {}).get("skipseg", {}).get("title", ""))
    space = Space(axes + "C" * rgb, sizes, unit, places)
    if path.lower().endswith(".zarr"):
        order = sorted(space.axes, key="TCZYX".index)
        array = array.transpose([space.axes.index(axis) for axis in order])
        described = Layout(tuple(array.shape), space.with_axes("".join(order)), str(array.dtype), kind=kind)
        write_ome_zarr(path, array, replace(described, description={"layer": kind}))
    else:
        write_ome_tiff(path, array, space, description={"layer": kind}, title=title)


@lru_cache(maxsize=2)
def _sample(is_isotropic: bool) -> SyntheticSample:
    """Return a sample with its truths; they are opened one after the other."""
    from napari_skipseg.images.synthetic.kept import open_sample

    return open_sample(is_isotropic)


def make_em_stack() -> list[LayerData]:
    """Return the synthetic EM stack (16, 512, 512) as one image layer with its voxel size."""
    return _sample_stack(_sample(False))


def make_em_truths() -> list[LayerData]:
    """Return membranes and mitochondria of the synthetic EM stack as two labels layers."""
    return _sample_truths(_sample(False))


def make_isotropic_stack() -> list[LayerData]:
    """Return the isotropic synthetic EM stack (64, 128, 128) as one image layer with its voxel size."""
    return _sample_stack(_sample(True))


def make_isotropic_truths() -> list[LayerData]:
    """Return membranes and mitochondria of the isotropic synthetic EM stack as two labels layers."""
    return _sample_truths(_sample(True))


def _sample_stack(made: SyntheticSample) -> list[LayerData]:
    return [(np.array(made.stack.data), layer_arguments(made.stack), "image")]


def _sample_truths(made: SyntheticSample) -> list[LayerData]:
    from napari.utils.colormaps import label_colormap

    layers: list[LayerData] = []
    truths = (("membranes", made.membrane, 0.5), ("mitochondria", made.mitochondria, 0.2))
    for name, values, seed in truths:  # of the colours: both have only the label 1
        looks = {"name": f"{made.stack.name} {name}", "colormap": label_colormap(seed=seed)}
        layers.append((values.copy(), {**layer_arguments(made.stack), **looks}, "labels"))
    return layers
