"""The labelled parts of images in memory: patches are cut from them, and models are scored on them."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.intensity.normalize import GreyStatistics, Normalization, measure_greys
from napari_skipseg.images.intensity.padding import REACH, REACH_Z, PaddingMask, PaddingRule
from napari_skipseg.images.stack import Stack
from napari_skipseg.progress import ImageFindings, Progress
from napari_skipseg.training.finetune.blocks import BlockTable, Box, LabelledBlock, thin_blocks
from napari_skipseg.training.finetune.labels import ClassPlan, Corrected
from napari_skipseg.training.losses import IGNORED

MOST_TRAINED = 1024
"""Blocks that are trained on; of more, so many are drawn."""
MOST_SCORED = 256
_AROUND = 0.75
"""A crop reaches so many patches further than its blocks on each side."""

ON_PADDING = 0.25
"""If more than this share of a class's labelled pixels lies on what looks like padding, that is taken for tissue."""


@dataclass(frozen=True, eq=False)
class Crop:
    """A part of an image around labelled blocks, of as many dimensions as the network.

    number, time, box: where it lies, as in `LabelledBlock`. image: (C, *space) float16 in standard units. target:
    (*space) int8, -1 where nothing is known or it is held out, 0 = background, 1… = the new model's classes. held_out:
    the same of what is held out. accepted: (*space), where either is a model's answer that somebody accepted.
    """

    number: int
    time: int
    box: Box
    image: NDArray[np.float16]
    target: NDArray[np.int8]
    held_out: NDArray[np.int8]
    accepted: NDArray[np.bool_]

    def slices_of(self, block: LabelledBlock) -> tuple[slice, ...]:
        """Return where `block` lies in the arrays, as far as it does."""
        return _within(block.box, self.box)[-self.target.ndim :]


@dataclass(frozen=True, eq=False)
class CorrectionCrops:
    """All that is learnt from: the labelled blocks that were read, and the crops that contain them.

    crop_of: the number of each block's crop. padding: "none" if constant areas were taken for tissue, else "auto".
    """

    crops: tuple[Crop, ...]
    table: BlockTable
    crop_of: Mapping[LabelledBlock, int]
    padding: PaddingRule = "auto"

    def locate(self, block: LabelledBlock) -> tuple[Crop, tuple[slice, ...]]:
        """Return the crop that contains `block`, and where the block lies in it."""
        crop = self.crops[self.crop_of[block]]
        return crop, crop.slices_of(block)

    def sha256(self) -> str:
        """Return 64 hex digits that change with any voxel or label that is learnt from."""
        digest = hashlib.sha256()
        for crop in self.crops:
            for values in (crop.image, crop.target, crop.held_out, crop.accepted):
                digest.update(repr((values.shape, values.dtype)).encode())
                digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()


def iter_read_crops(
    corrected: Sequence[Corrected],
    table: BlockTable,
    plan: ClassPlan,
    patch: tuple[int, ...],
    seed: int,
    padding: PaddingRule = "auto",
) -> Generator[Progress, None, CorrectionCrops]:
    """Yield while images are read; return their labelled parts, normalised as a segmentation would.

    patch: size of the patches that will be cut, (Y, X) for a 2D network, (Z, Y, X) for a 3D one. padding: "auto" leaves
    out constant areas that look like padding. If a class was painted there, they are tissue in all images.

    Raises:
        InputError: an image whose values cannot be used.
    """
    greys: dict[int, GreyStatistics] = {}
    for number in sorted({block.image for block in table.blocks}):
        stack, name = corrected[number].stack, corrected[number].name
        yield Progress(number, len(corrected), f"reading {name}")
        greys[number] = measure_greys(stack, padding=padding)
        if found := (*stack.notes, *greys[number].findings):
            yield ImageFindings(number, len(corrected), "", tuple(f"{name}: {finding}" for finding in found))
    counts = np.zeros((2, len(plan.classes) + 1), np.int64)
    read = yield from _iter_read(corrected, table, plan, patch, seed, greys, counts)
    labelled, on_padding = counts[:, 1:]
    if (on_padding > ON_PADDING * labelled).any():
        note = "A class is painted on constant areas, so they are taken for tissue here and by the new model."
        yield ImageFindings(0, len(corrected), "", (note,))
        return (yield from iter_read_crops(corrected, table, plan, patch, seed, "none"))
    if not read.table.training:
        raise InputError(
            "All that is labelled lies on constant areas, which were left out as padding: label tissue too, or "
            "keep them (in a shell with --padding none)."
        )
    return replace(read, padding=padding)


def _iter_read(
    corrected: Sequence[Corrected],
    table: BlockTable,
    plan: ClassPlan,
    patch: tuple[int, ...],
    seed: int,
    greys: Mapping[int, GreyStatistics],
    counts: NDArray[np.int64],
) -> Generator[Progress, None, CorrectionCrops]:
    """Yield while images are read; return their labelled parts.

    counts: (2, 1 + classes), to which the labelled pixels of each label are added, and those of them on padding.
    """
    wanted = (*thin_blocks(table.training, MOST_TRAINED, seed), *thin_blocks(table.held_out, MOST_SCORED, seed))
    flat = len(patch) == 2
    crops: list[Crop] = []
    crop_of: dict[LabelledBlock, int] = {}
    for number, each in enumerate(corrected):
        for time, box, inside in _join_blocks([block for block in wanted if block.image == number], each.stack, patch):
            yield Progress(number, len(corrected), f"reading {each.name}")
            image, mask = _read_image(each.stack, time, box, greys[number].normalization, across_slices=not flat)
            target, accepted = _read_target(each, time, box, plan)
            counts[0] += np.bincount(target[target != IGNORED], minlength=counts.shape[1])
            if mask is not None:
                counts[1] += np.bincount(target[mask & (target != IGNORED)], minlength=counts.shape[1])
                target[mask] = IGNORED
            held_out = np.full_like(target, IGNORED)
            for block in table.held_out:  # all of them, also those that are not scored
                if (block.image, block.time) == (number, time):
                    part = _within(block.box, box)
                    held_out[part], target[part] = target[part], IGNORED
            pixels = image.astype(np.float16)
            if flat:
                crop = Crop(number, time, box, pixels[:, 0], target[0], held_out[0], accepted[0])
            else:
                crop = Crop(number, time, box, pixels, target, held_out, accepted)
            for block in inside:
                part = crop.slices_of(block)
                if (crop.target[part] != IGNORED).any() or (crop.held_out[part] != IGNORED).any():
                    crop_of[block] = len(crops)  # else all of it is padding
            crops.append(crop)
    read = BlockTable(tuple(block for block in wanted if block in crop_of), table.columns)
    return CorrectionCrops(tuple(crops), read, crop_of)


def _join_blocks(
    blocks: Sequence[LabelledBlock], stack: Stack, patch: tuple[int, ...]
) -> list[tuple[int, Box, list[LabelledBlock]]]:
    """Return the crops to read of an image, (time, box, the blocks in it): blocks whose surroundings meet share one."""
    size = (stack.length("Z"), stack.length("Y"), stack.length("X"))
    around = [0, *(round(_AROUND * side) for side in patch)][-3:]
    groups: dict[tuple[int, int], list[tuple[Box, list[LabelledBlock]]]] = {}
    for block in blocks:
        key = (block.time, block.box[0][0] if len(patch) == 2 else -1)
        z, y, x = (
            (max(0, start - margin), min(length, stop + margin))
            for (start, stop), margin, length in zip(block.box, around, size, strict=True)
        )
        box: Box = (z, y, x)
        parts, inside = groups.setdefault(key, []), [block]
        while True:
            met = (
                number
                for number, (other, _) in enumerate(parts)
                if all(a[0] < b[1] and b[0] < a[1] for a, b in zip(box, other, strict=True))
            )
            if (number := next(met, None)) is None:
                break
            other, more = parts.pop(number)
            z, y, x = ((min(a[0], b[0]), max(a[1], b[1])) for a, b in zip(box, other, strict=True))
            box, inside = (z, y, x), more + inside  # it may meet others now
        parts.append((box, inside))
    return [(time, box, inside) for (time, _), parts in sorted(groups.items()) for box, inside in parts]


def _within(box: Box, outer: Box) -> tuple[slice, ...]:
    """Return where `box` lies in `outer`, as far as it does."""
    return tuple(
        slice(max(0, start - first), max(0, min(stop, last) - first))
        for (start, stop), (first, last) in zip(box, outer, strict=True)
    )


def _read_image(
    stack: Stack, time: int, box: Box, normalization: Normalization, across_slices: bool
) -> tuple[NDArray[np.float32], PaddingMask | None]:
    """Return what a network sees of `box` (C, Z, Y, X), and where padding is (Z, Y, X)."""
    wide = dict(zip("ZYX", box, strict=True))
    if normalization.has_padding:
        for axis, (start, stop) in wide.items():
            reach = REACH if axis != "Z" else REACH_Z if across_slices else 0
            wide[axis] = max(0, start - reach), min(stack.length(axis), stop + reach)
    parts = {"T": slice(time, time + 1), "C": slice(None), **{axis: slice(*side) for axis, side in wide.items()}}
    values = stack.read(tuple(parts[axis] for axis in stack.space.axes))
    order = [stack.space.axes.index(axis) for axis in "TCZYX" if axis in stack.space.axes]
    missing = tuple(number for number, axis in enumerate("TCZYX") if axis not in stack.space.axes)
    pixels, mask = normalization.prepare(np.expand_dims(values.transpose(order), missing)[0], across_slices)
    inner = tuple(
        slice(start - wide[axis][0], stop - wide[axis][0]) for axis, (start, stop) in zip("ZYX", box, strict=True)
    )
    return pixels[(slice(None), *inner)], None if mask is None else mask[inner]


def _read_target(
    corrected: Corrected, time: int, box: Box, plan: ClassPlan
) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """Return the labels (Z, Y, X) in `box` as targets, and where they were accepted."""
    parts = {"T": slice(time, time + 1), **{axis: slice(*side) for axis, side in zip("ZYX", box, strict=True)}}
    labels, accepted = corrected.read(tuple(parts[axis] for axis in corrected.axes))
    target_of = np.full(256, IGNORED, np.int8)
    target_of[1] = 0
    for value, number in plan.values.items():
        target_of[value] = number
    return target_of[labels[0].astype(np.uint8)], accepted[0]
