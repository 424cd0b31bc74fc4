"""The voxel size that a fine-tuned model is for: that of the images of its corrections. Loads without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from napari_skipseg.images.resample import SAME
from napari_skipseg.images.space import METRES
from napari_skipseg.images.stack import Stack
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.training.finetune.blocks import BlockTable

SCALE = "The new model is for voxels of"
"""Beginning of a note that says what the new model is for; it is no warning."""
VoxelSize = tuple[float, float, float]


@dataclass(frozen=True)
class TaughtScale:
    """The voxel size (z, y, x) of a fine-tuned model in `unit`. note: a remark for the user, or ""."""

    voxel_size: VoxelSize
    unit: str
    note: str = ""

    def in_words(self, dimensions: int) -> str:
        """Return the voxel size as text, along the axes of a network of so many dimensions."""
        return f"{' × '.join(f'{side:g}' for side in self.voxel_size[-dimensions:])} {self.unit}"


def taught_scale(stacks: Sequence[Stack], table: BlockTable, parent: ModelDescription) -> TaughtScale:
    """Return the voxel size of the image with the most labels, or the parent's if that is nearly the same.

    Fine-tuning does not rescale: the network sees the voxels of the corrections as they are. If a model kept the
    parent's voxel size, later images would be rescaled to a size that it was not taught on.

    stacks: the images that the table counts.
    """
    dimensions = parent.spec.dimensions
    labels = [0] * len(stacks)
    for block in table.blocks:
        labels[block.image] += sum(block.counts)
    before = TaughtScale(parent.voxel_size, parent.unit)
    known = [number for number in range(len(stacks)) if labels[number] and stacks[number].space.has_size]
    if not known:
        kept = f"the new model is recorded as made for {before.in_words(dimensions)}, as {parent.name} is"
        note = f"The voxel size of the images is not known: {kept}." if parent.unit in METRES else ""
        return replace(before, note=note)
    stack = stacks[max(known, key=lambda number: labels[number])]
    if parent.unit in METRES and is_same_scale(stack, before, dimensions):
        scale, note = before, ""
    else:
        z, y, x = stack.space.voxel_size
        if "Z" not in stack.space.axes and parent.unit in METRES:  # a slice says nothing of its thickness
            z = parent.voxel_size[0] * METRES[parent.unit] / METRES[stack.space.unit]
        scale = TaughtScale((z, y, x), stack.space.unit)
        note = (
            f"{SCALE} {scale.in_words(dimensions)}, on which it is taught; {parent.name} is for "
            f"{before.in_words(dimensions)}."
        )
    others = [stacks[number].name for number in known if not is_same_scale(stacks[number], scale, dimensions)]
    if others:
        chosen = f"{SCALE} {scale.in_words(dimensions)}, which have the most labels"
        note = f"{chosen}; those of {', '.join(others)} have a different size."
    return replace(scale, note=note)


def is_same_scale(stack: Stack, scale: TaughtScale, dimensions: int) -> bool:
    """Return whether the stack's voxels have nearly that size, along the axes that both network and stack have."""
    factor = METRES[stack.space.unit] / METRES[scale.unit]
    axes = [axis for axis in "ZYX"[-dimensions:] if axis in stack.space.axes]
    pairs = dict(zip("ZYX", zip(stack.space.voxel_size, scale.voxel_size, strict=True), strict=True))
    return all(abs(math.log(pairs[axis][0] * factor / pairs[axis][1])) <= SAME for axis in axes)
