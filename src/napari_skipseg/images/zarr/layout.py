"""The layout of an OME-Zarr 0.5 store as one value, and its metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from napari_skipseg.errors import InputError
from napari_skipseg.images.space import Space, check_axes
from napari_skipseg.images.zarr.pyramid import PyramidLevel, plan_levels

OURS = "napari-skipseg"
"""The attribute with the recipe."""

ZARR_UNITS = {
    "pm": "picometer",
    "Å": "angstrom",
    "nm": "nanometer",
    "µm": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
}
"""OME-Zarr's names of our units of length; without a unit a size is in pixels."""

_METHODS = {"image": "mean of 2 voxels along each halved axis", "labels": "most common value, the highest of several"}
"""Description of how a coarser level is made."""

LayerKind = Literal["image", "labels"]

_CHUNK = 2**20
"""Bytes of a default chunk, uncompressed."""

MANY_CHUNKS = 20_000
"""Most default chunks; they are enlarged, up to 16 times, if there would be more."""


@dataclass(frozen=True)
class Layout:
    """The layout of a store: shape and space (axes in the order TCZYX), kind of values, chunks, and the recipe.

    chunks: one length per axis; a tile should keep whole chunks. The default, planes of about 1 MiB, is right for
    results that are made slice by slice; results of 3D tiles need their own.
    kind: "labels" are reduced to the most common value of a block, an "image" to its mean.
    """

    shape: tuple[int, ...]
    space: Space
    dtype: str
    chunks: tuple[int, ...] | None = None
    kind: LayerKind = "image"
    channel_names: tuple[str, ...] | None = None
    description: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_axes(self.space.axes, len(self.shape))
        if 0 in self.shape:
            raise InputError(f"The image is empty: its shape is {self.shape}.")
        if list(self.space.axes) != sorted(self.space.axes, key="TCZYX".index):
            raise InputError(f"OME-Zarr has its axes in the order T, C, Z, Y, X, not '{self.space.axes}': transpose.")
        if np.dtype(self.dtype).kind not in "buif":
            raise InputError(f"OME-Zarr is not written with {self.dtype} values: convert them to numbers.")
        if self.kind == "labels" and np.dtype(self.dtype).kind == "f":
            raise InputError(f"Labels are whole numbers, not {self.dtype}: convert them.")
        channels = dict(zip(self.space.axes, self.shape, strict=True)).get("C", 1)
        if self.channel_names is not None and len(self.channel_names) != channels:
            raise InputError(f"There are {len(self.channel_names)} names for {channels} channels: give one for each.")
        if self.chunks is not None and (len(self.chunks) != len(self.shape) or min(self.chunks) < 1):
            raise ValueError(f"chunks {self.chunks} do not fit the shape {self.shape}")

    @property
    def levels(self) -> tuple[PyramidLevel, ...]:
        """The levels of the pyramid, the finest first."""
        return plan_levels(self.shape, self.space)

    def chunks_of(self, level: PyramidLevel) -> tuple[int, ...]:
        """Return the shape of the chunks of a level."""
        wanted = self.chunks or default_chunks(self.shape, self.space.axes, np.dtype(self.dtype).itemsize)
        return tuple(min(chunk, length) for chunk, length in zip(wanted, level.shape, strict=True))


def default_chunks(shape: tuple[int, ...], axes: str, itemsize: int) -> tuple[int, ...]:
    """Return one-slice chunks of about 1 MiB, or up to 16 MiB if there would be more than 20,000 files."""
    side = 2 ** (int(math.log2(_CHUNK // itemsize)) // 2)
    planes = math.prod(n for n, axis in zip(shape, axes, strict=True) if axis not in "YX")
    area = math.prod(n for n, axis in zip(shape, axes, strict=True) if axis in "YX")
    for _ in range(2):
        if planes * -(-area // side**2) > MANY_CHUNKS:
            side *= 2
    return tuple(min(side, n) if axis in "YX" else 1 for n, axis in zip(shape, axes, strict=True))


def attributes_of(layout: Layout, name: str) -> dict[str, Any]:
    """Return the attributes of the group: `ome` by the standard (0.5), and our own with the recipe."""
    multiscale = {
        "name": name,
        "axes": [_axis(axis, layout.space.unit) for axis in layout.space.axes],
        "datasets": [_dataset(layout, number, level) for number, level in enumerate(layout.levels)],
        "type": "mean" if layout.kind == "image" else "mode",
        "metadata": {"method": _METHODS[layout.kind]},
    }
    ome: dict[str, Any] = {"version": "0.5", "multiscales": [multiscale]}
    if layout.kind == "labels":
        ome["image-label"] = {}
    if layout.channel_names is not None:
        ome["omero"] = {"channels": [_channel(channel, layout.dtype) for channel in layout.channel_names]}
    recipe = None if layout.description is None else json.loads(json.dumps(layout.description))
    return {"ome": ome, OURS: {"recipe": recipe}}


def _axis(axis: str, unit: str) -> dict[str, str]:
    kind = {"T": "time", "C": "channel"}.get(axis, "space")
    described = {"name": axis.lower(), "type": kind}
    return described | {"unit": ZARR_UNITS[unit]} if kind == "space" and unit in ZARR_UNITS else described


def _dataset(layout: Layout, number: int, level: PyramidLevel) -> dict[str, Any]:
    """Return a level's path and transformations: the centre of a coarse voxel is that of the fine ones it covers."""
    axes = layout.space.axes
    space = layout.space.scaled(dict(zip(axes, level.factor, strict=True)))
    steps = [
        {"type": "scale", "scale": [space.size_along(axis) for axis in axes]},
        {"type": "translation", "translation": [space.origin_along(axis) for axis in axes]},
    ]
    return {"path": str(number), "coordinateTransformations": steps}


def _channel(name: str, dtype: str) -> dict[str, Any]:
    kind = np.dtype(dtype)
    low, high = (0.0, 1.0) if kind.kind in "bf" else (float(np.iinfo(kind).min), float(np.iinfo(kind).max))
    window = {"min": low, "max": high, "start": low, "end": high}
    return {"label": name, "color": "FFFFFF", "active": True, "window": window}
