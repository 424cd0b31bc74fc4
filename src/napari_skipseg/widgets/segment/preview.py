"""The preview: only the part on screen, in one pass, normalised like the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from napari_skipseg.images.intensity.normalize import GreyStatistics, normalization_from
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.views import CutArray
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.widgets.forms.fields import ConnectionGroup
from napari_skipseg.widgets.layers.placement import visible_box
from napari_skipseg.widgets.layers.results import RESULT_SOURCE, data_of, remove_results, stack_of_layer
from napari_skipseg.widgets.segment.checks import SegmentFormValues

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer


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
