"""The class whose objects are found, and its probability as numbers from 0 to 1 whatever a file holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.scores.boundaries import BOUNDARY_CLASSES

_MOST_LABELS = 31
"""Whole numbers of an image up to this are labels, where its file does not say what they are."""


@dataclass(frozen=True)
class ClassProbability:
    """One class of an image of probabilities or labels, read as float32 in [0, 1].

    channel: its place along C, None where there is no C. value: the label that is the class, where `labels`; 0 = any.
    has_padding: exactly 0 means padding, which is no object and ends the image as its border does.
    """

    stack: Stack
    channel: int | None
    value: int
    labels: bool
    has_padding: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The lengths along T, Z, Y and X."""
        t, z, y, x = (self.stack.length(axis) for axis in "TZYX")
        return t, z, y, x

    def read(self, time: int, z: slice, y: slice, x: slice) -> NDArray[np.float32]:
        """Return a block, shape (Z, Y, X).

        Raises:
            InputError: values that are no probabilities.
        """
        return self.look_at(time, z, y, x)[...]

    def look_at(self, time: int, z: slice, y: slice, x: slice) -> ScaledProbability:
        """Return a block to look at, shape (Z, Y, X): a quarter of the memory where it is stored in 8 bits."""
        places: dict[str, int | slice] = {"T": time, "C": self.channel or 0, "Z": z, "Y": y, "X": x}
        values = self.stack.read(tuple(places[axis] for axis in self.stack.space.axes))
        return ScaledProbability(values if "Z" in self.stack.space.axes else values[None], self)

    def scale(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return stored values as probabilities.

        Raises:
            InputError: values that are no probabilities.
        """
        if self.labels or values.dtype.kind == "b":
            mask: NDArray[np.bool_] = values == self.value if self.value and values.dtype.kind != "b" else values != 0
            return mask.astype(np.float32)
        if values.dtype.kind == "u":
            scaled: NDArray[np.float32] = values.astype(np.float32)
            scaled /= np.float32(np.iinfo(values.dtype).max)
            return scaled
        if values.dtype.kind != "f":
            raise InputError(
                f"'{self.stack.name}' holds {values.dtype} values: give a probability, or say that it holds labels."
            )
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        if not (low >= 0 and high <= 1):
            raise InputError(
                f"'{self.stack.name}' has values from {low:g} to {high:g}: probabilities lie between 0 and 1."
            )
        return values.astype(np.float32, copy=False)


@dataclass(frozen=True)
class ScaledProbability:
    """A block as it is stored, scaled where it is looked at."""

    values: NDArray[Any]
    chosen: ClassProbability

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths along Z, Y and X."""
        return self.values.shape

    @property
    def has_padding(self) -> bool:
        """Whether exactly 0 means padding."""
        return self.chosen.has_padding

    def __getitem__(self, place: Any) -> NDArray[np.float32]:
        """Return a part as probabilities.

        Raises:
            InputError: values that are no probabilities.
        """
        return self.chosen.scale(self.values[place])


def tells_of_padding(recipe: Mapping[str, Any]) -> bool:
    """Return whether a segmentation left padding out, so that its probability is exactly 0 there and nowhere else.

    recipe: that of the segmentation, as JSON holds it; of a search for objects, the one that it holds.
    """
    normalization = (recipe.get("segmentation") or recipe).get("normalization")
    if not isinstance(normalization, Mapping):
        return False
    return bool(normalization.get("padding")) or normalization.get("flat") is not None


def probability_of_class(
    stack: Stack, class_names: Sequence[str], options: ObjectOptions, labels: bool = False, has_padding: bool = False
) -> ClassProbability:
    """Return the class that `options` name, of an image with its classes along C, or of labels 1, 2, … in their order.

    has_padding: exactly 0 means padding in a probability; labels do not tell it from background.

    Raises:
        InputError: there is no such class, or too few names.
    """
    names = tuple(class_names)
    if not labels and names and "C" not in stack.space.axes and len(names) > 1:
        names = names[:1]
    place = _place(names, options)
    if labels:
        return ClassProbability(stack, 0 if "C" in stack.space.axes else None, place + 1 if names else 0, True)
    if place >= stack.length("C"):
        raise InputError(f"'{stack.name}' has {stack.length('C')} channels, none for the class '{names[place]}'.")
    return ClassProbability(stack, place if "C" in stack.space.axes else None, 0, False, has_padding)


def _place(names: tuple[str, ...], options: ObjectOptions) -> int:
    if options.class_name:
        if options.class_name not in names:
            known = f"its classes are {', '.join(names)}" if names else "its classes have no names"
            raise InputError(f"There is no class '{options.class_name}': {known}.")
        return names.index(options.class_name)
    if options.method == "cells":
        return next((names.index(name) for name in BOUNDARY_CLASSES if name in names), 0)
    return 0


def holds_few_values(stack: Stack) -> bool:
    """Return whether an image of whole numbers holds labels, not a probability: none above 31, or only 0 and another.

    The largest number of a type is no label: as a probability it is 1.
    """
    kind = np.dtype(stack.data.dtype)
    if kind.kind not in "bui":
        return False
    largest = 1 if kind.kind == "b" else int(np.iinfo(kind).max)
    few, marked = True, 0
    for place in stack.slices("YX"):
        values = stack.read(place)
        high = int(values.max())
        few = few and high <= _MOST_LABELS
        marked = marked or high
        is_mask = high in (0, marked) and bool(np.isin(values, (0, marked)).all())
        if not few and (not is_mask or marked == largest):
            return False
    return True
