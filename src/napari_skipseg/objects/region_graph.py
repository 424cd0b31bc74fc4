"""The graph of regions, and how its nodes are joined into objects: noise, close markers, cells behind weak boundaries.

The objects do not depend on the blocks that the graph comes from: nodes and edges are additive, nodes are sorted by
their first voxels, and ties are broken by places in the image.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.elevation import NEVER
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.watershed import FULL, Edges, Nodes
from napari_skipseg.scores.table import compiled

Groups = NDArray[np.int64]
Rows = TypeVar("Rows", Nodes, Edges)


class RegionGraph(NamedTuple):
    """Nodes, and edges between them; an edge's `one` and `other` are places in the nodes."""

    nodes: Nodes
    edges: Edges

    def joined(self, groups: Groups) -> tuple[RegionGraph, Groups]:
        """Return the graph whose nodes are groups of these, in the order of their first voxels, and each node's place.

        groups: a number for each node, the same for nodes of one group.
        """
        _, numbers = np.unique(groups, return_inverse=True)
        firsts = np.full(numbers.max(initial=-1) + 1, np.iinfo(np.int64).max)
        np.minimum.at(firsts, numbers, self.nodes.first)
        ranks = np.empty(len(firsts), np.int64)
        ranks[np.argsort(firsts, kind="stable")] = np.arange(len(firsts))
        places: Groups = ranks[numbers]
        return RegionGraph(_join_nodes(self.nodes, places), _join_edges(self.edges, places)), places


class MarkerRules(NamedTuple):
    """When two maxima count as one marker: see `join_maxima`."""

    level: float
    tolerance: float
    distance: float


def join_parts(graph: RegionGraph, pairs: NDArray[np.int64]) -> tuple[RegionGraph, Groups]:
    """Return the graph with the nodes of each pair, an array (n, 2), joined, and each node's place in it."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(graph.nodes.size)
    ends = pairs.T.astype(np.int32)  # of 64 bits, scipy 1.11 finds no components and raises no error
    links = coo_array((np.ones(len(pairs), np.bool_), tuple(ends)), (count, count))
    return graph.joined(connected_components(links, directed=False)[1].astype(np.int64))


def join_maxima(
    graph: RegionGraph,
    rules: MarkerRules,
    spacing: tuple[float, float, float],
    whole: tuple[int, int, int],
    is_open: NDArray[np.bool_] | None = None,
) -> tuple[RegionGraph, Groups]:
    """Return the graph with nodes joined whose maxima count as one, and each node's place in it.

    Passes are visited from the highest down. Of the two maxima beside a pass, the lower one joins the higher one if it
    lies below `rules.level`; or if it rises no more than `rules.tolerance` above the pass; or if the pass is inside and
    the two are closer than `rules.distance`, in voxels of X. is_open: nodes whose edges are not all known yet; whatever
    depends on them is not joined.
    """
    nodes, edges = graph
    order = np.lexsort((edges.where, -edges.saddle))
    order = order[edges.saddle[order] > NEVER]
    known = np.ones(len(nodes.size), np.bool_) if is_open is None else ~is_open
    tops = np.empty((0, 3))
    if len(nodes.top):  # unravel_index refuses an empty list
        tops = np.stack(np.unravel_index(nodes.top, whole), axis=1) * np.array(spacing)
    parent = np.arange(len(nodes.size))
    _join_maxima(order, edges, nodes.peak, nodes.top, tops, known, rules, parent)
    return graph.joined(parent)


@compiled
def _join_maxima(
    order: NDArray[np.int64],
    edges: Edges,
    peak: NDArray[np.float32],
    top: NDArray[np.int64],
    tops: NDArray[np.float64],
    known: NDArray[np.bool_],
    rules: MarkerRules,
    parent: NDArray[np.int64],
) -> None:
    limit = rules.distance * rules.distance
    for edge in order:
        low, high = edges.one[edge], edges.other[edge]
        while parent[low] != low:
            parent[low] = parent[parent[low]]
            low = parent[low]
        while parent[high] != high:
            parent[high] = parent[parent[high]]
            high = parent[high]
        if low == high:
            continue
        if peak[low] > peak[high] or (peak[low] == peak[high] and top[low] > top[high]):
            low, high = high, low
        if not known[low]:
            known[high] = False
            continue
        saddle = edges.saddle[edge]
        apart = ((tops[low] - tops[high]) ** 2).sum()
        close = saddle >= rules.level and apart < limit
        if close or peak[low] < rules.level or peak[low] - saddle <= rules.tolerance:
            parent[low] = high
    for node in range(parent.size):
        root = node
        while parent[root] != root:
            root = parent[root]
        parent[node] = root


def join_weak(graph: RegionGraph, below: float) -> tuple[RegionGraph, Groups]:
    """Return the graph with neighbours joined, the weakest boundary first, and each node's place in it.

    A boundary's strength is the mean probability over all its contacts; joined boundaries have the mean over all of
    theirs. It ends when no boundary is weaker than `below`.
    """
    places = np.arange(len(graph.nodes.size))
    while True:
        edges = graph.edges
        strength = edges.strength / edges.contacts / FULL
        weak = np.flatnonzero(strength < below)
        if not weak.size:
            return graph, places
        # Joining all pairs of mutual weakest neighbours in a round gives the same as joining one pair at a time: a mean
        # never falls below both of its parts (Murtagh 1983).
        best = _weakest(edges.one[weak], edges.other[weak], strength[weak], len(graph.nodes.size))
        graph, step = graph.joined(best)
        places = step[places]


@compiled
def _weakest(
    one: NDArray[np.int64], other: NDArray[np.int64], strength: NDArray[np.float64], count: int
) -> NDArray[np.int64]:
    """Return a group for each node: two nodes that are each other's weakest neighbours have the same."""
    best = np.full(count, -1)
    for edge in range(one.size):
        for node in (one[edge], other[edge]):
            if best[node] < 0 or strength[edge] < strength[best[node]]:
                best[node] = edge
    groups = np.arange(count)
    for edge in range(one.size):
        if best[one[edge]] == edge and best[other[edge]] == edge:
            groups[other[edge]] = one[edge]
    return groups


def combine_graphs(graphs: list[RegionGraph]) -> RegionGraph:
    """Return one graph of several, whose edges name places in the nodes of all graphs one after the other."""
    return RegionGraph(join_edges([graph.nodes for graph in graphs]), join_edges([graph.edges for graph in graphs]))


def shift_graph(edges: Edges, before: int) -> Edges:
    """Return edges with `before` added to the places of their nodes."""
    return edges._replace(one=edges.one + before, other=edges.other + before)


def join_edges(parts: list[Rows]) -> Rows:
    """Return the rows of nodes, or of edges, one after the other."""
    return type(parts[0])(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def empty_graph() -> RegionGraph:
    """Return a graph of nothing."""
    whole, heights, marks = np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.bool_)
    return RegionGraph(Nodes(whole, whole, marks, heights, whole, marks), empty_edges())


def empty_edges() -> Edges:
    """Return no edges."""
    whole = np.empty(0, np.int64)
    return Edges(whole, whole, np.empty(0, np.float32), whole, whole, whole)


def _join_nodes(nodes: Nodes, places: Groups) -> Nodes:
    count = int(places.max(initial=-1)) + 1
    size = np.zeros(count, np.int64)
    np.add.at(size, places, nodes.size)
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, places, nodes.first)
    border, hollow = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    border[places[nodes.border]] = True
    hollow[places[nodes.hollow]] = True
    peak = np.full(count, NEVER)
    np.maximum.at(peak, places, nodes.peak)
    top = np.zeros(count, np.int64)
    highest = nodes.peak == peak[places]
    np.maximum.at(top, places[highest], nodes.top[highest])
    return Nodes(size, first, border, peak, top, hollow)


def _join_edges(edges: Edges, places: Groups) -> Edges:
    """Return the edges between groups, sorted by their ends; those inside a group are dropped."""
    one, other = places[edges.one], places[edges.other]
    kept = np.flatnonzero(one != other)
    one, other = one[kept], other[kept]
    key = np.minimum(one, other) << 32
    key |= np.maximum(one, other)
    del one, other  # a large volume has millions of edges
    order = np.lexsort((edges.where[kept], -edges.saddle[kept], key))  # of each pair the highest pass first
    rows, key = kept[order], key[order]
    del kept, order
    begins = np.flatnonzero(np.diff(key, prepend=-1))
    if not len(begins):
        return empty_edges()
    key, tops = key[begins], rows[begins]
    strength = np.add.reduceat(edges.strength[rows], begins)
    contacts = np.add.reduceat(edges.contacts[rows], begins, dtype=np.int64)
    return Edges(key >> 32, key & 0xFFFFFFFF, edges.saddle[tops], edges.where[tops], strength, contacts)


def number_objects(graph: RegionGraph, options: ObjectOptions) -> NDArray[np.uint32]:
    """Return the number of each node's object, 1, 2, … in the order of their first voxels; 0 = no object.

    With `options.fill_holes`, background that touches one object only and no border of the image belongs to that
    object, and counts for its size.
    """
    nodes, edges = graph
    owner = np.where(nodes.hollow, -1, np.arange(len(nodes.size)))
    if options.fill_holes:
        least = np.full(len(owner), np.iinfo(np.int64).max)
        most = np.full(len(owner), -1)
        for hole, solid in ((edges.one, edges.other), (edges.other, edges.one)):
            rows = nodes.hollow[hole] & ~nodes.hollow[solid]
            np.minimum.at(least, hole[rows], solid[rows])
            np.maximum.at(most, hole[rows], solid[rows])
        holes = nodes.hollow & ~nodes.border & (most >= 0) & (least == most)
        owner[holes] = most[holes]
    owned = owner >= 0
    size = np.zeros(len(owner), np.int64)
    np.add.at(size, owner[owned], nodes.size[owned])
    kept = ~nodes.hollow & (size >= options.smallest)
    if options.largest:
        kept &= size <= options.largest
    if options.border == "remove":
        kept &= ~nodes.border
    numbers = np.zeros(len(owner), np.uint32)
    chosen = np.flatnonzero(kept)
    numbers[chosen[np.argsort(nodes.first[chosen], kind="stable")]] = np.arange(1, len(chosen) + 1)
    return np.where(owned, numbers[owner], np.uint32(0)).astype(np.uint32)
