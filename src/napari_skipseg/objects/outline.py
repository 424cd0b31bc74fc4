"""How large the outline of labelled objects is: surface in a volume, perimeter in a plane, voxel by voxel.

Both are sums over small neighbourhoods, so they are the same whatever blocks they are gathered from: the area of the
marching-cubes mesh (`skimage.measure.mesh_surface_area`), and the perimeter of `skimage.measure.regionprops`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from skimage.measure import marching_cubes, mesh_surface_area

from napari_skipseg.scores.table import compiled


@cache
def cube_areas(spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return the area of the mesh in a cube of 8 voxels for each of the 256 ways to fill it; bit 4z + 2y + x."""
    areas = np.zeros(256)
    for filling in range(1, 255):
        corners = ((filling >> np.arange(8)) & 1).reshape(2, 2, 2).astype(np.float32)
        corners_of_mesh, faces, _, _ = marching_cubes(corners, 0.5, spacing=spacing)
        areas[filling] = mesh_surface_area(corners_of_mesh, faces)
    return areas


def add_surface(labels: NDArray[np.uint32], areas: NDArray[np.float64], surface: NDArray[np.float64]) -> None:
    """Add the surface in all cubes of 8 voxels of `labels` to that of each label, at its number in `surface`."""
    _add_surface(labels, areas, surface)


@compiled
def _add_surface(labels: NDArray[np.uint32], areas: NDArray[np.float64], surface: NDArray[np.float64]) -> None:
    depth, rows, columns = labels.shape
    corners = np.empty(8, np.uint32)
    for z in range(depth - 1):
        for y in range(rows - 1):
            for x in range(columns - 1):
                same = True
                for corner in range(8):
                    corners[corner] = labels[z + (corner >> 2), y + ((corner >> 1) & 1), x + (corner & 1)]
                    same = same and corners[corner] == corners[0]
                if same:
                    continue
                for corner in range(8):
                    label = corners[corner]
                    filling = 0
                    first = True
                    for other in range(8):
                        if corners[other] == label:
                            filling |= 1 << other
                            first = first and other >= corner
                    if label > 0 and first:
                        surface[label] += areas[filling]


def add_perimeter(labels: NDArray[np.uint32], perimeter: NDArray[np.float64]) -> None:
    """Add the perimeter, in pixels, in each slice to that of each label; two pixels around the slice do not count."""
    weights = np.zeros(50)
    weights[[5, 7, 15, 17, 25, 27]] = 1
    weights[[21, 33]] = np.sqrt(2)
    weights[[13, 23]] = (1 + np.sqrt(2)) / 2
    _add_perimeter(labels, weights, perimeter)


@compiled
def _add_perimeter(labels: NDArray[np.uint32], weights: NDArray[np.float64], perimeter: NDArray[np.float64]) -> None:
    depth, rows, columns = labels.shape
    edge = np.zeros((rows, columns), np.bool_)
    for z in range(depth):
        plane = labels[z]
        for y in range(1, rows - 1):
            for x in range(1, columns - 1):
                label = plane[y, x]
                edge[y, x] = label > 0 and (
                    plane[y - 1, x] != label
                    or plane[y + 1, x] != label
                    or plane[y, x - 1] != label
                    or plane[y, x + 1] != label
                )
        for y in range(2, rows - 2):
            for x in range(2, columns - 2):
                if not edge[y, x]:
                    continue
                label = plane[y, x]
                kind = 1
                for down in (-1, 0, 1):
                    for right in (-1, 0, 1):
                        near = edge[y + down, x + right] and plane[y + down, x + right] == label
                        if near and (down != 0 or right != 0):
                            kind += 10 if down != 0 and right != 0 else 2
                perimeter[label] += weights[kind]
