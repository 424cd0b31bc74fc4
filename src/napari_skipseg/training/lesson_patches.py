"""Patches of a fine-tuning: around labelled voxels, all classes as often, and some of what the model knew before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_skipseg.training.augment import draw
from napari_skipseg.training.augmentation import Augmentation
from napari_skipseg.training.class_plan import ClassPlan
from napari_skipseg.training.losses import IGNORED
from napari_skipseg.training.material import Kind, Material, Region, Spot
from napari_skipseg.training.remembered import Remembered
from napari_skipseg.training.samples import cut_sample

RECALLED_EVERY = 4
"""One patch of so many is from the old model's own sample."""
JITTER = 0.25
"""A patch lies around a labelled voxel, off its middle by up to so much of its side."""


class Batch(NamedTuple):
    """Patches with what is known of them.

    images: (N, C, *patch) float32. targets: (N, *patch) int8, -1 = not known. judged: (N, classes) bool, the classes
    that the targets judge. recalled: (N, classes) bool, those for which the old network's answers are the target.
    """

    images: Tensor
    targets: Tensor
    judged: Tensor
    recalled: Tensor


@dataclass(frozen=True)
class LessonPatches:
    """Where patches are drawn from, each a function of seed and number alone."""

    material: Material
    plan: ClassPlan
    remembered: Remembered | None
    patch: tuple[int, ...]
    augmentation: Augmentation
    seed: int
    remembers: bool

    def draw(self, numbers: range) -> Batch:
        """Return the patches of these numbers."""
        drawn = [self._draw(number) for number in numbers]
        images, targets, judged, recalled = zip(*drawn, strict=True)
        return Batch(torch.stack(images), torch.stack(targets), torch.stack(judged), torch.stack(recalled))

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
            off = round(draw(generator, -JITTER, JITTER) * side)
            first = min(max(0, at + off - side // 2), max(0, length - side)) if length >= side else (length - side) // 2
            middle.append(first + side / 2)
        return cut_sample(region.image, region.target, tuple(middle), self.patch, self.augmentation, generator)

    def _recall(
        self, remembered: Remembered, number: int, generator: torch.Generator
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


def labelled_places(region: Region, spot: Spot, kind: Kind) -> NDArray[np.intp]:
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
