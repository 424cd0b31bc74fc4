"""What a classifier knows of contacts: features of the contact of any two groups of regions, from sums over voxels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.contact_file import ContactClassifier
from napari_skipseg.objects.contact_statistics import BINS, ContactStatistics
from napari_skipseg.objects.watershed import FULL, Edges
from napari_skipseg.scores.table import compiled


class GroupSums(NamedTuple):
    """Sums over groups of regions. size: voxels. inside: sum of the probability, 65535 = 1. surface: pairs of voxels at
    all contacts with others. peak: the largest height."""

    size: NDArray[np.float64]
    inside: NDArray[np.float64]
    surface: NDArray[np.float64]
    peak: NDArray[np.float64]


class Links(NamedTuple):
    """Sums over contacts of two groups; ends: (n, 2). The rest as in `Edges` and `ContactStatistics`."""

    ends: NDArray[np.int64]
    contacts: NDArray[np.float64]
    strength: NDArray[np.float64]
    saddle: NDArray[np.float64]
    across: NDArray[np.float64]
    histogram: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ContactTable:
    """All contacts of the regions of objects under edit as they are now.

    regions: of the groups, in their order. links: contacts between places in `regions`; one for each pair. edge: a
    contact of the graph of each link, the one with the highest pass.
    """

    regions: NDArray[np.int64]
    groups: GroupSums
    links: Links
    edge: NDArray[np.int64]


class RegionSums(NamedTuple):
    """Voxels, sum of the probability and largest height of each region, from region 0 on."""

    size: NDArray[Any]
    inside: NDArray[Any]
    peak: NDArray[Any]


def table_of_contacts(
    *,
    regions: NDArray[np.int64],
    sums: RegionSums,
    ends: NDArray[np.int64],
    edges: Edges,
    statistics: ContactStatistics,
) -> ContactTable:
    """Return the contacts among some regions. ends: (contacts, 2), the regions that each edge is between now.

    The surface of a region counts its contacts with all regions, those that are not in the table too.
    """
    count = len(sums.size)
    place = np.full(count, -1)
    place[regions] = np.arange(len(regions))
    contacts = edges.contacts.astype(np.float64)
    surface = np.bincount(ends[:, 0], contacts, count) + np.bincount(ends[:, 1], contacts, count)
    rows = np.flatnonzero((place[ends] >= 0).all(axis=1) & (ends[:, 0] != ends[:, 1]))
    low, high = np.sort(place[ends[rows]], axis=1).T
    order = np.lexsort((edges.where[rows], -edges.saddle[rows], high, low))
    rows, key = rows[order], (low << 32 | high)[order]
    begins = np.flatnonzero(np.diff(key, prepend=-1))
    first = rows[begins]

    def added(values: NDArray[Any]) -> NDArray[np.float64]:
        values = values[rows].astype(np.float64)
        return np.add.reduceat(values, begins, axis=0) if len(begins) else values

    links = Links(
        np.stack([key[begins] >> 32, key[begins] & 0xFFFFFFFF], axis=1),
        added(edges.contacts),
        added(edges.strength),
        edges.saddle[first].astype(np.float64),
        added(statistics.across),
        added(statistics.histogram),
    )
    size, inside, peak = (column[regions].astype(np.float64) for column in sums)
    groups = GroupSums(size, inside, surface[regions].astype(np.float64), peak)
    return ContactTable(regions, groups, links, first)


@compiled
def feature_row(groups: GroupSums, links: Links, link: int, row: NDArray[np.float64]) -> None:
    """Write the features of a contact into `row`."""
    one, other = links.ends[link, 0], links.ends[link, 1]
    if groups.size[one] > groups.size[other]:
        one, other = other, one
    count = max(links.contacts[link], 1.0)
    small, large = max(groups.size[one], 1.0), max(groups.size[other], 1.0)
    mean = links.strength[link] / count / FULL
    share = min(count / max(groups.surface[one], 1.0), 1.0)
    lower = min(groups.peak[one], groups.peak[other])
    low, high = groups.inside[one] / small / FULL, groups.inside[other] / large / FULL
    row[0] = 4.0 * mean
    place, below = 1, 0.0
    for part in (0.1, 0.5, 0.9):
        wanted = part * count
        below = 0.0
        for bar in range(BINS):
            there = links.histogram[link, bar]
            if below + there >= wanted and there > 0:
                row[place] = 3.0 * (bar + (wanted - below) / there) / BINS
                break
            below += there
        place += 1
    row[4] = 0.6 * (np.log(count) - 4.0)
    row[5] = 0.5 * (np.log(small) - 7.0)
    row[6] = 0.5 * (np.log(large) - 9.0)
    row[7] = min(2.0 * count / small ** (2.0 / 3.0), 4.0)
    row[8] = 4.0 * share
    row[9] = 3.0 * (1.0 - min(max(links.saddle[link] / lower, 0.0), 1.0)) if lower > 0 else 3.0
    row[10], row[11] = 8.0 * min(low, high), 8.0 * max(low, high)
    row[12] = 3.0 * links.across[link] / count
    row[13] = 4.0 * mean * mean
    row[14] = 8.0 * mean * share
    row[15] = 1.0


@compiled
def features_of(groups: GroupSums, links: Links) -> NDArray[np.float64]:
    """Return the features of all contacts, (n, features)."""
    found = np.zeros((len(links.ends), 16))
    for link in range(len(links.ends)):
        feature_row(groups, links, link, found[link])
    return found


def probabilities(table: ContactTable, classifier: ContactClassifier) -> NDArray[np.float64]:
    """Return of each contact the probability that its two groups are different objects."""
    from scipy.special import expit

    return np.asarray(expit(features_of(table.groups, table.links) @ np.array(classifier.weights)))
