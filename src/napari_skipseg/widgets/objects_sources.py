"""In which layers objects can be found: results, probabilities and labels; and what there is of them to measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_skipseg.scores.boundaries import BOUNDARY_CLASSES
from napari_skipseg.widgets.axes import axes_of, is_rgb
from napari_skipseg.widgets.layers import KEY, data_of, is_result, results_in

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

    from napari_skipseg.widgets.results import Results

FOUND = "objects"
"""The role of a layer of objects."""
LOOK = "objects preview"
"""That of a look ahead."""


@dataclass(frozen=True, eq=False)
class Source:
    """A layer in which objects are found: its axes, the names of its classes, and whether these are labels.

    name: of the image that it is of.
    """

    layer: Layer
    axes: str
    class_names: tuple[str, ...]
    labels: bool
    name: str

    @property
    def voxel_axes(self) -> str:
        """The axes that its objects have."""
        return self.axes.replace("C", "")

    def length(self, axis: str) -> int:
        """Return the length of an axis, 1 where there is none."""
        return int(data_of(self.layer).shape[self.axes.index(axis)]) if axis in self.axes else 1

    def parts_cells(self, class_name: str) -> bool:
        """Return whether a class, or else the only or first one, is a boundary between cells."""
        return (class_name or next(iter(self.class_names), "")) in BOUNDARY_CLASSES


def describe_source(viewer: ViewerModel, layer: Layer) -> Source:
    """Return what a layer is to a search for objects."""
    from napari.layers import Labels

    axes, labels = axes_of(layer), isinstance(layer, Labels)
    told = layer.metadata.get(KEY, {})
    names = _class_names(layer, told, axes, labels)
    origin = next((other for other in viewer.layers if str(other.unique_id) == told.get("source")), layer)
    return Source(unwrapped(layer), axes, names, labels, origin.name)


def unwrapped(value: Any) -> Any:
    """Return what napari hands to plugins in a wrapper, made anew each time, as it is."""
    return getattr(value, "__wrapped__", value)


def _class_names(layer: Layer, told: dict[str, Any], axes: str, labels: bool) -> tuple[str, ...]:
    """Return the classes of a layer, in the order of its channels or of the values of its labels."""
    role, classes = str(told.get("role", "")), tuple(map(str, (told.get("recipe") or {}).get("classes", ())))
    if role.startswith("probability "):
        return (role.removeprefix("probability "),)
    if "C" in axes and not (role or labels):
        count = int(data_of(layer).shape[axes.index("C")])
        return classes if len(classes) == count else tuple(f"channel {number}" for number in range(count))
    return classes if labels or len(classes) == 1 else ()


def find_sources(viewer: ViewerModel) -> list[Layer]:
    """Return the layers in which objects can be found, those that are a probability or labels for certain first."""
    layers = [layer for layer in reversed(viewer.layers) if _rank(layer) is not None]
    return sorted(layers, key=lambda layer: _rank(layer) or 0)


def is_certain(layer: Layer) -> bool:
    """Return whether a layer is a probability or labels, and not just numbers that could be one."""
    return _rank(layer) in (0, 1)


def _rank(layer: Layer) -> int | None:
    """Return 0 for a probability, 1 for labels, 2 for what could be a probability, None for anything else."""
    from napari.layers import Image, Labels

    told = layer.metadata.get(KEY, {})
    role = str(told.get("role", ""))
    if isinstance(layer, Labels):
        return None if "corrections" in told or role in (FOUND, LOOK) else 1
    if not isinstance(layer, Image) or is_rgb(layer):
        return None
    if role:
        return 0 if role.startswith("probability") else None
    if (told.get("recipe") or {}).get("classes"):
        return 0
    kind = np.dtype(data_of(layer).dtype).kind
    if kind == "f":
        low, high = layer.contrast_limits_range
        return 0 if low >= 0 and high <= 1 else None
    return 2 if kind in "bu" else None


def result_layer(viewer: ViewerModel, results: Results, image: Image | None) -> Layer | None:
    """Return the probability that is on show of an image, of a boundary where it has one; None where there is none."""
    for shown in results.on_show(image):
        layers = [layer for layer in results_in(viewer, shown.source) if _rank(layer) == 0]
        names = [layer.metadata[KEY]["role"].removeprefix("probability ") for layer in layers]
        parting = [layer for layer, name in zip(layers, names, strict=True) if name in BOUNDARY_CLASSES]
        if layers:
            return (parting or layers)[0]
    return None


def find_measured(viewer: ViewerModel, source: Source) -> list[Layer]:
    """Return the images whose grey values can be measured: those of the same voxels that are no result."""
    from napari.layers import Image

    return [
        layer for layer in viewer.layers if isinstance(layer, Image) and not is_result(layer) and _fits(layer, source)
    ]


def find_truths(viewer: ViewerModel, source: Source) -> list[Layer]:
    """Return the labels that objects can be scored against."""
    from napari.layers import Labels

    return [
        layer
        for layer in reversed(viewer.layers)
        if isinstance(layer, Labels) and not is_result(layer) and layer != source.layer and _fits(layer, source)
    ]


def _fits(layer: Layer, source: Source) -> bool:
    if layer == source.layer:
        return False
    axes = axes_of(layer)
    shape = dict(zip(axes, data_of(layer).shape, strict=False))
    return all(int(shape.get(axis, 1)) == source.length(axis) for axis in "TZYX")
