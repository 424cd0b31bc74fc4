"""Patches of a fine-tuning: around labelled voxels, all classes equally often, and some rehearsal samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_skipseg.training.augment import draw
from napari_skipseg.training.finetune.blocks import LabelledBlock
from napari_skipseg.training.finetune.crops import CorrectionCrops, Crop
from napari_skipseg.training.finetune.labels import ClassPlan
from napari_skipseg.training.finetune.rehearsal import RehearsalSamples
from napari_skipseg.training.losses import IGNORED
from napari_skipseg.training.patches import cut_sample
from napari_skipseg.training.settings import Augmentation

REHEARSED_EVERY = 4
"""One patch of so many is a rehearsal sample."""
_JITTER = 0.25
"""A patch lies around a labelled voxel, off its middle by up to this share of its side."""


class PatchBatch(NamedTuple):
    """Patches with what is known of them.

    images: (N, C, *patch) float32. targets: (N, *patch) int8, -1 = not known. judged: (N, classes) bool, the classes
    that the targets judge. distilled: (N, classes) bool, those for which the old network's answers are the target.
    """

    images: Tensor
    targets: Tensor
    judged: Tensor
    distilled: Tensor


@dataclass(frozen=True)
class PatchSampler:
    """Draws patches, each a function of seed and number alone. rehearsal: None for corrections alone."""

    corrections: CorrectionCrops
    plan: ClassPlan
    rehearsal: RehearsalSamples | None
    patch: tuple[int, ...]
    augmentation: Augmentation
    seed: int
    remembers: bool

    @cached_property
    def _counts(self) -> Tensor:
        return torch.tensor([block.counts for block in self.corrections.table.training], dtype=torch.float32)

    def draw(self, numbers: range) -> PatchBatch:
        """Return the patches of these numbers."""
        trained = np.flatnonzero(~self.rehearsal.held_out) if self.rehearsal is not None else ()
        drawn = []
        for number in numbers:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            if self.rehearsal is not None and len(trained) and number % REHEARSED_EVERY == 0:
                chosen = int(trained[int(torch.randint(0, len(trained), (), generator=generator))])
                drawn.append(self._draw_rehearsal(self.rehearsal, chosen, generator))
            else:
                drawn.append((*self._draw_correction(generator), torch.tensor(self.plan.judged)))
        images, targets, judged = (torch.stack(each) for each in zip(*drawn, strict=True))
        return PatchBatch(images, targets, judged, distilled_classes(judged, self.plan, self.remembers))

    def _draw_correction(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return a patch around a labelled voxel of a class drawn at random."""
        table = self.corrections.table
        occurring = torch.nonzero(self._counts.sum(dim=0)).flatten()
        column = int(occurring[int(torch.randint(0, len(occurring), (), generator=generator))])
        weights = self._counts[:, column].sqrt()
        block = table.training[int(torch.multinomial(weights, 1, generator=generator))]
        crop, inside = self.corrections.locate(block)
        counted = table.columns[column]
        is_counted = crop.target[inside] == counted.number
        if counted.is_painted:
            is_counted &= ~crop.accepted[inside]
        voxels = np.argwhere(is_counted) + np.array([part.start for part in inside])
        if not len(voxels):  # as in a block of which a part is held out or padding: its middle
            voxels = np.array([[(part.start + part.stop) // 2 for part in inside]])
        voxel = voxels[int(torch.randint(0, len(voxels), (), generator=generator))].tolist()
        middle = []
        for length, side, at in zip(crop.target.shape, self.patch, voxel, strict=True):
            off = round(draw(generator, -_JITTER, _JITTER) * side)
            first = min(max(0, at + off - side // 2), max(0, length - side)) if length >= side else (length - side) // 2
            middle.append(first + side / 2)
        return cut_sample(crop.image, crop.target, tuple(middle), self.patch, self.augmentation, generator)

    def _draw_rehearsal(
        self, rehearsal: RehearsalSamples, number: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a part of rehearsal sample `number`: image, target, and the classes that the target judges."""
        image, target = rehearsal.images[number], rehearsal.targets[number]
        judged = np.zeros(len(self.plan.classes), bool)
        if rehearsal.synthetic[number]:
            target = np.full_like(target, IGNORED)
        else:
            judged[: len(self.plan.kept)] = rehearsal.judged[number][list(self.plan.kept)]
        middle = []
        for length, side in zip(target.shape, self.patch, strict=True):
            free = length - side
            first = int(torch.randint(0, free + 1, (), generator=generator)) if free > 0 else free // 2
            middle.append(first + side / 2)
        drawn = cut_sample(image, target, tuple(middle), self.patch, self.augmentation, generator)
        return *drawn, torch.from_numpy(judged)


def distilled_classes(judged: Tensor, plan: ClassPlan, remembers: bool) -> Tensor:
    """Return for which classes the old network is asked: those that it knows and the targets do not judge."""
    is_old = torch.arange(judged.shape[-1]) < (len(plan.kept) if remembers else 0)
    return is_old & ~judged


_BATCH = 8
"""Held-out patches that are predicted at once."""
_LARGEST = 1024
"""Longest side of a patch from a slice that is held out as a whole."""
_SMALLEST_WHOLE = 128
"""Shortest side in Y and X of a patch whose cells are compared; every voxel of it is labelled."""


class HeldOutPatch(NamedTuple):
    """An image (C, *space) float32 in standard units, and the target (*space) of what is held out there."""

    image: NDArray[np.float32]
    target: NDArray[np.int8]


def iter_held_out_patches(
    corrections: CorrectionCrops,
    blocks: Sequence[LabelledBlock],
    margin: int,
    stride: int,
    only_painted: bool = False,
) -> Iterator[HeldOutPatch]:
    """Yield a patch for each of the held-out `blocks`, with a margin around it; only the block's own labels count.

    only_painted: of those only the ones that were painted, not accepted.
    """
    for block in blocks:
        crop, inside = corrections.locate(block)
        around = [margin if part.stop - part.start > 1 else 0 for part in inside]
        yield _cut_held_out(crop, inside, around, stride, only_painted)


def _cut_held_out(
    crop: Crop, inside: tuple[slice, ...], around: Sequence[int], stride: int, only_painted: bool = False
) -> HeldOutPatch:
    """Return the patch of whole strides that contains `inside` and what is `around` it."""
    target = np.full_like(crop.held_out, IGNORED)
    target[inside] = crop.held_out[inside]
    if only_painted:
        target[crop.accepted] = IGNORED
    parts, missing = [], []
    for part, more, length in zip(inside, around, target.shape, strict=True):
        side = -(-(part.stop - part.start + 2 * more) // stride) * stride
        start = max(0, min((part.start - more) // stride * stride, length - side))
        parts.append(slice(start, start + side))
        missing.append((0, max(0, side - (length - start))))
    image = np.pad(crop.image[(slice(None), *parts)], [(0, 0), *missing], mode="symmetric").astype(np.float32)
    return HeldOutPatch(image, np.pad(target[tuple(parts)], missing, mode="constant", constant_values=IGNORED))


def iter_whole_patches(corrections: CorrectionCrops, stride: int) -> Iterator[HeldOutPatch]:
    """Yield patches in which every voxel is held out and labelled, from one crop at a time.

    They are at least 128 a side: the part that all held-out blocks of a crop span if it is such a patch, else each
    block that is one.
    """

    def is_whole(crop: Crop, part: tuple[slice, ...]) -> bool:
        values = crop.held_out[part]
        return min(values.shape[-2:]) >= _SMALLEST_WHOLE and bool((values != IGNORED).all())

    for number, crop in enumerate(corrections.crops):
        blocks = [block for block in corrections.table.held_out if corrections.crop_of[block] == number]
        if not blocks:
            continue
        parts = [crop.slices_of(block) for block in blocks]
        span = [(min(p.start for p in sides), max(p.stop for p in sides)) for sides in zip(*parts, strict=True)]
        middle = tuple(
            slice(first := start + max(0, stop - start - _LARGEST) // 2, min(stop, first + _LARGEST))
            for start, stop in span
        )
        for part in [middle] if is_whole(crop, middle) else parts:
            if is_whole(crop, part):
                yield _cut_held_out(crop, part, [0] * len(part), stride)


def iter_batches(patches: Sequence[HeldOutPatch], plan: ClassPlan, remembers: bool) -> Iterator[PatchBatch]:
    """Yield held-out patches of the corrections as batches of equal shape."""

    def shape(patch: HeldOutPatch) -> tuple[int, ...]:
        return patch.target.shape

    for _, group in groupby(sorted(patches, key=shape), key=shape):
        alike = list(group)
        for first in range(0, len(alike), _BATCH):
            some = alike[first : first + _BATCH]
            judged = torch.tensor(plan.judged).expand(len(some), -1)
            yield PatchBatch(
                torch.from_numpy(np.stack([patch.image for patch in some])),
                torch.from_numpy(np.stack([patch.target for patch in some])),
                judged,
                distilled_classes(judged, plan, remembers),
            )


def iter_rehearsal_batches(rehearsal: RehearsalSamples, plan: ClassPlan, most: int) -> Iterator[PatchBatch]:
    """Yield the held-out rehearsal samples, at most `most`, as batches."""
    numbers = np.flatnonzero(rehearsal.held_out)[:most]
    for first in range(0, len(numbers), _BATCH):
        some = rehearsal.of(numbers[first : first + _BATCH])
        known = np.zeros((len(some), len(plan.classes)), bool)
        known[:, : len(plan.kept)] = some.judged[:, list(plan.kept)] & ~some.synthetic[:, None]
        targets = np.where(some.synthetic.reshape(-1, *[1] * (some.targets.ndim - 1)), np.int8(IGNORED), some.targets)
        judged = torch.from_numpy(known)
        images = torch.from_numpy(some.images.astype(np.float32))
        yield PatchBatch(images, torch.from_numpy(targets), judged, distilled_classes(judged, plan, True))
