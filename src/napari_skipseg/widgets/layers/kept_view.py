"""What is looked at of an image, in its voxels: so that it stays in view when their size or place changes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_skipseg.widgets.layers.placement import layer_lengths, pixel_of, voxel_at, world_at

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer


_FILLED = 0.95
"""Share of the canvas that a layer fills when it is framed."""


@dataclass(frozen=True)
class CameraView:
    """sliders: the voxel at which they stand. middle: the voxel in the middle of the screen. pixel: voxels along a
    pixel of the screen."""

    sliders: tuple[float, ...]
    middle: tuple[float, ...]
    pixel: float


def camera_of(viewer: ViewerModel) -> Any:
    """Return the camera, wherever this napari has it: 0.9 moved it."""
    return getattr(viewer, "scene", viewer).camera


def view_of(viewer: ViewerModel, layer: Layer) -> CameraView:
    """Return what is looked at of a layer."""
    middle, displayed = list(viewer.dims.point), viewer.dims.displayed
    for axis, place in zip(displayed, camera_of(viewer).center[-len(displayed) :], strict=True):
        middle[axis] = place
    sliders = tuple(map(float, voxel_at(viewer, layer, viewer.dims.point)))
    return CameraView(sliders, tuple(map(float, voxel_at(viewer, layer, middle))), pixel_of(viewer, layer))


def show_view(viewer: ViewerModel, layer: Layer, view: CameraView) -> None:
    """Look at the same voxels of a layer again, as large as before."""
    offset, displayed, camera = viewer.dims.ndim - layer.ndim, viewer.dims.displayed, camera_of(viewer)
    for axis, place in enumerate(world_at(viewer, layer, view.sliders)):
        viewer.dims.set_point(axis + offset, float(place))
    middle = world_at(viewer, layer, view.middle)
    center = list(camera.center)
    for number, axis in enumerate(displayed, start=len(center) - len(displayed)):
        if axis >= offset:
            center[number] = float(middle[axis - offset])
    camera.center = tuple(center)
    camera.zoom *= pixel_of(viewer, layer) / view.pixel


def frame(viewer: ViewerModel, layer: Layer) -> None:
    """Bring all of a layer into view: the sliders to its middle, the camera to where it fits the canvas."""
    lengths = layer_lengths(layer)
    low, high = (world_at(viewer, layer, [end * (n - 1) for n in lengths]) for end in (0, 1))
    offset, displayed, camera = viewer.dims.ndim - layer.ndim, viewer.dims.displayed, camera_of(viewer)
    middle = world_at(viewer, layer, [(n - 1) // 2 for n in lengths])
    for axis in range(layer.ndim):
        viewer.dims.set_point(axis + offset, float(middle[axis]))
    shown = [axis - offset for axis in displayed if axis >= offset]
    center = list(camera.center)
    center[len(center) - len(shown) :] = [float(low[axis] + high[axis]) / 2 for axis in shown]
    camera.center = tuple(center)
    size = viewer.canvas.size if hasattr(viewer, "canvas") else viewer._canvas_size
    sides = [abs(float(high[axis] - low[axis])) for axis in shown[-2:]]
    camera.zoom = _FILLED * min(length / side for length, side in zip(size, sides, strict=True) if side > 0)


@contextmanager
def view_kept(viewer: ViewerModel, layer: Layer) -> Generator[None, None, None]:
    """Keep what is looked at of a layer in view, whatever happens meanwhile to its voxels' size and place."""
    view = view_of(viewer, layer)
    yield
    show_view(viewer, layer, view)
    slice_again(viewer)


def slice_again(viewer: ViewerModel) -> None:
    """Show the voxels at which the sliders stand, after a unit of a layer was changed.

    napari 0.9 slices such a layer at once, with the unit that the viewer had before: from pixel to nm that is a factor
    of 1e9, so nothing is found and the canvas is black. It does not slice again as long as the sliders stand still.
    """
    viewer.dims.events.point(value=viewer.dims.point)  # each layer takes the viewer's units, without a slice
    for layer in viewer.layers:
        layer.refresh()
