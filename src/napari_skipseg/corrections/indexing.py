"""What an index of numpy asks for: ranges along each axis, or single points."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.stack import complete_index


class Ranges(NamedTuple):
    """A basic index: one range per axis with a step above 0, which axes are turned round, which are a single place."""

    axes: tuple[range, ...]
    turned: tuple[bool, ...]
    single: tuple[bool, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is asked for, the single places left out."""
        return tuple(len(axis) for axis, single in zip(self.axes, self.single, strict=True) if not single)

    @property
    def turn(self) -> tuple[slice, ...]:
        """The index that turns what was read forward into what was asked for, and back."""
        return tuple(slice(None, None, -1 if turned else 1) for turned in self.turned)


def is_basic(key: Any) -> bool:
    """Return whether `key` has only integers, slices and an ellipsis."""
    parts = key if isinstance(key, tuple) else (key,)
    return not any(isinstance(part, list) or (isinstance(part, np.ndarray) and part.ndim > 0) for part in parts)


def ranges_of(key: Any, shape: tuple[int, ...]) -> Ranges:
    """Return the ranges that a basic index asks for.

    Raises:
        IndexError: it does not fit the shape.
    """
    axes, turned, single = [], [], []
    for part, length in zip(complete_index(key, shape), shape, strict=True):
        places = range(part, part + 1) if isinstance(part, int) else range(length)[part]
        turned.append(places.step < 0)
        axes.append(places[::-1] if places.step < 0 else places)
        single.append(isinstance(part, int))
    return Ranges(tuple(axes), tuple(turned), tuple(single))


def points_of(key: Any, shape: tuple[int, ...]) -> tuple[NDArray[np.intp], ...]:
    """Return the place along each axis of every point that an index with arrays asks for, in the result's shape.

    As numpy: the axes of the arrays come where these stand if they stand side by side, else first.

    Raises:
        IndexError: it does not fit the shape.
    """
    parts = _one_per_axis(key, shape)
    chosen = [axis for axis, part in enumerate(parts) if not isinstance(part, slice)]
    numbers = np.broadcast_arrays(*(parts[axis] for axis in chosen))
    spans = {axis: range(shape[axis])[part] for axis, part in enumerate(parts) if isinstance(part, slice)}
    together = chosen == list(range(chosen[0], chosen[-1] + 1))
    before = sum(axis < chosen[0] for axis in spans) if together else 0
    lengths = [len(span) for span in spans.values()]
    result = (*lengths[:before], *numbers[0].shape, *lengths[before:])
    found: dict[int, NDArray[np.intp]] = {}
    for axis, places in zip(chosen, numbers, strict=True):
        found[axis] = np.broadcast_to(places.reshape(*places.shape, *[1] * (len(lengths) - before)), result)
    for order, (axis, span) in enumerate(spans.items()):
        position = order if order < before else order + numbers[0].ndim
        side = [len(span) if place == position else 1 for place in range(len(result))]
        found[axis] = np.broadcast_to(np.arange(span.start, span.stop, span.step, dtype=np.intp).reshape(side), result)
    return tuple(found[axis] for axis in range(len(shape)))


def _one_per_axis(key: Any, shape: tuple[int, ...]) -> list[Any]:
    """Return a slice or an array of places (none negative) for each axis."""
    whole = key if isinstance(key, tuple) else (key,)
    given = [np.asarray(part) if isinstance(part, list) else part for part in whole]
    widths = [part.ndim if _is_mask(part) else int(part is not Ellipsis) for part in given]
    ellipses = [place for place, part in enumerate(given) if part is Ellipsis]
    missing = len(shape) - sum(widths)
    if len(ellipses) > 1 or missing < 0:
        raise IndexError(f"there are too many indices for an array of {len(shape)} dimensions")
    place = ellipses[0] if ellipses else len(given)
    given[place : place + 1] = [slice(None)] * missing
    parts: list[Any] = []
    for part in given:
        length = shape[len(parts)]
        if isinstance(part, slice):
            parts.append(part)
        elif _is_mask(part):
            if part.shape != shape[len(parts) : len(parts) + part.ndim]:
                raise IndexError(f"a mask of {part.shape} does not fit an array of {shape}")
            parts.extend(part.nonzero())
        else:
            parts.append(_inside(np.asarray(part), length))
    return parts


def _is_mask(part: Any) -> bool:
    return isinstance(part, np.ndarray) and part.dtype.kind == "b" and part.ndim > 0


def _inside(places: NDArray[Any], length: int) -> NDArray[np.intp]:
    if places.size == 0:
        return places.astype(np.intp)
    if places.dtype.kind not in "iu":
        raise IndexError(f"{places.dtype} values are no index: use integers, slices or masks")
    low, high = int(places.min()), int(places.max())
    if low < -length or high >= length:
        raise IndexError(f"index {low if low < -length else high} is out of range for an axis of length {length}")
    places = places.astype(np.intp, copy=False)
    return np.where(places < 0, places + length, places) if low < 0 else places


class Bounds(NamedTuple):
    """The box around points: its first corner and its shape."""

    corner: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Voxels in the box."""
        return math.prod(self.shape)

    @property
    def ranges(self) -> tuple[range, ...]:
        """One range per axis."""
        return tuple(range(low, low + n) for low, n in zip(self.corner, self.shape, strict=True))


def bounds_of(points: tuple[NDArray[np.intp], ...]) -> Bounds:
    """Return the box around one point or more."""
    corner = tuple(int(places.min()) for places in points)
    return Bounds(corner, tuple(int(places.max()) - low + 1 for places, low in zip(points, corner, strict=True)))


def fitted(value: Any, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return `value` as bytes broadcast to `shape`, as numpy assigns.

    Raises:
        ValueError: it does not fit, or holds what no byte can.
    """
    values = np.asarray(value)
    if values.dtype != np.uint8:
        if values.size and (values.min() < 0 or values.max() > np.iinfo(np.uint8).max):
            raise ValueError("corrections hold values from 0 to 255")
        values = values.astype(np.uint8)
    while values.ndim > len(shape) and values.shape[0] == 1:
        values = values[0]
    return np.broadcast_to(values, shape)
