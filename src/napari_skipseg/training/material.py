"""The labelled parts of images in memory: what patches are cut from, and the windows that scores are taken on."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.normalize import Normalization, measure_greys
from napari_skipseg.images.stack import Stack
from napari_skipseg.progress import Found, Progress
from napari_skipseg.training.class_plan import ClassPlan
from napari_skipseg.training.corrected import Corrected, read_accepted, read_labels
from napari_skipseg.training.losses import IGNORED
from napari_skipseg.training.places import Place, Split, thinned

MOST_PLACES = 1024
"""Places that are trained on; of more, as many are drawn."""
MOST_SCORED = 256
AROUND = 0.75
"""A place is read with so many patches around it on each side."""

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


class Region(NamedTuple):
    """A part of an image around places with labels, of as many dimensions as the network.

    image: (C, *space) float16 in standard units. target: (*space) int8, -1 where nothing is known or it is held out,
    0 = background, 1… = the new model's classes. held_out: the same of what is held out. accepted: (*space), where
    either is a model's answer that somebody accepted, and was not painted.
    """

    image: NDArray[np.float16]
    target: NDArray[np.int8]
    held_out: NDArray[np.int8]
    accepted: NDArray[np.bool_]


class Kind(NamedTuple):
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
    accepted, those of them that were painted too, which are so drawn as often.
    """

    regions: tuple[Region, ...]
    training: tuple[Spot, ...]
    held_out: tuple[Spot, ...]
    kinds: tuple[Kind, ...]

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
    corrected: Sequence[Corrected], split: Split, plan: ClassPlan, patch: tuple[int, ...], seed: int
) -> Generator[Progress, None, Material]:
    """Yield while images are read; return their labelled parts, normalised as a segmentation would.

    patch: what will be cut from them, (Y, X) for a 2D network, (Z, Y, X) for a 3D one.

    Raises:
        InputError: an image whose values cannot be used.
    """
    training = thinned(split.training, MOST_PLACES, seed)
    held_out = thinned(split.held_out, MOST_SCORED, seed)
    regions: list[Region] = []
    spots: dict[Place, Spot] = {}
    for number, each in enumerate(corrected):
        normalization: Normalization | None = None
        for time, box, inside in _boxes((*training, *held_out), number, each.stack, patch):
            yield Progress(number, len(corrected), f"reading {each.name}")
            if normalization is None:
                greys = measure_greys(each.stack)
                normalization = greys.normalization
                findings = (*each.stack.notes, *greys.findings)
                if findings:
                    yield Found(number, len(corrected), "", tuple(f"{each.name}: {told}" for told in findings))
            image = normalization.apply(_read_image(each.stack, time, box)).astype(np.float16)
            target, accepted = _read_target(each, time, box, plan)
            held = np.full_like(target, IGNORED)
            for place in split.held_out:
                if (place.image, place.time) == (number, time):
                    part = _within(place.box, box)
                    held[part], target[part] = target[part], IGNORED
            flat = len(patch) == 2
            region = Region(image, target, held, accepted)
            regions.append(Region(image[:, 0], target[0], held[0], accepted[0]) if flat else region)
            for place in inside:
                part = _within(place.box, box)
                spots[place] = Spot(len(regions) - 1, part[1:] if flat else part, place.counts)
    in_order = [tuple(spots[place] for place in places) for places in (training, held_out)]
    labels = (0, *plan.values.values())
    kinds = (*(Kind(label, False) for label in labels), *(Kind(labels[column], True) for column in split.painted))
    return Material(tuple(regions), in_order[0], in_order[1], kinds)


def _boxes(
    places: Sequence[Place], number: int, stack: Stack, patch: tuple[int, ...]
) -> list[tuple[int, Box, list[Place]]]:
    """Return parts of image `number`, (time, box, the places in it), that hold all of its places with surroundings."""
    size = (stack.length("Z"), stack.length("Y"), stack.length("X"))
    around = [0, *(round(AROUND * side) for side in patch)][-3:]
    groups: dict[tuple[int, int], list[tuple[Box, list[Place]]]] = {}
    for place in places:
        if place.image == number:
            key = (place.time, place.box[0][0] if len(patch) == 2 else -1)
            wide = tuple(
                (max(0, start - more), min(length, stop + more))
                for (start, stop), more, length in zip(place.box, around, size, strict=True)
            )
            _join(groups.setdefault(key, []), (wide[0], wide[1], wide[2]), [place])
    return [(time, box, inside) for (time, _), parts in sorted(groups.items()) for box, inside in parts]


def _join(parts: list[tuple[Box, list[Place]]], box: Box, inside: list[Place]) -> None:
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


def _within(box: Box, outer: Box) -> tuple[slice, ...]:
    """Return where `box` lies in `outer`, as far as it does."""
    return tuple(
        slice(max(0, start - first), max(0, min(stop, last) - first))
        for (start, stop), (first, last) in zip(box, outer, strict=True)
    )


def _read_image(stack: Stack, time: int, box: Box) -> NDArray[np.float32]:
    """Return the values (C, Z, Y, X) in `box`."""
    parts = {
        "T": slice(time, time + 1),
        "C": slice(None),
        **dict(zip("ZYX", (slice(*side) for side in box), strict=True)),
    }
    values = stack.read(tuple(parts[axis] for axis in stack.axes))
    order = [stack.axes.index(axis) for axis in "TCZYX" if axis in stack.axes]
    missing = tuple(place for place, axis in enumerate("TCZYX") if axis not in stack.axes)
    whole: NDArray[np.float32] = np.expand_dims(values.transpose(order), missing)[0]
    return whole


def _read_target(
    corrected: Corrected, time: int, box: Box, plan: ClassPlan
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
