"""The part of an image that a run is limited to: what is on screen, a drawn box, or a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_skipseg.errors import InputError
from napari_skipseg.images.box import NamedBox, box_to_text
from napari_skipseg.images.mask import open_mask
from napari_skipseg.inference.recipes.recipe import Recipe
from napari_skipseg.widgets.layers.axes import origin_of, voxel_size_of
from napari_skipseg.widgets.layers.placement import layer_lengths, visible_box, voxel_at, world_at
from napari_skipseg.widgets.layers.results import KEY, is_result, stack_of_layer

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer, Shapes

    from napari_skipseg.images.space import Space
    from napari_skipseg.images.stack import Stack

SAME_PLACE = 0.5
"""Voxels by which a mask may lie beside its image."""
NOT_STRAIGHT = "'{}' has shapes that are no upright rectangles: the box around them is segmented."


def shapes_with_boxes(viewer: ViewerModel) -> list[Shapes]:
    """Return the layers of shapes of the user that have a shape."""
    from napari.layers import Shapes

    layers = [layer for layer in viewer.layers if isinstance(layer, Shapes) and len(layer.data)]
    return [layer for layer in layers if KEY not in layer.metadata]


def labels_as_masks(viewer: ViewerModel) -> list[Labels]:
    """Return the layers of labels that can be masks: all but the binary result, which changes with each run."""
    from napari.layers import Labels

    return [layer for layer in viewer.layers if isinstance(layer, Labels) and not is_result(layer)]


def mask_of_layer(labels: Labels, layer: Image, axes: str) -> Stack:
    """Return a layer of labels as the mask of an image with such axes; no voxel is read.

    Raises:
        InputError: it has another shape or voxel size than the image, or lies elsewhere.
        FileError: its file was changed or removed since it was opened.
    """
    image = stack_of_layer(layer, axes)
    wanted = axes.replace("C", "")
    wanted = wanted if labels.ndim == len(wanted) else wanted.replace("T", "")
    if labels.ndim != len(wanted):
        raise InputError(f"The mask '{labels.name}' has {labels.ndim} axes: give one with the axes {wanted}.")
    mask = open_mask(stack_of_layer(labels, wanted), image)
    apart = np.subtract(mask.space.origin, image.space.origin) / image.space.voxel_size
    if mask.space.unit == image.space.unit and np.abs(apart).max() > SAME_PLACE:
        raise InputError(f"The mask '{labels.name}' lies beside '{layer.name}': it must lie over it, voxel by voxel.")
    return mask


def start_of(space: Space, layer: Image, axes: str) -> dict[int, int]:
    """Return where a result with such a space begins in its image, in voxels by the number of the axis of space."""
    size, _ = voxel_size_of(layer, axes)
    apart = np.subtract(space.origin, origin_of(layer, axes)) / size
    return {axes.index(axis): round(float(apart["ZYX".index(axis)])) for axis in axes if axis in "ZYX"}


def mask_of_recipe(viewer: ViewerModel, recipe: Recipe) -> Labels:
    """Return the layer of the mask that a recipe names; open its file if no layer shows it.

    Raises:
        InputError: it is neither open nor in a file.
    """
    from napari_skipseg.widgets.segment.run_again import open_again

    name, layers = recipe.request.options.mask, labels_as_masks(viewer)
    described = recipe.inputs[1] if len(recipe.inputs) > 1 else None
    found = [each for each in layers if described is not None and each.name == described.name]
    if found:
        return found[-1]
    if described is None or not described.file:
        raise InputError(
            f"The mask '{name}' of this result is not open, and lies in no file: open it, and press Segment."
        )
    opened = open_again(viewer, described.file)
    found = [each for each in opened if each in labels_as_masks(viewer)]
    if not found:
        raise InputError(f"'{described.file}' opens as no layer of labels: convert it to labels, and press Segment.")
    return found[0]


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
