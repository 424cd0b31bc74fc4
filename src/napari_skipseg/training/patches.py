"""Training samples: random patches of labelled stacks, each a function of seed and number alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from napari_skipseg.errors import InputError, SpecError
from napari_skipseg.images.files import holds_lossy, read_stack
from napari_skipseg.images.intensity.normalize import measure_greys
from napari_skipseg.images.space import METRES
from napari_skipseg.images.stack import Stack
from napari_skipseg.training.augment import resample, sampling_grid, spoil_sections, vary_greys
from napari_skipseg.training.losses import IGNORED
from napari_skipseg.training.settings import Augmentation, TrainSettings, slices_to_hold_out
from napari_skipseg.training.taught_scale import TaughtScale, is_same_scale

READ_AROUND = 1.6
"""A patch is read with surroundings of this factor, so that a rotated patch has real pixels at its corners."""

_MOST_NAMED = 8
FEW_LABELS = 16
"""Most values of intact labels in a JPEG: compression blurs the edges of labels into many more."""


@dataclass(frozen=True)
class LabelledImage:
    """A run of slices with their labels.

    image: (C, Z, Y, X) float32 in standard units. target: (Z, Y, X) int16: 0 = background, 1… = classes, -1 = ignored.
    judged: of each class whether the target shows it; empty = all. Background may hold the classes that it does not.
    """

    image: NDArray[np.float32]
    target: NDArray[np.int16]
    judged: tuple[bool, ...] = ()


@dataclass(frozen=True)
class TrainingData:
    """What is trained on and what is held out.

    stack: the largest one, which gives the voxel size. findings: about the images, one sentence each.
    """

    training: tuple[LabelledImage, ...]
    validation: tuple[LabelledImage, ...]
    stack: Stack
    findings: tuple[str, ...] = ()


def read_data(settings: TrainSettings) -> TrainingData:
    """Return the labelled slices of `settings`, split into those to train on and those held out.

    Raises:
        SkipsegError: a file that cannot be read, labels that do not fit, a class that never occurs, nothing left.
    """
    chosen = slices_to_hold_out(settings.validate)
    training: list[LabelledImage] = []
    validation: list[LabelledImage] = []
    number = 0
    stacks: list[Stack] = []
    values: set[int] = set()
    findings: list[str] = []
    names = [label.name for label in settings.classes]
    shown = settings.judged or (names,) * len(settings.images)
    for image_path, label_path, judged in zip(settings.images, settings.labels, shown, strict=True):
        stack = read_stack(image_path, settings.axes or None, settings.voxel_size, settings.unit)
        stacks.append(stack)
        labels = read_stack(label_path, settings.label_axes or None, are_labels=True)
        if holds_lossy(label_path) and len(np.unique(labels.read((slice(None),) * len(labels.shape)))) > FEW_LABELS:
            raise InputError(
                f"The labels '{labels.name}' are a JPEG, which has changed their values: save them as PNG."
            )
        labelled, found, notes = _read_pair(stack, labels, settings)
        labelled = replace(labelled, judged=tuple(name in judged for name in names))
        values |= found
        findings += [f"{stack.name}: {finding}" for finding in (*stack.notes, *notes)]
        depth = labelled.target.shape[0]
        is_held_out = [number + z in chosen for z in range(depth)]
        training += _runs(labelled, [not held for held in is_held_out])
        validation += _runs(labelled, is_held_out)
        number += depth
    if chosen and max(chosen) >= number:
        raise SpecError(f"Slice {max(chosen)} cannot be held out: the images have slices 0 to {number - 1}.")
    if not training:
        raise SpecError("No slice is left to train on: hold out fewer.")
    _check_classes(training, settings, values)
    largest = max(stacks, key=lambda stack: math.prod(stack.shape))
    findings += _other_scales(stacks, largest, settings.spec.dimensions)
    return TrainingData(tuple(training), tuple(validation), largest, tuple(findings))


def _other_scales(stacks: Sequence[Stack], largest: Stack, dimensions: int) -> list[str]:
    """Return a sentence if the voxel size of some image differs from that of the largest one, which the model takes."""
    scale = TaughtScale(largest.space.voxel_size, largest.space.unit)
    others = [
        stack.name
        for stack in stacks
        if stack.space.has_size != (scale.unit in METRES)
        or (scale.unit in METRES and not is_same_scale(stack, scale, dimensions))
    ]
    if not others:
        return []
    return [
        f"The model is recorded as made for voxels of {scale.in_words(dimensions)}, as in {largest.name}; those of "
        f"{', '.join(others)} have a different or unknown size."
    ]


def _read_pair(stack: Stack, labels: Stack, settings: TrainSettings) -> tuple[LabelledImage, set[int], tuple[str, ...]]:
    """Return image and target, the values of the labels, and what was found about the image."""
    if "T" in stack.space.axes:
        raise InputError(f"'{stack.name}' is a time series; train on single stacks.")
    if stack.length("C") != settings.spec.in_channels:
        raise InputError(
            f"'{stack.name}' has {stack.length('C')} channels, the network takes {settings.spec.in_channels}: set "
            "in_channels, or, where these are slices, save them as ImageJ TIFF or OME-TIFF with a Z axis."
        )
    space = tuple(stack.length(axis) for axis in "ZYX")
    truth = tuple(labels.length(axis) for axis in "ZYX")
    if truth != space and labels.shape == stack.shape and set(stack.space.axes) <= set("ZYX"):
        labels, truth = replace(labels, space=stack.space), space  # a stack that was saved without axes
    if labels.space.axes == "YXC":
        raise InputError(f"The labels '{labels.name}' do not fit: they have colours; save them as grey, value = label.")
    if space != truth or labels.length("C") * labels.length("T") != 1:
        raise InputError(
            f"Labels '{labels.name}' of shape {labels.shape} ({labels.space.axes}) do not fit '{stack.name}' of "
            f"{stack.shape} ({stack.space.axes})."
        )
    everything = (slice(None),) * len(labels.shape)
    values = labels.read(everything).reshape(space)
    if values.dtype.kind == "f" and not (values == np.round(values)).all():
        raise InputError(f"'{labels.name}' contains fractions, not labels: save it as whole numbers.")
    target = np.zeros(space, np.int16)
    for index, label in enumerate(settings.classes, start=1):
        target[values == label.label] = index
    if settings.widen:
        target = _widen(target, settings)
    if settings.ignore is not None:
        target[values == settings.ignore] = IGNORED
    greys = measure_greys(stack, settings.seed, padding=settings.padding)
    across_slices = settings.spec.dimensions == 3
    pixels = stack.read((slice(None),) * len(stack.shape))
    pixels = np.moveaxis(pixels, stack.space.axes.index("C"), 0) if "C" in stack.space.axes else pixels[None]
    pixels = np.ascontiguousarray(pixels if "Z" in stack.space.axes else pixels[:, None])  # (C, Z, Y, X)
    image, padding = greys.normalization.prepare(pixels, across_slices)
    if padding is not None:
        target[padding] = IGNORED  # no model ever predicts padding, and labels there are padding themselves
    return LabelledImage(image, target), {int(value) for value in np.unique(values)}, greys.findings


def _widen(target: NDArray[np.int16], settings: TrainSettings) -> NDArray[np.int16]:
    """Return `target` with its classes grown over the background, within slices for a 2D network."""
    cross = ndimage.generate_binary_structure(settings.spec.dimensions, 1)
    cross = cross if settings.spec.dimensions == 3 else cross[None]
    grown = target.copy()
    for label in range(len(settings.classes), 0, -1):
        reached = ndimage.binary_dilation(target == label, cross, iterations=settings.widen)
        grown[reached & (target == 0)] = label
    return grown


def _runs(labelled: LabelledImage, wanted: list[bool]) -> list[LabelledImage]:
    """Return the runs of neighbouring slices that are wanted."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], wanted, [False]]).astype(np.int8)))
    return [
        LabelledImage(labelled.image[:, start:stop], labelled.target[start:stop], labelled.judged)
        for start, stop in edges.reshape(-1, 2).tolist()
    ]


def _check_classes(training: list[LabelledImage], settings: TrainSettings, values: set[int]) -> None:
    counted = sum(
        np.bincount(run.target[run.target >= 0].ravel(), minlength=len(settings.classes) + 1) for run in training
    )
    for count, label in zip(np.asarray(counted)[1:], settings.classes, strict=True):
        if count == 0:
            raise InputError(
                f"No pixel is labelled {label.name} ({label.label}) in the slices to train on; the labels hold "
                f"{', '.join(map(str, sorted(values)[:_MOST_NAMED]))}{', …' * (len(values) > _MOST_NAMED)}."
            )
    if np.asarray(counted)[0] == 0:
        raise InputError("Every labelled pixel belongs to a class: training needs background too.")


def draw_sample(
    runs: tuple[LabelledImage, ...], patch: tuple[int, ...], options: Augmentation, seed: int, number: int
) -> tuple[Tensor, Tensor]:
    """Return sample `number`: image (C, *patch) and target (*patch); the same for the same seed and number.

    A 2D patch comes from one slice, a 3D one from a run of slices; runs are drawn by their size.
    """
    run, generator = _choose_run(runs, seed, number)
    image, target = run.image, run.target
    if len(patch) == 2:
        z = int(torch.randint(0, target.shape[0], (), generator=generator))
        image, target = image[:, z], target[z]
    middle = []
    for length, side in zip(target.shape, patch, strict=True):
        free = length - side
        first = int(torch.rand((), generator=generator) * (free + 1)) if free > 0 else free // 2
        middle.append(
            first + side / 2
        )  # on whole voxels, so that a patch that is not rotated or warped is not blurred either
    return cut_sample(image, target, tuple(middle), patch, options, generator)


def _choose_run(runs: tuple[LabelledImage, ...], seed: int, number: int) -> tuple[LabelledImage, torch.Generator]:
    """Return the run of which sample `number` is a part, and the generator of all else in that sample."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
    sizes = torch.tensor([float(run.target.size) for run in runs])
    return runs[int(torch.multinomial(sizes, 1, generator=generator))], generator


def cut_sample(
    image: NDArray[Any],
    target: NDArray[Any],
    middle: tuple[float, ...],
    patch: tuple[int, ...],
    options: Augmentation,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return the augmented patch around `middle`: image (C, *patch) float32 and target (*patch).

    image: (C, *space), floats of any precision. target: (*space).
    """
    read, centre = [], []
    for length, side, at in zip(target.shape, patch, middle, strict=True):
        reach = READ_AROUND * side / 2
        start, stop = max(0, int(at - reach)), min(length, int(at + reach) + 1)
        read.append(slice(start, stop))
        centre.append(at - 0.5 - start)
    pixels = torch.from_numpy(np.ascontiguousarray(image[(slice(None), *read)])).float()
    labels = torch.from_numpy(np.ascontiguousarray(target[tuple(read)]))
    grid = sampling_grid(options, patch, torch.tensor(centre), generator)
    pixels, labels = resample(pixels, labels, grid)
    return spoil_sections(options, vary_greys(options, pixels, generator), generator), labels


def draw_batch(runs: tuple[LabelledImage, ...], settings: TrainSettings, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the batch of `step`: images (N, C, *patch), targets (N, *patch) and the classes they show (N, classes)."""
    numbers = range(step * settings.batch, (step + 1) * settings.batch)
    drawn = [draw_sample(runs, settings.patch, settings.augmentation, settings.seed, n) for n in numbers]
    judged = [judged_classes(_choose_run(runs, settings.seed, n)[0], len(settings.classes)) for n in numbers]
    images, targets = (torch.stack(each) for each in zip(*drawn, strict=True))
    return images, targets, torch.stack(judged)


def judged_classes(run: LabelledImage, classes: int) -> Tensor:
    """Return of each of `classes` whether the target of `run` shows it: bool, (classes,)."""
    return torch.tensor(run.judged or (True,) * classes)
