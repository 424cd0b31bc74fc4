"""Learn from edits: contacts that were judged, a classifier of them, and what it would change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.agglomerate import MergeTree, agglomerate, cut_tree
from napari_skipseg.objects.contact_features import ContactTable, GroupSums, Links, features_of
from napari_skipseg.objects.contact_file import FEATURES, ContactClassifier
from napari_skipseg.proofread.classifier import fit_classifier, rule_of
from napari_skipseg.proofread.contacts import contact_table
from napari_skipseg.proofread.edits import Confirm, EditRefusedError, Grow, Merge, Reweigh, Split
from napari_skipseg.proofread.state import Change, ObjectsUnderEdit

LEAST_DECISIONS = 3
"""Decisions of each kind, "same" and "different", that a classifier needs."""

_SAME, _DIFFERENT = 1, -1
_NO_CONTACTS = "These objects have no contacts to learn from: find cells, or use the method watershed."


@dataclass(eq=False)
class JudgedContacts:
    """What edits say about contacts: features, whether the two sides are different, and what each counts.

    verdict: of each link of the table, 1 = same, -1 = different, 0 = nobody judged. same, different: decisions.
    """

    verdict: NDArray[np.int8]
    features: list[NDArray[np.float64]] = field(default_factory=list)
    is_different: list[bool] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    same: int = 0
    different: int = 0


def judged_contacts(objects: ObjectsUnderEdit, table: ContactTable) -> JudgedContacts:
    """Return what merges, splits, confirmations and locks say, the last edit first: if two differ, the later counts."""
    reader = _Reader(objects, table)
    owner = objects.object_of[: objects.region_count + 1].copy()
    confirmed = objects.confirmed
    for label in sorted(objects.locked):
        reader.add_whole(owner == label)
    for change in reversed(objects.changes):
        if isinstance(change.edit, Merge):
            for label in np.unique(change.before).tolist():
                moved = change.regions[change.before == label]
                rest = np.flatnonzero(owner == owner[moved[0]])
                reader.add_pair(moved, np.setdiff1d(rest, change.regions), is_different=False)
        elif isinstance(change.edit, Split):
            sides = [np.flatnonzero(owner == label) for label in change.objects]
            for one_side, other_side in combinations(sides, 2):
                reader.add_pair(one_side, other_side, is_different=True)
        elif isinstance(change.edit, Confirm):
            one, other = confirmed[-1]
            if one == other:
                reader.add_whole(owner == owner[one])
            elif owner[one] == owner[other]:
                reader.add_pair(np.array([one]), np.array([other]), is_different=False)
            else:
                here, there = (np.flatnonzero(owner == owner[region]) for region in (one, other))
                reader.add_pair(here, there, is_different=True)
        elif isinstance(change.edit, Grow):
            reader.add_whole(owner == owner[change.regions[0]], with_neighbours=False)
        owner[change.regions] = change.before
        owner[change.region_count + 1 :] = 0
        confirmed = change.confirmed
    return reader.judged


class _Reader:
    """Collects judged contacts."""

    def __init__(self, objects: ObjectsUnderEdit, table: ContactTable) -> None:
        self._objects, self._table = objects, table
        ends = table.links.ends
        self.judged = JudgedContacts(np.zeros(len(ends), np.int8))
        self._place = np.full(objects.region_count + 1, -1)
        self._place[table.regions] = np.arange(len(table.regions))
        self._order = np.argsort(ends.reshape(-1), kind="stable")
        self._begin = np.searchsorted(ends.reshape(-1)[self._order], np.arange(len(table.regions) + 1))
        self._side = np.zeros(len(table.regions), np.int8)

    def _links_of(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        lengths = self._begin[places + 1] - self._begin[places]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return np.unique(self._order[np.repeat(self._begin[places], lengths) + within] // 2)

    def _places(self, regions: NDArray[np.int64]) -> NDArray[np.int64]:
        found = self._place[regions]
        return found[found >= 0]

    def add_pair(self, one: NDArray[np.int64], other: NDArray[np.int64], is_different: bool) -> None:
        """Add a decision between two groups of regions, unless a later edit decided otherwise."""
        sides = [self._places(one), self._places(other)]
        if not all(side.size for side in sides):
            return
        owners = {int(self._objects.object_of[self._table.regions[self._largest(side)]]) for side in sides}
        if (len(owners) == 1) == is_different:
            return
        small, large = sorted(sides, key=len)
        self._side[small], self._side[large] = 1, 2
        links = self._links_of(small)
        ends = self._side[self._table.links.ends[links]]
        between = links[ends.sum(axis=1) == 3]
        if between.size:
            row = _row_of_pair(self._table, (small, large), between, self._links_of)
            self._append(row, is_different, 1.0)
            self._judge(between, is_different)
            self.judged.same += not is_different
            self.judged.different += is_different
        self._side[small] = self._side[large] = 0

    def add_whole(self, mask: NDArray[np.bool_], with_neighbours: bool = True) -> None:
        """Add that an object is right: its inner contacts are "same", those with others are "different"."""
        places = self._places(np.flatnonzero(mask))
        if not places.size:
            return
        self._side[places] = 1
        links = self._links_of(places)
        inner = self._side[self._table.links.ends[links]].all(axis=1)
        self._side[places] = 0
        for chosen, is_different in ((links[inner], False), (links[~inner], True)):
            if chosen.size and (with_neighbours or not is_different):
                self._judge(chosen, is_different)
                self.judged.same += not is_different
                self.judged.different += is_different

    def _judge(self, links: NDArray[np.int64], is_different: bool) -> None:
        fresh = links[self.judged.verdict[links] == 0]
        self.judged.verdict[fresh] = _DIFFERENT if is_different else _SAME
        if fresh.size:
            rows = features_of(self._table.groups, Links(*(column[fresh] for column in self._table.links)))
            for row in rows:
                self._append(row, is_different, 1.0 / fresh.size)

    def _append(self, row: NDArray[np.float64], is_different: bool, cost: float) -> None:
        self.judged.features.append(row)
        self.judged.is_different.append(is_different)
        self.judged.cost.append(cost)

    def _largest(self, places: NDArray[np.int64]) -> int:
        return int(places[self._table.groups.size[places].argmax()])


def _row_of_pair(
    table: ContactTable,
    sides: tuple[NDArray[np.int64], NDArray[np.int64]],
    between: NDArray[np.int64],
    links_of: Callable[[NDArray[np.int64]], NDArray[np.int64]],
) -> NDArray[np.float64]:
    """Return the features of the contact of two groups of places."""
    sums = []
    links = table.links
    for side in sides:
        own = links_of(side)
        inner = np.isin(links.ends[own], side).all(axis=1)
        surface = table.groups.surface[side].sum() - 2 * links.contacts[own[inner]].sum()
        sums.append((table.groups.size[side].sum(), table.groups.inside[side].sum(), surface,
                     table.groups.peak[side].max()))  # fmt: skip
    groups = GroupSums(*(np.array(column, np.float64) for column in zip(*sums, strict=True)))
    joined = [column[between].sum(axis=0, keepdims=True) for column in links[1:]]
    joined[2] = links.saddle[between].max(keepdims=True)
    return np.asarray(features_of(groups, Links(np.array([[0, 1]]), *joined))[0])


def learn(objects: ObjectsUnderEdit) -> ContactClassifier:
    """Return the classifier of contacts that the edits teach.

    Raises:
        EditRefusedError: there are no contacts, or too few decisions of one kind.
    """
    if objects.regions.graph is None or objects.regions.statistics is None:
        raise EditRefusedError(_NO_CONTACTS)
    table = contact_table(objects)
    if not len(table.links.ends):
        raise EditRefusedError(_NO_CONTACTS)
    judged = judged_contacts(objects, table)
    missing = []
    if judged.same < LEAST_DECISIONS:
        missing.append(f"{LEAST_DECISIONS - judged.same} more merges (or places confirmed as one object)")
    if judged.different < LEAST_DECISIONS:
        missing.append(f"{LEAST_DECISIONS - judged.different} more splits (or places confirmed as two objects)")
    if missing:
        raise EditRefusedError(
            f"To learn from, there are {judged.same} decisions for one object and {judged.different} for two: it needs "
            f"{' and '.join(missing)}."
        )
    features, is_different = np.array(judged.features), np.array(judged.is_different)
    fitted = fit_classifier(features, is_different, objects.regions.options, np.array(judged.cost))
    return replace(fitted, learned_from={"same": judged.same, "different": judged.different})


def learned_tree(objects: ObjectsUnderEdit, classifier: ContactClassifier) -> tuple[ContactTable, MergeTree]:
    """Return the hierarchy that a classifier gives of all regions but those of locked objects.

    What was merged or confirmed as one stays together, what was split or confirmed as two stays apart.

    Raises:
        EditRefusedError: there are no contacts, or the classifier knows other features.
    """
    if objects.regions.graph is None or objects.regions.statistics is None:
        raise EditRefusedError(_NO_CONTACTS)
    if len(classifier.weights) != len(FEATURES) or not np.isfinite(classifier.weights).all():
        raise EditRefusedError("This classifier of contacts has other features: learn again from these edits.")
    table = contact_table(objects)
    judged = judged_contacts(objects, table)
    place = np.full(objects.region_count + 1, -1)
    place[table.regions] = np.arange(len(table.regions))
    owner = objects.object_of
    ends = table.links.ends
    owners = owner[table.regions[ends]]
    apart = ends[(judged.verdict == _DIFFERENT) & (owners[:, 0] != owners[:, 1])]
    pairs = [(one, other) for one, other in (*_linked(objects.changes), *objects.confirmed) if one != other]
    parts = _parts(objects)
    pairs += chain.from_iterable(combinations(each, 2) for each in parts.values())
    regions = np.array(pairs, np.int64).reshape(-1, 2)
    places = place[regions]
    known = (places >= 0).all(axis=1)
    regions, places = regions[known], places[known]
    are_one = owner[regions[:, 0]] == owner[regions[:, 1]]
    locked = np.isin(owner[table.regions], list(objects.locked))
    inner = ends[locked[ends].all(axis=1) & (owners[:, 0] == owners[:, 1])]
    outer = ends[locked[ends].any(axis=1) & (owners[:, 0] != owners[:, 1])]
    forced = np.concatenate([places[are_one], inner])
    tree = agglomerate(table, classifier, forced, np.concatenate([places[~are_one], apart, outer]))
    return table, tree


def _linked(changes: Iterable[Change]) -> list[tuple[int, int]]:
    return [(change.linked[0], other) for change in changes for other in change.linked[1:]]


def reweighed(objects: ObjectsUnderEdit, classifier: ContactClassifier) -> NDArray[np.uint32]:
    """Return the object of each region, from region 0 on, as a classifier decides what nobody judged.

    The largest part of an object keeps its number; numbers behind `objects.next_object` are new.

    Raises:
        EditRefusedError: as `learned_tree`.
    """
    table, tree = learned_tree(objects, classifier)
    group = np.unique(cut_tree(tree), return_inverse=True)[1]
    found = objects.object_of[: objects.region_count + 1].copy()
    old = found[table.regions].astype(np.int64)
    # each group takes the number of the object that it has most of, if no group has more of it
    pairs, of_pair = np.unique(group << 32 | old, return_inverse=True)
    voxels = np.bincount(of_pair, table.groups.size)
    labels = np.zeros(int(group.max(initial=-1)) + 1, np.int64)
    taken: set[int] = set()
    for row in np.lexsort((pairs, -voxels)):
        number, label = int(pairs[row] >> 32), int(pairs[row] & 0xFFFFFFFF)
        if not labels[number] and label not in taken:
            labels[number] = label
            taken.add(label)
    fresh = np.flatnonzero(labels == 0)
    labels[fresh] = objects.next_object + np.arange(len(fresh))
    new = labels[group]
    # what was painted has no contacts: it stays with the largest region of its object
    largest: dict[int, int] = {}
    for row in np.argsort(table.groups.size, kind="stable"):
        largest[int(old[row])] = int(new[row])
    painted = np.setdiff1d(np.flatnonzero(found), table.regions)
    found[table.regions] = new
    if painted.size:
        before = found[painted]
        found[painted] = [largest.get(int(label), int(label)) for label in before]
    return found


def classifier_in_use(objects: ObjectsUnderEdit) -> ContactClassifier:
    """Return the classifier that was accepted last, or else the rule by which the objects were found."""
    for change in reversed(objects.changes):
        if isinstance(change.edit, Reweigh):
            return ContactClassifier(change.edit.weights)
    return ContactClassifier(tuple(rule_of(objects.regions.options)))


def cut_by_contacts(
    objects: ObjectsUnderEdit, regions: NDArray[np.int64], sides: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the side of each region of an object: the surest contacts are merged first, never two different sides.

    sides: of each region, -1 if it is no seed. What no seed reaches goes to side 0. A contact of groups has the mean of
    all contacts in it, so one weak contact does not let a side grow along it, as it would in a spanning forest.
    """
    table = contact_table(objects, regions)
    seeds = np.flatnonzero(sides >= 0)
    order = seeds[np.argsort(sides[seeds], kind="stable")]
    is_same = np.diff(sides[order]) == 0
    chain_of = np.stack([order[:-1], order[1:]], axis=1)[is_same]
    first = order[np.flatnonzero(np.diff(sides[order], prepend=-1))]
    pairs = np.array(list(combinations(first.tolist(), 2)), np.int64).reshape(-1, 2)
    siblings = [pair for each in _parts(objects).values() for pair in combinations(each, 2)]
    place = np.full(objects.region_count + 1, -1)
    place[regions] = np.arange(len(regions))
    together = place[np.array(siblings, np.int64).reshape(-1, 2)]
    together = together[(together >= 0).all(axis=1)]
    clash = (sides[together] >= 0).all(axis=1) & (sides[together[:, 0]] != sides[together[:, 1]])
    tree = agglomerate(table, classifier_in_use(objects), np.concatenate([chain_of, together[~clash]]), pairs)
    group = cut_tree(tree, 1.5)
    side_of = dict(zip(group[seeds].tolist(), sides[seeds].tolist(), strict=True))
    return np.array([side_of.get(int(each), 0) for each in group], np.int64)


def _parts(objects: ObjectsUnderEdit) -> dict[int, list[int]]:
    """Return the parts of each region that was cut."""
    parts: dict[int, list[int]] = {}
    for part, source in objects.cut_from.items():
        parts.setdefault(source, []).append(part)
    return parts


@dataclass(frozen=True)
class LearnedChanges:
    """What accepting a classifier would change. merged: objects that become part of others. split: new objects."""

    classifier: ContactClassifier
    merged: int
    split: int
    object_of: NDArray[np.uint32]


def preview_learned(objects: ObjectsUnderEdit, classifier: ContactClassifier) -> LearnedChanges:
    """Return what a classifier would change.

    Raises:
        EditRefusedError: as `learned_tree`.
    """
    new = reweighed(objects, classifier)
    old = objects.object_of[: objects.region_count + 1]
    present = new > 0
    pairs = np.unique(old[present].astype(np.int64) << 32 | new[present])
    into = np.bincount(np.unique(pairs & 0xFFFFFFFF, return_inverse=True)[1])
    out = np.bincount(np.unique(pairs >> 32, return_inverse=True)[1])
    return LearnedChanges(classifier, int((into - 1).sum()), int((out - 1).sum()), new)
