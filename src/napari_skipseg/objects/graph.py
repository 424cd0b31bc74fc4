"""The graph of basins: parts of one basin joined, noise and close seeds joined, neighbours behind weak boundaries too.

Whatever blocks the graph was gathered from, it ends in the same objects: nodes and edges are additive, nodes are put in
the order of their first voxels, and ties are settled by places in the image.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from napari_skipseg.objects.elevation import NEVER
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

        groups: any number for each node, the same for nodes of one group.
        """
        places = _in_order(groups, self.nodes.first)
        return RegionGraph(_join_nodes(self.nodes, places), _join_edges(self.edges, places)), places


class MarkerRules(NamedTuple):
    """What makes maxima one: see `join_maxima`."""

    level: float
    tolerance: float
    distance: float


def join_parts(graph: RegionGraph, pairs: NDArray[np.int64]) -> tuple[RegionGraph, Groups]:
    """Return the graph with the nodes of each pair, an array (n, 2), joined, and each node's place in it."""
    count = len(graph.nodes.size)
    links = coo_array((np.ones(len(pairs), np.bool_), (pairs[:, 0], pairs[:, 1])), (count, count))
    return graph.joined(connected_components(links, directed=False)[1].astype(np.int64))


def join_maxima(
    graph: RegionGraph,
    seeding: MarkerRules,
    spacing: tuple[float, float, float],
    whole: tuple[int, int, int],
    open_: Any = None,
) -> tuple[RegionGraph, Groups]:
    """Return the graph with nodes joined whose maxima are one, and each node's place in it.

    Passes are taken from the highest down. The lower of the two maxima that one joins gives way where it lies below
    `level`, or rises no more than `tolerance` above the pass, or, over a pass inside, lies closer to the other than
    `distance`, in voxels of X. open_: nodes whose edges are not all known yet; what depends on them is left apart.
    """
    nodes, edges = graph
    order = np.lexsort((edges.where, -edges.saddle))
    order = order[edges.saddle[order] > NEVER]
    known = np.ones(len(nodes.size), np.bool_) if open_ is None else ~open_
    tops = np.stack(np.unravel_index(nodes.top, whole), axis=1) * np.array(spacing) if len(nodes.top) else _NO_TOPS
    parent = np.arange(len(nodes.size))
    _join_maxima(order, edges, nodes.peak, nodes.top, tops, known, seeding, parent)
    return graph.joined(parent)


_NO_TOPS = np.empty((0, 3))


@compiled
def _join_maxima(
    order: NDArray[np.int64],
    edges: Edges,
    peak: NDArray[np.float32],
    top: NDArray[np.int64],
    tops: NDArray[np.float64],
    known: NDArray[np.bool_],
    seeding: MarkerRules,
    parent: NDArray[np.int64],
) -> None:
    reach = seeding.distance * seeding.distance
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
        close = saddle >= seeding.level and apart < reach
        if close or peak[low] < seeding.level or peak[low] - saddle <= seeding.tolerance:
            parent[low] = high
    for node in range(parent.size):
        root = node
        while parent[root] != root:
            root = parent[root]
        parent[node] = root


def join_weak(graph: RegionGraph, below: float) -> tuple[RegionGraph, Groups]:
    """Return the graph with neighbours joined, the weakest boundary first, and each node's place in it.

    A boundary's strength is the mean probability over all its contacts, also after its sides have been joined with
    others. It ends where none is weaker than `below`. Joining, in every round, all pairs that are each other's weakest
    gives what joining one at a time does, for a mean never falls below both its parts (Murtagh 1983).
    """
    places = np.arange(len(graph.nodes.size))
    while True:
        edges = graph.edges
        strength = edges.strength / edges.contacts / FULL
        weak = np.flatnonzero(strength < below)
        if not weak.size:
            return graph, places
        best = _weakest(edges.one[weak], edges.other[weak], strength[weak], len(graph.nodes.size))
        graph, step = graph.joined(best)
        places = step[places]


@compiled
def _weakest(
    one: NDArray[np.int64], other: NDArray[np.int64], strength: NDArray[np.float64], count: int
) -> NDArray[np.int64]:
    """Return, for each node, the smaller of it and the node with which it is each other's weakest neighbour."""
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
    """Return one graph of several; their edges must name places in the nodes of all, one after the other."""
    return RegionGraph(join_edges([graph.nodes for graph in graphs]), join_edges([graph.edges for graph in graphs]))


def shift_graph(edges: Edges, before: int) -> Edges:
    """Return edges whose nodes stand behind `before` others."""
    return edges._replace(one=edges.one + before, other=edges.other + before)


def join_edges(parts: list[Rows]) -> Rows:
    """Return the rows of nodes, or of edges, one after the other."""
    return type(parts[0])(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def empty_graph() -> RegionGraph:
    """Return a graph of nothing."""
    whole, heights, marks = np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.bool_)
    return RegionGraph(Nodes(whole, whole, marks, heights, whole, marks), empty_edges())


def empty_edges() -> Edges:
    """Return edges of which there are none."""
    whole = np.empty(0, np.int64)
    return Edges(whole, whole, np.empty(0, np.float32), whole, whole, whole)


def _in_order(groups: Groups, first: NDArray[np.int64]) -> Groups:
    """Return the place of each node's group among all groups, by their first voxels."""
    _, numbers = np.unique(groups, return_inverse=True)
    firsts = np.full(numbers.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(firsts, numbers, first)
    ranks = np.empty(len(firsts), np.int64)
    ranks[np.argsort(firsts, kind="stable")] = np.arange(len(firsts))
    return ranks[numbers]


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
    """Return the edges between groups, in the order of their ends; those inside a group are gone."""
    rows, key = _in_key_order(edges, places)
    if not rows.size:
        return empty_edges()
    begins = np.flatnonzero(np.diff(key, prepend=-1))
    key, tops = key[begins], rows[begins]
    strength = np.add.reduceat(edges.strength[rows], begins)
    contacts = np.add.reduceat(edges.contacts[rows], begins, dtype=np.int64)
    return Edges(key >> 32, key & 0xFFFFFFFF, edges.saddle[tops], edges.where[tops], strength, contacts)


def _in_key_order(edges: Edges, places: Groups) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the edges between groups, by their groups and the highest pass first, and the key of their groups."""
    one, other = places[edges.one], places[edges.other]
    kept = np.flatnonzero(one != other)
    one, other = one[kept], other[kept]
    key = np.minimum(one, other) << 32
    key |= np.maximum(one, other)
    del one, other
    order = np.lexsort((edges.where[kept], -edges.saddle[kept], key))
    return kept[order], key[order]
