"""The class whose objects are found, and its probability as numbers from 0 to 1 whatever a file stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.box import box_from_text, cut_to_box
from napari_skipseg.images.mask import open_mask, read_named_mask
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.options import Method, ObjectOptions
from napari_skipseg.thresholds import DEFAULT_THRESHOLD

BOUNDARY_CLASSES = ("membrane", "boundary", "wall", "border")
"""The ISBI scores take the probability of cell, which is one minus theirs. Cells are found between the first of these
classes that a probability has."""

MOST_LABELS = 31
"""An image of integers up to this value is taken for labels if its file does not say what it holds; others are
probabilities scaled by their type."""

_NOT_PADDING = np.float32(1 / 255)
"""The probability of tissue that is not of the class, in labels beside which padding is known: 0 means padding."""


@dataclass(frozen=True)
class ClassImage:
    """An image in which objects can be found: probabilities, their classes along C, or labels 1, 2, … of classes.

    class_names: in the order of C, or of the labels; empty if they are not known.
    has_padding: the segmentation left areas without tissue out, so a probability is exactly 0 there and nowhere else.
    tissue: of labels, a probability of the same run, which is 0 in the padding; labels alone do not show it.
    thresholds: of the classes that the segmentation gave one, by name.
    mask: labels, 0 where no objects are found: as in the padding, the probability is 0 there.
    """

    stack: Stack
    class_names: tuple[str, ...] = ()
    labels: bool = False
    has_padding: bool = False
    tissue: Stack | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    mask: Stack | None = None


def in_box(image: ClassImage, options: ObjectOptions) -> ClassImage:
    """Return the part of an image in the box and the mask of the options, all of it if they have none.

    Raises:
        InputError: the box lies outside of the image, or the mask has another shape.
        FileError: the mask has changed, or cannot be read.
    """
    image = in_mask(image, options)
    if not options.box:
        return image
    box = box_from_text(options.box)
    tissue, mask = (None if each is None else cut_to_box(each, box) for each in (image.tissue, image.mask))
    return replace(image, stack=cut_to_box(image.stack, box), tissue=tissue, mask=mask)


def in_mask(image: ClassImage, options: ObjectOptions) -> ClassImage:
    """Return an image with the mask of the options, the same image if they have none.

    Raises:
        InputError: the mask has another shape than the image.
        FileError: the mask has changed, or cannot be read.
    """
    return replace(image, mask=open_mask(read_named_mask(options.mask), image.stack)) if options.mask else image


def read_block(stack: Stack, *, time: int, channel: int, z: slice, y: slice, x: slice) -> NDArray[Any]:
    """Return the voxels of a block of any image, shape (Z, Y, X)."""
    places: dict[str, int | slice] = {"T": time, "C": channel, "Z": z, "Y": y, "X": x}
    values = stack.read(tuple(places[axis] for axis in stack.space.axes))
    return values if "Z" in stack.space.axes else values[None]


@dataclass(frozen=True)
class ClassProbability:
    """One class of an image, read as float32 in [0, 1].

    channel: its place along C, None if there is no C. value: the label that is the class, of labels; 0 = any label.
    is_zero_padding: exactly 0 means padding, which is no object and ends the image as its border does. tissue, mask: as
    in `ClassImage`.
    """

    stack: Stack
    channel: int | None
    value: int
    labels: bool
    is_zero_padding: bool = False
    tissue: Stack | None = None
    mask: Stack | None = None

    @property
    def has_padding(self) -> bool:
        """Whether there is padding, or a mask, whose outside is treated in the same way."""
        return self.is_zero_padding or self.mask is not None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The lengths along T, Z, Y and X."""
        t, z, y, x = (self.stack.length(axis) for axis in "TZYX")
        return t, z, y, x

    def look_at(self, time: int, z: slice, y: slice, x: slice) -> ScaledProbability:
        """Return a block as a lazy view, shape (Z, Y, X): a quarter of the memory if 8 bits are stored."""
        values = read_block(self.stack, time=time, channel=self.channel or 0, z=z, y=y, x=x)
        tissue, mask = (
            None if each is None else read_block(each, time=time, channel=0, z=z, y=y, x=x)
            for each in (self.tissue, self.mask)
        )
        return ScaledProbability(values, self, tissue, mask)

    def scale(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return stored values as probabilities.

        Raises:
            InputError: the values are no probabilities.
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
                f"'{self.stack.name}' contains {values.dtype} values: give a probability, or mark it as labels."
            )
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        if not (low >= 0 and high <= 1):  # NaN fails both
            raise InputError(
                f"'{self.stack.name}' has values from {low:g} to {high:g}: probabilities lie between 0 and 1."
            )
        return values.astype(np.float32, copy=False)


@dataclass(frozen=True)
class ScaledProbability:
    """A block as it is stored, scaled when a part of it is read.

    tissue: 0 in the padding of labels. mask: 0 where nothing is found.
    """

    values: NDArray[Any]
    chosen: ClassProbability
    tissue: NDArray[Any] | None = None
    mask: NDArray[Any] | None = None

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
            InputError: the values are no probabilities.
        """
        scaled = self.chosen.scale(self.values[place])
        if self.tissue is not None:
            scaled = np.where(self.tissue[place] == 0, np.float32(0), np.maximum(scaled, _NOT_PADDING))
        if self.mask is not None:
            inside = scaled if self.chosen.is_zero_padding else np.maximum(scaled, _NOT_PADDING)
            scaled = np.where(self.mask[place] == 0, np.float32(0), inside)
        return scaled


def records_padding(recipe: Mapping[str, Any]) -> bool:
    """Return whether a segmentation left padding out, so that its probability is exactly 0 there and nowhere else.

    recipe: of the segmentation, or of a search for objects in its result, as JSON.
    """
    segmentation = recipe.get("segmentation") or recipe
    if (segmentation.get("options") or {}).get("mask"):  # outside of the mask it is as where padding is
        return True
    normalization = segmentation.get("normalization")
    if not isinstance(normalization, Mapping):
        return False
    return bool(normalization.get("padding")) or normalization.get("flat") is not None


def thresholds_in(recipe: Mapping[str, Any]) -> dict[str, float]:
    """Return the threshold of each class that a segmentation was made with, as far as its recipe says them.

    recipe: of the segmentation, or of a search for objects in its result, as JSON.
    """
    segmentation = recipe.get("segmentation") or recipe
    options = segmentation.get("options")
    if not isinstance(options, Mapping):
        return {}
    found: dict[str, float] = {}
    if isinstance(options.get("threshold"), int | float):
        found = {str(name): float(options["threshold"]) for name in segmentation.get("classes", ())}
    for text in options.get("class_threshold", ()):
        name, _, value = str(text).rpartition("=")
        found[name] = float(value)
    return found


def with_threshold(image: ClassImage, options: ObjectOptions) -> ObjectOptions:
    """Return the options with the threshold of the chosen class, if they name none; 0.5 if the image says none.

    Raises:
        InputError: there is no such class, or the image has too few channels.
    """
    if options.threshold is not None:
        return options
    found, names = probability_of_class(image, options), image.class_names
    place = found.value - 1 if image.labels else found.channel or 0
    name = names[place] if 0 <= place < len(names) else ""
    return replace(options, threshold=image.thresholds.get(name, DEFAULT_THRESHOLD))


def probability_of_class(image: ClassImage, options: ObjectOptions) -> ClassProbability:
    """Return the class that `options` name: by default the only or first one, for cells the first boundary.

    Raises:
        InputError: there is no such class, or the image has too few channels.
    """
    stack, names = image.stack, image.class_names
    has_channels = "C" in stack.space.axes
    if not image.labels and not has_channels:
        names = names[:1]
    if options.class_name:
        if options.class_name not in names:
            known = f"its classes are {', '.join(names)}" if names else "its classes have no names"
            raise InputError(f"There is no class '{options.class_name}': {known}.")
        place = names.index(options.class_name)
    else:
        place = default_class(names, options.method)
    if image.labels:
        value, has_padding = (place + 1 if names else 0), image.tissue is not None
        return ClassProbability(stack, 0 if has_channels else None, value, True, has_padding, image.tissue, image.mask)
    if place >= stack.length("C"):
        raise InputError(f"'{stack.name}' has {stack.length('C')} channels, none for the class '{names[place]}'.")
    return ClassProbability(stack, place if has_channels else None, 0, False, image.has_padding, mask=image.mask)


def default_class(class_names: Sequence[str], method: Method) -> int:
    """Return the number of the class whose objects are found if none is named."""
    boundaries = (class_names.index(name) for name in BOUNDARY_CLASSES if name in class_names)
    return next(boundaries, 0) if method == "cells" else 0


def note_class(image: ClassImage, options: ObjectOptions) -> str:
    """Return in a sentence which of several classes is searched if `options` name none; else ""."""
    if options.class_name or len(image.class_names) < 2 or not (image.labels or "C" in image.stack.space.axes):
        return ""
    found = probability_of_class(image, options)
    number = found.value - 1 if image.labels else found.channel or 0
    return f"Objects of the class {image.class_names[number]} are found: --class NAME chooses another one."


def holds_few_values(stack: Stack) -> bool:
    """Return whether an image of integers contains labels, not a probability: none above 31, or only 0 and another.

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
        few = few and high <= MOST_LABELS
        marked = marked or high
        is_mask = high in (0, marked) and bool(np.isin(values, (0, marked)).all())
        if not few and (not is_mask or marked == largest):
            return False
    return True
