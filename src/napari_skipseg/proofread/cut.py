"""Cuts between sets of voxels: on a graph of regions along its strongest contacts, and inside one region."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.objects.block_regions import VoxelSpacing
from napari_skipseg.objects.elevation import NEVER
from napari_skipseg.objects.options import FARTHEST_SEEDS
from napari_skipseg.objects.watershed import WatershedWindow, climb_to_maxima, region_contacts
from napari_skipseg.scores.distances import distance_to_edge
from napari_skipseg.scores.table import compiled

_SMOOTH = 1.0
"""Sigma that takes the noise out of a probability before a watershed, in voxels of X."""

CutSeeds = Sequence[NDArray[np.int64]]
"""The voxels (z, y, x) of each side, an array (n, 3) each."""


def cut_graph(
    count: int, ends: NDArray[np.int64], strengths: NDArray[np.float64], sides: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the side of each of `count` nodes: the one that it joins first if the weakest contacts are joined first.

    Two groups that hold seeds of different sides are never joined, so the cut runs along the strongest contacts
    between them (a minimum spanning forest from the seeds). ends: of each contact, (n, 2). sides: of each node, -1 if
    it is no seed. Nodes that no seed reaches go to side 0.
    """
    found = sides.copy()
    order = np.lexsort((ends[:, 1], ends[:, 0], strengths))
    _cut(order, ends, found, np.arange(count))
    return np.maximum(found, 0)


@compiled
def _cut(
    order: NDArray[np.int64], ends: NDArray[np.int64], sides: NDArray[np.int64], parent: NDArray[np.int64]
) -> None:
    for edge in order:
        one, other = ends[edge, 0], ends[edge, 1]
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        while parent[other] != other:
            parent[other] = parent[parent[other]]
            other = parent[other]
        if one == other or (sides[one] >= 0 and sides[other] >= 0 and sides[one] != sides[other]):
            continue
        parent[other] = one
        sides[one] = max(sides[one], sides[other])
    for node in range(parent.size):
        root = node
        while parent[root] != root:
            root = parent[root]
        sides[node] = sides[root]


def cut_region(
    mask: NDArray[np.bool_], seeds: CutSeeds, spacing: VoxelSpacing, are_linked: bool = True
) -> NDArray[np.int8]:
    """Return the side of each voxel of a region, -1 outside: watershed of the distance to its edge, from the seeds.

    Where one basin holds seeds of two sides, a voxel goes to the nearest seed in it. spacing: (z, y, x).
    """
    padded = np.pad(mask, 1)  # so that the edge of the box counts as the edge of the region
    height = distance_to_edge(padded, spacing, FARTHEST_SEEDS)[1:-1, 1:-1, 1:-1]
    height = np.where(mask, height, NEVER)
    window = WatershedWindow((0, 0, 0), _triple(mask.shape), _triple(mask.shape), mask.shape[0], are_linked)
    basins, _ = climb_to_maxima(height, np.zeros(3, np.int64), window)
    edges = region_contacts(basins, height, np.zeros(mask.shape, np.uint16), window)
    ends = np.stack([edges.one, edges.other], axis=1).astype(np.int64) - 1
    count = int(basins.max(initial=0))
    sides, disputed = np.full(count, -1), np.zeros(count, np.bool_)
    for side, voxels in enumerate(seeds):
        places = basins[tuple(voxels.T)].astype(np.int64) - 1
        disputed[places[(sides[places] >= 0) & (sides[places] != side)]] = True
        sides[places] = side
    # A disputed basin grows for no side. Its voxels are shared out below.
    fixed = np.where(disputed, -1, sides)
    if disputed.any() and not (fixed >= 0).any():
        return _nearest(mask, seeds, spacing)
    usable = ~(disputed[ends[:, 0]] | disputed[ends[:, 1]])
    found = cut_graph(count, ends[usable], -edges.saddle[usable].astype(np.float64), fixed)
    near = _nearest(mask, seeds, spacing) if disputed.any() else None
    unreached = _unreached(count, ends[usable], fixed)
    result = np.where(mask, found[basins.astype(np.int64) - 1], -1).astype(np.int8)
    if near is not None:
        shared = (disputed | unreached)[basins.astype(np.int64) - 1] & mask
        result[shared] = near[shared]
    return result


def cut_by_probability(
    mask: NDArray[np.bool_], seeds: CutSeeds, wall: NDArray[np.float32], spacing: VoxelSpacing
) -> NDArray[np.int8]:
    """Return the side of each voxel of a region, -1 outside: watershed of the smoothed wall between cells, from seeds.

    wall: probability of a boundary, or 1 - that of the object; shape of the mask. Inside a basin it is weak, but it
    still shows where two cells meet: on the largest mixed basins of FIB-25 this leaves 0.4 to 0.96 times the wrong
    voxels of `cut_region`. spacing: (z, y, x), z is 0 for slices on their own.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.segmentation import watershed  # 0.3 seconds, which no other edit needs

    sigmas = [_SMOOTH / side if side else 0.0 for side in spacing]
    markers = np.zeros(mask.shape, np.int32)
    for side, voxels in enumerate(seeds, start=1):
        markers[tuple(voxels.T)] = side
    found = np.asarray(watershed(gaussian_filter(wall, sigmas), markers, mask=mask), np.int64) - 1
    if ((found < 0) & mask).any():
        found = np.where(found < 0, _nearest(mask, seeds, spacing), found)
    return found.astype(np.int8)


def _unreached(count: int, ends: NDArray[np.int64], sides: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the nodes that are linked with no seed."""
    same = np.where(sides >= 0, 0, -1)
    _cut(np.arange(len(ends)), ends, same, np.arange(count))
    return np.asarray(same < 0)


def _nearest(mask: NDArray[np.bool_], seeds: CutSeeds, spacing: VoxelSpacing) -> NDArray[np.int8]:
    """Return the side of the nearest seed at each voxel of a mask, -1 outside."""
    found = np.full(mask.shape, -1, np.int8)
    places = np.concatenate(list(seeds)).astype(np.float64) * np.array(spacing)
    sides = np.repeat(np.arange(len(seeds)), [len(each) for each in seeds])
    _assign(mask, places, sides, np.array(spacing, np.float64), found)
    return found


@compiled
def _assign(
    mask: NDArray[np.bool_],
    places: NDArray[np.float64],
    sides: NDArray[np.int64],
    spacing: NDArray[np.float64],
    found: NDArray[np.int8],
) -> None:
    depth, rows, columns = mask.shape
    for z in range(depth):
        for y in range(rows):
            for x in range(columns):
                if not mask[z, y, x]:
                    continue
                best = np.inf
                for seed in range(len(sides)):
                    deep, high = places[seed, 0] - z * spacing[0], places[seed, 1] - y * spacing[1]
                    wide = places[seed, 2] - x * spacing[2]
                    apart = deep * deep + high * high + wide * wide
                    if apart < best:
                        best = apart
                        found[z, y, x] = sides[seed]


def sides_of_line(
    plane: NDArray[np.bool_], line: NDArray[np.float64], farthest: float = 40.0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pixels of an object on the left and on the right of a line through it, arrays (n, 2) of (y, x).

    plane: where the object is in the slice of the line. line: its points (y, x), (n, 2). From each point of the line
    inside the object the pixel halfway to the object's edge, at most `farthest` away, is taken on both sides.
    """
    found: tuple[list[tuple[int, int]], list[tuple[int, int]]] = [], []
    rows, columns = plane.shape
    for start, end in pairwise(line):
        step = end - start
        length = float(np.hypot(*step))
        if length == 0:
            continue
        normal = np.array([step[1], -step[0]]) / length
        for part in np.arange(0.0, length, 1.0):
            at = start + step * part / length
            for places, sign in zip(found, (1.0, -1.0), strict=True):
                reach = 0
                while reach < farthest:
                    y, x = np.round(at + sign * normal * (reach + 1)).astype(int)
                    if not (0 <= y < rows and 0 <= x < columns and plane[y, x]):
                        break
                    reach += 1
                middle = np.round(at + sign * normal * max(1, (reach + 1) // 2)).astype(int)
                if reach:
                    places.append((int(middle[0]), int(middle[1])))
    left, right = (np.array(places, np.int64).reshape(-1, 2) for places in found)
    return left, right


def _triple(shape: Sequence[int]) -> tuple[int, int, int]:
    z, y, x = shape
    return z, y, x
