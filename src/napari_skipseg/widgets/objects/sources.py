"""The layers in which objects can be found (results, probabilities, labels), and the images to measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_skipseg.images.formats import USUAL_DEPTH, Depth
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.prediction import QuantizedArray
from napari_skipseg.inference.recipes.recipe import OBJECTS_OPERATION
from napari_skipseg.objects.classes import BOUNDARY_CLASSES, records_padding, thresholds_in
from napari_skipseg.objects.files import OBJECTS_TYPE
from napari_skipseg.objects.options import Method, ObjectOptions
from napari_skipseg.thresholds import DEFAULT_THRESHOLD
from napari_skipseg.widgets.layers.axes import axes_of, is_rgb, voxel_size_of
from napari_skipseg.widgets.layers.results import KEY, data_of, image_of, is_ours, is_result, results_in, stack_of_layer

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

    from napari_skipseg.widgets.layers.live import Results

FOUND = "objects"
"""The role of a layer of objects."""
PREVIEW = "objects preview"
"""The role of a preview."""
PROOFREAD = "proofread"
"""The role of the layers in which objects are edited."""


@dataclass(frozen=True, eq=False)
class ProbabilitySource:
    """A layer in which objects are found: its axes, the names of its classes, and whether it contains labels.

    name: of its image.
    """

    layer: Layer
    axes: str
    class_names: tuple[str, ...]
    labels: bool
    name: str

    @property
    def has_padding(self) -> bool:
        """Whether its segmentation left areas without tissue out."""
        return records_padding(recipe_of_layer(self.layer))

    def threshold(self, class_name: str) -> float:
        """Return the threshold of a class in its segmentation."""
        metadata = self.layer.metadata.get(KEY, {})
        known = thresholds_in(recipe_of_layer(self.layer))
        if "thresholds" in metadata:  # the sliders of the Segment tab moved since
            known |= dict(zip(metadata["recipe"].get("classes", ()), metadata["thresholds"], strict=False))
        return known.get(class_name or next(iter(self.class_names), ""), DEFAULT_THRESHOLD)

    @property
    def voxel_axes(self) -> str:
        """The axes that its objects have."""
        return self.axes.replace("C", "")

    def length(self, axis: str) -> int:
        """Return the length of an axis, 1 without it."""
        return int(data_of(self.layer).shape[self.axes.index(axis)]) if axis in self.axes else 1

    def thickness(self) -> float:
        """Return how many times deeper than wide its voxels are, 1 if it has no slices."""
        (depth, height, width), _ = voxel_size_of(self.layer, self.axes)
        return depth / max(height, width) if self.length("Z") > 1 else 1.0

    def suggested(self, class_name: str) -> Method:
        """Return the method that suits a class; "" = the only class."""
        return suggest_method(self.class_names, class_name)


def suggest_method(class_names: Sequence[str], class_name: str = "") -> Method:
    """Return the method that suits a class: cells if it is a boundary. Without a class, any boundary counts."""
    names = (class_name,) if class_name else class_names
    return "cells" if any(name in BOUNDARY_CLASSES for name in names) else "components"


def describe_source(viewer: ViewerModel, layer: Layer) -> ProbabilitySource:
    """Return a layer as the source of a search for objects."""
    from napari.layers import Labels

    axes, labels = axes_of(layer), isinstance(layer, Labels)
    ours = layer.metadata.get(KEY, {})
    names = _class_names(layer, ours, axes, labels)
    image = image_of(str(ours.get("source", "")))
    origin = next((other for other in viewer.layers if str(other.unique_id) == image), layer)
    return ProbabilitySource(without_wrapper(layer), axes, names, labels, origin.name)


def stack_to_search(source: ProbabilitySource, depth: Depth = USUAL_DEPTH) -> Stack:
    """Return the voxels of a source. Those of a network's result are quantised as in files of this depth.

    So the same objects, with the same labels, are found here, in a saved result and by a batch.

    Raises:
        SkipsegError: as `stack_of_layer`.
    """
    stack = stack_of_layer(source.layer, source.axes)
    if source.labels or not is_result(source.layer) or stack.data.dtype.kind != "f":
        return stack
    return replace(stack, data=QuantizedArray(stack.data, depth))


def recipe_of_layer(layer: Layer) -> dict[str, Any]:
    """Return the recipe of a layer, empty if it has none."""
    return layer.metadata.get(KEY, {}).get("recipe") or {}


def without_wrapper(value: Any) -> Any:
    """Return the object in a wrapper of napari: plugins get a new wrapper each time, so wrappers are never the same."""
    return getattr(value, "__wrapped__", value)


def _class_names(layer: Layer, ours: dict[str, Any], axes: str, labels: bool) -> tuple[str, ...]:
    """Return the classes of a layer, in the order of its channels or of the values of its labels."""
    role, classes = str(ours.get("role", "")), tuple(map(str, (ours.get("recipe") or {}).get("classes", ())))
    if role.startswith("probability "):
        return (role.removeprefix("probability "),)
    if "C" in axes and not (role or labels):
        count = int(data_of(layer).shape[axes.index("C")])
        return classes if len(classes) == count else tuple(f"channel {number}" for number in range(count))
    return classes if labels or len(classes) == 1 else ()


def find_sources(viewer: ViewerModel) -> list[Layer]:
    """Return the layers in which objects can be found, certain ones (probabilities, labels) first."""
    layers = [layer for layer in reversed(viewer.layers) if _rank(layer) is not None]
    return sorted(layers, key=lambda layer: _rank(layer) or 0)


def is_certain(layer: Layer) -> bool:
    """Return whether a layer is surely a probability or labels, not only numbers that could be one."""
    return _rank(layer) in (0, 1)


def _rank(layer: Layer) -> int | None:
    """Return 0 for a probability, 1 for labels, 2 for what could be a probability, None for anything else."""
    from napari.layers import Image, Labels

    ours = layer.metadata.get(KEY, {})
    role = str(ours.get("role", ""))
    if isinstance(layer, Labels):
        recipe = recipe_of_layer(layer)
        is_of_objects = recipe.get("operation") == OBJECTS_OPERATION or (
            "operation" in recipe and data_of(layer).dtype == OBJECTS_TYPE
        )
        return None if "corrections" in ours or role in (FOUND, PREVIEW, PROOFREAD) or is_of_objects else 1
    if not isinstance(layer, Image) or is_rgb(layer):
        return None
    if role:
        return 0 if role.startswith("probability") else None
    if (ours.get("recipe") or {}).get("classes"):
        return 0
    kind = np.dtype(data_of(layer).dtype).kind
    if kind == "f":
        low, high = layer.contrast_limits_range
        return 0 if low >= 0 and high <= 1 else None
    return 2 if kind in "bu" else None


def result_layer(
    viewer: ViewerModel, results: Results, image: Image | None, options: ObjectOptions | None = None
) -> Layer | None:
    """Return the probability of an image that is on show, None if there is none.

    Of several classes it is the one that `options` name, or a boundary, or else the first one.
    """
    for shown in results.on_show(image):
        layers = [layer for layer in results_in(viewer, shown.source) if _rank(layer) == 0]
        names = [layer.metadata[KEY]["role"].removeprefix("probability ") for layer in layers]
        wanted: Sequence[str] = BOUNDARY_CLASSES
        if options is not None and (options.class_name or options.method != "cells"):
            wanted = (options.class_name,)
        chosen = [layer for layer, name in zip(layers, names, strict=True) if name in wanted]
        if layers:
            return (chosen or layers)[0]
    return None


def find_measured(viewer: ViewerModel, source: ProbabilitySource) -> list[Layer]:
    """Return the images whose grey values can be measured: no results, of the same shape, the source's own first."""
    from napari.layers import Image

    origin = image_of(str(source.layer.metadata.get(KEY, {}).get("source", "")))
    images = [layer for layer in viewer.layers if isinstance(layer, Image) and not is_ours(layer)]
    return sorted((layer for layer in images if _fits(layer, source)), key=lambda each: str(each.unique_id) != origin)


def find_truths(viewer: ViewerModel, source: ProbabilitySource) -> list[Layer]:
    """Return the labels that objects can be scored against; corrections have the numbers of classes, not objects."""
    from napari.layers import Labels

    return [
        layer
        for layer in reversed(viewer.layers)
        if isinstance(layer, Labels)
        and not is_result(layer)
        and "corrections" not in layer.metadata.get(KEY, {})
        and _fits(layer, source)
    ]


def _fits(layer: Layer, source: ProbabilitySource) -> bool:
    if layer == source.layer:
        return False
    axes = axes_of(layer)
    shape = dict(zip(axes, data_of(layer).shape, strict=False))
    return all(int(shape.get(axis, 1)) == source.length(axis) for axis in "TZYX")
