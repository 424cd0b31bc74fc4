"""Where to look next: the decisions between objects that are least sure, and that matter most if they are wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.proofread.edits import Voxel
from napari_skipseg.proofread.hierarchy import MergeTree
from napari_skipseg.proofread.regions import Regions, contact_strengths
from napari_skipseg.proofread.state import ObjectsUnderEdit

MOST_DOUBTS = 1000
"""Length of the list."""

WIDTH = 0.1
"""How far from the threshold a boundary may lie until its doubt has fallen to 1/e."""

DoubtKind = Literal["merge?", "split?"]


@dataclass(frozen=True)
class Doubt:
    """A decision that may be wrong. kind: what would change it. at: a voxel on both sides; center: between them.

    objects: the objects on both sides, the same one twice if it may have to be split. reason: for a user. score: 0 to
    the size of the smaller side in voxels; larger = look there first.
    """

    kind: DoubtKind
    at: tuple[Voxel, Voxel]
    center: Voxel
    objects: tuple[int, int]
    score: float
    reason: str


def rank_doubts(objects: ObjectsUnderEdit, most: int = MOST_DOUBTS) -> list[Doubt]:
    """Return the least sure decisions, the one to look at first in front; empty for labels of another program.

    A contact of two objects is in doubt if its boundary is about as strong as the threshold of merging, and so is the
    weakest place at which an object was joined. A doubt counts as much as the smaller of its two sides is large.
    Decisions that were confirmed, and objects that are locked, are left out.
    """
    regions, tree = objects.regions, objects.tree
    if regions.graph is None or tree is None or not len(regions.graph.edges.one):
        return []
    sizes = regions.graph.nodes.size
    doubts = [*_contacts(objects, sizes, most), *_joins(objects, tree, sizes, most)]
    doubts.sort(key=lambda doubt: (-doubt.score, doubt.at))
    return doubts[:most]


def _contacts(objects: ObjectsUnderEdit, sizes: NDArray[np.int64], most: int) -> list[Doubt]:
    """Return the doubts about contacts of two objects."""
    regions = objects.regions
    graph = regions.known_graph
    owners = objects.object_of[objects.edge_ends].astype(np.int64)
    rows = np.flatnonzero((owners[:, 0] != owners[:, 1]) & (owners > 0).all(axis=1))
    if not rows.size:
        return []
    low, high = owners[rows].min(axis=1), owners[rows].max(axis=1)
    keys, groups = np.unique((low << 32) | high, return_inverse=True)
    strengths, contacts = contact_strengths(graph, regions.options, rows), graph.edges.contacts[rows]
    area = np.bincount(groups, contacts)
    if regions.options.method == "cells":
        strength = np.bincount(groups, strengths * contacts) / area
    else:
        strength = np.ones(len(keys))
        np.minimum.at(strength, groups, strengths)
    # of each pair of objects the weakest contact is shown
    order = np.lexsort((strengths, groups))
    shown = order[np.flatnonzero(np.diff(groups[order], prepend=-1))]
    size = np.bincount(objects.object_of[1 : len(sizes) + 1], sizes, minlength=int(high.max()) + 1)
    smaller = np.minimum(size[keys >> 32], size[keys & 0xFFFFFFFF])
    score = np.exp(-np.abs(strength - _threshold(regions)) / WIDTH) * smaller
    confirmed = {tuple(sorted(objects.object_of[list(pair)].tolist())) for pair in objects.confirmed}
    found = []
    for place in np.argsort(-score, kind="stable")[: most + len(confirmed) + len(objects.locked)]:
        pair = int(keys[place] >> 32), int(keys[place] & 0xFFFFFFFF)
        if pair in confirmed or objects.locked.intersection(pair):
            continue
        edge = int(rows[shown[place]])
        ends = objects.edge_ends[edge]
        word = "boundary" if regions.options.method == "cells" else "neck"
        found.append(
            Doubt(
                "merge?",
                (voxel_of(objects, int(ends[0])), voxel_of(objects, int(ends[1]))),
                _voxel(regions, int(graph.edges.where[edge]) // 3),
                pair,
                float(score[place]),
                f"Objects {pair[0]} and {pair[1]} touch over a {word} of {strength[place]:.2f}: one object?",
            )
        )
    return found


def _joins(objects: ObjectsUnderEdit, tree: MergeTree, sizes: NDArray[np.int64], most: int) -> list[Doubt]:
    """Return the doubts about places at which an object was joined of two parts."""
    regions = objects.regions
    total = np.concatenate([[0], np.cumsum(sizes[tree.order])])
    inside = np.flatnonzero(tree.children[:, 0] >= 0)
    one, other = tree.children[inside].T
    # all regions below a merge belong to one object if no two neighbours in the order of leaves differ
    owner = objects.object_of[tree.order + 1]
    changes = np.concatenate([[0], np.cumsum(owner[1:] != owner[:-1])]) if len(owner) else np.zeros(1, np.int64)
    is_one = changes[tree.high[inside] - 1] == changes[tree.low[inside]]
    is_one &= owner[tree.low[inside]] > 0
    smaller = np.minimum(total[tree.high[one]] - total[tree.low[one]], total[tree.high[other]] - total[tree.low[other]])
    score = np.exp(-np.abs(tree.level[inside] - _threshold(regions)) / WIDTH) * smaller
    confirmed = [pair for pair in objects.confirmed if max(pair) <= tree.count]
    place_of = np.empty(tree.count, np.int64)
    place_of[tree.order] = np.arange(tree.count)
    found: list[Doubt] = []
    for row in np.argsort(-np.where(is_one, score, -1.0), kind="stable")[: most + len(confirmed)]:
        node, label = inside[row], int(owner[tree.low[inside[row]]])
        if not is_one[row]:
            break
        sides = [range(tree.low[child], tree.high[child]) for child in (one[row], other[row])]
        if label in objects.locked or any(_is_between(pair, sides, place_of) for pair in confirmed):
            continue
        edge = int(tree.contact[node])
        ends = objects.edge_ends[edge]
        level = tree.level[node]
        word = "boundary" if regions.options.method == "cells" else "neck"
        found.append(
            Doubt(
                "split?",
                (voxel_of(objects, int(ends[0])), voxel_of(objects, int(ends[1]))),
                _voxel(regions, int(regions.known_graph.edges.where[edge]) // 3),
                (label, label),
                float(score[row]),
                f"Object {label} was joined over a {word} of {level:.2f}: two objects?",
            )
        )
        if len(found) >= most:
            break
    return found


def _is_between(pair: tuple[int, int], sides: list[range], place_of: NDArray[np.int64]) -> bool:
    places = [int(place_of[region - 1]) for region in pair]
    return any(places[n] in sides[0] and places[1 - n] in sides[1] for n in (0, 1))


def voxel_of(objects: ObjectsUnderEdit, region: int) -> Voxel:
    """Return a voxel of a region of the graph: its highest point, or the first one."""
    graph = objects.regions.known_graph
    nodes = graph.nodes
    flat = nodes.first if objects.regions.options.method == "components" else nodes.top
    return _voxel(objects.regions, int(flat[region - 1]))


def _voxel(regions: Regions, flat: int) -> Voxel:
    _, depth, rows, columns = regions.shape
    z, y, x = (int(place) for place in np.unravel_index(flat, (regions.shape[0] * depth, rows, columns)))
    return z // depth, z % depth, y, x


def _threshold(regions: Regions) -> float:
    return regions.options.merge if regions.options.method == "cells" else 0.5
