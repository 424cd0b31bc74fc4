"""Neurites that fill a block of tissue, and the walls between them; all lengths in nanometres.

A neurite is a chain of tapered capsules in every section; its nodes and radii change smoothly from section to section.
A point belongs to the neurite with the nearest surface; a wall lies where two surfaces are equally near. The sections
are deformed by a smooth elastic warp, so that no wall is straight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

FloatArray = NDArray[np.float32]
SectionSpacing = tuple[float, float, float]
"""Voxel size (z, y, x)."""

_REACH = 140.0
"""How far beyond its surface a neurite is looked for."""
_MARGIN = 260.0
"""How far beyond the image neurites are grown."""
_SMALLEST = 3600.0
"""Area (nm²) below which a neurite is left out of a section."""


@dataclass(frozen=True)
class Neurite:
    """A chain of nodes. nodes: (Z, K, 2) as (y, x) before the warp; radii: (Z, K)."""

    nodes: FloatArray
    radii: FloatArray


class Tissue(NamedTuple):
    """Sections through neurites.

    cells: (Z, Y, X) int32, the neurite's index. distance: (Z, Y, X), in-plane distance from the nearest wall.
    tilt: (Z, Y, X), sideways shift of the wall per unit of depth. warp: (2, Z, Y, X), (y, x) displacement.
    """

    cells: NDArray[np.int32]
    distance: FloatArray
    tilt: FloatArray
    warp: FloatArray
    neurites: list[Neurite]
    spacing: SectionSpacing


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], scales: tuple[float, ...]) -> FloatArray:
    """Return Gaussian noise of mean 0 and variance 1, smooth over `scales` elements per axis (0: independent)."""
    kernels = [_kernel(length, scale) for length, scale in zip(shape, scales, strict=True)]
    sizes = [n if kernel is None else kernel.shape[1] for n, kernel in zip(shape, kernels, strict=True)]
    field = rng.standard_normal(sizes, dtype=np.float32)
    for axis, kernel in enumerate(kernels):
        if kernel is not None:
            moved = np.moveaxis(field, axis, 0)
            smooth = kernel @ moved.reshape(len(moved), -1)
            field = np.moveaxis(smooth.reshape(-1, *moved.shape[1:]), 0, axis)
    return np.ascontiguousarray(field)


def _kernel(length: int, scale: float) -> Any:
    """Return (length, knots) sparse weights of unit norm per row: Gaussians on knots that reach beyond both ends."""
    if scale <= 0:
        return None
    step = max(1.0, scale)
    knots = np.arange(-3 * scale, length + 3 * scale + step, step)
    away = (np.arange(length)[:, None] - knots) / scale
    weights = np.where(np.abs(away) < 3, np.exp(-0.5 * away**2), 0)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return sparse.csr_array(weights.astype(np.float32))


def grow_neurites(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing: SectionSpacing, girth: float
) -> list[Neurite]:
    """Return neurites of very varied sizes, `girth` times a larva's, packed over an image and its margin."""
    height, width = (n * size + 2 * _MARGIN for n, size in zip(shape[1:], spacing[1:], strict=True))
    area = height * width / girth**2
    sizes = girth * np.clip(rng.lognormal(np.log(70), 0.5, int(area / 17000)), 32, 260)
    fillers = girth * rng.uniform(29, 54, int(area / 3600))
    placed = np.empty((0, 3), np.float32)
    chains = []
    for size in np.concatenate([np.sort(sizes)[::-1], np.sort(fillers)[::-1]]):
        chain = _place(rng, float(size), placed, (height, width))
        if chain is not None:
            placed = np.concatenate([placed, chain])
            chains.append(chain - np.array((_MARGIN, _MARGIN, 0), np.float32))
    return [_wander(rng, chain, shape[0], spacing[0]) for chain in chains]


def _place(rng: np.random.Generator, size: float, placed: FloatArray, extent: tuple[float, float]) -> FloatArray | None:
    """Return a chain (K, 3) of (y, x, radius) that overlaps little with those `placed`, or None.

    All tries lie around one anchor, so that only the chains near it have to be checked.
    """
    tries, around = 20, 3 * size + 200
    anchor = rng.uniform(0, extent)
    links = int(rng.choice((1, 2, 3, 5, 8), p=(0.35, 0.25, 0.2, 0.12, 0.08))) if size < 180 else 1
    radius = size / (1 + 0.06 * (links - 1))
    angle = rng.uniform(0, 2 * np.pi, (tries, 1)) + 0.35 * rng.standard_normal((tries, links)).cumsum(axis=1)
    steps = 1.1 * radius * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    starts = rng.uniform(np.maximum(anchor - around, 0), np.minimum(anchor + around, extent), (tries, 2))
    centres = (starts[:, None] + steps.cumsum(axis=1)).astype(np.float32)
    reach = around + (1.1 * links + 1) * radius + placed[:, 2]
    near = placed[(np.abs(placed[:, :2] - anchor) < reach[:, None]).all(axis=1)]
    away = (centres[..., None, 0] - near[:, 0]) ** 2 + (centres[..., None, 1] - near[:, 1]) ** 2
    free = np.flatnonzero((away > 0.81 * (radius + near[:, 2]) ** 2).all(axis=(1, 2)))
    if not len(free):
        return None
    return np.column_stack([centres[free[0]], np.full(links, radius)]).astype(np.float32)


def _wander(rng: np.random.Generator, chain: FloatArray, depth: int, section: float) -> Neurite:
    """Return the chain of the middle section drifting and changing its girth over `depth` sections."""
    radius, links = float(chain[0, 2]), len(chain)
    scale = 260.0 / section
    together = smooth_noise(rng, (depth, 1, 2), (scale, 0, 0))
    apart = smooth_noise(rng, (depth, links, 2), (scale, min(1.0, links - 1.0), 0))
    girth = smooth_noise(rng, (depth, links), (scale, min(1.0, links - 1.0)))
    nodes = chain[:, :2] + 0.6 * min(radius, 80.0) * (0.7 * together + 0.7 * apart)
    return Neurite(nodes.astype(np.float32), (radius * (1 + 0.2 * girth)).astype(np.float32))


def cut_sections(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing: SectionSpacing, girth: float = 1.0
) -> Tissue:
    """Return sections of `shape` (Z, Y, X) through newly grown neurites; `spacing` is the voxel size in nm."""
    neurites = grow_neurites(rng, shape, spacing, girth)
    warp = _elastic_warp(rng, shape, spacing)
    cells = np.empty(shape, np.int32)
    excess = np.empty(shape, np.float32)
    coarse = max(1, round(16 / spacing[1]))
    for z in range(shape[0]):
        everyone = range(len(neurites))
        owner, _ = _partition(
            neurites,
            everyone,
            z,
            warp[:, z, ::coarse, ::coarse],
            (spacing[0], spacing[1] * coarse, spacing[2] * coarse),
        )
        areas = np.bincount(owner[owner >= 0], minlength=len(neurites)) * coarse**2 * spacing[1] * spacing[2]
        seen = [index for index in everyone if areas[index] > _SMALLEST]
        cells[z], excess[z] = _partition(neurites, seen, z, warp[:, z], spacing)
    slopes = [_steepest(excess, axis) / spacing[axis] for axis in range(3)]
    in_plane = np.maximum(np.hypot(slopes[1], slopes[2]), 0.3)
    return Tissue(cells, excess / in_plane, np.minimum(slopes[0] / in_plane, 1.5), warp, neurites, spacing)


def _elastic_warp(rng: np.random.Generator, shape: tuple[int, int, int], spacing: SectionSpacing) -> FloatArray:
    warp = np.zeros((2, *shape), np.float32)
    for amplitude, depth, across in ((90.0, 450.0, 330.0), (32.0, 160.0, 100.0), (6.0, 110.0, 30.0)):
        scales = tuple(max(scale / size, 0.5) for scale, size in zip((depth, across, across), spacing, strict=True))
        warp += amplitude * smooth_noise(rng, (2, *shape), (0.0, *scales))
    return warp


def grid(warp: FloatArray, window: tuple[slice, slice], spacing: SectionSpacing) -> tuple[FloatArray, FloatArray]:
    """Return the (y, x) positions in nm, warp (2, Y, X) included, of the pixels in `window`."""
    rows = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] * np.float32(spacing[1])
    columns = np.arange(window[1].start, window[1].stop, dtype=np.float32) * np.float32(spacing[2])
    return rows + warp[(0, *window)], columns + warp[(1, *window)]


def window_around(
    low: FloatArray, high: FloatArray, shape: tuple[int, ...], spacing: SectionSpacing
) -> tuple[slice, slice]:
    """Return the pixels of an image of `shape` (Y, X) between the corners `low` and `high` (y, x) in nm."""
    starts = [max(0, int(value // size)) for value, size in zip(low, spacing[1:], strict=True)]
    stops = [min(n, int(value // size) + 2) for value, size, n in zip(high, spacing[1:], shape, strict=True)]
    rows, columns = (slice(a, max(a, b)) for a, b in zip(starts, stops, strict=True))
    return rows, columns


def _partition(
    neurites: list[Neurite],
    seen: Sequence[int],
    z: int,
    warp: FloatArray,
    spacing: SectionSpacing,
) -> tuple[NDArray[np.int32], FloatArray]:
    """Return the neurite nearest to every pixel of section `z`, and how much further the second one is."""
    shape = warp.shape[1:]
    owner = np.full(shape, -1, np.int32)
    nearest = np.full(shape, _REACH, np.float32)
    second = np.full(shape, _REACH + 60, np.float32)
    slack = np.abs(warp).max(axis=(1, 2)) + _REACH
    for index in seen:
        nodes, radii = neurites[index].nodes[z], neurites[index].radii[z]
        reach = slack + radii.max()
        window = window_around(nodes.min(axis=0) - reach, nodes.max(axis=0) + reach, shape, spacing)
        if window[0].start >= shape[0] or window[1].start >= shape[1] or not owner[window].size:
            continue
        surface = _surface(*grid(warp, window, spacing), nodes, radii)
        best = nearest[window]
        closer = surface < best
        second[window] = np.where(closer, best, np.minimum(second[window], surface))
        nearest[window] = np.minimum(best, surface)
        owner[window][closer] = index
    return owner, second - nearest


def _surface(y: FloatArray, x: FloatArray, nodes: FloatArray, radii: FloatArray) -> FloatArray:
    """Return the distance of every point from the surface of a chain of tapered capsules (negative inside)."""
    if len(nodes) == 1:
        return np.asarray(np.hypot(y - nodes[0, 0], x - nodes[0, 1]) - radii[0])
    result = np.full(y.shape, np.float32(np.inf))
    for start, end, first, last in zip(nodes[:-1], nodes[1:], radii[:-1], radii[1:], strict=True):
        along = end - start
        dy, dx = y - start[0], x - start[1]
        place = np.clip((dy * along[0] + dx * along[1]) / max(float(along @ along), 1.0), 0, 1)
        distance = np.hypot(dy - place * along[0], dx - place * along[1]) - (first + place * (last - first))
        np.minimum(result, distance, out=result)
    return result


def _steepest(values: FloatArray, axis: int) -> FloatArray:
    """Return the larger of the forward and backward differences: at a wall, a kink, their mean would be 0."""
    result = np.zeros_like(values)
    if values.shape[axis] > 1:
        steps = np.abs(np.diff(values, axis=axis))
        before = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        after = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        result[before] = steps
        result[after] = np.maximum(result[after], steps)
    return result
