"""Where a result lies: over its image, whatever the image's scale, rotation, shear, affine and units are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.stack import ArrayLike, LazyArray

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer


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


def place_over(layer: Layer, stride: tuple[float, ...], offset: tuple[float, ...], dropped: int = 0) -> Placement:
    """Return the placement of a result whose pixel i has its centre at voxel `i * stride + offset` of `layer`.

    stride, offset: one number per dimension of the layer, its first `dropped` dimensions included; these the result
    does not have, and napari shows it at all their positions.
    """
    linear = _linear(layer)
    kept = slice(dropped, None)
    translate = np.asarray(layer.translate) + linear @ np.asarray(offset, float)
    affine = np.asarray(layer.affine.affine_matrix)
    return Placement(
        scale=(np.asarray(layer.scale) * stride)[kept],
        translate=translate[kept],
        rotate=np.asarray(layer.rotate)[kept, kept],
        shear=_shear_matrix(layer)[kept, kept],
        affine=affine[kept, kept],
        units=tuple(layer.units[kept]),
        axis_labels=tuple(layer.axis_labels[kept]),
    )


def _linear(layer: Layer) -> NDArray[Any]:
    """Return the matrix that takes steps in voxels to steps in the layer's own space, before its affine."""
    zero = np.asarray(layer.data_to_world(np.zeros(layer.ndim)))
    steps = [np.asarray(layer.data_to_world(unit)) - zero for unit in np.eye(layer.ndim)]
    affine = np.asarray(layer.affine.affine_matrix)[:-1, :-1]
    linear: NDArray[Any] = np.linalg.solve(affine, np.stack(steps, axis=1))
    return linear


def _shear_matrix(layer: Layer) -> NDArray[Any]:
    shear = np.asarray(layer.shear)
    if shear.ndim == 2:
        return shear
    matrix = np.eye(layer.ndim)
    matrix[np.triu_indices(layer.ndim, 1)] = shear
    return matrix


def current_position(viewer: ViewerModel, layer: Layer) -> tuple[int, ...]:
    """Return the voxel of `layer` at which the viewer's sliders stand."""
    point = np.asarray(viewer.dims.point, float)[-layer.ndim :]
    point = np.concatenate([np.zeros(layer.ndim - len(point)), point])
    shown = getattr(viewer.layers.extent, "units", None)
    if shown is not None and len(shown) >= layer.ndim:
        point *= [_factor(*units) for units in zip(shown[-layer.ndim :], layer.units, strict=True)]
    place = np.round(layer.world_to_data(point)).astype(int)
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    lengths = np.asarray(data.shape[: layer.ndim])
    return tuple(int(p) for p in np.clip(place, 0, lengths - 1))


def _factor(unit: Any, wanted: Any) -> float:
    """Return what a number in `unit` is multiplied by to be in `wanted`: 1 where the two do not convert."""
    if unit == wanted or not unit.is_compatible_with(wanted):
        return 1.0
    return float((1 * unit).to(wanted).magnitude)


class Cut(LazyArray):
    """An array with some axes cut to one position: axis number -> position. They stay, with length 1."""

    def __init__(self, data: ArrayLike, positions: dict[int, int]) -> None:
        self._data, self._positions = data, positions
        self.shape = tuple(1 if axis in positions else int(n) for axis, n in enumerate(data.shape))
        self.dtype = data.dtype

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        return self._data[tuple(self._moved(axis, part) for axis, part in enumerate(index))]

    def _moved(self, axis: int, part: int | slice) -> int | slice:
        if axis not in self._positions:
            return part
        first = self._positions[axis]
        if isinstance(part, int):
            return first
        return slice(first, first + len(range(*part.indices(1))))
