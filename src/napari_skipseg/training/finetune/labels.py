"""Corrected images: an image with its labels, and the classes that the labels annotate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.corrections.subject import FIRST_CLASS
from napari_skipseg.errors import InputError
from napari_skipseg.images.box import iter_boxes
from napari_skipseg.images.files import read_stack
from napari_skipseg.images.space import METRES
from napari_skipseg.images.stack import ArrayLike, Stack
from napari_skipseg.models.description import ClassLabel, ModelDescription, output_channels
from napari_skipseg.training.settings import FinetuneSettings


@dataclass(frozen=True)
class ClassPlan:
    """The new model's classes: first those that it keeps of the old model, in their order, then the new ones.

    kept: number (from 0) of each kept class among the old model's. judged: whether the labels say where a class is.
    Background in the labels says nothing of a class that is not judged. values: the number (from 1) of the class for
    each label value.
    """

    classes: tuple[ClassLabel, ...]
    kept: tuple[int, ...]
    judged: tuple[bool, ...]
    values: dict[int, int]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the new model's classes."""
        return tuple(label.name for label in self.classes)

    @property
    def judged_names(self) -> tuple[str, ...]:
        """ "background", then the names of the classes that the labels judge, in the order of `values`."""
        return ("background", *(self.names[number - 1] for number in self.values.values()))

    @property
    def learnt(self) -> tuple[int, ...]:
        """Numbers (from 1) of the classes that the labels judge."""
        return tuple(number for number, judged in enumerate(self.judged, start=1) if judged)

    @property
    def channels(self) -> int:
        """Output channels of the new model's network."""
        return output_channels(len(self.classes))


def plan_classes(settings: FinetuneSettings, parent: ModelDescription) -> ClassPlan:
    """Return the classes of the model that `settings` make of `parent`.

    If the settings name no classes, the labels judge the parent's, from value 2 on. If `remember` is off, classes of
    the parent that the labels do not judge are dropped.
    """
    named = settings.classes or tuple(
        ClassLabel(name, value) for value, name in enumerate(parent.class_names, start=FIRST_CLASS)
    )
    by_name = {label.name: label for label in named}
    kept = tuple(number for number, label in enumerate(parent.classes) if settings.remember or label.name in by_name)
    old = [parent.classes[number] for number in kept]
    old_names = {label.name for label in old}
    new = [label for label in named if label.name not in old_names]
    classes = tuple([by_name.get(label.name, label) for label in old] + new)
    judged = tuple(label.name in by_name for label in classes)
    values = {by_name[label.name].label: number for number, label in enumerate(classes, 1) if label.name in by_name}
    return ClassPlan(classes, kept, judged, values)


_LARGEST_PART = 4096
"""Longest side of what is read at once of labels that do not say where they are."""
SAME_SCALE = 0.01


@runtime_checkable
class Sparse(Protocol):
    """Labels that know where they are: everywhere else they are 0."""

    def written(self) -> Iterator[tuple[slice, ...]]:
        """Yield the parts in which labels may be."""


@dataclass(frozen=True)
class Corrected:
    """An image and its labels: 0 = not looked at, 1 = background, 2… = classes, over its axes without C.

    labels: whole numbers up to 255. strokes: the painted ones among the labels, if the others are a model's answers
    that somebody accepted; None if all were painted.
    """

    stack: Stack
    labels: ArrayLike
    name: str
    strokes: ArrayLike | None = None

    def __post_init__(self) -> None:
        wanted = tuple(self.stack.length(axis) for axis in self.axes)
        found = tuple(int(length) for length in self.labels.shape)
        if found != wanted:
            raise InputError(
                f"The labels of '{self.name}' have shape {found} and the image {wanted} ({self.axes}): give labels "
                "that were painted on this image."
            )
        if np.dtype(self.labels.dtype).kind not in "bui":
            raise InputError(
                f"The labels of '{self.name}' are {self.labels.dtype} values: save them as whole numbers from 0 to 255."
            )

    @property
    def axes(self) -> str:
        """The axes of the labels."""
        return self.stack.space.axes.replace("C", "")

    def iter_parts(self) -> Iterator[tuple[slice, ...]]:
        """Yield the parts of the labels to read, one after the other; only where labels are, if they say so."""
        if isinstance(self.labels, Sparse):
            yield from self.labels.written()
            return
        steps = [_LARGEST_PART if axis in "YX" else 1 for axis in self.axes]
        yield from iter_boxes([self.stack.length(axis) for axis in self.axes], steps)

    def read(self, part: tuple[slice, ...]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the labels in `part`, one slice per axis, as (T, Z, Y, X), and where labels were accepted."""
        order = [self.axes.index(axis) for axis in "TZYX" if axis in self.axes]
        missing = tuple(number for number, axis in enumerate("TZYX") if axis not in self.axes)
        labels = np.expand_dims(np.asarray(self.labels[part]).transpose(order), missing)
        if self.strokes is None:
            return labels, np.zeros(labels.shape, bool)
        strokes = np.expand_dims(np.asarray(self.strokes[part]).transpose(order), missing)
        return labels, (labels > 0) & (strokes == 0)


def read_corrected(settings: FinetuneSettings) -> tuple[Corrected, ...]:
    """Return the images of `settings` with their labels, not read yet.

    Raises:
        SkipsegError: a file that cannot be read, labels of another shape or voxel size than their image.
    """
    return tuple(
        pair_with_labels(
            read_stack(image, settings.axes or None), read_stack(labels, settings.label_axes or None, are_labels=True)
        )
        for image, labels in zip(settings.images, settings.labels, strict=True)
    )


def pair_with_labels(stack: Stack, labels: Stack) -> Corrected:
    """Return an image with its labels.

    Raises:
        InputError: labels of another shape or voxel size, or with colours.
    """
    if labels.length("C") > 1:
        raise InputError(f"The labels '{labels.name}' have colours: save them as grey, value = label.")
    labels = labels.channel(0)
    units = stack.space.has_size and labels.space.has_size
    for axis in stack.space.spatial_axes if units else "":
        factor = labels.space.size_along(axis) * METRES[labels.space.unit]
        factor /= stack.space.size_along(axis) * METRES[stack.space.unit]
        if abs(factor - 1) > SAME_SCALE:
            raise InputError(
                f"Along {axis} a voxel of the labels '{labels.name}' is {factor:.3g} times as long as one of the image "
                f"'{stack.name}': correct the voxel size of one of the two files."
            )
    return Corrected(stack, labels.data, stack.name)


def check_images(corrected: Sequence[Corrected], parent: ModelDescription) -> None:
    """Raise InputError where an image is not one that the model could segment."""
    for each in corrected:
        channels, wanted = each.stack.length("C"), parent.spec.in_channels
        if channels != wanted:
            cure = (
                "choose one of them (in a shell save it as a file of its own)"
                if wanted == 1
                else "choose another image"
            )
            raise InputError(f"'{each.name}' has {channels} channels, {parent.name} takes {wanted}: {cure}.")
        if parent.spec.dimensions == 3 and each.stack.length("Z") < 2:
            raise InputError(f"{parent.name} is a 3D model and '{each.name}' has no Z axis: start from a 2D model.")
