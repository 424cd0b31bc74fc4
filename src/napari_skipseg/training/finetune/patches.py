"""Patches of a fine-tuning: around labelled voxels, all classes as often, and some of what the model knew before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_skipseg.training.augment import draw
from napari_skipseg.training.finetune.labels import ClassPlan
from napari_skipseg.training.finetune.regions import Material, SampleClass, Spot, TrainingRegion
from napari_skipseg.training.finetune.rehearsal import RehearsalSamples
from napari_skipseg.training.losses import IGNORED
from napari_skipseg.training.patches import cut_sample
from napari_skipseg.training.settings import Augmentation

RECALLED_EVERY = 4
"""One patch of so many is from the old model's own sample."""
_JITTER = 0.25
"""A patch lies around a labelled voxel, off its middle by up to so much of its side."""


class PatchBatch(NamedTuple):
    """Patches with what is known of them.

    images: (N, C, *patch) float32. targets: (N, *patch) int8, -1 = not known. judged: (N, classes) bool, the classes
    that the targets judge. recalled: (N, classes) bool, those for which the old network's answers are the target.
    """

    images: Tensor
    targets: Tensor
    judged: Tensor
    recalled: Tensor


@dataclass(frozen=True)
class PatchSampler:
    """Where patches are drawn from, each a function of seed and number alone."""

    material: Material
    plan: ClassPlan
    remembered: RehearsalSamples | None
    patch: tuple[int, ...]
    augmentation: Augmentation
    seed: int
    remembers: bool

    def draw(self, numbers: range) -> PatchBatch:
        """Return the patches of these numbers."""
        drawn = [self._draw(number) for number in numbers]
        images, targets, judged, recalled = zip(*drawn, strict=True)
        return PatchBatch(torch.stack(images), torch.stack(targets), torch.stack(judged), torch.stack(recalled))

    def _draw(self, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        rest = None if self.remembered is None else np.flatnonzero(~self.remembered.held_out)
        if self.remembered is not None and rest is not None and rest.size and number % RECALLED_EVERY == 0:
            chosen = int(rest[int(torch.randint(0, rest.size, (), generator=generator))])
            return self._recall(self.remembered, chosen, generator)
        image, target = self._correction(generator)
        judged = torch.tensor(self.plan.judged)
        return image, target, judged, self._recalled(judged)

    def _correction(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return a patch around a labelled voxel of a class drawn at random."""
        counts = torch.tensor([spot.counts for spot in self.material.training], dtype=torch.float32)
        there = torch.nonzero(counts.sum(dim=0)).flatten()
        column = int(there[int(torch.randint(0, len(there), (), generator=generator))])
        spot = self.material.training[int(torch.multinomial(counts[:, column].sqrt(), 1, generator=generator))]
        region = self.material.regions[spot.region]
        places = labelled_places(region, spot, self.material.kinds[column])
        place = places[int(torch.randint(0, len(places), (), generator=generator))].tolist()
        middle = []
        for length, side, at in zip(region.target.shape, self.patch, place, strict=True):
            off = round(draw(generator, -_JITTER, _JITTER) * side)
            first = min(max(0, at + off - side // 2), max(0, length - side)) if length >= side else (length - side) // 2
            middle.append(first + side / 2)
        return cut_sample(region.image, region.target, tuple(middle), self.patch, self.augmentation, generator)

    def _recall(
        self, remembered: RehearsalSamples, number: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return a part of a remembered patch."""
        image, target = remembered.images[number], remembered.targets[number]
        judged = np.zeros(len(self.plan.classes), bool)
        if remembered.synthetic[number]:
            target = np.full_like(target, IGNORED)
        else:
            judged[: len(self.plan.kept)] = remembered.judged[number][list(self.plan.kept)]
        middle = []
        for length, side in zip(target.shape, self.patch, strict=True):
            free = length - side
            first = int(torch.randint(0, free + 1, (), generator=generator)) if free > 0 else free // 2
            middle.append(first + side / 2)
        drawn = cut_sample(image, target, tuple(middle), self.patch, self.augmentation, generator)
        known = torch.from_numpy(judged)
        return *drawn, known, self._recalled(known)

    def _recalled(self, judged: Tensor) -> Tensor:
        """Return which classes the old network is asked for: those it knows and the targets do not judge."""
        old = torch.arange(len(judged)) < (len(self.plan.kept) if self.remembers else 0)
        return old & ~judged


def labelled_places(region: TrainingRegion, spot: Spot, kind: SampleClass) -> NDArray[np.intp]:
    """Return the places (number, dimensions) of the voxels of `spot` that are of that kind, at least one.

    Where none is left, as in a place whose labels are partly held out, the middle of the spot.
    """
    there = region.target[spot.box] == kind.label
    if kind.is_painted:
        there &= ~region.accepted[spot.box]
    found: NDArray[np.intp] = np.argwhere(there) + np.array([part.start for part in spot.box])
    if len(found):
        return found
    return np.array([[(part.start + part.stop) // 2 for part in spot.box]])


_AT_ONCE = 8
"""Windows of one batch."""
_LARGEST = 1024
"""Longest side of a window of its own where a whole slice is held out."""
_WHOLE = 128
"""Shortest side of a window in which every voxel is labelled that membranes are scored on."""

ScoringWindow = tuple[NDArray[np.float32], NDArray[np.int8]]
"""An image (C, *space) in standard units, and the target (*space) of what is held out there."""


def windows_of(
    material: Material, spots: Sequence[Spot], margin: int, stride: int, only_painted: bool = False
) -> Iterator[ScoringWindow]:
    """Yield a window for each of the held-out `spots`, with a margin around it; only the spot's own labels count.

    only_painted: of those only the ones that were painted rather than accepted.
    """
    for spot in spots:
        region = material.regions[spot.region]
        around = [margin if part.stop - part.start > 1 else 0 for part in spot.box]
        yield _window(region, spot.box, around, stride, only_painted)


def _window(
    region: TrainingRegion, box: tuple[slice, ...], around: Sequence[int], stride: int, only_painted: bool = False
) -> ScoringWindow:
    target = np.full_like(region.held_out, IGNORED)
    target[box] = region.held_out[box]
    if only_painted:
        target[region.accepted] = IGNORED
    parts, missing = [], []
    for part, more, length in zip(box, around, target.shape, strict=True):
        side = -(-(part.stop - part.start + 2 * more) // stride) * stride
        start = max(0, min((part.start - more) // stride * stride, length - side))
        parts.append(slice(start, start + side))
        missing.append((0, max(0, side - (length - start))))
    image = np.pad(region.image[(slice(None), *parts)], [(0, 0), *missing], mode="symmetric").astype(np.float32)
    return image, np.pad(target[tuple(parts)], missing, mode="constant", constant_values=IGNORED)


def whole_windows(material: Material, stride: int) -> Iterator[ScoringWindow]:
    """Yield windows in which every voxel is held out and labelled, 128 a side at least, from one region at a time.

    The part that all held-out spots of a region span where it is such a window, else each spot that is.
    """
    for number, region in enumerate(material.regions):
        spots = [spot for spot in material.held_out if spot.region == number]
        for box in _whole_boxes(region, spots):
            yield _window(region, box, [0] * len(box), stride)


def _whole_boxes(region: TrainingRegion, spots: Sequence[Spot]) -> Iterator[tuple[slice, ...]]:
    if not spots:
        return
    ranges = zip(*(spot.box for spot in spots), strict=True)
    span = tuple(slice(min(p.start for p in parts), max(p.stop for p in parts)) for parts in ranges)
    middle = tuple(
        slice(start := part.start + max(0, part.stop - part.start - _LARGEST) // 2, min(part.stop, start + _LARGEST))
        for part in span
    )
    boxes = [middle] if _is_whole(region, middle) else [spot.box for spot in spots]
    yield from (box for box in boxes if _is_whole(region, box))


def _is_whole(region: TrainingRegion, box: tuple[slice, ...]) -> bool:
    inside = region.held_out[box]
    return min(inside.shape[-2:]) >= _WHOLE and bool((inside != IGNORED).all())


def as_batches(windows: Sequence[ScoringWindow], plan: ClassPlan, remembers: bool) -> Iterator[PatchBatch]:
    """Yield windows of the corrections as batches of equal shape."""
    judged = torch.tensor(plan.judged)
    old = torch.arange(len(judged)) < (len(plan.kept) if remembers else 0)
    for _, group in groupby(sorted(windows, key=lambda window: window[1].shape), key=lambda window: window[1].shape):
        alike = list(group)
        for first in range(0, len(alike), _AT_ONCE):
            some = alike[first : first + _AT_ONCE]
            images = torch.from_numpy(np.stack([image for image, _ in some]))
            targets = torch.from_numpy(np.stack([target for _, target in some]))
            known = judged.expand(len(some), -1)
            yield PatchBatch(images, targets, known, (old & ~judged).expand(len(some), -1))


def recalled_batches(remembered: RehearsalSamples, plan: ClassPlan, most: int) -> Iterator[PatchBatch]:
    """Yield the held-out patches of a model's own sample, at most `most`, as batches."""
    numbers = np.flatnonzero(remembered.held_out)[:most]
    for first in range(0, len(numbers), _AT_ONCE):
        some = remembered.of(numbers[first : first + _AT_ONCE])
        judged = np.zeros((len(some), len(plan.classes)), bool)
        judged[:, : len(plan.kept)] = some.judged[:, list(plan.kept)] & ~some.synthetic[:, None]
        recalled = ~judged & (np.arange(len(plan.classes)) < len(plan.kept))
        targets = np.where(some.synthetic.reshape(-1, *[1] * (some.targets.ndim - 1)), np.int8(IGNORED), some.targets)
        yield PatchBatch(
            torch.from_numpy(some.images.astype(np.float32)),
            torch.from_numpy(targets),
            torch.from_numpy(judged),
            torch.from_numpy(recalled),
        )
