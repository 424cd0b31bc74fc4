"""Geometry of layers: where a result lies over its image, the part on screen, and a view that is kept or moved."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.stack import ArrayLike, LazyArray

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer


PLACING = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
"""The properties of a layer that place it in the viewer."""


@dataclass(frozen=True)
class Placement:
    """The transform of a result layer, in the arguments of a napari layer."""

    scale: NDArray[Any]
    translate: NDArray[Any]
    rotate: NDArray[Any]
    shear: NDArray[Any]
    affine: NDArray[Any]
    units: tuple[Any, ...]
    axis_labels: tuple[str, ...]

    def arguments(self) -> dict[str, Any]:
        """Return the arguments by name; each is also a property of a layer."""
        return dict(vars(self))


def place_over(layer: Layer, stride: Sequence[float] = (), offset: Sequence[float] = (), dropped: int = 0) -> Placement:
    """Return the placement of a result whose pixel i has its centre at voxel `i * stride + offset` of `layer`.

    stride, offset: one number per dimension of the layer; by default the result has the voxels of the layer. dropped:
    number of first dimensions that the result does not have; napari shows it at all their positions.
    """
    kept = slice(dropped, None)
    affine = np.asarray(layer.affine.affine_matrix)
    # the matrix from steps in voxels to steps in the layer's own space, before its affine
    zero = np.asarray(layer.data_to_world(np.zeros(layer.ndim)))
    steps = [np.asarray(layer.data_to_world(unit)) - zero for unit in np.eye(layer.ndim)]
    linear = np.linalg.solve(affine[:-1, :-1], np.stack(steps, axis=1))
    translate = np.asarray(layer.translate) + linear @ np.asarray(offset or np.zeros(layer.ndim), float)
    return Placement(
        scale=(np.asarray(layer.scale) * (stride or 1.0))[kept],
        translate=translate[kept],
        rotate=np.asarray(layer.rotate)[kept, kept],
        shear=_shear_matrix(layer)[kept, kept],
        affine=affine[kept, kept],
        units=tuple(layer.units[kept]),
        axis_labels=tuple(layer.axis_labels[kept]),
    )


def place_at(layer: Layer, placement: Placement) -> None:
    """Give a layer this placement; only changed properties are set, as napari reads the slice again at each."""
    now = {
        **{name: getattr(layer, name) for name in placement.arguments()},
        "shear": _shear_matrix(layer),
        "affine": layer.affine.affine_matrix,
    }
    for name, value in placement.arguments().items():
        is_same = np.array_equal(now[name], value) if isinstance(value, np.ndarray) else tuple(now[name]) == value
        if not is_same:
            setattr(layer, name, value)


def _shear_matrix(layer: Layer) -> NDArray[Any]:
    shear = np.asarray(layer.shear)
    if shear.ndim == 2:
        return shear
    matrix = np.eye(layer.ndim)
    matrix[np.triu_indices(layer.ndim, 1)] = shear
    return matrix


def camera_of(viewer: ViewerModel) -> Any:
    """Return the viewer's camera."""
    return getattr(viewer, "scene", viewer).camera  # napari 0.9 moved it into a scene


def canvas_size(viewer: ViewerModel) -> tuple[int, int]:
    """Return height and width of the canvas in pixels of the screen."""
    size = viewer.canvas.size if hasattr(viewer, "canvas") else viewer._canvas_size  # napari 0.9 made it public
    return int(size[0]), int(size[1])


def current_position(viewer: ViewerModel, layer: Layer) -> tuple[int, ...]:
    """Return the voxel of `layer` at the viewer's sliders."""
    return nearest_voxel(layer, voxel_at(viewer, layer, viewer.dims.point))


def nearest_voxel(layer: Layer, place: Sequence[float] | NDArray[Any]) -> tuple[int, ...]:
    """Return the voxel of `layer` that is nearest to a place, which is given in its voxels."""
    return tuple(int(at) for at in np.clip(np.round(place).astype(int), 0, layer_lengths(layer) - 1))


def visible_box(viewer: ViewerModel, layer: Layer) -> tuple[tuple[int, int], ...]:
    """Return the first and the last voxel on screen along each dimension of `layer`.

    Along a slider both are its position. If the layer is off screen they are its nearest voxels; a 3D view shows all
    voxels.
    """
    shown = [axis - viewer.dims.ndim + layer.ndim for axis in viewer.dims.displayed]
    last = layer_lengths(layer) - 1
    if viewer.dims.ndisplay == 2:
        # the corners are taken from the camera, as `layer.corner_pixels` of a multiscale image lags behind it
        camera, size, corners = camera_of(viewer), canvas_size(viewer), []
        for signs in product((-0.5, 0.5), repeat=2):
            corner = list(viewer.dims.point)
            for axis, centre, length, sign in zip(viewer.dims.displayed, camera.center[-2:], size, signs, strict=True):
                corner[axis] = centre + sign * length / camera.zoom
            corners.append(voxel_at(viewer, layer, corner))
        low, high = np.floor(np.min(corners, axis=0)), np.ceil(np.max(corners, axis=0))
    else:
        low, high = np.zeros(layer.ndim), last
    at = current_position(viewer, layer)
    spans = zip(np.clip(low, 0, last), np.clip(high, 0, last), strict=True)
    return tuple(
        (int(first), int(end)) if axis in shown else (at[axis], at[axis]) for axis, (first, end) in enumerate(spans)
    )


def voxel_at(viewer: ViewerModel, layer: Layer, place: Sequence[float]) -> NDArray[Any]:
    """Return a point of the viewer's space in voxels of `layer`, which may lie outside the layer."""
    point = np.asarray(place, float)[-layer.ndim :]
    point = np.concatenate([np.zeros(layer.ndim - len(point)), point])
    shown = getattr(viewer.layers.extent, "units", None)
    if shown is not None and len(shown) >= layer.ndim:
        point *= [_factor(*units) for units in zip(shown[-layer.ndim :], layer.units, strict=True)]
    return np.asarray(layer.world_to_data(point))


def world_at(viewer: ViewerModel, layer: Layer, voxel: Sequence[float]) -> NDArray[Any]:
    """Return a voxel of `layer` as a point of the viewer's space, along the dimensions of the layer."""
    point = np.asarray(layer.data_to_world(np.asarray(voxel, float)))
    shown = getattr(viewer.layers.extent, "units", None)
    if shown is not None and len(shown) >= layer.ndim:
        point = point * [_factor(own, seen) for seen, own in zip(shown[-layer.ndim :], layer.units, strict=True)]
    return point


def pixel_of(viewer: ViewerModel, layer: Layer) -> float:
    """Return the length of a pixel of the screen in voxels of `layer`, along its last dimension."""
    zero, one = [0.0] * layer.ndim, [*([0.0] * (layer.ndim - 1)), 1.0]
    step = float(np.linalg.norm(world_at(viewer, layer, one) - world_at(viewer, layer, zero)))
    return 1.0 / max(float(camera_of(viewer).zoom) * step, 1e-9)


def layer_lengths(layer: Layer) -> NDArray[Any]:
    """Return the lengths of a layer in voxels, of a multiscale one those of the finest level."""
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    return np.asarray(data.shape[: layer.ndim])


def _factor(unit: Any, wanted: Any) -> float:
    """Return the factor from `unit` to `wanted`, 1 if they cannot be converted."""
    if unit == wanted or not unit.is_compatible_with(wanted):
        return 1.0
    return float((1 * unit).to(wanted).magnitude)


class RepeatedSlices(LazyArray):
    """A lazy view of an array repeated along a new axis, without a copy."""

    def __init__(self, data: ArrayLike, axis: int, count: int) -> None:
        self._data, self._axis, self._count = data, axis, count
        self.shape = (*data.shape[:axis], count, *data.shape[axis:])
        self.dtype = data.dtype

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        part = index[self._axis]
        values = np.asarray(self._data[(*index[: self._axis], *index[self._axis + 1 :])])
        if isinstance(part, int):
            return values
        place = sum(isinstance(each, slice) for each in index[: self._axis])
        count = len(range(self._count)[part])
        shape = (*values.shape[:place], count, *values.shape[place:])
        return np.broadcast_to(np.expand_dims(values, place), shape)


_FILLED = 0.95
"""Share of the canvas that a layer fills when it is framed."""


@dataclass(frozen=True)
class CameraView:
    """The view of a layer. sliders: their voxel. middle: the voxel in the middle of the screen. pixel: its length in
    voxels."""

    sliders: tuple[float, ...]
    middle: tuple[float, ...]
    pixel: float


def middle_of_view(viewer: ViewerModel, layer: Layer) -> tuple[float, ...]:
    """Return the voxel of a layer in the middle of the screen, at the sliders; it may lie outside the layer."""
    middle, displayed = list(viewer.dims.point), viewer.dims.displayed
    for axis, place in zip(displayed, camera_of(viewer).center[-len(displayed) :], strict=True):
        middle[axis] = place
    return tuple(map(float, voxel_at(viewer, layer, middle)))


def view_of(viewer: ViewerModel, layer: Layer) -> CameraView:
    """Return the present view of a layer."""
    sliders = tuple(map(float, voxel_at(viewer, layer, viewer.dims.point)))
    return CameraView(sliders, middle_of_view(viewer, layer), pixel_of(viewer, layer))


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
def selection_kept(viewer: ViewerModel) -> Generator[None, None, None]:
    """Keep the selected layers while others are added, which napari would select."""
    selected, active = set(viewer.layers.selection), viewer.layers.selection.active
    yield
    viewer.layers.selection = {layer for layer in selected if layer in viewer.layers}
    if active is not None and active in viewer.layers:
        viewer.layers.selection.active = active


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
