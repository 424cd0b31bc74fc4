"""The contacts of objects under edit, and of groups of their regions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.contact_features import ContactTable, GroupSums, Links, RegionSums, table_of_contacts
from napari_skipseg.proofread.state import ObjectsUnderEdit


def contact_table(objects: ObjectsUnderEdit, among: NDArray[np.int64] | None = None) -> ContactTable:
    """Return the contacts between regions that belong to objects, as they are now. among: only these regions.

    Raises:
        ValueError: there is no graph of contacts.
    """
    regions, statistics = objects.regions, objects.regions.statistics
    if statistics is None:
        raise ValueError("connected components have no contacts")
    count = objects.region_count + 1
    sizes = objects.sizes[:count]
    known = len(regions.objects)
    inside, peak = np.zeros(count), np.zeros(count)
    inside[:known] = statistics.inside
    peak[1:known] = regions.known_graph.nodes.peak
    whole = regions.known_graph.nodes.size
    for part in objects.cut_from:  # a part has its share of the sums of its region
        source = part
        while source in objects.cut_from:
            source = objects.cut_from[source]
        if source < known:
            inside[part] = statistics.inside[source] * sizes[part] / max(1, whole[source - 1])
            peak[part] = peak[source]
    return table_of_contacts(
        regions=np.flatnonzero((objects.object_of[:count] > 0) & (sizes > 0)) if among is None else among,
        sums=RegionSums(sizes, inside, peak),
        ends=objects.edge_ends,
        edges=regions.known_graph.edges,
        statistics=statistics,
    )


def with_links(table: ContactTable, rows: NDArray[np.int64]) -> ContactTable:
    """Return the table with some of its contacts."""
    ends, contacts, strength, saddle, across, histogram = table.links
    links = Links(ends[rows], contacts[rows], strength[rows], saddle[rows], across[rows], histogram[rows])
    return ContactTable(table.regions, table.groups, links, table.edge[rows])


def grouped(table: ContactTable, group: NDArray[np.int64], count: int) -> ContactTable:
    """Return the contacts of groups of places. group: of each place, 0 to count - 1; `regions` are the groups."""
    ends = np.sort(group[table.links.ends], axis=1)
    inner = ends[:, 0] == ends[:, 1]
    surface = np.bincount(group, table.groups.surface, count)
    surface -= 2 * np.bincount(ends[inner, 0], table.links.contacts[inner], count)
    peak = np.full(count, -np.inf)
    np.maximum.at(peak, group, table.groups.peak)
    size = np.bincount(group, table.groups.size, count).astype(np.float64)
    inside = np.bincount(group, table.groups.inside, count).astype(np.float64)
    groups = GroupSums(size, inside, surface.astype(np.float64), peak)
    rows = np.flatnonzero(~inner)
    order = np.lexsort((table.edge[rows], -table.links.saddle[rows], ends[rows, 1], ends[rows, 0]))
    rows = rows[order]
    key = ends[rows, 0] << 32 | ends[rows, 1]
    begins = np.flatnonzero(np.diff(key, prepend=-1))
    columns = [np.add.reduceat(column[rows], begins, axis=0) if len(begins) else column[rows]
               for column in table.links[1:]]  # fmt: skip
    columns[2] = table.links.saddle[rows[begins]]
    links = Links(np.stack([key[begins] >> 32, key[begins] & 0xFFFFFFFF], axis=1), *columns)
    return ContactTable(np.arange(count), groups, links, table.edge[rows[begins]])
