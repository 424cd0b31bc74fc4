"""What a live view sends to the engine: the view and the labelled tiles elsewhere, with grey values and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.corrections.saved import ChunkTarget, SavedCorrections
from napari_skipseg.corrections.subject import BACKGROUND, CorrectionClass
from napari_skipseg.images.stack import Stack
from napari_skipseg.training.progress import LIVE_TILE, LivePart
from napari_skipseg.widgets.layers.placement import visible_box

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

LARGEST_SIDE, LEAST_SIDE = 512, 256
"""Sides of a view in pixels. A larger one would take seconds to compute, a smaller one would change with each step."""
BORDER = 64
"""Pixels that are read around a view or a tile: the network sees its surroundings."""
PADDED_BORDER = 128
"""The same in images with padding, which is recognised and filled in a wider area."""
MOST_TILES_ELSEWHERE = 128
"""Tiles with labels elsewhere that are learnt from; of more, so many are drawn."""

_Box = tuple[tuple[int, int], tuple[int, int]]
TilePlace = tuple[int, int, int, int]
"""Time, Z, and the first pixel of a tile along Y and X."""


@dataclass(frozen=True)
class ViewPlace:
    """The part of a slice that a live view shows. is_part: more of the slice is on screen than that."""

    time: int
    z: int
    box: _Box
    is_part: bool = False


def find_view(
    viewer: ViewerModel, layer: Layer, axes: str, before: ViewPlace | None, last_label: Sequence[int] | None
) -> ViewPlace | None:
    """Return what to show of the slice on screen; None if no slice along Y and X is on screen.

    before: the last view, which stays if it shows all. last_label: a voxel of the last stroke, along the axes without
    C: if the screen shows more than a view can have, the view is around it.
    """
    shown = {axes[axis - viewer.dims.ndim + layer.ndim] for axis in viewer.dims.displayed}
    if viewer.dims.ndisplay != 2 or shown != {"Y", "X"}:
        return None
    visible = dict(zip(axes, visible_box(viewer, layer), strict=True))
    lengths = dict(zip(axes, (layer.data[0] if layer.multiscale else layer.data).shape, strict=False))
    time, z = (visible[axis][0] if axis in visible else 0 for axis in "TZ")
    last = None if last_label is None else dict(zip(axes.replace("C", ""), last_label, strict=True))
    if last is not None and any(last.get(axis, at) != at for axis, at in (("T", time), ("Z", z))):
        last = None
    spans = []
    for axis in "YX":
        low, stop = visible[axis][0], visible[axis][1] + 1
        around = last[axis] if last is not None and low <= last[axis] < stop else (low + stop) // 2
        spans.append(_span(low, stop, around, int(lengths[axis])))
    is_part = any(visible[axis][1] - visible[axis][0] >= LARGEST_SIDE for axis in "YX")
    if before is not None and (before.time, before.z) == (time, z):
        inside = all(
            a <= max(visible[axis][0], start) and min(visible[axis][1] + 1, stop) <= b
            for axis, (a, b), (start, stop) in zip("YX", before.box, spans, strict=True)
        )
        near = last is None or all(a <= last[axis] < b for axis, (a, b) in zip("YX", before.box, strict=True))
        if inside or (is_part and before.is_part and near and _overlaps(before.box, visible)):
            return before
    return ViewPlace(time, z, (spans[0], spans[1]), is_part)


def _overlaps(box: _Box, visible: dict[str, tuple[int, int]]) -> bool:
    """Return whether a view still lies on screen with its whole middle half."""
    return all(
        visible[axis][0] <= a + (b - a) // 4 and b - (b - a) // 4 <= visible[axis][1] + 1
        for axis, (a, b) in zip("YX", box, strict=True)
    )


def _span(low: int, stop: int, around: int, length: int) -> tuple[int, int]:
    """Return start and stop of a view along an axis, on multiples of a tile or the end of the image."""
    side = min(max(-(-(stop - low) // LIVE_TILE) * LIVE_TILE + LIVE_TILE, LEAST_SIDE), LARGEST_SIDE)
    middle = around if stop - low > LARGEST_SIDE - LIVE_TILE else (low + stop) // 2
    start = (middle - side // 2 + LIVE_TILE // 2) // LIVE_TILE * LIVE_TILE
    start = max(0, min(start, -(-(length - side) // LIVE_TILE) * LIVE_TILE))
    return start, min(start + side, length)


class PartReader:
    """Reads parts of an image and of its corrections; the pixels of tiles that were read last stay in memory.

    stack: with the channels that the model takes. border: `BORDER` or `PADDED_BORDER`.
    """

    def __init__(self, stack: Stack, saved: SavedCorrections, border: int) -> None:
        self._stack, self._target, self._border = stack, ChunkTarget(saved), border
        self._axes = stack.space.axes.replace("C", "")
        self._pixels: dict[tuple[int, int, _Box], NDArray[np.generic]] = {}

    def read(
        self, view: ViewPlace, classes: Sequence[CorrectionClass], judged: Sequence[CorrectionClass]
    ) -> tuple[LivePart, ...]:
        """Return the view, and the tiles with labels elsewhere.

        classes: all that can be painted. judged: those that are learnt, in the order of their numbers; others count as
        background.
        """
        numbers = np.zeros(256, np.uint8)
        numbers[BACKGROUND] = BACKGROUND
        for each in classes:
            numbers[each.value] = judged.index(each) + 2 if each in judged else BACKGROUND
        index = {"T": view.time, "Z": view.z, "Y": slice(*view.box[0]), "X": slice(*view.box[1])}
        labels = numbers[np.asarray(self._target[tuple(index[axis] for axis in self._axes)])]
        parts = [self._part(view.time, view.z, view.box, labels)]
        tiles = dict(self._iter_tiles(view, numbers))
        for place in _choose(tiles):
            time, z, top, left = place
            height, width = (self._stack.length(axis) for axis in "YX")
            box = (top, min(top + LIVE_TILE, height)), (left, min(left + LIVE_TILE, width))
            inside = tiles[place][: box[0][1] - top, : box[1][1] - left]
            parts.append(self._part(time, z, box, inside))
        wanted = {(part.time, part.z, part.box) for part in parts}
        self._pixels = {place: pixels for place, pixels in self._pixels.items() if place in wanted}
        return tuple(parts)

    def _iter_tiles(self, view: ViewPlace, numbers: NDArray[np.uint8]) -> Iterator[tuple[TilePlace, NDArray[np.uint8]]]:
        """Yield the tiles with labels that do not lie in the view."""
        for number in self._target.chunk_numbers():
            chunk = self._target.read_chunk(number)
            height, width = chunk.shape[-2:]  # it is one long along the other axes
            values = numbers[chunk].reshape(height, width)
            at = dict(zip(self._axes, number, strict=True))
            time, z = at.get("T", 0), at.get("Z", 0)
            top, left = at["Y"] * height, at["X"] * width
            for y in range(0, height, LIVE_TILE):
                for x in range(0, width, LIVE_TILE):
                    tile = values[y : y + LIVE_TILE, x : x + LIVE_TILE]
                    place = time, z, top + y, left + x
                    if tile.any() and not _is_in_view(place, view):
                        yield place, tile

    def _part(self, time: int, z: int, box: _Box, labels: NDArray[np.uint8]) -> LivePart:
        """Return a part with its pixels and a border of them."""
        sides = {axis: self._stack.length(axis) for axis in "YX"}
        corner = max(0, box[0][0] - self._border), max(0, box[1][0] - self._border)
        if (time, z, box) not in self._pixels:
            wide = {
                axis: slice(start, min(stop + self._border, sides[axis]))
                for axis, start, (_, stop) in zip("YX", corner, box, strict=True)
            }
            parts = {"T": slice(time, time + 1), "C": slice(None), "Z": slice(z, z + 1), **wide}
            axes = self._stack.space.axes
            values = self._stack.read(tuple(parts[axis] for axis in axes))
            order = [axes.index(axis) for axis in "TCZYX" if axis in axes]
            missing = tuple(number for number, axis in enumerate("TCZYX") if axis not in axes)
            self._pixels[time, z, box] = np.expand_dims(values.transpose(order), missing)[0, :, 0]
        return LivePart(time, z, box, corner, self._pixels[time, z, box], labels)


def _is_in_view(place: TilePlace, view: ViewPlace) -> bool:
    inside = zip(place[2:], view.box, strict=True)
    return place[:2] == (view.time, view.z) and all(a <= first < b for first, (a, b) in inside)


def _choose(tiles: dict[TilePlace, NDArray[np.uint8]]) -> list[TilePlace]:
    """Return at most `MOST_TILES_ELSEWHERE` of the tiles: those with a rare label first, then some of all."""
    if len(tiles) <= MOST_TILES_ELSEWHERE:
        return list(tiles)
    order = [list(tiles)[number] for number in np.random.default_rng(0).permutation(len(tiles))]
    labels = {place: np.unique(tiles[place][tiles[place] > 0]).tolist() for place in order}
    counts = {label: sum(label in found for found in labels.values()) for label in range(1, 256)}
    order.sort(key=lambda place: min(counts[label] for label in labels[place]))  # stable: drawn among equals
    return order[:MOST_TILES_ELSEWHERE]
