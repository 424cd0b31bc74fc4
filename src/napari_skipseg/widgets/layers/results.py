"""Layers to stacks, and predictions to layers: probability, binary, uncertainty and attention over their image."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.corrections.subject import CLASS_COLORS
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.views import CutArray
from napari_skipseg.inference.prediction import Binary, Prediction, Threshold
from napari_skipseg.widgets.layers.axes import is_rgb, origin_of, voxel_size_of
from napari_skipseg.widgets.layers.files import (
    HIDDEN_MAP,
    PROBABILITY_LOOKS,
    choose_colors,
    file_of,
    label_colors,
    notes_of_stack,
)
from napari_skipseg.widgets.layers.placement import Placement, RepeatedSlices, place_at, place_over, selection_kept

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer
    from napari.utils.colormaps import DirectLabelColormap


KEY = "skipseg"
"""The key in `layer.metadata` of the data that this plugin keeps on a layer."""

_ASIDE = "aside"
"""The key of a result that is hidden while a different result of the same image is in front: the source of that one."""
ONE_OF = "one_of"
"""The key of an image whose file contains several images: that file."""
_BEHIND = "behind"
"""The key of a layer that is hidden while a different image of its file is shown."""
LAYER_NAMES = "preview "
RESULT_SOURCE = "{} preview"
"""The source of the preview of an image, made of the source of the image."""
SLICE_OF = "{} slice {}"
"""The source of results of a part of an image: that of the image, and the position of the part."""


class PlacedPart(Protocol):
    """A part of an image: its axes, without RGB samples, and where it begins (axis number -> position)."""

    @property
    def axes(self) -> str:
        """The axes of the image."""
        ...

    @property
    def positions(self) -> dict[int, int]:
        """Where the part begins; an axis that is not named is there as a whole."""
        ...


@dataclass(frozen=True)
class ShownResult:
    """A prediction that is shown in layers.

    axes: of its image, without RGB samples. positions: where the segmented part begins (axis number -> position).
    source: the key in the metadata of its layers, which may be renamed. prefix: of the first names of its layers.
    is_whole: whether it was segmented to the end. colors: of its classes in order; empty = the usual ones.
    """

    prediction: Prediction
    axes: str
    positions: dict[int, int]
    source: str
    prefix: str = ""
    is_whole: bool = True
    colors: tuple[str, ...] = ()

    @property
    def box(self) -> tuple[slice, ...]:
        """Where it lies, in voxels of the image without channels."""
        starts = [self.positions.get(axis, 0) for axis, letter in enumerate(self.axes) if letter != "C"]
        lengths = self.prediction.probability.shape[-len(starts) :]
        return tuple(slice(start, start + int(length)) for start, length in zip(starts, lengths, strict=True))

    def labels(self, threshold: Threshold) -> Binary:
        """Return the labels at a threshold as a lazy view; napari would keep copies of a dask array while it fills."""
        prediction = self.prediction
        return Binary(prediction.probability, prediction.thresholds_at(threshold), len(prediction.class_names) > 1)

    def with_colors(self, known: Mapping[str, str]) -> ShownResult:
        """Return the same with the colours that are known by class name, and free colours for the other classes."""
        return replace(self, colors=choose_colors(self.prediction.class_names, known))

    def color(self, number: int) -> str:
        """Return the colour of a class, counted from 0."""
        colors = self.colors or CLASS_COLORS
        return colors[number % len(colors)]


@dataclass(frozen=True)
class ResultLayer:
    """One layer to show. role: the key by which it is found again. name: its first name, which the user may change."""

    role: str
    name: str
    kind: str
    data: Any
    placement: Placement
    looks: dict[str, Any]


def stack_of_layer(layer: Layer, axes: str, positions: dict[int, int] | None = None) -> Stack:
    """Return the stack of an image layer with such axes, cut to `positions` (axis number -> position).

    The stack has a file if the layer shows all of that file, unchanged.

    Raises:
        InputError: the axes do not describe the layer, or it is empty.
        FileError: its file was changed or removed since it was opened.
    """
    data = data_of(layer)
    file = "" if positions else file_of(layer, data)
    full = axes + ("C" if is_rgb(layer) else "")
    size, unit = voxel_size_of(layer, axes)
    space = Space(full, size, unit, origin_of(layer, axes))
    if positions:
        data, space = CutArray(data, positions), space.shifted({axes[axis]: place for axis, place in positions.items()})
    metadata = layer.metadata.get(KEY, {})
    slice_names = () if positions else tuple(metadata.get("slices", ()))
    return Stack(data, space, layer.name, file, notes_of_stack(layer), metadata.get("title", ""), slice_names)


def common_box(one: Sequence[slice], other: Sequence[slice]) -> tuple[slice, ...] | None:
    """Return the part that two boxes of an image have in common, None if there is none."""
    if len(one) != len(other):
        return None
    part = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return part if all(side.start < side.stop for side in part) else None


def read_as_czyx(stack: Stack, index: Mapping[str, slice]) -> NDArray[Any]:
    """Return a part of a stack as (C, Z, Y, X), of its first time. index: by axis; an axis that is missing is whole."""
    axes = stack.space.axes
    values = stack.read(tuple(index.get(axis, slice(None)) for axis in axes))
    order = [axes.index(axis) for axis in "TCZYX" if axis in axes]
    missing = tuple(number for number, axis in enumerate("TCZYX") if axis not in axes)
    found: NDArray[Any] = np.expand_dims(values.transpose(order), missing)[0]
    return found


def data_of(layer: Layer) -> Any:
    """Return the layer's voxels, of a multiscale image those of the finest level."""
    return layer.data[0] if getattr(layer, "multiscale", False) else layer.data


def is_result(layer: Layer) -> bool:
    """Return whether the layer shows a result that was made in this window."""
    return "role" in layer.metadata.get(KEY, {})


def is_ours(layer: Layer) -> bool:
    """Return whether the layer shows a result of this plugin, made in this window or read from a file."""
    recipe = layer.metadata.get(KEY, {}).get("recipe") or {}
    return is_result(layer) or "operation" in recipe


def show_result(viewer: ViewerModel, layer: Image, shown: ShownResult, threshold: Threshold) -> None:
    """Show a prediction over its image: in new layers the first time, in the same layers later."""
    wanted = list(_iter_results(layer, shown, threshold))
    with selection_kept(viewer):
        remove_results(viewer, shown.source, but={result.role for result in wanted})
        for result in wanted:
            metadata = {
                "role": result.role,
                "source": shown.source,
                "thresholds": shown.prediction.thresholds_at(threshold),
                "recipe": shown.prediction.recipe,
            }
            old = _find(viewer, shown.source, result.role)
            if old is not None and old.ndim != result.data.ndim:
                viewer.layers.remove(old)
                old = None
            if old is None:
                _add(viewer, layer, result, metadata)
                continue
            old.data = result.data
            place_at(old, result.placement)
            if _ASIDE in old.metadata[KEY]:
                metadata[_ASIDE] = old.metadata[KEY][_ASIDE]
            old.metadata = {**old.metadata, KEY: metadata}
            if result.kind == "labels":
                old.editable = False


def show_labels(
    viewer: ViewerModel, layer: Image, part: PlacedPart, source: str, labels: Mapping[str, tuple[Any, Any, bool]]
) -> None:
    """Show labels over an image, in place of those that the same source had before.

    labels: array with the axes of the image without channels, colormap, and whether it is shown at once; by the names
    of their layers, the top one last.
    """
    remove_results(viewer, source)
    place, channels = _place(layer, part), _count_channels(layer, part)
    for name, (values, colormap, is_visible) in labels.items():
        looks = {"opacity": 0.5, "colormap": colormap, "visible": is_visible}
        result = ResultLayer(name, name, "labels", _over_channels(values, part, channels), place, looks)
        _add(viewer, layer, result, {"role": name, "source": source})


def show_derived_labels(
    viewer: ViewerModel, layer: Image, place: ShownResult, labels: Any, *, role: str, colors: tuple[str, ...]
) -> None:
    """Show labels that were made of results of an image, in a new layer.

    place: where they lie and their source. role: the role and the first name of the layer. colors: of 1, 2, ….
    """
    looks = {"opacity": 0.7, "colormap": label_colors(colors)}
    data = _over_channels(labels, place, _count_channels(layer, place))
    result = ResultLayer(role, role, "labels", data, _place(layer, place), looks)
    with selection_kept(viewer):
        _add(viewer, layer, result, {"role": role, "source": place.source, "recipe": {}})


def set_threshold(viewer: ViewerModel, shown: ShownResult, threshold: Threshold) -> None:
    """Show the binary layer of a prediction at another threshold; the network does not run."""
    binary, thresholds = _find(viewer, shown.source, "binary"), shown.prediction.thresholds_at(threshold)
    if binary is not None and binary.metadata[KEY]["thresholds"] != thresholds:
        channels = int(binary.data.shape[shown.axes.index("C")]) if shown.axes.find("C") > 0 else 1
        binary.data = _over_channels(shown.labels(threshold), shown, channels)
        binary.editable = False
        binary.metadata[KEY]["thresholds"] = thresholds


def set_colors(viewer: ViewerModel, shown: ShownResult) -> None:
    """Show a prediction in the colours of its classes."""
    names = shown.prediction.class_names
    for number, name in enumerate(names):
        role, _ = _role_and_name("probability", name, len(names) > 1, shown.prefix)
        layer = _find(viewer, shown.source, role)
        if layer is not None:
            layer.colormap = shown.color(number)
    binary = _find(viewer, shown.source, "binary")
    if binary is not None:
        binary.colormap = _class_colors(shown)


def move_results(viewer: ViewerModel, layer: Image, shown: ShownResult) -> None:
    """Move the results of an image to its present place."""
    for result in _iter_results(layer, shown, 0.5):
        old = _find(viewer, shown.source, result.role)
        if old is not None:
            place_at(old, result.placement)


def update_recipe(viewer: ViewerModel, shown: ShownResult) -> None:
    """Write the recipe of a prediction into its layers, and draw these again."""
    for layer in results_in(viewer, shown.source):
        layer.metadata[KEY]["recipe"] = shown.prediction.recipe
        layer.refresh()


def remove_results(viewer: ViewerModel, source: str, but: Container[str] = ()) -> None:
    """Remove the layers of a prediction, except those with one of the roles `but`."""
    for old in results_in(viewer, source):
        if old.metadata[KEY]["role"] not in but:
            viewer.layers.remove(old)


def results_in(viewer: ViewerModel, source: str) -> list[Layer]:
    """Return the layers that show a prediction."""
    return [layer for layer in viewer.layers if is_result(layer) and layer.metadata[KEY]["source"] == source]


def segmented_in(viewer: ViewerModel, image: str) -> list[Layer]:
    """Return the layers with present results of an image: of all of it, of slices, and a preview."""
    kinds = {"", "preview", "slice"}
    results = [layer for layer in viewer.layers if is_result(layer)]
    sources = [(layer, *layer.metadata[KEY]["source"].split(" ")) for layer in results]
    return [layer for layer, of, *kind in sources if of == image and "".join(kind[:1]) in kinds]


def image_of(source: str) -> str:
    """Return the image of a source: the unique id of its layer, with which every source begins."""
    return source.partition(" ")[0]


def put_in_front(viewer: ViewerModel, source: str, others: Container[str]) -> None:
    """Show the layers of a prediction and hide those of the others, so that results do not overlap."""
    for layer in viewer.layers:
        metadata = layer.metadata.get(KEY, {})
        if metadata.get("source") == source:
            if metadata.pop(_ASIDE, None):
                layer.visible = True
        elif is_result(layer) and metadata["source"] in others and layer.visible:
            layer.visible = False
            metadata[_ASIDE] = source


def bring_results_back(viewer: ViewerModel) -> None:
    """Show the results again that were hidden behind a result that was removed."""
    for layer in viewer.layers:
        metadata = layer.metadata.get(KEY, {})
        if (source := metadata.get(_ASIDE)) and not results_in(viewer, source):
            del metadata[_ASIDE]
            layer.visible = True


def show_alone(viewer: ViewerModel, layer: Layer) -> None:
    """Show an image and its results, and hide the other images of its file with theirs.

    What the user hid stays hidden when its image is shown again. Nothing changes if the file has only one image.
    """
    metadata = layer.metadata.get(KEY, {})
    if not metadata.get(ONE_OF):
        return
    images = {
        str(each.unique_id): each.metadata[KEY]["opened"]
        for each in viewer.layers
        if each.metadata.get(KEY, {}).get(ONE_OF) == metadata[ONE_OF]
    }
    for each in viewer.layers:
        image = image_of(each.metadata[KEY]["source"]) if is_result(each) else str(each.unique_id)
        if image not in images:
            continue
        if images[image] == metadata["opened"]:
            if each.metadata[KEY].pop(_BEHIND, False) or each is layer:
                each.visible = True
        elif each.visible:
            each.visible = False
            each.metadata[KEY][_BEHIND] = True


def _iter_results(layer: Image, shown: ShownResult, threshold: Threshold) -> Iterator[ResultLayer]:
    """Yield the layers from the bottom of the layer list to the top."""
    prediction, names = shown.prediction, shown.prediction.class_names
    channels = _count_channels(layer, shown)
    for attention in reversed(prediction.attentions):
        data = _over_channels(attention.data, shown, channels)
        place = _place(layer, shown, attention.stride, attention.offset)
        looks = {"colormap": "viridis", "contrast_limits": (0, 1), **HIDDEN_MAP}
        role = f"attention {attention.level}"
        yield ResultLayer(role, shown.prefix + role, "image", data, place, looks)
    whole, several = _place(layer, shown), len(names) > 1
    if prediction.uncertainty is not None:
        looks = {"colormap": "inferno", "contrast_limits": (0, 0.5), **HIDDEN_MAP}
        for number, name in enumerate(names):
            values = prediction.uncertainty[number] if several else prediction.uncertainty
            role, title = _role_and_name("uncertainty", name, several, shown.prefix)
            yield ResultLayer(role, title, "image", _over_channels(values, shown, channels), whole, looks)
    for number, name in enumerate(names):
        values = prediction.probability[number] if several else prediction.probability
        role, title = _role_and_name("probability", name, several, shown.prefix)
        looks = {**PROBABILITY_LOOKS, "colormap": shown.color(number)}
        yield ResultLayer(role, title, "image", _over_channels(values, shown, channels), whole, looks)
    data = _over_channels(shown.labels(threshold), shown, channels)
    looks = {"opacity": 0.25, "colormap": _class_colors(shown)}
    yield ResultLayer("binary", shown.prefix + "binary", "labels", data, whole, looks)


def _count_channels(layer: Image, shown: PlacedPart) -> int:
    return int(data_of(layer).shape[shown.axes.index("C")]) if "C" in shown.axes else 1


def _role_and_name(kind: str, class_name: str, several: bool, prefix: str) -> tuple[str, str]:
    """Return the role of the layer of a class, and its first name.

    With several classes the name begins with the class, as napari's layer list cuts long names in the middle.
    "preview" or "before" then replaces the kind.
    """
    if not several:
        return kind, prefix + kind
    is_short = prefix and kind == "probability"
    return f"{kind} {class_name}", f"{class_name} {prefix.strip() if is_short else prefix + kind}"


def _place(layer: Image, shown: PlacedPart, stride: Sequence[float] = (), offset: Sequence[float] = ()) -> Placement:
    """Return the placement of a result with such stride and offset along the axes without channels."""
    channel, count = shown.axes.find("C"), len(shown.axes.replace("C", ""))
    strides, offsets = list(stride or (1.0,) * count), list(offset or (0.0,) * count)
    if channel >= 0:
        strides.insert(channel, 1)
        offsets.insert(channel, 0)
    for axis, position in shown.positions.items():
        offsets[axis] += position
    return place_over(layer, tuple(strides), tuple(offsets), dropped=int(channel == 0))


def _over_channels(data: Any, shown: PlacedPart, channels: int) -> Any:
    """Return `data` repeated (not copied) along a channel axis; napari itself repeats it along a first axis."""
    channel = shown.axes.find("C")
    if channel <= 0:
        return data
    if isinstance(data, np.ndarray):
        shape = (*data.shape[:channel], channels, *data.shape[channel:])
        return np.broadcast_to(np.expand_dims(data, channel), shape)
    return RepeatedSlices(data, channel, channels)


def _find(viewer: ViewerModel, source: str, role: str) -> Layer | None:
    found = [layer for layer in results_in(viewer, source) if layer.metadata[KEY]["role"] == role]
    return found[0] if found else None


def _add(viewer: ViewerModel, layer: Image, result: ResultLayer, metadata: dict[str, Any]) -> None:
    position = layer.metadata.get(KEY, {}).get("position", "")
    name = f"{position}: {result.name}" if position else result.name
    if any(other.name == name for other in viewer.layers):
        name = f"{layer.name}: {result.name}"
    arguments = {"name": name, "metadata": {KEY: metadata}, **result.placement.arguments(), **result.looks}
    if result.kind == "labels":
        viewer.add_labels(result.data, **arguments).editable = False
    else:
        viewer.add_image(result.data, rgb=False, **arguments)


def _class_colors(shown: ShownResult) -> DirectLabelColormap:
    return label_colors([shown.color(number) for number in range(len(shown.prediction.class_names))])


def prepare_colors() -> None:
    """Colour one label, so that napari compiles its colouring (seconds) before the first result."""
    label_colors(CLASS_COLORS).map(np.zeros(1, np.uint8))
