"""Where to look next: what a wrong decision between objects would cost, times how likely it is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.agglomerate import agglomerate
from napari_skipseg.objects.contact_features import ContactTable, probabilities
from napari_skipseg.objects.contact_file import ContactClassifier
from napari_skipseg.proofread.contacts import contact_table, grouped, with_links
from napari_skipseg.proofread.edits import Voxel
from napari_skipseg.proofread.learn import classifier_in_use
from napari_skipseg.proofread.regions import Regions
from napari_skipseg.proofread.state import ObjectsUnderEdit

MOST_DOUBTS = 1000
"""Length of the list."""

_MIXED = 0.25
"""How much of an unusual object is expected to belong to another one. Of FIB-25's largest cells it is 0.1 to 0.3."""

_JUMP, _LEAST_AREA = 2.0, 30
"""By which factor an object's area changes between two slices if it jumps, and the pixels that it then has."""

_MOST_JUMPS = 100
"""Objects, the largest first, in which jumps are looked for."""

_CONTINUES = 0.2
"""From which share of its surface on an object goes on in the other one in the next slice."""

DoubtKind = Literal["merge?", "split?", "object?"]


@dataclass(frozen=True)
class Doubt:
    """A decision that may be wrong. kind: what would change it. at: a voxel on both sides; center: between them.

    objects: the objects on both sides, the same one twice if it may have to be split. reason: for a user. score: pairs
    of voxels that are expected to be in one object by mistake, or in two: voxels of one side times voxels of the other
    one times the probability of an error; larger = look there first. An "object?" is unusual as a whole: both voxels
    of `at` are the same.
    """

    kind: DoubtKind
    at: tuple[Voxel, Voxel]
    center: Voxel
    objects: tuple[int, int]
    score: float
    reason: str


def rank_doubts(
    objects: ObjectsUnderEdit, most: int = MOST_DOUBTS, classifier: ContactClassifier | None = None
) -> list[Doubt]:
    """Return the decisions to look at, the one that may cost most in front; empty for labels of another program.

    A contact of two objects may join them, an object may have to be split where it was joined, and an object may be too
    large, of an unusual shape, or jump between two slices. How likely an error is, a classifier says: one that learned
    from edits, or else the rule by which the objects were found. What was confirmed or skipped, and locked objects, are
    left out.
    """
    regions = objects.regions
    if regions.graph is None or regions.statistics is None or not objects.object_of.any():
        return []
    judge = classifier or classifier_in_use(objects)
    table = contact_table(objects)
    labels, group = np.unique(objects.object_of[table.regions], return_inverse=True)
    whole = grouped(table, group, len(labels))
    doubts = _contacts(objects, whole, labels, judge, most)
    doubts += _joins(objects, table, group, judge, most)
    doubts += _unusual(objects, table, whole, labels, group, most)
    doubts.sort(key=lambda doubt: (-doubt.score, doubt.at))
    return doubts[:most]


def _contacts(
    objects: ObjectsUnderEdit,
    whole: ContactTable,
    labels: NDArray[np.uint32],
    judge: ContactClassifier,
    most: int,
) -> list[Doubt]:
    """Return the doubts about contacts of two objects."""
    ends = whole.links.ends
    # The Rand error counts pairs. By the voxels of the smaller side alone, FIB-25 took 60 edits instead of 19 to 0.05:
    # the list then asks about small objects that touch, before it asks what belongs to the largest ones.
    score = (1 - probabilities(whole, judge)) * whole.groups.size[ends].prod(axis=1)
    decided: set[tuple[int, int]] = set()
    parts = parts_of_cut(objects)
    for pair in (*objects.confirmed, *objects.skipped):
        if pair[0] != pair[1]:
            sides = [{int(objects.object_of[part]) for part in parts.get(region, [region])} for region in pair]
            decided |= {(min(a, b), max(a, b)) for a in sides[0] for b in sides[1]}
    found: list[Doubt] = []
    for link in np.argsort(-score, kind="stable"):
        one, other = (int(label) for label in labels[ends[link]])
        if (min(one, other), max(one, other)) in decided or objects.locked.intersection((one, other)):
            continue
        words = _strength_in_words(objects.regions, whole, int(link))
        continues = _continuation(whole, int(link))
        reason = f"Objects {one} and {other} touch over {words}{continues}: one object?"
        found.append(_doubt_at(objects, "merge?", int(whole.edge[link]), (one, other), float(score[link]), reason))
        if len(found) >= most:
            break
    return found


def _joins(
    objects: ObjectsUnderEdit,
    table: ContactTable,
    group: NDArray[np.int64],
    judge: ContactClassifier,
    most: int,
) -> list[Doubt]:
    """Return the doubts about places at which an object is joined of two parts."""
    ends = table.links.ends
    inner = np.flatnonzero(group[ends[:, 0]] == group[ends[:, 1]])
    tree = agglomerate(with_links(table, inner), judge)
    total = np.concatenate([[0.0], np.cumsum(table.groups.size[tree.order])])
    nodes = np.flatnonzero(tree.children[:, 0] >= 0)
    one, other = tree.children[nodes].T
    sizes = np.stack([total[tree.high[child]] - total[tree.low[child]] for child in (one, other)])
    smaller = sizes.min(axis=0)
    score = tree.level[nodes] * sizes.prod(axis=0)
    decided = (*objects.confirmed, *objects.skipped)
    place = np.full(objects.region_count + 1, -1)
    place[table.regions[tree.order]] = np.arange(tree.count)
    found: list[Doubt] = []
    for row in np.argsort(-score, kind="stable"):
        node = int(nodes[row])
        edge, label = int(tree.contact[node]), int(objects.object_of[table.regions[tree.order[tree.low[node]]]])
        sides = [range(tree.low[child], tree.high[child]) for child in (one[row], other[row])]
        if label in objects.locked or edge < 0 or any(_is_between(pair, sides, place) for pair in decided):
            continue
        if any(a == b and objects.object_of[a] == label for a, b in objects.confirmed):
            continue
        sure = f"{100 * (1 - tree.level[node]):.0f} %"
        reason = f"Object {label} was joined here of {smaller[row]:,.0f} voxels and more, {sure} sure: two objects?"
        found.append(_doubt_at(objects, "split?", edge, (label, label), float(score[row]), reason))
        if len(found) >= most:
            break
    return found


def _unusual(
    objects: ObjectsUnderEdit,
    table: ContactTable,
    whole: ContactTable,
    labels: NDArray[np.uint32],
    group: NDArray[np.int64],
    most: int,
) -> list[Doubt]:
    """Return the doubts about objects as a whole: too large, of an unusual shape, or with a jump between slices."""
    size = whole.groups.size
    if not len(size):
        return []
    logs = np.log(size)
    shape = np.log(np.maximum(whole.groups.surface, 1.0)) - 2 / 3 * logs
    large, rough = (_deviation(values) for values in (logs, shape))
    reasons: list[tuple[NDArray[np.float64], str]] = [
        (_share(large), "is {:.1f} deviations larger than the others"),
        (_share(rough), "has {:.1f} deviations more surface than others of its size"),
    ]
    chance = np.maximum(reasons[0][0], reasons[1][0])
    right = {int(objects.object_of[a]) for a, b in (*objects.confirmed, *objects.skipped) if a == b}
    found: list[Doubt] = []
    order = np.argsort(group, kind="stable")
    begin = np.searchsorted(group[order], np.arange(len(size) + 1))
    jumps: dict[int, tuple[float, int]] = {}
    for row in np.argsort(-size, kind="stable")[:most].tolist():
        members = table.regions[order[begin[row] : begin[row + 1]]]
        jumps[row] = _jump(objects, members) if len(jumps) < _MOST_JUMPS else (1.0, 0)
    for row, (factor, z) in jumps.items():
        label = int(labels[row])
        if label in objects.locked or label in right:
            continue
        jump = min((factor - 1) / (4 * _JUMP), 1.0) if factor >= _JUMP else 0.0
        score = _MIXED * (1 - _MIXED) * max(float(chance[row]), jump) * float(size[row]) ** 2
        places = order[begin[row] : begin[row + 1]]
        largest = table.regions[places[table.groups.size[places].argmax()]]
        voxel = voxel_of(objects, int(largest))
        if jump > chance[row]:
            text = f"changes its area by a factor of {factor:.1f} between slices {z} and {z + 1}"
            voxel_at = (voxel[0], z, *voxel[2:])
        else:
            which = int(reasons[1][0][row] > reasons[0][0][row])
            text = reasons[which][1].format(max(0.0, float((large, rough)[which][row])))
            voxel_at = voxel
        reason = f"Object {label} {text}: is all of it one object?"
        found.append(Doubt("object?", (voxel, voxel), voxel_at, (label, label), score, reason))
    return found


def _deviation(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far values lie from their median, in (robust) standard deviations."""
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))
    return np.asarray((values - middle) / max(float(spread), 0.1))


def _share(deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how likely an object is mixed: small up to the median, 1 from three deviations on."""
    return np.clip(deviation / 3, 0.02, 1.0)


def _jump(objects: ObjectsUnderEdit, chosen: NDArray[np.int64]) -> tuple[float, int]:
    """Return the largest factor by which an object's area changes between two slices, and the first of the two."""
    statistics = objects.regions.statistics
    chosen = chosen[chosen < len(objects.regions.objects)]
    if statistics is None or not chosen.size:
        return 1.0, 0
    boxes = objects.boxes[chosen]
    low, high = int(boxes[:, 1].min()), int(boxes[:, 2].max())
    area = np.zeros(high - low)
    for region, box in zip(chosen, boxes, strict=True):
        begin = statistics.first[region]
        there = statistics.areas[begin : statistics.first[region + 1]]
        area[box[1] - low : box[1] - low + len(there)] += there
    if len(area) < 2:
        return 1.0, low
    one, other = area[:-1], area[1:]
    factor = np.maximum(one, other) / np.maximum(np.minimum(one, other), 1.0)
    factor[np.maximum(one, other) < _LEAST_AREA] = 1.0
    place = int(factor.argmax())
    return float(factor[place]), low + place


def _strength_in_words(regions: Regions, table: ContactTable, link: int) -> str:
    links = table.links
    if regions.options.method == "cells":
        return f"a boundary of {links.strength[link] / links.contacts[link] / 65535:.2f}"
    lower = table.groups.peak[links.ends[link]].min()
    neck = 1 - links.saddle[link] / lower if lower > 0 else 1.0
    return f"a neck of {min(max(neck, 0.0), 1.0):.2f}"


def _continuation(table: ContactTable, link: int) -> str:
    """Return that one object begins where the other one ends, if much of the smaller one's surface is this contact."""
    links = table.links
    ends = links.ends[link]
    small = ends[table.groups.size[ends].argmin()]
    share = links.across[link] / max(table.groups.surface[small], 1.0)
    if share <= _CONTINUES:
        return ""
    return f", and {100 * share:.0f} % of the smaller one's surface lies on the other in the next slice"


def _doubt_at(
    objects: ObjectsUnderEdit, kind: DoubtKind, edge: int, pair: tuple[int, int], score: float, reason: str
) -> Doubt:
    ends = objects.edge_ends[edge]
    center = _voxel(objects.regions, int(objects.regions.known_graph.edges.where[edge]) // 3)
    return Doubt(kind, (voxel_of(objects, int(ends[0])), voxel_of(objects, int(ends[1]))), center, pair, score, reason)


def parts_of_cut(objects: ObjectsUnderEdit) -> dict[int, list[int]]:
    """Return the parts of each region that was cut, also those of parts."""
    found: dict[int, list[int]] = {}
    for part in objects.cut_from:
        source = part
        while source in objects.cut_from:
            source = objects.cut_from[source]
            found.setdefault(source, []).append(part)
    return found


def _is_between(pair: tuple[int, int], sides: list[range], place: NDArray[np.int64]) -> bool:
    places = [int(place[region]) for region in pair]
    return any(places[n] in sides[0] and places[1 - n] in sides[1] for n in (0, 1))


def voxel_of(objects: ObjectsUnderEdit, region: int) -> Voxel:
    """Return a voxel of a region: of the graph its highest point or the first one, of a part a seed."""
    if region in objects.voxel_in_part:
        return objects.voxel_in_part[region]
    graph = objects.regions.known_graph
    nodes = graph.nodes
    flat = nodes.first if objects.regions.options.method == "components" else nodes.top
    return _voxel(objects.regions, int(flat[region - 1]))


def _voxel(regions: Regions, flat: int) -> Voxel:
    _, depth, rows, columns = regions.shape
    z, y, x = (int(place) for place in np.unravel_index(flat, (regions.shape[0] * depth, rows, columns)))
    return z // depth, z % depth, y, x
