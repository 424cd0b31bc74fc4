"""Apply edits to objects. An edit makes sense as a whole, or it is refused with a sentence and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import assert_never

import cc3d
import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.contact_file import ContactClassifier
from napari_skipseg.objects.watershed import WatershedWindow, region_contacts
from napari_skipseg.proofread.cut import cut_by_probability, cut_graph, cut_region
from napari_skipseg.proofread.edits import (
    Confirm,
    Delete,
    Edit,
    EditRefusedError,
    Erase,
    FillHoles,
    Grow,
    Lock,
    Merge,
    Paint,
    Renumber,
    Reweigh,
    Separate,
    SkipDoubt,
    Smooth,
    Split,
    Voxel,
    unpack_mask,
)
from napari_skipseg.proofread.learn import cut_by_contacts, reweighed
from napari_skipseg.proofread.regions import contact_strengths
from napari_skipseg.proofread.state import Change, ChangeRecorder, ObjectsUnderEdit, VoxelBox

MOST_SIDES = 100
"""Sides of a split."""

WIDEST_SMOOTHING = 20.0
"""The largest sigma of smoothing, in voxels of X."""


def apply_edit(objects: ObjectsUnderEdit, edit: Edit) -> Change:
    """Apply an edit, and return what it changed.

    Raises:
        EditRefusedError: the edit does not make sense for these objects; they are unchanged.
    """
    recorder = ChangeRecorder(objects, edit)
    try:
        match edit:
            case Merge():
                _merge(objects, edit, recorder)
            case Split():
                _split(objects, edit, recorder)
            case Delete():
                for label in _objects_at(objects, edit.at):
                    recorder.assign(objects.regions_of(label), 0)
            case Grow():
                _grow(objects, edit, recorder)
            case Paint() | Erase():
                _set_mask(objects, edit, recorder)
            case FillHoles():
                _fill_holes(objects, edit, recorder)
            case Separate():
                _separate(objects, edit, recorder)
            case Renumber():
                _renumber(objects, recorder)
            case Lock():
                labels = _objects_at(objects, edit.at, locked_too=True)
                objects.locked = objects.locked.union(labels) if edit.locked else objects.locked.difference(labels)
            case Confirm():
                objects.confirmed = (*objects.confirmed, _two_regions(objects, edit))
            case SkipDoubt():
                objects.skipped = (*objects.skipped, _two_regions(objects, edit))
            case Smooth():
                _smooth(objects, edit, recorder)
            case Reweigh():
                found = reweighed(objects, ContactClassifier(edit.weights))
                regions = np.flatnonzero(found != objects.object_of[: len(found)])
                if not regions.size:
                    raise EditRefusedError("Nothing would change: all contacts are decided in this way already.")
                recorder.replace(regions, found[regions])
                objects.next_object = max(objects.next_object, int(found.max()) + 1)
            case _:
                assert_never(edit)
    except EditRefusedError:
        objects.undo(recorder.finish())
        raise
    return recorder.finish()


def _two_regions(objects: ObjectsUnderEdit, edit: Confirm | SkipDoubt) -> tuple[int, int]:
    one, other = (objects.region_at(voxel) for voxel in edit.at)
    if 0 in (one, other) or (one == other and edit.at[0] != edit.at[1]):
        raise EditRefusedError(f"There are no two regions at {_place(edit.at[0])} and {_place(edit.at[1])}.")
    return one, other


def _place(voxel: Voxel) -> str:
    return f"({', '.join(map(str, voxel[1:]))})" if voxel[0] == 0 else f"({', '.join(map(str, voxel))})"


def _check_unlocked(objects: ObjectsUnderEdit, labels: Iterable[int]) -> None:
    locked = sorted(objects.locked.intersection(labels))
    if locked:
        raise EditRefusedError(f"Object {locked[0]} is locked: unlock it first.")


def _objects_at(objects: ObjectsUnderEdit, at: Sequence[Voxel], locked_too: bool = False) -> list[int]:
    """Return the distinct objects at voxels, in the order of the voxels.

    Raises:
        EditRefusedError: there is none at a voxel, or one is locked.
    """
    labels = [objects.object_at(voxel) for voxel in at]
    if 0 in labels or not labels:
        where = _place(at[labels.index(0)]) if labels else "any voxel"
        raise EditRefusedError(f"There is no object at {where}.")
    if not locked_too:
        _check_unlocked(objects, labels)
    return list(dict.fromkeys(labels))


def _merge(objects: ObjectsUnderEdit, edit: Merge, recorder: ChangeRecorder) -> None:
    labels = _objects_at(objects, edit.at)
    if len(labels) < 2:
        raise EditRefusedError(f"Only one object is at these voxels ({labels[0]}): there is nothing to merge.")
    if len({voxel[0] for voxel in edit.at}) > 1:
        raise EditRefusedError("These objects are of different times: only objects of one time can be merged.")
    if not objects.regions.are_linked and len({voxel[1] for voxel in edit.at}) > 1:
        raise EditRefusedError("These objects are of different slices, and objects are of each slice on its own.")
    recorder.linked = tuple(dict.fromkeys(objects.region_at(voxel) for voxel in edit.at))
    for label in labels[1:]:
        recorder.assign(objects.regions_of(label), labels[0])


def grown_regions(objects: ObjectsUnderEdit, edit: Grow) -> NDArray[np.int64]:
    """Return the regions that `Grow` makes an object of.

    Raises:
        EditRefusedError: there is no hierarchy, or no region.
    """
    tree, region = objects.tree, objects.region_at(edit.at)
    if tree is None:
        raise EditRefusedError(
            "These labels come without a probability, so there is no region to grow: paint an object."
        )
    if not 0 < region <= tree.count:
        raise EditRefusedError(f"There is no region at {_place(edit.at)}: click inside, or paint an object.")
    return np.sort(tree.leaves(tree.climb(region - 1, edit.level))) + 1


def _grow(objects: ObjectsUnderEdit, edit: Grow, recorder: ChangeRecorder) -> None:
    found = grown_regions(objects, edit)
    labels = np.unique(objects.object_of[found])
    _check_unlocked(objects, labels.tolist())
    if len(labels) == 1 and labels[0] > 0 and len(objects.regions_of(int(labels[0]))) == len(found):
        raise EditRefusedError(f"This region is object {labels[0]} already.")
    recorder.assign(found, objects.new_object())


def _split(objects: ObjectsUnderEdit, edit: Split, recorder: ChangeRecorder) -> None:
    if not 2 <= len(edit.sides) <= MOST_SIDES or not all(edit.sides):
        raise EditRefusedError("A split needs at least one voxel on each of two sides.")
    label, sides = _object_to_split(objects, edit)
    regions = objects.regions_of(label)
    time, box = objects.box_of(regions)
    side_of = {}
    seeds: dict[int, dict[int, list[Voxel]]] = {}
    for side, voxels in enumerate(sides):
        for voxel in voxels:
            seeds.setdefault(objects.region_at(voxel), {}).setdefault(side, []).append(voxel)
    for region, found in seeds.items():
        if len(found) == 1:
            side_of[region] = next(iter(found))
        else:  # the region holds seeds of two sides: its voxels are cut, and become a region for each side
            side_of |= _cut_one(objects, region, found, label, recorder)
    regions = objects.regions_of(label)
    number = {int(region): place for place, region in enumerate(regions)}
    start = np.full(len(regions), -1)
    for region, side in side_of.items():
        start[number[region]] = side
    if objects.regions.statistics is not None and (objects.sizes[regions] > 0).all():
        found_sides = cut_by_contacts(objects, regions, start)
    else:  # what was painted has no contacts in the graph: they are looked for
        found_sides = cut_graph(len(regions), *_contacts(objects, regions, time, box), start)
    # the largest side keeps the number, and so its colour; sizes of what was painted are not known, but boxes are
    boxes = objects.boxes[regions]
    volumes = np.prod(boxes[:, 2::2].astype(np.int64) - boxes[:, 1::2], axis=1)
    known = objects.sizes[regions]
    largest = int(np.argmax(np.bincount(found_sides, np.where(known > 0, known, volumes), minlength=len(sides))))
    for side in range(len(sides)):
        if side != largest:
            recorder.assign(regions[found_sides == side], objects.new_object())


def _object_to_split(objects: ObjectsUnderEdit, edit: Split) -> tuple[int, list[list[Voxel]]]:
    """Return the object that is split, and the voxels of each side in it."""
    labels = [[objects.object_at(voxel) for voxel in side] for side in edit.sides]
    shared = set.intersection(*(set(each) for each in labels)) - {0}
    if not shared:
        if any(not any(each) for each in labels):
            raise EditRefusedError("One side lies outside of all objects: this would split nothing.")
        raise EditRefusedError("The two sides lie in different objects: this would split nothing.")
    label = max(shared, key=lambda each: (sum(side.count(each) for side in labels), -each))
    _check_unlocked(objects, [label])
    sides = [
        [voxel for voxel, there in zip(side, found, strict=True) if there == label]
        for side, found in zip(edit.sides, labels, strict=True)
    ]
    if len(set(chain.from_iterable(sides))) < sum(len(set(side)) for side in sides):
        raise EditRefusedError("The two sides share a voxel: this would split nothing.")
    if not objects.regions.are_linked and len({voxel[1] for side in sides for voxel in side}) > 1:
        raise EditRefusedError("The two sides lie in different slices: this would split nothing.")
    return label, sides


def _cut_one(
    objects: ObjectsUnderEdit, region: int, seeds: dict[int, list[Voxel]], label: int, recorder: ChangeRecorder
) -> dict[int, int]:
    """Cut the voxels of a region; return the side of each of the new regions."""
    time, box = objects.box_of(np.array([region]))
    mask = objects.read_regions(time, box) == region
    corner = np.array([side.start for side in box])
    order = sorted(seeds)
    places = [np.array([voxel[1:] for voxel in seeds[side]], np.int64) - corner for side in order]
    source, spacing = objects.regions.probability, objects.regions.spacing
    if source is None:
        parts = cut_region(mask, places, spacing, objects.regions.are_linked)
    else:
        probability = np.asarray(source.look_at(time, *box)[...], np.float32)
        wall = probability if objects.regions.options.method == "cells" else 1 - probability
        parts = cut_by_probability(mask, places, wall, spacing)
    recorder.assign(np.array([region]), 0)  # it has no voxels any more, so it must not link its neighbours
    new = {recorder.set_voxels(time, box, parts == part, label): side for part, side in enumerate(order)}
    objects.cut_from |= dict.fromkeys(new, region)
    objects.voxel_in_part |= {number: seeds[side][0] for number, side in new.items()}
    if objects.regions.graph is not None:
        numbers = np.array(list(new))
        objects.sizes[numbers] = np.bincount(parts[parts >= 0], minlength=len(numbers))
        _move_contacts(objects, region, np.where(parts >= 0, numbers[parts], 0), corner, recorder)
    return new


def _move_contacts(
    objects: ObjectsUnderEdit,
    region: int,
    parts: NDArray[np.int64],
    corner: NDArray[np.int64],
    recorder: ChangeRecorder,
) -> None:
    """Give each contact of a region that was cut to the part that it passes through where it is weakest.

    parts: the new regions in a box that begins at `corner`, 0 elsewhere.
    """
    ends, where = objects.edge_ends, objects.regions.known_graph.edges.where
    rows = np.flatnonzero((ends == region).any(axis=1))
    _, depth, height, width = objects.shape
    z, y, x = np.unravel_index(where[rows] // 3, (objects.shape[0] * depth, height, width))
    first = np.stack([z % depth, y, x], axis=1)
    found = np.zeros(len(rows), np.int64)
    step = np.eye(3, dtype=np.int64)[where[rows] % 3]
    for places in (first - corner, first + step - corner):  # the two voxels of the pass: one lies in the region
        inside = ((places >= 0) & (places < parts.shape)).all(axis=1) & (found == 0)
        found[inside] = parts[tuple(places[inside].T)]
    known = found > 0
    rows, new = rows[known], found[known]
    recorder.move_contacts(rows, np.where(ends[rows] == region, new[:, None], ends[rows]))


def _contacts(
    objects: ObjectsUnderEdit, regions: NDArray[np.int64], time: int, box: VoxelBox
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the contacts between the regions of one object, as places in `regions`, and their strengths.

    Between regions of the graph these are known. If the object has painted or cut regions, its voxels are looked at: a
    part of a region has the contacts of that region, and what was painted has weak ones.
    """
    place = np.full(objects.region_count + 1, -1)
    place[regions] = np.arange(len(regions))
    graph, ends, strengths = objects.regions.graph, np.empty((0, 2), np.int64), np.empty(0)
    if graph is not None:
        inside = place[objects.edge_ends]
        kept = np.flatnonzero((inside >= 0).all(axis=1))
        ends = inside[kept]
        strengths = contact_strengths(graph, objects.regions.options, kept)
    known = len(objects.regions.objects) - 1
    if (regions > known).any():
        labels = np.append(place, -1)[objects.read_regions(time, box)] + 1
        shape = (labels.shape[0], labels.shape[1], labels.shape[2])
        window = WatershedWindow((0, 0, 0), shape, shape, shape[0], objects.regions.are_linked)
        empty = np.zeros(shape, np.float32)
        found = region_contacts(labels.astype(np.uint32), empty, empty.astype(np.uint16), window)
        pairs = np.stack([found.one, found.other], axis=1).astype(np.int64) - 1
        pairs = pairs[(regions[pairs] > known).any(axis=1)]
        ends = np.concatenate([ends, pairs])
        weak = [_known_strength(objects, *regions[pair].tolist()) for pair in pairs]
        strengths = np.concatenate([strengths, np.array(weak, np.float64)])
    return ends, strengths


def _known_strength(objects: ObjectsUnderEdit, one: int, other: int) -> float:
    """Return the strength of the contact of two regions of which one is new: as before it was cut, 0 if painted."""
    one, other = objects.cut_from.get(one, one), objects.cut_from.get(other, other)
    graph = objects.regions.graph
    if graph is None or one == other:
        return 0.0
    row = np.flatnonzero((objects.edge_ends == sorted((one, other))).all(axis=1))[:1]
    found = contact_strengths(graph, objects.regions.options, row)
    return float(found[0]) if len(found) else 0.0


def _set_mask(objects: ObjectsUnderEdit, edit: Paint | Erase, recorder: ChangeRecorder) -> None:
    mask, (time, *corner) = unpack_mask(edit), edit.corner
    sides = [slice(first, first + length) for first, length in zip(corner, edit.shape, strict=True)]
    lengths = objects.shape
    if not 0 <= time < lengths[0] or any(
        side.start < 0 or side.stop > length for side, length in zip(sides, lengths[1:], strict=True)
    ):
        raise EditRefusedError("What was painted lies outside of this image.")
    label = 0
    if isinstance(edit, Paint):
        label = objects.new_object() if edit.into is None else _objects_at(objects, [edit.into])[0]
    box = sides[0], sides[1], sides[2]
    there = objects.read_objects(time, box)
    gone = np.zeros_like(mask)
    if isinstance(edit, Paint) and edit.slices:
        only = np.isin(np.arange(box[0].start, box[0].stop), edit.slices)
        gone = (there == label) & ~mask & only[:, None, None]
    mask = mask & (there != label)
    if objects.locked:
        mask &= ~np.isin(there, list(objects.locked))
    if not mask.any() and not gone.any():
        raise EditRefusedError("No voxel would change: locked objects stay as they are.")
    if gone.any():
        recorder.set_voxels(time, box, gone, 0)
    if mask.any():
        recorder.set_voxels(time, box, mask, label)


def _fill_holes(objects: ObjectsUnderEdit, edit: FillHoles, recorder: ChangeRecorder) -> None:
    from scipy.ndimage import binary_fill_holes

    (label,) = _objects_at(objects, [edit.at])
    time, box = objects.box_of(objects.regions_of(label))
    there = objects.read_objects(time, box)
    mask = there == label
    if edit.slices or not objects.regions.are_linked or mask.shape[0] == 1:
        filled = np.stack([binary_fill_holes(plane) for plane in mask])
    else:
        filled = binary_fill_holes(mask)
    holes = filled & (there == 0)
    if not holes.any():
        raise EditRefusedError(f"Object {label} has no holes.")
    recorder.set_voxels(time, box, holes, label)


def _smooth(objects: ObjectsUnderEdit, edit: Smooth, recorder: ChangeRecorder) -> None:
    from scipy.ndimage import gaussian_filter

    (label,) = _objects_at(objects, [edit.at])
    if not 0.3 <= edit.sigma <= WIDEST_SMOOTHING:
        raise EditRefusedError(f"An object is smoothed over 0.3 to {WIDEST_SMOOTHING:g} voxels, not {edit.sigma:g}.")
    by_slice = edit.slices or not objects.regions.are_linked or objects.shape[1] == 1
    sigmas = [0.0 if by_slice else edit.sigma / objects.regions.spacing[0],
              edit.sigma / objects.regions.spacing[1], edit.sigma]  # fmt: skip
    time, box = objects.box_of(objects.regions_of(label))
    wider = [
        slice(max(0, side.start - round(3 * sigma)), min(length, side.stop + round(3 * sigma)))
        for side, sigma, length in zip(box, sigmas, objects.shape[1:], strict=True)
    ]
    box = wider[0], wider[1], wider[2]
    there = objects.read_objects(time, box)
    mask = there == label
    smooth = gaussian_filter(mask.astype(np.float32), sigmas, mode="nearest") > 0.5
    if not smooth.any():
        raise EditRefusedError(f"Object {label} is thinner than this smoothing: nothing of it would be left.")
    removed, added = mask & ~smooth, smooth & (there == 0)
    if not (removed.any() or added.any()):
        raise EditRefusedError(f"Object {label} is as smooth as that already.")
    if removed.any():
        recorder.set_voxels(time, box, removed, 0)
    if added.any():
        recorder.set_voxels(time, box, added, label)


def _separate(objects: ObjectsUnderEdit, edit: Separate, recorder: ChangeRecorder) -> None:
    (label,) = _objects_at(objects, [edit.at])
    time, box = objects.box_of(objects.regions_of(label))
    regions = objects.read_regions(time, box)
    mask = objects.object_of.take(regions) == label
    parts = _parts(mask, objects.regions.are_linked)
    sizes = np.bincount(parts.reshape(-1))[1:]
    if len(sizes) < 2:
        raise EditRefusedError(f"Object {label} is one connected part: there is nothing to separate.")
    # A region that lies in one part goes with it as a whole, so that its contacts stay known.
    pairs = np.unique(np.stack([regions[mask], parts[mask]]), axis=1)
    found, counts = np.unique(pairs[0], return_counts=True)
    whole = np.isin(pairs[0], found[counts == 1])
    order = np.argsort(-sizes, kind="stable") + 1
    for part in order[1:]:
        new = objects.new_object()
        own = pairs[0, whole & (pairs[1] == part)]
        recorder.assign(own.astype(np.int64), new)
        rest = (parts == part) & ~np.isin(regions, own)
        if rest.any():
            recorder.set_voxels(time, box, rest, new)


def _parts(mask: NDArray[np.bool_], are_linked: bool) -> NDArray[np.int64]:
    """Return the parts of an object that touch by their faces, 1, 2, …."""
    if are_linked and mask.shape[0] > 1:
        return np.asarray(cc3d.connected_components(np.ascontiguousarray(mask), connectivity=6), np.int64)
    parts, count = np.zeros(mask.shape, np.int64), 0
    for plane, filled in zip(parts, mask, strict=True):
        found = np.asarray(cc3d.connected_components(np.ascontiguousarray(filled), connectivity=4), np.int64)
        plane[:] = np.where(found > 0, found + count, 0)
        count += int(found.max(initial=0))
    return parts


def _renumber(objects: ObjectsUnderEdit, recorder: ChangeRecorder) -> None:
    present = np.unique(objects.object_of[: objects.region_count + 1])
    present = present[present > 0]
    wanted = np.arange(1, len(present) + 1)
    if np.array_equal(present, wanted):
        raise EditRefusedError("The objects are numbered 1, 2, … already.")
    new_of = np.zeros(int(present.max()) + 1, np.uint32)
    new_of[present] = wanted
    regions = np.flatnonzero(objects.object_of[: objects.region_count + 1])
    recorder.replace(regions, new_of[objects.object_of[regions]])
    objects.locked = frozenset(int(new_of[label]) for label in objects.locked if label < len(new_of))
    objects.next_object = len(present) + 1
