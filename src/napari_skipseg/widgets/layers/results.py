"""Layers to stacks, and predictions to layers: probability, binary, uncertainty and attention over their image."""

from __future__ import annotations

from collections.abc import Container, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.prediction import Binary, Prediction
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.layers.axes import is_rgb, origin_of, voxel_size_of
from napari_skipseg.widgets.layers.files import file_of, notes_of_stack
from napari_skipseg.widgets.layers.placement import CutArray, Placement, RepeatedSlices, place_at, place_over
from napari_skipseg.widgets.layers.result_looks import (
    CLASS_COLORS,
    HIDDEN_MAP,
    PROBABILITY_LOOKS,
    choose_colors,
    label_colors,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer
    from napari.utils.colormaps import DirectLabelColormap


KEY = "skipseg"
"""The key in `layer.metadata` under which a result says what it is and which recipe made it."""

_ASIDE = "aside"
"""The key of a result that is hidden as long as another result of the same image is in front: the source of that."""
SLICE_OF = "{} slice {}"
"""The source of results of a part of an image, made of that of the image and of where the part lies."""


@dataclass(frozen=True)
class ShownResult:
    """A prediction, and of what it is: the image's axes without RGB samples, and where the part begins that it was cut
    to (axis number -> position).

    source: what its layers are found by, whatever their names. prefix: of those names. is_whole: whether all of it was
    segmented, rather than stopped. colors: of its classes, in their order; empty = as many of the usual ones.
    """

    prediction: Prediction
    axes: str
    positions: dict[int, int]
    source: str
    prefix: str = ""
    is_whole: bool = True
    colors: tuple[str, ...] = ()

    def with_colors(self, known: Mapping[str, str]) -> ShownResult:
        """Return the same in the colours that are known by the names of classes, and others where none is."""
        return replace(self, colors=choose_colors(self.prediction.class_names, known))

    def color(self, number: int) -> str:
        """Return the colour of a class, counted from 0."""
        colors = self.colors or CLASS_COLORS
        return colors[number % len(colors)]


@dataclass(frozen=True)
class ResultLayer:
    """One layer to show: it is found again by its role. name: how it is called at first."""

    role: str
    name: str
    kind: str
    data: Any
    placement: Placement
    looks: dict[str, Any]


def stack_of_layer(layer: Layer, axes: str, positions: dict[int, int] | None = None) -> Stack:
    """Return the stack of an image layer with such axes, cut to `positions` (axis number -> position).

    It names its file where the layer shows all of that, as it is.

    Raises:
        InputError: the axes do not describe the layer, or it is empty.
        FileError: its file has changed since it was opened, or is gone.
    """
    data = data_of(layer)
    file = "" if positions else file_of(layer, data)
    full = axes + ("C" if is_rgb(layer) else "")
    size, unit = voxel_size_of(layer, axes)
    space = Space(full, size, unit, origin_of(layer, axes))
    if positions:
        data, space = CutArray(data, positions), space.shifted({axes[axis]: place for axis, place in positions.items()})
    told = layer.metadata.get(KEY, {})
    slice_names = () if positions else tuple(told.get("slices", ()))
    return Stack(data, space, layer.name, file, notes_of_stack(layer), told.get("title", ""), slice_names)


def data_of(layer: Layer) -> Any:
    """Return the layer's voxels; of a multiscale image the finest."""
    return layer.data[0] if getattr(layer, "multiscale", False) else layer.data


def is_result(layer: Layer) -> bool:
    """Return whether the layer shows a result of this plugin."""
    return "role" in layer.metadata.get(KEY, {})


def is_ours(layer: Layer) -> bool:
    """Return whether the layer shows a result of this plugin, made here or read from a file."""
    recipe = layer.metadata.get(KEY, {}).get("recipe") or {}
    return is_result(layer) or "operation" in recipe


def show_result(viewer: ViewerModel, layer: Image, shown: ShownResult, threshold: float) -> None:
    """Show a prediction over its image: new layers the first time, the same layers updated from then on."""
    selected = set(viewer.layers.selection)
    wanted = list(_results(layer, shown, threshold))
    remove_results(viewer, shown.source, but={result.role for result in wanted})
    for result in wanted:
        metadata = {
            KEY: {
                "role": result.role,
                "source": shown.source,
                "threshold": threshold,
                "recipe": shown.prediction.recipe,
            }
        }
        old = _find(viewer, shown.source, result.role)
        if old is not None and old.ndim != result.data.ndim:
            viewer.layers.remove(old)
            old = None
        if old is None:
            _add(viewer, layer, result, metadata)
        else:
            _update(old, result, metadata)
    viewer.layers.selection = {each for each in selected if each in viewer.layers}


def set_threshold(viewer: ViewerModel, shown: ShownResult, threshold: float) -> None:
    """Show the binary layer of a prediction at another threshold; the network does not run."""
    binary = _find(viewer, shown.source, "binary")
    if binary is not None and binary.metadata[KEY]["threshold"] != threshold:
        binary.data = _over_channels(_labels(shown, threshold), shown, data_length(shown, binary))
        binary.editable = False
        binary.metadata[KEY]["threshold"] = threshold


def set_colors(viewer: ViewerModel, shown: ShownResult) -> None:
    """Show a prediction in the colours that its classes have."""
    for number, role in enumerate(_probability_roles(shown)):
        layer = _find(viewer, shown.source, role)
        if layer is not None:
            layer.colormap = shown.color(number)
    binary = _find(viewer, shown.source, "binary")
    if binary is not None:
        binary.colormap = _class_colors(shown)


def follow_layer(viewer: ViewerModel, layer: Image, shown: ShownResult) -> None:
    """Move the results of an image to where it lies now."""
    for result in _results(layer, shown, 0.5):
        old = _find(viewer, shown.source, result.role)
        if old is not None:
            place_at(old, result.placement)


def tell_recipe(viewer: ViewerModel, shown: ShownResult) -> None:
    """Write into the layers of a prediction, those that are left, which recipe made it; draw them as they are now."""
    for layer in results_in(viewer, shown.source):
        layer.metadata[KEY]["recipe"] = shown.prediction.recipe
        layer.refresh()


def remove_results(viewer: ViewerModel, source: str, but: Container[str] = ()) -> None:
    """Remove the layers of a prediction, other than those whose roles are named."""
    for old in results_in(viewer, source):
        if old.metadata[KEY]["role"] not in but:
            viewer.layers.remove(old)


def results_in(viewer: ViewerModel, source: str) -> list[Layer]:
    """Return the layers that show a prediction."""
    return [layer for layer in viewer.layers if is_result(layer) and layer.metadata[KEY]["source"] == source]


def segmented_in(viewer: ViewerModel, image: str) -> list[Layer]:
    """Return the layers that show what a model makes of an image now: of all of it, of slices, a preview."""
    kinds = {"", "preview", "slice"}
    results = [layer for layer in viewer.layers if is_result(layer)]
    sources = [(layer, *layer.metadata[KEY]["source"].split(" ")) for layer in results]
    return [layer for layer, of, *kind in sources if of == image and "".join(kind[:1]) in kinds]


def image_of(source: str) -> str:
    """Return which image a source is of: the unique id of its layer, which all sources begin with."""
    return source.partition(" ")[0]


def put_in_front(viewer: ViewerModel, source: str, others: Container[str]) -> None:
    """Show the layers of a prediction that were put aside, and put those of the others aside, so that one is not seen
    through another."""
    for layer in viewer.layers:
        told = layer.metadata.get(KEY, {})
        if told.get("source") == source:
            if told.pop(_ASIDE, None):
                layer.visible = True
        elif is_result(layer) and told["source"] in others and layer.visible:
            layer.visible = False
            told[_ASIDE] = source


def bring_results_back(viewer: ViewerModel) -> None:
    """Show the results again that were put aside for others which are no longer there."""
    for layer in viewer.layers:
        told = layer.metadata.get(KEY, {})
        if (source := told.get(_ASIDE)) and not results_in(viewer, source):
            del told[_ASIDE]
            layer.visible = True


def data_length(shown: ShownResult, binary: Layer) -> int:
    """Return over how many channels a result is repeated."""
    return int(binary.data.shape[shown.axes.index("C")]) if shown.axes.find("C") > 0 else 1


def _results(layer: Image, shown: ShownResult, threshold: float) -> Iterator[ResultLayer]:
    """Yield the results from the bottom of the layer list up."""
    prediction, names = shown.prediction, shown.prediction.class_names
    channels = int(data_of(layer).shape[shown.axes.index("C")]) if "C" in shown.axes else 1
    for attention in reversed(prediction.attentions):
        data = _over_channels(attention.data, shown, channels)
        place = _place(layer, shown, attention.stride, attention.offset)
        looks = {"colormap": "viridis", "contrast_limits": (0, 1), **HIDDEN_MAP}
        role = f"attention {attention.level}"
        yield ResultLayer(role, shown.prefix + role, "image", data, place, looks)
    flat = (1,) * len(shown.axes.replace("C", ""))
    whole = _place(layer, shown, flat, (0,) * len(flat))
    several = len(names) > 1
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
    data = _over_channels(_labels(shown, threshold), shown, channels)
    looks = {"opacity": 0.25, "colormap": _class_colors(shown)}
    yield ResultLayer("binary", shown.prefix + "binary", "labels", data, whole, looks)


def _role_and_name(kind: str, class_name: str, several: bool, prefix: str) -> tuple[str, str]:
    """Return what the layer of a class is found by, and how it is called.

    Of several classes the class comes first, as the list of layers cuts long names in the middle; "preview" or "before"
    stands in place of the kind.
    """
    if not several:
        return kind, prefix + kind
    is_short = prefix and kind == "probability"
    return f"{kind} {class_name}", f"{class_name} {prefix.strip() if is_short else prefix + kind}"


def _probability_roles(shown: ShownResult) -> list[str]:
    names = shown.prediction.class_names
    return [f"probability {name}" for name in names] if len(names) > 1 else ["probability"]


def _labels(shown: ShownResult, threshold: float) -> Binary:
    """Return the labels of a prediction: unlike those of dask they follow while it fills, as napari keeps no copy."""
    return Binary(shown.prediction.probability, threshold, len(shown.prediction.class_names) > 1)


def _place(layer: Image, shown: ShownResult, stride: tuple[float, ...], offset: tuple[float, ...]) -> Placement:
    """Return the placement of a result with such stride and offset along the axes without channels."""
    strides, offsets = list(stride), list(offset)
    channel = shown.axes.find("C")
    if channel >= 0:
        strides.insert(channel, 1)
        offsets.insert(channel, 0)
    for axis, position in shown.positions.items():
        offsets[axis] += position
    return place_over(layer, tuple(strides), tuple(offsets), dropped=int(channel == 0))


def _over_channels(data: Any, shown: ShownResult, channels: int) -> Any:
    """Return `data` repeated (not copied) along a channel axis that is not the first; napari repeats along that."""
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
    arguments = {"name": name, "metadata": metadata, **result.placement.arguments(), **result.looks}
    if result.kind == "labels":
        viewer.add_labels(result.data, **arguments).editable = False
    else:
        viewer.add_image(result.data, rgb=False, **arguments)


def _class_colors(shown: ShownResult) -> DirectLabelColormap:
    return label_colors([shown.color(number) for number in range(len(shown.prediction.class_names))])


def iter_prepare_colors() -> Generator[Progress, None, None]:
    """Have napari compile what colours labels, which takes it seconds, before the first result comes."""
    yield Progress(0, 1, "preparing the colours")
    label_colors(CLASS_COLORS).map(np.zeros(1, np.uint8))


def _update(old: Layer, result: ResultLayer, metadata: dict[str, Any]) -> None:
    old.data = result.data
    place_at(old, result.placement)
    kept = {_ASIDE: old.metadata[KEY][_ASIDE]} if _ASIDE in old.metadata[KEY] else {}
    old.metadata = {**old.metadata, KEY: {**metadata[KEY], **kept}}
    if result.kind == "labels":
        old.editable = False


LAYER_NAMES = "preview "


RESULT_SOURCE = "{} preview"
