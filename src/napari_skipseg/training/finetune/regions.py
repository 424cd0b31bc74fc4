"""The labelled parts of images in memory: what patches are cut from, and the windows that scores are taken on."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.intensity.normalize import GreyStatistics, Normalization, measure_greys
from napari_skipseg.images.intensity.padding import REACH, REACH_Z, PaddingMask, PaddingRule
from napari_skipseg.images.stack import Stack
from napari_skipseg.progress import ImageFindings, Progress
from napari_skipseg.training.finetune.blocks import LabelledBlock, Split, thinned
from napari_skipseg.training.finetune.labels import ClassPlan, Corrected, read_accepted, read_labels
from napari_skipseg.training.losses import IGNORED

MOST_PLACES = 1024
"""Places that are trained on; of more, as many are drawn."""
MOST_SCORED = 256
_AROUND = 0.75
"""A place is read with so many patches around it on each side."""

ON_PADDING = 0.25
"""Share of a class's labelled pixels that lie on what looks like padding from which on it is taken for tissue."""

RegionBox = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


class TrainingRegion(NamedTuple):
    """A part of an image around places with labels, of as many dimensions as the network.

    image: (C, *space) float16 in standard units. target: (*space) int8, -1 where nothing is known or it is held out,
    0 = background, 1… = the new model's classes. held_out: the same of what is held out. accepted: (*space), where
    either is a model's answer that somebody accepted, and was not painted.
    """

    image: NDArray[np.float16]
    target: NDArray[np.int8]
    held_out: NDArray[np.int8]
    accepted: NDArray[np.bool_]


class SampleClass(NamedTuple):
    """Voxels that are counted together: those of a label, and whether of them only the painted ones."""

    label: int
    is_painted: bool


@dataclass(frozen=True)
class Spot:
    """A place inside region number `region`: where it lies there, and how often each label is in it."""

    region: int
    box: tuple[slice, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Material:
    """All that is learnt from: regions, and the spots in them that are trained on and held out.

    kinds: what the counts of a spot count: 0, then the numbers of the classes that the labels judge; where some were
    accepted, those of them that were painted too, which are so drawn as often. padding: whether constant areas were
    left out, as padding, or taken for tissue.
    """

    regions: tuple[TrainingRegion, ...]
    training: tuple[Spot, ...]
    held_out: tuple[Spot, ...]
    kinds: tuple[SampleClass, ...]
    padding: PaddingRule = "auto"

    def painted(self, spots: Sequence[Spot]) -> tuple[Spot, ...]:
        """Return those of `spots` in which something was painted, where others were accepted; else none."""
        columns = [column for column, kind in enumerate(self.kinds) if kind.is_painted]
        return tuple(spot for spot in spots if any(spot.counts[column] for column in columns))

    def sha256(self) -> str:
        """Return 64 hex digits that change with any voxel or label that is learnt from."""
        digest = hashlib.sha256()
        for region in self.regions:
            for values in region:
                digest.update(repr((values.shape, values.dtype)).encode())
                digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()


def iter_read_material(
    corrected: Sequence[Corrected],
    split: Split,
    plan: ClassPlan,
    patch: tuple[int, ...],
    seed: int,
    padding: PaddingRule = "auto",
) -> Generator[Progress, None, Material]:
    """Yield while images are read; return their labelled parts, normalised as a segmentation would.

    patch: what will be cut from them, (Y, X) for a 2D network, (Z, Y, X) for a 3D one. padding: "auto" leaves out
    constant areas that look like padding, unless a class was painted there: then they are tissue in all images.

    Raises:
        InputError: an image whose values cannot be used.
    """
    greys: dict[int, GreyStatistics] = {}
    for number in sorted({place.image for place in (*split.training, *split.held_out)}):
        stack, name = corrected[number].stack, corrected[number].name
        yield Progress(number, len(corrected), f"reading {name}")
        greys[number] = measure_greys(stack, padding=padding)
        if found := (*stack.notes, *greys[number].findings):
            yield ImageFindings(number, len(corrected), "", tuple(f"{name}: {told}" for told in found))
    counts = np.zeros((2, len(plan.classes) + 1), np.int64)
    material = yield from _iter_read(corrected, split, plan, patch, seed, greys, counts)
    labelled, on_padding = counts[:, 1:]
    if not (on_padding > ON_PADDING * labelled).any():
        if not material.training:
            raise InputError(
                "All that is labelled lies on constant areas, which were left out as padding: label tissue too, or "
                "keep them (in a shell with --padding none)."
            )
        return replace(material, padding=padding)
    told = (
        "A class is painted on constant areas: they were taken for tissue after all, and the new model does the same."
    )
    yield ImageFindings(0, len(corrected), "", (told,))
    return (yield from iter_read_material(corrected, split, plan, patch, seed, "none"))


def _iter_read(
    corrected: Sequence[Corrected],
    split: Split,
    plan: ClassPlan,
    patch: tuple[int, ...],
    seed: int,
    greys: Mapping[int, GreyStatistics],
    counts: NDArray[np.int64],
) -> Generator[Progress, None, Material]:
    """Yield while images are read; return their labelled parts.

    counts: labelled pixels of the background and of each class, and how many of them lie on padding, are added to it.
    """
    training = thinned(split.training, MOST_PLACES, seed)
    held_out = thinned(split.held_out, MOST_SCORED, seed)
    flat = len(patch) == 2
    regions: list[TrainingRegion] = []
    spots: dict[LabelledBlock, Spot] = {}
    for number, each in enumerate(corrected):
        for time, box, inside in _boxes((*training, *held_out), number, each.stack, patch):
            yield Progress(number, len(corrected), f"reading {each.name}")
            image, mask = _read_image(each.stack, time, box, greys[number].normalization, across_slices=not flat)
            target, accepted = _read_target(each, time, box, plan)
            counts[0] += np.bincount(target[target != IGNORED], minlength=counts.shape[1])
            if mask is not None:
                counts[1] += np.bincount(target[mask & (target != IGNORED)], minlength=counts.shape[1])
                target[mask] = IGNORED
            held = np.full_like(target, IGNORED)
            for place in split.held_out:
                if (place.image, place.time) == (number, time):
                    part = _within(place.box, box)
                    held[part], target[part] = target[part], IGNORED
            region = TrainingRegion(image.astype(np.float16), target, held, accepted)
            regions.append(TrainingRegion(region.image[:, 0], target[0], held[0], accepted[0]) if flat else region)
            for place in inside:
                part = _within(place.box, box)
                if (target[part] != IGNORED).any() or (held[part] != IGNORED).any():  # not all of it is padding
                    spots[place] = Spot(len(regions) - 1, part[1:] if flat else part, place.counts)
    in_order = [tuple(spots[place] for place in places if place in spots) for places in (training, held_out)]
    labels = (0, *plan.values.values())
    kinds = (
        *(SampleClass(label, False) for label in labels),
        *(SampleClass(labels[column], True) for column in split.painted),
    )
    return Material(tuple(regions), in_order[0], in_order[1], kinds)


def _boxes(
    places: Sequence[LabelledBlock], number: int, stack: Stack, patch: tuple[int, ...]
) -> list[tuple[int, RegionBox, list[LabelledBlock]]]:
    """Return parts of image `number`, (time, box, the places in it), that hold all of its places with surroundings."""
    size = (stack.length("Z"), stack.length("Y"), stack.length("X"))
    around = [0, *(round(_AROUND * side) for side in patch)][-3:]
    groups: dict[tuple[int, int], list[tuple[RegionBox, list[LabelledBlock]]]] = {}
    for place in places:
        if place.image == number:
            key = (place.time, place.box[0][0] if len(patch) == 2 else -1)
            wide = tuple(
                (max(0, start - more), min(length, stop + more))
                for (start, stop), more, length in zip(place.box, around, size, strict=True)
            )
            _join(groups.setdefault(key, []), (wide[0], wide[1], wide[2]), [place])
    return [(time, box, inside) for (time, _), parts in sorted(groups.items()) for box, inside in parts]


def _join(parts: list[tuple[RegionBox, list[LabelledBlock]]], box: RegionBox, inside: list[LabelledBlock]) -> None:
    """Add a part to `parts`, as one with all those that it touches."""
    again = True
    while again:
        again = False
        for index, (other, more) in enumerate(parts):
            if all(a[0] < b[1] and b[0] < a[1] for a, b in zip(box, other, strict=True)):
                z, y, x = ((min(a[0], b[0]), max(a[1], b[1])) for a, b in zip(box, other, strict=True))
                box, inside, again = (z, y, x), more + inside, True
                parts.pop(index)
                break
    parts.append((box, inside))


def _within(box: RegionBox, outer: RegionBox) -> tuple[slice, ...]:
    """Return where `box` lies in `outer`, as far as it does."""
    return tuple(
        slice(max(0, start - first), max(0, min(stop, last) - first))
        for (start, stop), (first, last) in zip(box, outer, strict=True)
    )


def _read_image(
    stack: Stack, time: int, box: RegionBox, normalization: Normalization, across_slices: bool
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
    missing = tuple(place for place, axis in enumerate("TCZYX") if axis not in stack.space.axes)
    pixels, mask = normalization.prepare(np.expand_dims(values.transpose(order), missing)[0], across_slices)
    inner = tuple(
        slice(start - wide[axis][0], stop - wide[axis][0]) for axis, (start, stop) in zip("ZYX", box, strict=True)
    )
    return pixels[(slice(None), *inner)], None if mask is None else mask[inner]


def _read_target(
    corrected: Corrected, time: int, box: RegionBox, plan: ClassPlan
) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """Return the labels (Z, Y, X) in `box` as targets, and where they were accepted."""
    parts = {"T": slice(time, time + 1), **dict(zip("ZYX", (slice(*side) for side in box), strict=True))}
    block = tuple(parts[axis] for axis in corrected.axes)
    labels = read_labels(corrected, block)
    accepted = read_accepted(corrected, block, labels)[0].astype(bool)
    table = np.full(256, IGNORED, np.int8)
    table[1] = 0
    for value, number in plan.values.items():
        table[value] = number
    return table[labels[0].astype(np.uint8)], accepted
