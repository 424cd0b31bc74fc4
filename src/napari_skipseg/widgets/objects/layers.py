"""Objects as layers over their image: preview, result with measurements, and the view of one object."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.corrections.uncertain_regions import UncertainRegion
from napari_skipseg.images.stack import LazyArray
from napari_skipseg.jobs.workspace import remove_folder
from napari_skipseg.objects.files import FoundObjects
from napari_skipseg.objects.table import ObjectTable
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.correct.uncertain_regions import go_to
from napari_skipseg.widgets.layers.axes import voxel_size_of
from napari_skipseg.widgets.layers.files import read_layers
from napari_skipseg.widgets.layers.placement import RepeatedSlices, current_position, place_at, place_over
from napari_skipseg.widgets.layers.results import KEY, data_of
from napari_skipseg.widgets.objects.sources import FOUND, PREVIEW, ProbabilitySource, without_wrapper

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels, Layer

OBJECTS_SOURCE = "{} objects"
_ASIDE = "behind the preview"
"""The key of objects that are hidden as long as those of a preview are on show."""
LEAST_BOX = 48
"""Least side in voxels of the box that is shown with an object: a speck does not fill the view."""
CLICK = 3
"""Pixels that the mouse may move during a click."""
LARGEST_BOX = 2**24
"""Voxels of an object's bounding box, at most, if the slice that shows most of it is searched."""


@dataclass(frozen=True, eq=False)
class ShownObjects:
    """Objects on show: their source, layer, measurements and recipe, and the voxel size that was measured with.

    edited: the labels as they are edited in Proofread, whose layer and measurements are then the others; else None.
    """

    source: ProbabilitySource
    layer: Labels
    table: ObjectTable
    recipe: dict[str, Any]
    voxel_size: tuple[float, float, float]
    edited: LazyArray | None = None

    def is_measured_as_it_lies(self) -> bool:
        """Return whether the voxels still have the size with which the objects were measured."""
        return voxel_size_of(self.layer, self.source.axes[-self.layer.ndim :])[0] == self.voxel_size


@dataclass(frozen=True, eq=False)
class LoadedObjects:
    """Objects for a layer: levels of labels, the finest first; the folder to remove with the layer, if any."""

    levels: list[Any]
    folder: Path | None
    found: FoundObjects


def iter_load(
    find: Generator[Progress, None, FoundObjects], shape: Sequence[int]
) -> Generator[Progress, None, LoadedObjects]:
    """Return the objects that `find` returns, with axes of the lengths in `shape`; small ones are read into memory.

    Raises:
        SkipsegError: `find` raised it, or the labels cannot be read.
    """
    found = yield from find
    yield Progress(0, 1, "opening the objects")
    ((data, arguments, _),) = read_layers(str(found.labels))
    levels = list(data) if arguments.get("multiscale") else [data]
    # files leave out axes of length 1
    missing = tuple(None if n == 1 and place < len(shape) - 2 else slice(None) for place, n in enumerate(shape))
    levels = [level[missing] for level in levels]
    folder = found.labels.parent
    if isinstance(levels[0], np.ndarray):
        remove_folder(folder)
        return LoadedObjects(levels, None, found)
    return LoadedObjects(levels, folder, found)


def show_objects(viewer: ViewerModel, source: ProbabilitySource, loaded: LoadedObjects) -> ShownObjects:
    """Show objects over their image, in place of earlier ones."""
    levels = [_over_channels(level, source) for level in loaded.levels]
    multiscale = len(levels) > 1
    data: Any = levels if multiscale else levels[0]
    metadata = {"role": FOUND, "source": OBJECTS_SOURCE.format(source.layer.unique_id), "recipe": loaded.found.recipe}
    old = _find(viewer, str(metadata["source"]), FOUND)
    if old is not None and (multiscale or old.multiscale or old.ndim != levels[0].ndim):
        viewer.layers.remove(old)
        old = None
    layer = _put(viewer, source, data, {}, metadata, old, f"{source.name} objects", multiscale)
    layer.features = loaded.found.table.as_features()
    if loaded.folder is not None:
        weakref.finalize(layer, remove_folder, loaded.folder)
    size, _ = voxel_size_of(layer, source.axes[-layer.ndim :])
    return ShownObjects(source, layer, loaded.found.table, loaded.found.recipe, size)


def show_objects_preview(
    viewer: ViewerModel, source: ProbabilitySource, found: NDArray[np.uint32], start: Mapping[int, int]
) -> None:
    """Show the preview: objects of a slab of a layer that starts at `start` (axis number -> position)."""
    metadata = {"role": PREVIEW, "source": OBJECTS_SOURCE.format(source.layer.unique_id)}
    others = [
        layer for layer in viewer.layers if _is(layer, PREVIEW) and layer.metadata[KEY]["source"] != metadata["source"]
    ]
    for layer in others:
        viewer.layers.remove(layer)
    old = _find(viewer, metadata["source"], PREVIEW)
    if old is not None and old.ndim != source.layer.ndim - int(source.axes[0] == "C"):
        viewer.layers.remove(old)
        old = None
    _put(viewer, source, _over_channels(found, source), start, metadata, old, f"{source.name} objects (preview)", False)
    for layer in viewer.layers:
        if _is(layer, FOUND) and layer.visible:
            layer.visible = False
            layer.metadata[KEY][_ASIDE] = True


def remove_objects_preview(viewer: ViewerModel) -> None:
    """Remove the preview, and show the objects again that it hid."""
    for preview in [layer for layer in viewer.layers if _is(layer, PREVIEW)]:
        viewer.layers.remove(preview)
    for layer in viewer.layers:
        if _is(layer, FOUND) and layer.metadata[KEY].pop(_ASIDE, False):
            layer.visible = True


def _put(
    viewer: ViewerModel,
    source: ProbabilitySource,
    data: Any,
    start: Mapping[int, int],
    metadata: dict[str, Any],
    old: Labels | None,
    name: str,
    multiscale: bool,
) -> Labels:
    """Return the layer that shows labels of a part of a source: the old one updated, or a new one."""
    offset = tuple(start.get(axis, 0) for axis in range(len(source.axes)))
    place = place_over(source.layer, (1,) * len(source.axes), offset, dropped=int(source.axes[0] == "C"))
    if old is not None:
        old.data = data
        place_at(old, place)
        old.metadata = {**old.metadata, KEY: metadata}
        old.editable = False
        return old
    selected = set(viewer.layers.selection)
    arguments = {"name": name, "opacity": 0.6, "metadata": {KEY: metadata}, "multiscale": multiscale}
    layer: Labels = without_wrapper(viewer.add_labels(data, **arguments, **place.arguments()))
    layer.editable = False
    viewer.layers.selection = {each for each in selected if each in viewer.layers}
    return layer


def _over_channels(data: Any, source: ProbabilitySource) -> Any:
    """Return labels repeated, without a copy, along a channel axis that is not the first: napari repeats the first."""
    channel = source.axes.find("C")
    return data if channel <= 0 else RepeatedSlices(data, channel, source.length("C"))


def _is(layer: Layer, role: str) -> bool:
    return bool(layer.metadata.get(KEY, {}).get("role") == role)


def _find(viewer: ViewerModel, source: str, role: str) -> Labels | None:
    found = [layer for layer in viewer.layers if _is(layer, role) and layer.metadata[KEY]["source"] == source]
    return without_wrapper(found[0]) if found else None


def show_object(viewer: ViewerModel, shown: ShownObjects, row: int) -> None:
    """Select the label of an object, go to its slice, and fit the view to it."""
    label = int(shown.table.column("label")[row])
    shown.layer.selected_label = label
    axes, place = shown.source.axes, position_of_object(shown, row)
    at = current_position(viewer, shown.source.layer)
    center = tuple(place[letter][0] if letter in place else at[axis] for axis, letter in enumerate(axes))
    box = tuple(place[letter][1] if letter in place else (at[axis], at[axis] + 1) for axis, letter in enumerate(axes))
    go_to(viewer, shown.source.layer, center, box)


def frame_of(viewer: ViewerModel, shown: ShownObjects, row: int) -> UncertainRegion:
    """Return the box to frame around an object, in voxels of its layer: all its slices, with a margin in each."""
    table, axes = shown.table, shown.source.axes[-shown.layer.ndim :]
    box = [(0, int(length)) for length in data_of(shown.layer).shape]
    for letter in axes.replace("C", "").replace("T", ""):
        low, stop = (int(table.column(f"bounding box {letter.lower()} {end}")[row]) for end in ("start", "end"))
        box[axes.index(letter)] = (low - 1, stop + 1) if letter in "YX" else (low, stop)
    if "time" in table.names:
        time = int(table.column("time")[row])
        box[axes.index("T")] = time, time + 1
    return UncertainRegion(current_position(viewer, shown.layer), tuple(box), 0.0, "")


def position_of_object(shown: ShownObjects, row: int) -> dict[str, tuple[int, tuple[int, int]]]:
    """Return the place of an object, in voxels: along each axis its middle, and [start, stop) of the box to show."""
    table, place = shown.table, {}
    if "time" in table.names:
        time = int(table.column("time")[row])
        place["T"] = time, (time, time + 1)
    for letter in shown.source.voxel_axes.replace("T", ""):
        low, stop = (int(table.column(f"bounding box {letter.lower()} {end}")[row]) for end in ("start", "end"))
        more = max(0, LEAST_BOX - (stop - low)) // 2 if letter in "YX" else 0
        place[letter] = (low + stop - 1) // 2, (low - more, stop + more)
    if "Z" in place:
        low, stop = place["Z"][1]
        place["Z"] = low + _fullest_slice(shown, row, (low, stop)), (low, stop)
    return place


def _fullest_slice(shown: ShownObjects, row: int, depth: tuple[int, int]) -> int:
    """Return the slice that shows most of an object, counted from its first one."""
    table, low, middle = shown.table, depth[0], (depth[1] - depth[0] - 1) // 2
    spans = {"Z": slice(*depth)}
    for letter in "yx":
        ends = (int(table.column(f"bounding box {letter} {end}")[row]) for end in ("start", "end"))
        spans[letter.upper()] = slice(*ends)
    if depth[1] - low < 2 or np.prod([each.stop - each.start for each in spans.values()]) > LARGEST_BOX:
        return middle
    if "T" in shown.source.axes:
        spans["T"] = slice(int(table.column("time")[row]), int(table.column("time")[row]) + 1)
    axes = shown.source.voxel_axes if shown.source.axes[0] == "C" else shown.source.axes
    index = tuple(spans.get(letter, slice(0, 1)) for letter in axes)
    is_object = np.asarray(data_of(shown.layer)[index]) == table.column("label")[row]
    counts = is_object.sum(axis=tuple(axis for axis, letter in enumerate(axes) if letter != "Z"))
    return int(counts.argmax())


def place_over_image(shown: ShownObjects) -> None:
    """Move objects to where their image lies now."""
    axes = shown.source.axes
    if shown.source.layer.ndim == len(axes):
        flat = (1,) * len(axes)
        place_at(shown.layer, place_over(shown.source.layer, flat, (0,) * len(axes), dropped=int(axes[0] == "C")))


def pick_label(layer: Labels, event: Any) -> Generator[None, None, None]:
    """Select the object under a click; a drag moves the view as usual."""
    begun = np.asarray(event.pos)
    yield
    while event.type == "mouse_move":
        yield
    if layer.mode != "pan_zoom" or np.abs(np.asarray(event.pos) - begun).max() > CLICK:
        return
    looking = {"view_direction": event.view_direction, "dims_displayed": event.dims_displayed, "world": True}
    value = layer.get_value(event.position, **looking)
    label = value[-1] if isinstance(value, tuple) else value
    if label:
        layer.selected_label = int(label)
