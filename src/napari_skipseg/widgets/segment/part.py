"""The part of an image that a run is limited to: what is on screen, or a drawn box."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_skipseg.errors import InputError
from napari_skipseg.images.box import NamedBox, box_to_text
from napari_skipseg.widgets.layers.placement import layer_lengths, visible_box, voxel_at, world_at
from napari_skipseg.widgets.layers.results import KEY

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer, Shapes

NOT_STRAIGHT = "'{}' has shapes that are no upright rectangles: the box around them is segmented."


def shapes_with_boxes(viewer: ViewerModel) -> list[Shapes]:
    """Return the layers of shapes of the user that have a shape."""
    from napari.layers import Shapes

    layers = [layer for layer in viewer.layers if isinstance(layer, Shapes) and len(layer.data)]
    return [layer for layer in layers if KEY not in layer.metadata]


def box_on_screen(viewer: ViewerModel, layer: Layer, axes: str) -> str:
    """Return the part of an image on screen as the text of a box."""
    sides = zip(axes, visible_box(viewer, layer), strict=True)
    return box_to_text({axis: slice(low, high + 1) for axis, (low, high) in sides if axis != "C"})


def box_of_shapes(viewer: ViewerModel, shapes: Shapes, layer: Layer, axes: str) -> tuple[str, str]:
    """Return the box around all shapes of a layer as text, in voxels of an image, and what to say about it.

    Along an axis in which each shape is flat, such as Z, the box reaches from the first shape to the last one; if all
    shapes lie at one place there, it is whole along this axis.

    Raises:
        InputError: the shapes lie beside the image, or cover no voxel.
    """
    corners = [
        np.stack(
            [voxel_at(viewer, layer, world_at(viewer, shapes, corner).tolist()) for corner in np.asarray(shape, float)]
        )
        for shape in shapes.data
    ]
    box: NamedBox = {}
    for number, (axis, length) in enumerate(zip(axes, layer_lengths(layer).tolist(), strict=True)):
        places = [each[:, number] for each in corners]
        low, high = min(each.min() for each in places), max(each.max() for each in places)
        is_flat = all(np.ptp(each) < 1e-6 for each in places)
        if axis == "C" or (is_flat and high - low < 1e-6) or number < layer.ndim - shapes.ndim:
            continue
        # a voxel is in the box if its centre is
        first, stop = (round(low), round(high) + 1) if is_flat else (int(np.ceil(low)), int(np.floor(high)) + 1)
        if stop <= 0 or first >= length:
            raise InputError(f"The shapes of '{shapes.name}' lie beside '{layer.name}': draw them over the image.")
        first, stop = max(0, first), min(length, stop)
        if stop <= first:
            raise InputError(f"The shapes of '{shapes.name}' cover no voxel along {axis}: draw a larger rectangle.")
        box[axis] = slice(first, stop)
    if not box:
        raise InputError(f"The shapes of '{shapes.name}' cover no voxel: draw a rectangle.")
    is_upright = all(_is_upright(each) for each in corners)
    return box_to_text(box), "" if is_upright else NOT_STRAIGHT.format(shapes.name)


def _is_upright(corners: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bool:
    """Return whether four corners are a rectangle along the axes of the image."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    near = np.minimum(np.abs(corners - low), np.abs(corners - high)) <= 0.01 * np.maximum(high - low, 1e-9)
    return len(corners) == 4 and bool(near.all())
