"""Windows on what is held out: images around places with labels, as batches, for validation and for scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from napari_skipseg.training.class_plan import ClassPlan
from napari_skipseg.training.lesson_patches import Batch
from napari_skipseg.training.losses import IGNORED
from napari_skipseg.training.material import Material, Region, Spot
from napari_skipseg.training.remembered import Remembered

AT_ONCE = 8
"""Windows of one batch."""
LARGEST = 1024
"""Longest side of a window of its own where a whole slice is held out."""
WHOLE = 128
"""Shortest side of a window in which every voxel is labelled that membranes are scored on."""

Window = tuple[NDArray[np.float32], NDArray[np.int8]]
"""An image (C, *space) in standard units, and the target (*space) of what is held out there."""


def windows_of(
    material: Material, spots: Sequence[Spot], margin: int, stride: int, only_painted: bool = False
) -> Iterator[Window]:
    """Yield a window for each of the held-out `spots`, with a margin around it; only the spot's own labels count.

    only_painted: of those only the ones that were painted rather than accepted.
    """
    for spot in spots:
        region = material.regions[spot.region]
        around = [margin if part.stop - part.start > 1 else 0 for part in spot.box]
        yield _window(region, spot.box, around, stride, only_painted)


def _window(
    region: Region, box: tuple[slice, ...], around: Sequence[int], stride: int, only_painted: bool = False
) -> Window:
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


def whole_windows(material: Material, stride: int) -> Iterator[Window]:
    """Yield windows in which every voxel is held out and labelled, 128 a side at least, from one region at a time.

    The part that all held-out spots of a region span where it is such a window, else each spot that is.
    """
    for number, region in enumerate(material.regions):
        spots = [spot for spot in material.held_out if spot.region == number]
        for box in _whole_boxes(region, spots):
            yield _window(region, box, [0] * len(box), stride)


def _whole_boxes(region: Region, spots: Sequence[Spot]) -> Iterator[tuple[slice, ...]]:
    if not spots:
        return
    ranges = zip(*(spot.box for spot in spots), strict=True)
    span = tuple(slice(min(p.start for p in parts), max(p.stop for p in parts)) for parts in ranges)
    middle = tuple(
        slice(start := part.start + max(0, part.stop - part.start - LARGEST) // 2, min(part.stop, start + LARGEST))
        for part in span
    )
    boxes = [middle] if _is_whole(region, middle) else [spot.box for spot in spots]
    yield from (box for box in boxes if _is_whole(region, box))


def _is_whole(region: Region, box: tuple[slice, ...]) -> bool:
    inside = region.held_out[box]
    return min(inside.shape[-2:]) >= WHOLE and bool((inside != IGNORED).all())


def as_batches(windows: Sequence[Window], plan: ClassPlan, remembers: bool) -> Iterator[Batch]:
    """Yield windows of the corrections as batches of equal shape."""
    judged = torch.tensor(plan.judged)
    old = torch.arange(len(judged)) < (len(plan.kept) if remembers else 0)
    for _, group in groupby(sorted(windows, key=lambda window: window[1].shape), key=lambda window: window[1].shape):
        alike = list(group)
        for first in range(0, len(alike), AT_ONCE):
            some = alike[first : first + AT_ONCE]
            images = torch.from_numpy(np.stack([image for image, _ in some]))
            targets = torch.from_numpy(np.stack([target for _, target in some]))
            known = judged.expand(len(some), -1)
            yield Batch(images, targets, known, (old & ~judged).expand(len(some), -1))


def recalled_batches(remembered: Remembered, plan: ClassPlan, most: int) -> Iterator[Batch]:
    """Yield the held-out patches of a model's own sample, at most `most`, as batches."""
    numbers = np.flatnonzero(remembered.held_out)[:most]
    for first in range(0, len(numbers), AT_ONCE):
        some = remembered.of(numbers[first : first + AT_ONCE])
        judged = np.zeros((len(some), len(plan.classes)), bool)
        judged[:, : len(plan.kept)] = some.judged[:, list(plan.kept)] & ~some.synthetic[:, None]
        recalled = ~judged & (np.arange(len(plan.classes)) < len(plan.kept))
        targets = np.where(some.synthetic.reshape(-1, *[1] * (some.targets.ndim - 1)), np.int8(IGNORED), some.targets)
        yield Batch(
            torch.from_numpy(some.images.astype(np.float32)),
            torch.from_numpy(targets),
            torch.from_numpy(judged),
            torch.from_numpy(recalled),
        )
