"""Objects under edit: which object each region belongs to, and voxels that were changed, over regions that stay."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from napari_skipseg.images.stack import LazyArray
from napari_skipseg.objects.agglomerate import MergeTree
from napari_skipseg.objects.blocks import WithoutAxes
from napari_skipseg.progress import Progress
from napari_skipseg.proofread.edits import Edit, EditRefusedError, Voxel
from napari_skipseg.proofread.hierarchy import iter_merge_tree, merge_tree
from napari_skipseg.proofread.regions import Regions, add_boxes

LARGEST_EDITED_BOX = 2**28
"""Voxels of an object's box, at most, if an edit looks at its voxels; they are in memory several times."""

KEPT_PLANES, LARGEST_KEPT = 2, 2**24
"""Slices of regions that are kept, and their voxels: napari reads the slice on screen again at each preview and edit,
and a store of blocks reads 16 slices for one."""

MANY_CONTACTS = 50_000
"""Contacts from which on the hierarchy of merges takes longer than 0.1 s."""

_CHUNK = (8, 128, 128)
_UNCHANGED = np.uint32(2**32 - 1)
_CODEC: Any = Zstd(level=1)

VoxelBox = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Change:
    """What an edit did, and all that is needed to undo it.

    objects: the numbers of all objects that have other voxels now, also those that are new or gone. box: (time, z
    start, z stop, …) around all changed voxels, empty if there are none. linked: regions that the user put into one
    object. contacts, ends: contacts of the graph whose ends are other regions now, and their ends before.
    """

    edit: Edit
    objects: tuple[int, ...]
    box: tuple[int, ...]
    regions: NDArray[np.int64]
    before: NDArray[np.uint32]
    voxels: tuple[tuple[int, VoxelBox, bytes], ...]
    region_count: int
    next_object: int
    locked: frozenset[int]
    confirmed: tuple[tuple[int, int], ...]
    skipped: tuple[tuple[int, int], ...]
    linked: tuple[int, ...]
    contacts: NDArray[np.int64]
    ends: NDArray[np.int64]


class ChangedVoxels:
    """The regions of voxels that were changed, in chunks that are made where they are written."""

    def __init__(self) -> None:
        self._chunks: dict[tuple[int, int, int, int], NDArray[np.uint32]] = {}

    def read(self, time: int, box: VoxelBox) -> NDArray[np.uint32]:
        """Return the new regions in a box, 4,294,967,295 where nothing was changed."""
        found = np.full([side.stop - side.start for side in box], _UNCHANGED)
        for number, inside, there in _overlaps(box):
            chunk = self._chunks.get((time, *number))
            if chunk is not None:
                found[there] = chunk[inside]
        return found

    def write(self, time: int, box: VoxelBox, values: NDArray[np.uint32]) -> None:
        """Set the new regions in a box, 4,294,967,295 where nothing is changed."""
        for number, inside, there in _overlaps(box):
            part = values[there]
            chunk = self._chunks.get((time, *number))
            if chunk is None:
                if (part == _UNCHANGED).all():
                    continue
                chunk = self._chunks[(time, *number)] = np.full(_CHUNK, _UNCHANGED)
            chunk[inside] = part

    def patch(self, time: int, box: VoxelBox, regions: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Return regions that were read from a box, with the changed voxels in them."""
        if not self._chunks:
            return regions
        new = self.read(time, box)
        return np.where(new == _UNCHANGED, regions, new)


def _overlaps(box: VoxelBox) -> Iterator[tuple[tuple[int, int, int], tuple[slice, ...], tuple[slice, ...]]]:
    """Yield the number of each chunk that overlaps a box, the overlap in the chunk, and in the box."""
    spans = [range(side.start // length, -(-side.stop // length)) for side, length in zip(box, _CHUNK, strict=True)]
    for z, y, x in product(*spans):
        inside, there = [], []
        for place, side, length in zip((z, y, x), box, _CHUNK, strict=True):
            first, stop = max(side.start, place * length), min(side.stop, (place + 1) * length)
            inside.append(slice(first - place * length, stop - place * length))
            there.append(slice(first - side.start, stop - side.start))
        yield (z, y, x), tuple(inside), tuple(there)


class ObjectsUnderEdit:
    """The objects of an image while they are edited, in memory. `apply.apply_edit` changes them.

    object_of: the object of each region, from region 0 on; it has room for more. region_count: regions so far.
    confirmed: pairs of regions between which a decision was confirmed, twice the same for a whole object. skipped: such
    pairs that were not decided. cut_from: the region that a new one is a part of, `voxel_in_part`: a voxel
    of such a part. sizes: voxels of each region that
    contacts of the graph may have. changes: what the edits that count have changed, in their order.
    """

    def __init__(self, regions: Regions) -> None:
        self.regions = regions
        self.region_count = len(regions.objects) - 1
        self.object_of, self.boxes = regions.objects.copy(), regions.boxes.copy()
        self.changed = ChangedVoxels()
        self.locked: frozenset[int] = frozenset()
        self.confirmed: tuple[tuple[int, int], ...] = ()
        self.skipped: tuple[tuple[int, int], ...] = ()
        self.sizes = np.zeros(len(regions.objects), np.int64)
        if regions.graph is not None:
            self.sizes[1:] = regions.graph.nodes.size
        self.changes: list[Change] = []
        self.next_object = int(regions.objects.max(initial=0)) + 1
        self.cut_from: dict[int, int] = {}
        self.voxel_in_part: dict[int, Voxel] = {}
        self._planes: dict[tuple[int, int, int, int, int, int], NDArray[np.uint32]] = {}

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The lengths along T, Z, Y and X."""
        return self.regions.shape

    @cached_property
    def tree(self) -> MergeTree | None:
        """The hierarchy of merges of the regions, None for labels of another program."""
        return None if self.regions.graph is None else merge_tree(self.regions)

    def iter_build_tree(self) -> Generator[Progress, None, None]:
        """Yield while `tree` is built, which takes minutes for millions of contacts, unless it is there."""
        if self.regions.graph is not None and not self.has_tree:
            self.__dict__["tree"] = yield from iter_merge_tree(self.regions)  # where `cached_property` looks

    @property
    def has_tree(self) -> bool:
        """Whether `tree` is built."""
        return "tree" in self.__dict__

    @property
    def takes_long_to_grow(self) -> bool:
        """Whether `tree` is to be built first, for longer than a click should take."""
        graph = self.regions.graph
        return graph is not None and not self.has_tree and len(graph.edges.one) > MANY_CONTACTS

    @cached_property
    def edge_ends(self) -> NDArray[np.int64]:
        """The two regions of each contact of the graph, (n, 2); parts of a region that was cut have its contacts."""
        if self.regions.graph is None:
            return np.empty((0, 2), np.int64)
        edges = self.regions.graph.edges
        return np.stack([edges.one, edges.other], axis=1).astype(np.int64) + 1

    def labels(self, values: NDArray[np.uint32] | None = None) -> LazyArray:
        """Return the objects as a lazy view, uint32, with the axes of the image without C.

        values: what is shown of each region, from region 0 on, instead of its object.
        """
        axes = "".join(axis for axis in "TZYX" if axis in self.regions.space.axes)
        return WithoutAxes(_Labels(self, values), axes)

    def read_regions(self, time: int, box: VoxelBox) -> NDArray[np.uint32]:
        """Return the regions in a box."""
        return self.changed.patch(time, box, self._read_found(time, box))

    def _read_found(self, time: int, box: VoxelBox) -> NDArray[np.uint32]:
        """Return the regions in a box as they were found, which no edit changes."""
        z, y, x = box
        if z.stop - z.start != 1 or isinstance(self.regions.labels, np.ndarray):
            return np.asarray(self.regions.labels[(time, *box)], np.uint32)
        for (when, at, top, end, left, right), plane in self._planes.items():
            if (when, at) == (time, z.start) and top <= y.start <= y.stop <= end and left <= x.start <= x.stop <= right:
                return plane[:, y.start - top : y.stop - top, x.start - left : x.stop - left]
        found = np.asarray(self.regions.labels[(time, *box)], np.uint32)
        if 1 < found.size <= LARGEST_KEPT:
            while len(self._planes) >= KEPT_PLANES:
                self._planes.pop(next(iter(self._planes)))
            self._planes[(time, z.start, y.start, y.stop, x.start, x.stop)] = found
        return found

    def read_objects(self, time: int, box: VoxelBox) -> NDArray[np.uint32]:
        """Return the objects in a box."""
        return self.object_of.take(self.read_regions(time, box))

    def region_at(self, voxel: Voxel) -> int:
        """Return the region at a voxel, 0 outside of the image."""
        if not all(0 <= place < length for place, length in zip(voxel, self.shape, strict=True)):
            return 0
        time, *places = voxel
        z, y, x = (slice(place, place + 1) for place in places)
        return int(self.read_regions(time, (z, y, x))[0, 0, 0])

    def object_at(self, voxel: Voxel) -> int:
        """Return the object at a voxel, 0 = none."""
        return int(self.object_of[self.region_at(voxel)])

    def regions_of(self, label: int) -> NDArray[np.int64]:
        """Return the regions of an object."""
        return np.flatnonzero(self.object_of[: self.region_count + 1] == label)

    def box_of(self, regions: NDArray[np.int64]) -> tuple[int, VoxelBox]:
        """Return the time of some regions, and the box around them.

        Raises:
            EditRefusedError: the box is too large to be looked at.
        """
        boxes = self.boxes[regions]
        low, high = boxes[:, 1::2].min(axis=0), boxes[:, 2::2].max(axis=0)
        if int(np.prod((high - low).astype(np.int64))) > LARGEST_EDITED_BOX:
            sides = " × ".join(str(side) for side in high - low)
            raise EditRefusedError(
                f"The object's box of {sides} voxels is too large for this edit: split it first by a line."
            )
        z, y, x = (slice(int(first), int(stop)) for first, stop in zip(low, high, strict=True))
        return int(boxes[0, 0]), (z, y, x)

    def add_region(self, label: int, box: Sequence[int]) -> int:
        """Return a new region of an object. box: as in `Regions.boxes`."""
        self.region_count += 1
        if self.region_count >= len(self.object_of):
            room = max(1024, len(self.object_of) // 8)
            self.object_of = np.concatenate([self.object_of, np.zeros(room, np.uint32)])
            self.boxes = np.concatenate([self.boxes, np.zeros((room, 7), np.int32)])
            self.sizes = np.concatenate([self.sizes, np.zeros(room, np.int64)])
        self.object_of[self.region_count], self.boxes[self.region_count] = label, box
        self.sizes[self.region_count] = 0
        return self.region_count

    def new_object(self) -> int:
        """Return a number that no object has."""
        self.next_object += 1
        return self.next_object - 1

    def undo(self, change: Change) -> None:
        """Undo the last change."""
        self.changes.pop()
        self.edge_ends[change.contacts] = change.ends
        for time, box, packed in reversed(change.voxels):
            shape = [side.stop - side.start for side in box]
            self.changed.write(time, box, np.frombuffer(_CODEC.decode(packed), np.uint32).reshape(shape))
        self.object_of[change.region_count + 1 : self.region_count + 1] = 0
        self.object_of[change.regions] = change.before
        for region in range(change.region_count + 1, self.region_count + 1):
            self.cut_from.pop(region, None)
            self.voxel_in_part.pop(region, None)
        self.region_count, self.next_object = change.region_count, change.next_object
        self.locked, self.confirmed, self.skipped = change.locked, change.confirmed, change.skipped


class ChangeRecorder:
    """Changes the objects for one edit, and records what is needed to undo that."""

    def __init__(self, objects: ObjectsUnderEdit, edit: Edit) -> None:
        self._objects, self._edit = objects, edit
        self._start = (objects.region_count, objects.next_object)
        self._marks = (objects.locked, objects.confirmed, objects.skipped)
        self.linked: tuple[int, ...] = ()
        self._contacts: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        self._ends: list[NDArray[np.int64]] = [np.empty((0, 2), np.int64)]
        self._regions: list[NDArray[np.int64]] = []
        self._before: list[NDArray[np.uint32]] = []
        self._voxels: list[tuple[int, VoxelBox, bytes]] = []
        self._touched: set[int] = set()
        self._boxes: list[Sequence[int]] = []

    def assign(self, regions: NDArray[np.int64], label: int) -> None:
        """Give regions to an object, 0 = none."""
        objects = self._objects
        regions = regions[objects.object_of[regions] != label]
        if regions.size:
            before = objects.object_of[regions]
            self._regions.append(regions)
            self._before.append(before)
            self._touched |= {*np.unique(before).tolist(), label}
            boxes = objects.boxes[regions]
            low, high = boxes[:, 1::2].min(axis=0), boxes[:, 2::2].max(axis=0)
            self._boxes.append([int(boxes[0, 0]), *np.stack([low, high], axis=1).reshape(-1).tolist()])
            objects.object_of[regions] = label

    def replace(self, regions: NDArray[np.int64], labels: NDArray[np.uint32]) -> None:
        """Give each of some regions to an object of its own."""
        objects = self._objects
        before = objects.object_of[regions]
        self._regions.append(regions)
        self._before.append(before)
        self._touched |= {*np.unique(before).tolist(), *np.unique(labels).tolist()}
        sides = [0, 0, objects.shape[1], 0, objects.shape[2], 0, objects.shape[3]]
        self._boxes.append(sides)
        objects.object_of[regions] = labels

    def set_voxels(self, time: int, box: VoxelBox, mask: NDArray[np.bool_], label: int) -> int:
        """Make a region of the voxels of a mask, and give it to an object; return it. Label 0 erases."""
        objects = self._objects
        before = objects.changed.read(time, box)
        self._touched |= {*np.unique(objects.read_objects(time, box)[mask]).tolist(), label}
        self._voxels.append((time, box, bytes(_CODEC.encode(np.ascontiguousarray(before)))))
        boxes = np.array([[0] * 7, [0, 2**31 - 1, 0, 2**31 - 1, 0, 2**31 - 1, 0]], np.int32)
        start = np.array([side.start for side in box], np.int64)
        add_boxes(np.ascontiguousarray(mask, np.uint32), time, start, boxes)
        region = objects.add_region(label, boxes[1].tolist()) if label else 0
        self._boxes.append(boxes[1].tolist())
        objects.changed.write(time, box, np.where(mask, np.uint32(region), before))
        return region

    def move_contacts(self, rows: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        """Give contacts of the graph to other regions. ends: (n, 2)."""
        known = self._objects.edge_ends
        self._contacts.append(rows)
        self._ends.append(known[rows])
        known[rows] = ends

    def finish(self) -> Change:
        """Return the change, which is the last one of the objects now."""
        count, next_object = self._start
        locked, confirmed, skipped = self._marks
        contacts, ends = np.concatenate(self._contacts), np.concatenate(self._ends)
        contacts, oldest = np.unique(contacts, return_index=True)
        # undone in one step: of a region that was given twice, the first object before counts
        regions = np.concatenate([np.empty(0, np.int64), *self._regions])
        before = np.concatenate([np.empty(0, np.uint32), *self._before])
        regions, first = np.unique(regions, return_index=True)
        old = regions <= count
        boxes = np.array(self._boxes, np.int64).reshape(-1, 7)
        box: tuple[int, ...] = ()
        if len(boxes):
            low, high = boxes[:, 1::2].min(axis=0), boxes[:, 2::2].max(axis=0)
            box = (int(boxes[0, 0]), *np.stack([low, high], axis=1).reshape(-1).tolist())
        change = Change(
            edit=self._edit,
            objects=tuple(sorted(self._touched - {0})),
            box=box,
            regions=regions[old],
            before=before[first][old],
            voxels=tuple(self._voxels),
            region_count=count,
            next_object=next_object,
            locked=locked,
            confirmed=confirmed,
            skipped=skipped,
            linked=self.linked,
            contacts=contacts,
            ends=ends[oldest],
        )
        self._objects.changes.append(change)
        return change


class _Labels(LazyArray):
    """The objects as a lazy view of shape (T, Z, Y, X)."""

    def __init__(self, objects: ObjectsUnderEdit, values: NDArray[np.uint32] | None) -> None:
        self._objects, self._values = objects, values
        self.shape, self.dtype = objects.shape, np.dtype(np.uint32)

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        time, *space = index
        if not isinstance(time, int):
            return np.stack([self._read((each, *space)) for each in range(self.shape[0])[time]])
        box, inside = [], []
        for part, length in zip(space, self.shape[1:], strict=True):
            places = range(length)[part] if isinstance(part, slice) else range(part, part + 1)
            low, high = (min(places[0], places[-1]), max(places[0], places[-1]) + 1) if places else (0, 0)
            box.append(slice(low, high))
            inside.append([place - low for place in places] if isinstance(part, slice) and places.step != 1 else None)
        values = self._objects.object_of if self._values is None else self._values
        found = values.take(self._objects.read_regions(time, (box[0], box[1], box[2])))
        for axis, chosen in enumerate(inside):
            if chosen is not None:
                found = found.take(chosen, axis=axis)
        return found[tuple(slice(None) if isinstance(part, slice) else 0 for part in space)]
