"""The view of an image in its voxels, so that it can be kept when the size or place of the voxels changes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_skipseg.widgets.layers.placement import camera_of, canvas_size, layer_lengths, pixel_of, voxel_at, world_at

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer


_FILLED = 0.95
"""Share of the canvas that a layer fills when it is framed."""


@dataclass(frozen=True)
class CameraView:
    """The view of a layer. sliders: their voxel. middle: the voxel in the middle of the screen. pixel: its length in
    voxels."""

    sliders: tuple[float, ...]
    middle: tuple[float, ...]
    pixel: float


def view_of(viewer: ViewerModel, layer: Layer) -> CameraView:
    """Return the present view of a layer."""
    middle, displayed = list(viewer.dims.point), viewer.dims.displayed
    for axis, place in zip(displayed, camera_of(viewer).center[-len(displayed) :], strict=True):
        middle[axis] = place
    sliders = tuple(map(float, voxel_at(viewer, layer, viewer.dims.point)))
    return CameraView(sliders, tuple(map(float, voxel_at(viewer, layer, middle))), pixel_of(viewer, layer))


def show_view(viewer: ViewerModel, layer: Layer, view: CameraView) -> None:
    """Show the same voxels of a layer again, at the same size on screen."""
    move_sliders(viewer, layer, view.sliders)
    move_camera(viewer, layer, view.middle)
    camera_of(viewer).zoom *= pixel_of(viewer, layer) / view.pixel


def move_sliders(viewer: ViewerModel, layer: Layer, voxel: Sequence[float]) -> None:
    """Move the sliders to a voxel of a layer."""
    offset = viewer.dims.ndim - layer.ndim
    for axis, place in enumerate(world_at(viewer, layer, voxel)):
        viewer.dims.set_point(axis + offset, float(place))


def move_camera(viewer: ViewerModel, layer: Layer, voxel: Sequence[float]) -> None:
    """Bring a voxel of a layer into the middle of the screen, at the same zoom."""
    camera, offset, displayed = camera_of(viewer), viewer.dims.ndim - layer.ndim, viewer.dims.displayed
    middle, center = world_at(viewer, layer, voxel), list(camera.center)
    for number, axis in enumerate(displayed, start=len(center) - len(displayed)):
        if axis >= offset:
            center[number] = float(middle[axis - offset])
    camera.center = tuple(center)


def frame(viewer: ViewerModel, layer: Layer) -> None:
    """Bring a whole layer into view: move the sliders to its middle and fit it to the canvas."""
    lengths = layer_lengths(layer)
    move_sliders(viewer, layer, [(n - 1) // 2 for n in lengths])
    move_camera(viewer, layer, [(n - 1) / 2 for n in lengths])
    low, high = (world_at(viewer, layer, [end * (n - 1) for n in lengths]) for end in (0, 1))
    shown = [axis - viewer.dims.ndim + layer.ndim for axis in viewer.dims.displayed]
    sides = [abs(float(high[axis] - low[axis])) for axis in shown[-2:] if axis >= 0]
    size = canvas_size(viewer)[-len(sides) :]
    camera_of(viewer).zoom = _FILLED * min(n / side for n, side in zip(size, sides, strict=True) if side > 0)


def frame_in_3d(viewer: ViewerModel, layer: Layer) -> None:
    """Bring all that is in a layer into the 3D view, large enough to be seen, however the view is turned."""
    low, high = (world_at(viewer, layer, corner)[-3:] for corner in layer.extent.data)
    camera = camera_of(viewer)
    camera.center = tuple(map(float, (low + high) / 2))
    camera.zoom = _FILLED * min(canvas_size(viewer)) / max(float(np.linalg.norm(high - low)), 1e-9)


@contextmanager
def view_kept(viewer: ViewerModel, layer: Layer) -> Generator[None, None, None]:
    """Keep the view of a layer while the size or place of its voxels changes."""
    view = view_of(viewer, layer)
    yield
    show_view(viewer, layer, view)
    slice_again(viewer)


def slice_again(viewer: ViewerModel) -> None:
    """Slice all layers again, after a unit of a layer was changed."""
    # napari 0.9 slices such a layer at once with the viewer's earlier unit: from pixel to nm that is a factor of 1e9,
    # so nothing is found and the canvas is black; and it does not slice again until a slider moves
    viewer.dims.events.point(value=viewer.dims.point)  # each layer takes the viewer's units, without a slice
    for layer in viewer.layers:
        layer.refresh()
