"""The axes of a layer: letters, voxel sizes and units, in napari's form and in that of a `Stack`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_skipseg.errors import InputError
from napari_skipseg.images.space import METRES, Space, check_axes, find_unit

if TYPE_CHECKING:
    from napari.layers import Layer

LAYER_UNITS = ("nm", "µm", "Å", "mm", "pixel")
"""The units that the panel offers."""

GUESSED_AXES = {2: "YX", 3: "ZYX", 4: "TZYX", 5: "TCZYX"}
_LETTERS = {"t": "T", "c": "C", "ch": "C", "z": "Z", "y": "Y", "x": "X"} | {
    word: letter
    for letter, words in {
        "T": "time frame frames",
        "C": "channel channels",
        "Z": "depth plane planes slice slices section",
        "Y": "row rows height",
        "X": "column columns width",
    }.items()
    for word in words.split()
}


def axes_of(layer: Layer) -> str:
    """Return one letter per dimension of the layer, from its axis labels if they are known words, else by number.

    RGB samples are not a dimension of a napari layer and have no letter.
    """
    named = "".join(_LETTERS.get(str(label).strip().lower(), "?") for label in layer.axis_labels)
    if "?" not in named and len(set(named)) == len(named):
        return named
    ndim = int(layer.ndim)
    return GUESSED_AXES.get(ndim, "?" * ndim)


def voxel_size_of(layer: Layer, axes: str) -> tuple[tuple[float, float, float], str]:
    """Return the (z, y, x) voxel size of a layer with such axes, and its unit, "pixel" if it is not known.

    All sizes are converted to the unit of x.
    """
    sizes, unit = along_space(np.abs(layer.scale), layer.units, axes, default=1.0)
    return sizes, unit


def origin_of(layer: Layer, axes: str) -> tuple[float, float, float]:
    """Return the (z, y, x) position of the layer's first voxel, in the unit of `voxel_size_of`."""
    return along_space(layer.translate, layer.units, axes, default=0.0)[0]


def along_space(
    values: Sequence[float], units: Sequence[Any], axes: str, default: float
) -> tuple[tuple[float, float, float], str]:
    """Return the values of z, y and x in the unit of x, `default` for a missing axis."""
    if not {"Y", "X"} <= set(axes):
        return (default, default, default), "pixel"
    names = [find_unit(str(unit)) or "pixel" for unit in units]
    unit = names[axes.index("X")]
    found = []
    for letter in "ZYX":
        value, own = default, unit
        if letter in axes:
            value, own = float(values[axes.index(letter)]), names[axes.index(letter)]
        if own != unit and own in METRES and unit in METRES:
            value = float(f"{value * METRES[own] / METRES[unit]:.12g}")
        found.append(value)
    return (found[0], found[1], found[2]), unit


def set_calibration(layer: Layer, space: Space) -> None:
    """Give the layer the axes, voxel size and unit of `space`; its position, time and channels do not change.

    Raises:
        InputError: the axes do not describe the layer.
    """
    axes, unit = space.axes, space.unit
    check_layer_axes(layer, axes)
    scale, units = list(layer.scale), list(layer.units)
    for letter in space.spatial_axes:
        place, size = axes.index(letter), space.size_along(letter)
        scale[place] = -size if scale[place] < 0 else size
        units[place] = unit
    layer.axis_labels = tuple(axes.lower())
    if not np.array_equal(layer.scale, scale):
        layer.scale = scale
    layer.units = units


def check_layer_axes(layer: Layer, axes: str) -> None:
    """Raise InputError if `axes` do not describe the dimensions of the layer."""
    if is_rgb(layer) and "C" in axes:
        raise InputError("The colours of an RGB image are its channels: leave C out of the axes.")
    check_axes(axes, layer.ndim)


def is_rgb(layer: Layer) -> bool:
    """Return whether the layer holds RGB(A) samples behind its dimensions."""
    return bool(getattr(layer, "rgb", False))
