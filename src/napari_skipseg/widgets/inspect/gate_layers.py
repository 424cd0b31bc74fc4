"""Features before and after a gate, and attention maps, as layers over their image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_skipseg.studies.inspection import InspectedPart, Inspection
from napari_skipseg.widgets.layers.placement import Placement, current_position, place_at, place_over
from napari_skipseg.widgets.layers.result_looks import HIDDEN_MAP
from napari_skipseg.widgets.layers.results import KEY, data_of, is_result

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

ROLES_OF = "{} gates"
"""The source of these layers, made from the id of their image: results of a segmentation have another one."""


@dataclass(frozen=True)
class InspectedImage:
    """An inspection of an image with such axes. all_maps: show the attention of all gates, not only of one."""

    inspection: Inspection
    axes: str
    all_maps: bool


@dataclass(frozen=True)
class _GateLayer:
    role: str
    data: Any
    placement: Placement
    looks: dict[str, Any]


def show_gates(viewer: ViewerModel, layer: Image, seen: InspectedImage) -> None:
    """Show an inspection over its image, in place of an earlier one."""
    selected = set(viewer.layers.selection)
    first_time = not any(other.ndim > layer.ndim for other in _gate_layers(viewer, layer))
    wanted = list(_iter_layers(layer, seen))
    old = {other.metadata[KEY]["role"]: other for other in _gate_layers(viewer, layer)}
    for role in old.keys() - {each.role for each in wanted}:
        viewer.layers.remove(old.pop(role))
    for each in wanted:
        known = old.get(each.role)
        if known is not None and known.ndim == each.data.ndim:
            known.data = each.data
            known.metadata = _metadata(layer, seen, each.role)
            place_at(known, each.placement)
            continue
        if known is not None:
            viewer.layers.remove(known)
        arguments = {**each.placement.arguments(), **each.looks}
        viewer.add_image(each.data, name=each.role, metadata=_metadata(layer, seen, each.role), rgb=False, **arguments)
    viewer.layers.selection = {each for each in selected if each in viewer.layers}
    if first_time:
        show_channel(viewer, layer, seen.inspection.clearest)


def place_gates(viewer: ViewerModel, layer: Image, seen: InspectedImage) -> None:
    """Move the layers of an inspection to where their image lies now."""
    placed = {each.role: each.placement for each in _iter_layers(layer, seen)}
    for old in _gate_layers(viewer, layer):
        if old.metadata[KEY]["role"] in placed:
            place_at(old, placed[old.metadata[KEY]["role"]])


def show_channel(viewer: ViewerModel, layer: Image, channel: int) -> None:
    """Move the slider of the features to `channel`, if an inspection of the image is shown."""
    for old in _gate_layers(viewer, layer):
        if old.ndim > layer.ndim:
            axis = viewer.dims.ndim - old.ndim
            viewer.dims.set_point(axis, channel)
            return


def middle_of_view(viewer: ViewerModel, layer: Image) -> tuple[int, ...]:
    """Return the voxel of `layer` in the middle of the view, at the position of the sliders."""
    point = list(viewer.dims.point)
    displayed = viewer.dims.displayed
    camera = getattr(viewer, "scene", viewer).camera  # napari 0.9 moved it
    for axis, place in zip(displayed, camera.center[-len(displayed) :], strict=True):
        point[axis] = place
    eye = SimpleNamespace(dims=SimpleNamespace(point=point), layers=viewer.layers)
    return current_position(eye, layer)


def describe_part(part: InspectedPart, lengths: Mapping[str, int], seen: str) -> str:
    """Return the name of a part of an image, such as "the slice at z = 3". seen: the axes that the model sees."""
    spans = [(axis, part[axis]) for axis in seen]
    places = [f"{axis.lower()} = {each.start}" for axis, each in part.items() if axis not in seen]
    if all(each.stop - each.start == lengths[axis] for axis, each in spans):
        what = "the image" if seen == "YX" and not places else "the slice" if seen == "YX" else "the volume"
    else:
        what = "the block " + ", ".join(f"{axis.lower()} {each.start}-{each.stop - 1}" for axis, each in spans)
    return " ".join([what, *([f"at {', '.join(places)}"] if places else [])])


def _gate_layers(viewer: ViewerModel, layer: Layer) -> list[Layer]:
    source = ROLES_OF.format(layer.unique_id)
    return [other for other in viewer.layers if is_result(other) and other.metadata[KEY]["source"] == source]


def _metadata(layer: Layer, seen: InspectedImage, role: str) -> dict[str, Any]:
    return {KEY: {"role": role, "source": ROLES_OF.format(layer.unique_id), "recipe": seen.inspection.recipe}}


def _iter_layers(layer: Image, seen: InspectedImage) -> Iterator[_GateLayer]:
    """Yield the layers of an inspection from the bottom of the layer list up."""
    inspection = seen.inspection
    for attention in reversed(inspection.attentions):
        if not seen.all_maps and attention.place != inspection.place:
            continue
        role = f"{attention.place} attention" + (f" {attention.number}" if attention.number > 1 else "")
        looks = {"colormap": "viridis", "contrast_limits": (0, 1), **HIDDEN_MAP}
        place = _place(layer, seen, attention.stride)
        yield _GateLayer(role, _over(attention.data, layer, seen), place, looks)
    label = "feature" if "C" in seen.axes else "channel"
    under = _place(layer, seen, inspection.stride)
    place = Placement(
        # an axis for the features in front of those of the image, in steps of 1
        scale=np.concatenate([[1.0], under.scale]),
        translate=np.concatenate([[0.0], under.translate]),
        rotate=_bordered(under.rotate),
        shear=_bordered(under.shear),
        affine=_bordered(under.affine),
        units=("pixel", *map(str, under.units)),
        axis_labels=(label, *under.axis_labels),
    )
    for kind, data in (("before", inspection.before), ("after", inspection.after)):
        looks = {"colormap": "gray", "contrast_limits": inspection.limits, "blending": "opaque"}
        yield _GateLayer(f"{inspection.place} {kind}", _over(data, layer, seen), place, looks)


def _over(data: Any, layer: Image, seen: InspectedImage) -> Any:
    """Return `data`, (…, *axes seen), with all axes of the image: added ones have length 1, channels repeat."""
    lead = (slice(None),) * (data.ndim - len(seen.inspection.axes))
    index = tuple(slice(None) if axis in seen.inspection.axes else None for axis in seen.axes)
    data = data[(*lead, *index)]
    shape = list(data.shape)
    if "C" in seen.axes:
        place = seen.axes.index("C")
        shape[len(lead) + place] = data_of(layer).shape[place]
    return np.broadcast_to(data, shape)


def _place(layer: Image, seen: InspectedImage, stride: int) -> Placement:
    inspection = seen.inspection
    strides = tuple(stride if axis in inspection.axes else 1 for axis in seen.axes)
    starts = (inspection.start.get(axis, 0) for axis in seen.axes)
    offsets = tuple(start + (step - 1) / 2 for start, step in zip(starts, strides, strict=True))
    return place_over(layer, strides, offsets)


def _bordered(matrix: Any) -> Any:
    """Return a matrix with one more axis in front, which it leaves as it is."""
    larger = np.eye(len(matrix) + 1)
    larger[1:, 1:] = matrix
    return larger
