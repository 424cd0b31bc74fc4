"""The skeleton of each object, block by block, with its length.

kimimaro puts a node at a fixed place of each face that an object has on the border of a block, and blocks share the
voxels of their borders; so the parts of neighbouring blocks meet in one node.
"""

from __future__ import annotations

import io
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_skipseg import durable
from napari_skipseg.exports.labels import LabelBlock, ObjectCounts, ObjectLabels, Triple
from napari_skipseg.exports.options import ExportOptions
from napari_skipseg.extras import import_extra
from napari_skipseg.images.space import Space
from napari_skipseg.objects.table import ObjectTable
from napari_skipseg.progress import Progress

SKELETON_BLOCK = (256, 256, 256)
"""Voxels of a block: the larger, the fewer places where an object is cut."""


@dataclass(frozen=True, eq=False)
class ObjectSkeleton:
    """The skeleton of an object: nodes (N, 3), x, y, z in voxels, 0 = the centre of the first voxel; their radii in
    sides of a voxel along X; edges (M, 2) between nodes."""

    label: int
    nodes: NDArray[np.float64]
    radii: NDArray[np.float64]
    edges: NDArray[np.int64]

    def placed(self, space: Space) -> NDArray[np.float64]:
        """Return the nodes (x, y, z) in the unit of a space, where its image lies."""
        places: NDArray[np.float64] = self.nodes * space.voxel_size[::-1] + space.origin[::-1]
        return places

    def length(self, space: Space) -> float:
        """Return the length of all branches in the unit of a space."""
        ends = (self.nodes * space.voxel_size[::-1])[self.edges]
        return float(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1).sum())

    def degrees(self) -> NDArray[np.int64]:
        """Return how many edges end in each node."""
        return np.bincount(self.edges.ravel(), minlength=len(self.nodes))


@dataclass(frozen=True, eq=False)
class _Part:
    """A skeleton in a block: its voxels (z, y, x) in the image, radii, and edges."""

    voxels: NDArray[np.int32]
    radii: NDArray[np.float32]
    edges: NDArray[np.uint32]


_PART = ("voxels", "radii", "edges")
"""The arrays of a `_Part`, in its order."""


def check_skeletons() -> None:
    """Raise if there can be no skeletons.

    Raises:
        InputError: kimimaro is not installed.
    """
    import_extra("kimimaro", "skeletons", "Skeletons")


def iter_skeletons(
    labels: ObjectLabels, options: ExportOptions, folder: Path, size: Triple = SKELETON_BLOCK
) -> Generator[Progress, None, list[ObjectSkeleton]]:
    """Yield block by block; return the skeletons by label. An object of one voxel has none.

    folder: where those of blocks are kept; a block that is there from an earlier try, with the same labels and options,
    is not computed again.

    Raises:
        InputError: kimimaro is not installed; as `ObjectLabels.read`.
        OSError: nothing can be written.
    """
    import_extra("kimimaro", "skeletons", "Skeletons")
    parts: dict[int, list[_Part]] = {}
    for done, block in enumerate(blocks := labels.blocks(size)):
        yield Progress(done, len(blocks), "finding skeletons")
        file = folder / f"skeletons-{done}.npz"
        if not file.exists():
            found = _skeletons_of(labels, block, options)
            content = io.BytesIO()
            arrays = {f"{label} {key}": getattr(part, key) for label, part in found for key in _PART}
            np.savez(content, **arrays)
            durable.write_whole(file, content.getbuffer(), synced=True)
        for label, part in _read_parts(file):
            parts.setdefault(label, []).append(part)
    return [_joined(label, parts[label]) for label in sorted(parts)]


def _skeletons_of(labels: ObjectLabels, block: LabelBlock, options: ExportOptions) -> list[tuple[int, _Part]]:
    """Return the skeletons of the objects in a block."""
    kimimaro = import_extra("kimimaro", "skeletons", "Skeletons")
    z, y, x = labels.space.voxel_size
    sides = np.array([z / x, y / x, 1.0])
    high = [min(stop + 1, length) for stop, length in zip(block.high, labels.shape, strict=True)]
    values = labels.read(block.low, high)
    if not values.any():
        return []
    found = kimimaro.skeletonize(
        values,
        teasar_params={"scale": options.skeleton_scale, "const": options.skeleton_const},
        anisotropy=tuple(sides),
        dust_threshold=0,
        progress=False,
        fix_borders=True,
        in_place=False,  # True renumbers the labels, which may be those of a layer
        parallel=1,
    )
    parts = []
    for label, each in found.items():
        # nodes are voxels: whole numbers again, so that those on a border are equal in both blocks
        voxels = np.rint(each.vertices / sides).astype(np.int32) + np.array(block.low, np.int32)
        parts.append((int(label), _Part(voxels, each.radii, each.edges)))
    return parts


def _read_parts(file: Path) -> list[tuple[int, _Part]]:
    with np.load(file, allow_pickle=False) as arrays:
        labels = dict.fromkeys(int(name.split()[0]) for name in arrays.files)
        return [(label, _Part(*(arrays[f"{label} {key}"] for key in _PART))) for label in labels]


def _joined(label: int, parts: list[_Part]) -> ObjectSkeleton:
    """Return the skeleton of an object from those of blocks."""
    starts = np.cumsum([0, *(len(part.voxels) for part in parts)])[:-1]
    voxels, place = np.unique(np.concatenate([part.voxels for part in parts]), axis=0, return_inverse=True)
    place = place.reshape(-1)
    radii = np.full(len(voxels), np.inf)
    np.minimum.at(radii, place, np.concatenate([part.radii for part in parts]))
    edges = np.concatenate([part.edges.astype(np.int64) + start for part, start in zip(parts, starts, strict=True)])
    edges = np.unique(np.sort(place[edges], axis=1), axis=0)
    edges = edges[edges[:, 0] != edges[:, 1]]
    return ObjectSkeleton(label, voxels[:, ::-1].astype(np.float64), radii, edges)


def lengths_table(skeletons: list[ObjectSkeleton], counts: ObjectCounts, space: Space) -> ObjectTable:
    """Return a row for each object: the length of its skeleton, and how many branching points and ends it has."""
    lengths, branching, ends = np.zeros(len(counts)), np.zeros(len(counts), int), np.zeros(len(counts), int)
    for each in skeletons:
        row = int(np.searchsorted(counts.labels, each.label))
        degrees = each.degrees()
        lengths[row], branching[row], ends[row] = each.length(space), (degrees > 2).sum(), (degrees == 1).sum()
    names = ("label", f"skeleton length ({space.unit})", "branching points", "ends")
    return ObjectTable(names, (counts.labels, lengths, branching, ends))


def swc_of(skeleton: ObjectSkeleton, space: Space) -> str:
    """Return a skeleton as SWC: a tree for each connected part, places and radii in the unit of the space."""
    order, parents = _trees(len(skeleton.nodes), skeleton.edges)
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(1, len(order) + 1)
    places, radii = skeleton.placed(space), skeleton.radii * space.voxel_size[2]
    lines = [f"# object {skeleton.label}, lengths in {space.unit}"]
    for node in order:
        x, y, z = places[node]
        parent = -1 if parents[node] < 0 else number[parents[node]]
        lines.append(f"{number[node]} 0 {x:.9g} {y:.9g} {z:.9g} {radii[node]:.6g} {parent}")
    return "\n".join(lines) + "\n"


def _trees(count: int, edges: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Return all nodes, parents before their children, and the parent of each, -1 of a root. An edge that would close a
    ring is left out: SWC has trees only."""
    near: list[list[int]] = [[] for _ in range(count)]
    for one, other in edges.tolist():
        near[one].append(other)
        near[other].append(one)
    parents, order = [-2] * count, []
    for root in sorted(range(count), key=lambda node: len(near[node]) != 1):  # begins at an end if there is one
        if parents[root] != -2:
            continue
        parents[root] = -1
        waiting = [root]
        while waiting:
            node = waiting.pop()
            order.append(node)
            for other in near[node]:
                if parents[other] == -2:
                    parents[other] = node
                    waiting.append(other)
    return order, parents


def read_swc(text: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the nodes (x, y, z) and the edges (M, 2) of a skeleton that `swc_of` wrote."""
    rows = np.array([line.split() for line in text.splitlines() if not line.startswith("#")], np.float64).reshape(-1, 7)
    has_parent = rows[:, 6] > 0
    return rows[:, 2:5], (rows[has_parent][:, [6, 0]] - 1).astype(np.int64)
