"""The view of a study: one slice for a 2D model, the volume around it for a 3D model, in standard units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.intensity.normalize import Normalization, measure
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.predict import check_fits, select_channel
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.models.model import Model

MOST_VIEWED_VOXELS = 2**22
"""Voxels of a view, 2048² or 161³: the features of all gates are in memory together."""


@dataclass(frozen=True, eq=False)
class StudyView:
    """A part of a stack as a model sees it.

    pixels: (C, *space) in standard units. part: the same grey values as a stack of "YX" or "ZYX" at its true place,
    its channels first if there are several. number: the slice of the whole stack, from 0. shown: its z in `part`, 0 in
    2D. normalization: of the whole stack.
    """

    pixels: NDArray[np.float32]
    part: Stack
    number: int
    shown: int
    normalization: Normalization

    def plane(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the (…, Y, X) plane that pictures show of `values`, (*space) or (C, *space)."""
        return values if len(self.part.space.spatial_axes) == 2 else values[..., self.shown, :, :]

    @property
    def picture(self) -> NDArray[np.float32]:
        """The image to show, (Y, X), or (Y, X, 3) in [0, 1] if there are three channels."""
        plane = self.plane(self.pixels)
        if len(plane) != 3:
            grey: NDArray[np.float32] = plane[0]
            return grey
        low, high = float(plane.min()), float(plane.max())
        return np.moveaxis((plane - np.float32(low)) / np.float32(high - low or 1), 0, -1)


def read_view(stack: Stack, model: Model, number: int | None = None, channel: int | None = None) -> StudyView:
    """Return slice `number` of `stack` (from 0, through Z and T; by default the middle one), or its volume in 3D.

    Raises:
        InputError: there is no such slice, it is too large, or the stack does not fit the model.
    """
    stack = select_channel(stack, model, SegmentOptions(channel=channel))
    check_fits(stack, model)
    number, place = find_plane(stack, number)
    seen = "ZYX"[-model.description.spec.dimensions :]
    index = tuple(slice(None) if axis in "C" + seen else at for axis, at in zip(stack.space.axes, place, strict=True))
    voxels = int(np.prod([stack.length(axis) for axis in seen]))
    if voxels > MOST_VIEWED_VOXELS:
        raise InputError(
            f"'{stack.name}' has {voxels:,} voxels in view, and a study takes at most {MOST_VIEWED_VOXELS:,}: crop it."
        )
    normalization = measure(stack, padding=model.description.padding)
    left = [axis for axis, at in zip(stack.space.axes, index, strict=True) if isinstance(at, slice)]
    order = [left.index(axis) for axis in ("C", *seen) if axis in left]
    values = stack.read(index).transpose(order)
    shown = int(place[stack.space.axes.index("Z")]) if "Z" in stack.space.axes else 0  # type: ignore[arg-type]
    space = stack.space.with_axes(("C" if "C" in left else "") + seen)
    if len(seen) == 2:
        space = space.shifted({"Z": shown})
    part = replace(stack, data=values, space=space)
    pixels, _ = normalization.prepare(values if "C" in left else values[None], across_slices=len(seen) == 3)
    return StudyView(pixels, part, number, shown if len(seen) == 3 else 0, normalization)


def find_plane(stack: Stack, number: int | None) -> tuple[int, tuple[int | slice, ...]]:
    """Return the number and index of a slice; of the middle one if `number` is None.

    Raises:
        InputError: there is no such slice.
    """
    places = list(stack.slices("YXC"))
    chosen = len(places) // 2 if number is None else number
    if not 0 <= chosen < len(places):
        raise InputError(f"There is no slice {number} in '{stack.name}': it has slices 0 to {len(places) - 1}.")
    return chosen, places[chosen]


def read_truth(truth: Stack, view: StudyView, description: ModelDescription) -> NDArray[np.uint8]:
    """Return the true classes of the slice on view, (Y, X): 0 = background, 1, 2, … = the model's classes.

    Raises:
        InputError: the truth has different slices or a different size, or none of the values of the classes.
    """
    _, place = find_plane(truth, view.number)
    values = truth.read(place)
    size = view.part.shape[-2:]
    if values.shape != size:
        found, wanted = (" × ".join(map(str, shape)) for shape in (values.shape, size))
        raise InputError(f"A slice of '{truth.name}' is {found} pixels and one of the image {wanted}: choose its own.")
    classes = np.zeros(size, np.uint8)
    for number, label in enumerate(description.classes, start=1):
        classes[values == label.label] = number
    if not classes.any():
        wanted = ", ".join(f"{label.label} = {label.name}" for label in description.classes)
        raise InputError(
            f"Slice {view.number} of '{truth.name}' contains no class of {description.name} ({wanted}): choose labels "
            "with these values."
        )
    return classes
