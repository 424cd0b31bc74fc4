"""Corrected images: which of their voxels are labelled, as what, and which of them are held out."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.corrections.subject import BACKGROUND, FIRST_CLASS, HIGHEST, NOT_LOOKED_AT
from napari_skipseg.errors import InputError, SpecError
from napari_skipseg.images.files import read_stack
from napari_skipseg.images.stack import ArrayLike, Stack
from napari_skipseg.images.units import METRES
from napari_skipseg.models.description import ClassLabel, ModelDescription, output_channels
from napari_skipseg.progress import Progress
from napari_skipseg.training.finetune.blocks import (
    KEYS,
    LabelledBlock,
    Split,
    count_cells,
    part_places,
    slices_of,
    total,
)
from napari_skipseg.training.progress import TrainingSummary
from napari_skipseg.training.settings import AUTO, FinetuneSettings, slices_to_hold_out


@dataclass(frozen=True)
class ClassPlan:
    """The new model's classes: those it keeps of the old one first, in their order, then those that are new.

    kept: number (from 0) of each kept class among the old model's. judged: whether the labels say where a class is; of
    one that is not judged, background in the labels says nothing. values: which label value stands for which class,
    numbered from 1.
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
    def learnt(self) -> tuple[int, ...]:
        """Numbers (from 1) of the classes that the labels judge."""
        return tuple(number for number, judged in enumerate(self.judged, start=1) if judged)

    @property
    def channels(self) -> int:
        """Output channels of the new model's network."""
        return output_channels(len(self.classes))


def plan_classes(settings: FinetuneSettings, parent: ModelDescription) -> ClassPlan:
    """Return the classes of the model that `settings` make of `parent`.

    Without classes in the settings the labels judge the parent's own, from value 2 on. With `remember` off, classes of
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


_BLOCK = 4096
"""Longest side of what is read at once of labels that do not say where they are."""
SAME_SCALE = 0.01
ACCEPTED = 256
"""What is added to a label that was accepted, to count it apart."""
_MASK = " In a mask of 0 and 1 turn 1 into 2, the class, and 0 into 1, the background."


@runtime_checkable
class Sparse(Protocol):
    """Labels that know where they are: all else is 0."""

    def written(self) -> Iterator[tuple[slice, ...]]:
        """Yield the parts in which something may be."""


@dataclass(frozen=True)
class Corrected:
    """An image and its labels: 0 = not looked at, 1 = background, 2… = classes, over its axes without C.

    labels: whole numbers up to 255; of those that say where they are `written`, nothing else is read. strokes: those of
    them that were painted, where the others are a model's answers that somebody accepted; None where all were painted.
    """

    stack: Stack
    labels: ArrayLike
    name: str
    strokes: ArrayLike | None = None

    @property
    def axes(self) -> str:
        """The axes of the labels."""
        return self.stack.space.axes.replace("C", "")

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


def iter_find_places(
    settings: FinetuneSettings, corrected: Sequence[Corrected], plan: ClassPlan, dimensions: int
) -> Generator[Progress, None, Split]:
    """Yield while labels are read; return the places with labels, to train on and held out.

    The counts of a place are those of the background and of the classes that the labels judge, in the plan's order,
    then those of the painted ones alone where others were accepted.

    Raises:
        InputError: nothing labelled, a value without a class, a class (or the background) without a voxel to train on
            or to score on.
        SpecError: a slice to hold out that is not there.
    """
    chosen = frozenset() if settings.validate == AUTO else slices_to_hold_out(settings.validate)
    columns = (BACKGROUND, *plan.values)
    lengths = [each.stack.length("T") * each.stack.length("Z") for each in corrected]
    if chosen and max(chosen) >= sum(lengths):
        raise SpecError(f"Slice {max(chosen)} cannot be held out: the images have slices 0 to {sum(lengths) - 1}.")
    runs = _runs(chosen, sum(lengths))
    rows = [np.zeros((0, KEYS + 2 * len(columns)), np.int64)]
    for number, each in enumerate(corrected):
        first = sum(lengths[:number])
        for found in _count(number, each, columns, runs[first : first + lengths[number]]):
            rows.append(found)
            yield Progress(number, len(corrected), f"looking at the labels of {each.name}")
    sizes = {number: _size(each.stack) for number, each in enumerate(corrected)}
    census = np.concatenate(rows)
    if not len(census):
        raise InputError("No voxel is labelled: paint some strokes of each class, and some of the background.")
    names = ("background", *(plan.names[number - 1] for number in plan.values.values()))
    counted, painted = np.split(census[:, KEYS:].sum(axis=0), 2)
    _check_counts(tuple(counted.tolist()), names, columns)
    again = np.flatnonzero(painted) if np.any(painted < counted) else np.array([], np.intp)
    kept = np.concatenate([np.arange(KEYS + len(columns)), KEYS + len(columns) + again])
    split = part_places(census[:, kept], dimensions, sizes, bool(chosen), settings.seed)
    _check_split(split, names, settings.validate)
    return replace(split, painted=tuple(again.tolist()))


def _runs(chosen: frozenset[int], length: int) -> NDArray[np.int64]:
    """Return a number for each slice that changes where held-out ones begin or end, odd for those held out."""
    held = np.isin(np.arange(length), list(chosen)).astype(np.int64)
    return np.concatenate([[0], np.cumsum(np.diff(held) != 0)]) * 2 + held


def _size(stack: Stack) -> tuple[int, int, int]:
    return stack.length("Z"), stack.length("Y"), stack.length("X")


def _count(
    number: int, corrected: Corrected, columns: tuple[int, ...], runs: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of a census for each slice of each part of the labels."""
    both = (*columns, *(ACCEPTED + value for value in columns))
    for block in _blocks(corrected):
        values = read_labels(corrected, block)
        start = dict(zip(corrected.axes, (part.start for part in block), strict=True))
        _check_values(values, corrected, columns)
        values = values + ACCEPTED * read_accepted(corrected, block, values)
        for time, z in product(range(values.shape[0]), range(values.shape[1])):
            plane = values[time, z]
            if not plane.any():
                continue
            cells = count_cells(plane, (start["Y"], start["X"]), both)
            painted, accepted = np.split(cells[:, 2:], 2, axis=1)
            at, depth = time + start.get("T", 0), z + start.get("Z", 0)
            keys = np.full((len(cells), 3), [number, at, depth], np.int64)
            run = np.full((len(cells), 1), runs[at * corrected.stack.length("Z") + depth], np.int64)
            yield np.concatenate([keys, cells[:, :2], run, painted + accepted, painted], axis=1)


def _blocks(corrected: Corrected) -> Iterator[tuple[slice, ...]]:
    if isinstance(corrected.labels, Sparse):
        yield from corrected.labels.written()
        return
    steps = [_BLOCK if axis in "YX" else 1 for axis in corrected.axes]
    lengths = [corrected.stack.length(axis) for axis in corrected.axes]
    for starts in product(*(range(0, length, step) for length, step in zip(lengths, steps, strict=True))):
        yield tuple(
            slice(start, min(start + step, length)) for start, step, length in zip(starts, steps, lengths, strict=True)
        )


def read_labels(corrected: Corrected, block: tuple[slice, ...]) -> NDArray[Any]:
    """Return the labels in `block`, one slice per axis, as (T, Z, Y, X)."""
    return _in_order(corrected, np.asarray(corrected.labels[block]))


def read_accepted(corrected: Corrected, block: tuple[slice, ...], labels: NDArray[Any]) -> NDArray[np.uint16]:
    """Return 1 where the `labels` of `block` were accepted, 0 where they were painted or there are none."""
    if corrected.strokes is None:
        return np.zeros(labels.shape, np.uint16)
    strokes = _in_order(corrected, np.asarray(corrected.strokes[block]))
    accepted: NDArray[np.uint16] = ((labels > 0) & (strokes == 0)).astype(np.uint16)
    return accepted


def _in_order(corrected: Corrected, values: NDArray[Any]) -> NDArray[Any]:
    """Return values over the axes of the labels as (T, Z, Y, X)."""
    order = [corrected.axes.index(axis) for axis in "TZYX" if axis in corrected.axes]
    missing = tuple(place for place, axis in enumerate("TZYX") if axis not in corrected.axes)
    return np.expand_dims(values.transpose(order), missing)


def _check_values(values: NDArray[Any], corrected: Corrected, columns: tuple[int, ...]) -> None:
    known = (NOT_LOOKED_AT, *columns)
    if values.dtype.kind == "i" and values.size and values.min() < 0:
        raise InputError(
            f"The labels of '{corrected.name}' hold negative values: 0 means not looked at, 1 background, 2… classes."
        )
    for value in np.unique(values).tolist():
        if value > HIGHEST:
            raise InputError(
                f"The labels of '{corrected.name}' hold the value {value}: labels go up to {HIGHEST}; are these "
                "instances, or grey values?"
            )
        if value not in known:
            raise InputError(
                f"The labels of '{corrected.name}' hold the value {value}, for which no class is named: name one (in a "
                f"shell with --class NAME={value}), or erase it."
            )


def _check_counts(counts: tuple[int, ...], names: tuple[str, ...], values: tuple[int, ...]) -> None:
    for count, name, value in zip(counts, names, values, strict=True):
        if count == 0 and value == BACKGROUND:
            raise InputError("Every labelled voxel belongs to a class: paint some background too (value 1).")
        if count == 0:
            raise InputError(
                f"No voxel is labelled {name} ({value}): paint some, or leave out that class, which these labels then "
                f"do not judge.{_MASK if sum(counts) == counts[values.index(BACKGROUND)] else ''}"
            )


def _check_split(split: Split, names: tuple[str, ...], validate: str) -> None:
    training, held = (total(places, len(names)) for places in (split.training, split.held_out))
    for name, count, kept_back in zip(names, training, held, strict=True):
        if validate == AUTO and not (count and kept_back):
            raise InputError(
                f"All voxels labelled {name} lie in one place, so none can be held out to see whether the model "
                "becomes better: paint some in a second place."
            )
        if not count:
            raise InputError(f"No voxel labelled {name} is left to train on: hold out fewer slices than {validate}.")
        if not kept_back:
            raise InputError(
                f"No voxel is labelled {name} in the slices held out ({validate}): hold out others, or label it."
            )


def summarize_training(
    split: Split, plan: ClassPlan, seconds: float | None = None, notes: tuple[str, ...] = ()
) -> TrainingSummary:
    """Return what is learnt from the places of `split`, in numbers."""
    names = ("background", *(plan.names[number - 1] for number in plan.values.values()))

    def counted(places: tuple[LabelledBlock, ...]) -> dict[str, int]:
        return dict(zip(names, total(places, len(names)), strict=True))

    slices = len(list(slices_of((*split.training, *split.held_out))))
    places = (len(split.training), len(split.held_out))
    return TrainingSummary(counted(split.training), counted(split.held_out), places, slices, seconds, notes=notes)


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
