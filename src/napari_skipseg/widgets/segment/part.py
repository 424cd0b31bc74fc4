"""The part of an image that a run is limited to: a preview of what is on screen, a drawn box, or a mask."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.box import NamedBox, box_to_text
from napari_skipseg.images.intensity.normalize import GreyStatistics, iter_measure_greys, normalization_from
from napari_skipseg.images.mask import open_mask
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.views import CutArray
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.suggest import PART_SEEN, Suggestions, SuggestView
from napari_skipseg.jobs.messages import Suggest
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.forms.fields import ConnectionGroup
from napari_skipseg.widgets.forms.worker import EngineLike
from napari_skipseg.widgets.layers.axes import origin_of, voxel_size_of
from napari_skipseg.widgets.layers.placement import layer_lengths, visible_box, voxel_at, world_at
from napari_skipseg.widgets.layers.results import (
    KEY,
    RESULT_SOURCE,
    data_of,
    is_result,
    read_as_czyx,
    remove_results,
    stack_of_layer,
)
from napari_skipseg.widgets.segment.checks import SegmentFormValues, needs_channel

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


def _is_upright(corners: NDArray[np.float64]) -> bool:
    """Return whether four corners are a rectangle along the axes of the image."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    near = np.minimum(np.abs(corners - low), np.abs(corners - high)) <= 0.01 * np.maximum(high - low, 1e-9)
    return len(corners) == 4 and bool(near.all())


PREVIEW_HINT = (
    "Segment only what is on screen, to see in a moment whether model and voxel size suit the image: in one pass, "
    "without attention and without averages. Of a volume, a slab around the slice. Segment takes its place"
)
TILES = {2: 576, 3: 96}
"""Longest side of a tile in voxels, by the network's dimensions: small, so that the first one comes soon.

Measured from click to pixels on two busy cores, em-membrane: 0.5-0.6 s with 576, 0.9-1.2 s with 1024.
"""
LEAST_SIDES = {2: {"Y": TILES[2], "X": TILES[2]}, 3: {"Z": 64, "Y": TILES[3], "X": TILES[3]}}
"""Least size of the part, if the image is as large: all tiles then have the shape that the engine is warmed up for."""
_GRID = 16
"""A part begins on a multiple of this, as the tiles of the whole image do."""


@dataclass(frozen=True)
class PreviewView:
    """The part of an image on screen as a stack, its start (axis number -> position), and the whole image."""

    stack: Stack
    start: dict[int, int]
    whole: Stack
    options: SegmentOptions


def cut_to_view(viewer: ViewerModel, choices: SegmentFormValues) -> PreviewView:
    """Return the part of the image on screen, enlarged to the size of a tile, with options for one quick pass.

    Raises:
        SkipsegError: as `stack_of_layer`.
    """
    layer = choices.layer
    if layer is None or choices.model is None:
        raise ValueError("nothing is chosen")
    choices = replace(choices, other_options={**choices.other_options, "planes": "xy", "average": 1, "samples": 0})
    dimensions = choices.model.spec.dimensions if choices.model is not None else 2
    parts = find_part(
        visible_box(viewer, layer), data_of(layer).shape, choices.axes, LEAST_SIDES[dimensions], viewer.dims.ndisplay
    )
    whole = stack_of_layer(layer, choices.axes)
    options = replace(choices.options(), attention=False, box="", mask="")
    options = replace(options, tile=options.tile or TILES[dimensions])
    return PreviewView(cut_stack(whole, parts), {axis: part.start for axis, part in parts.items()}, whole, options)


def find_part(
    box: Sequence[tuple[int, int]], shape: Sequence[int], axes: str, least: dict[str, int], ndisplay: int
) -> dict[int, slice]:
    """Return the part of an image to segment for a view, by axis number without channels.

    box: the first and last voxel on screen along each axis. least: the least length of the part along the axes that
    the network sees at once.
    """
    part = {}
    for axis, (low, high) in enumerate(box):
        if axes[axis] in least:
            part[axis] = _widened(low, high + 1, least[axes[axis]], int(shape[axis]))
        elif axes[axis] != "C":
            # in a 3D view a 2D network would have to segment all slices: take the middle one
            middle = (low + high) // 2
            part[axis] = slice(middle, middle + 1) if ndisplay > 2 else slice(low, high + 1)
    return part


def _widened(low: int, stop: int, least: int, length: int) -> slice:
    side = min(least, length)
    if stop - low <= side:
        first = min(max(0, (low + stop - side) // 2), length - side)
        aligned = first // _GRID * _GRID
        # if rounding down would lose the last voxels in view, keep the start that is not aligned
        return slice(aligned, aligned + side) if stop <= aligned + side else slice(first, first + side)
    return slice(low // _GRID * _GRID, min(length, -(-stop // _GRID) * _GRID))


def cut_stack(stack: Stack, parts: dict[int, slice]) -> Stack:
    """Return a part of a stack: axis number -> positions."""
    starts = {stack.space.axes[axis]: part.start for axis, part in parts.items()}
    return replace(stack, data=CutArray(stack.data, parts), space=stack.space.shifted(starts), file="")


def remove_preview(viewer: ViewerModel, layer: Image) -> None:
    """Remove the preview of an image."""
    remove_results(viewer, RESULT_SOURCE.format(layer.unique_id))


class GreyValues:
    """The normalisation of images in earlier runs, forgotten when the data of an image change.

    That of a rescaled image is not kept, as it depends on the scale.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int | None, str, bool], GreyStatistics] = {}
        self._links = ConnectionGroup()

    def keep(self, layer: Layer, options: SegmentOptions, recipe: dict[str, Any]) -> None:
        """Keep the normalisation in a run's recipe."""
        if "normalization" in recipe and not options.rescale:
            greys = GreyStatistics(normalization_from(recipe["normalization"]), tuple(recipe.get("findings", ())))
            self._known[_key(layer, options)] = greys
            self._links.tie(layer.events.data, self._forget)

    def find(self, layer: Layer, options: SegmentOptions) -> GreyStatistics | None:
        """Return the normalisation of the image, None if it is not known."""
        return None if options.rescale else self._known.get(_key(layer, options))

    def _forget(self, event: Any) -> None:
        source = str(event.source.unique_id)
        self._known = {key: value for key, value in self._known.items() if key[0] != source}


def _key(layer: Layer, options: SegmentOptions) -> tuple[str, int | None, str, bool]:
    """Return all that the normalisation depends on."""
    return str(layer.unique_id), options.channel, options.padding, options.invert


Spans = dict[str, slice]
StrokesIn = Callable[["Image", Spans], tuple[NDArray[np.uint8], tuple[str, ...]] | None]
"""Returns the strokes (Y, X) over a part of an image, 1 = background, 2 and more = the classes, and their names."""


def iter_suggest_for(
    viewer: ViewerModel, engine: EngineLike, choices: SegmentFormValues, strokes_in: StrokesIn
) -> Callable[[], Generator[Progress, Any, Suggestions]]:
    """Return work that ranks the models on what is on screen.

    Raises:
        SkipsegError: as `stack_of_layer`.
    """
    layer = choices.layer
    if layer is None:
        raise ValueError("no image is chosen")
    stack = stack_of_layer(layer, choices.axes)
    stack = stack.channel(choices.channel) if needs_channel(choices) and choices.channel is not None else stack
    shown = dict(zip(choices.axes, visible_box(viewer, layer), strict=True))
    lengths = dict(zip(choices.axes, data_of(layer).shape, strict=False))
    spans: Spans = {}
    for axis, (low, high) in shown.items():
        most = {"Z": PART_SEEN[3][0], "Y": PART_SEEN[2][0], "X": PART_SEEN[2][0]}.get(axis, 1)
        if axis != "C":
            start = max(0, min((low + high + 1) // 2 - most // 2, int(lengths[axis]) - most))
            spans[axis] = slice(start, min(start + most, int(lengths[axis])))
    at = (shown["Z"][0] + shown["Z"][1]) // 2 if "Z" in shown else 0
    strokes = strokes_in(layer, {**spans, "Z": slice(at, at + 1)})

    def work() -> Generator[Progress, Any, Suggestions]:
        greys = yield from iter_measure_greys(stack)
        labels, names = (None, ()) if strokes is None else strokes
        pixels = read_as_czyx(stack, spans)
        slice_at = at - spans["Z"].start if "Z" in spans else 0
        space = stack.space.with_axes("CZYX")
        view = SuggestView(pixels, space, greys.normalization, slice_at, labels, names)
        return (yield from engine.run(Suggest(view, choices.device)))

    return work
