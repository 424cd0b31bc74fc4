"""Cells in a grid, whose boundaries have known strengths, as regions of a probability and as plain labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.classes import ClassImage
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import run_to_end
from napari_skipseg.proofread.edits import (
    Confirm,
    Delete,
    Edit,
    Erase,
    FillHoles,
    Grow,
    Lock,
    Merge,
    Paint,
    Separate,
    Split,
    pack_mask,
)
from napari_skipseg.proofread.regions import Regions, iter_regions_of_labels, iter_regions_of_probability
from napari_skipseg.proofread.state import ObjectsUnderEdit

CELLS = ObjectOptions("cells", threshold=0.3, merge=0.5)
"""Cells of `row_of_cells` that are joined over boundaries below 0.5."""


OPTIONS = (
    ObjectOptions("cells", threshold=0.5, merge=0.5),
    ObjectOptions("watershed", threshold=0.4, seed_distance=4),
    ObjectOptions("components", threshold=0.55, fill_holes=True),
    ObjectOptions("cells", threshold=0.5, merge=0.5, planes="slices"),
)


def bumpy(shape: tuple[int, ...], seed: int = 0, sigma: float = 1.4) -> NDArray[np.float32]:
    """A smooth random probability from 0 to 1."""
    values = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), sigma)
    return ((values - values.min()) / (values.max() - values.min())).astype(np.float32)


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> NDArray[np.bool_]:
    """A mask of a ball, or a disk."""
    offsets = np.indices(shape) - np.reshape(centre, (-1, *[1] * len(shape)))
    return (offsets**2).sum(axis=0) <= radius**2


def row_of_cells(strengths: tuple[float, ...] = (0.9, 0.4, 0.7), depth: int = 3) -> NDArray[np.float32]:
    """A row of cells, 12 pixels wide and 14 high, with a boundary of each strength between two of them."""
    boundary = np.zeros((depth, 14, 12 * (len(strengths) + 1)), np.float32)
    for number, strength in enumerate(strengths, start=1):
        boundary[..., 12 * number] = strength
    return boundary


def image(values: NDArray[Any], axes: str = "", size: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> ClassImage:
    return ClassImage(Stack(values, Space(axes or "TZYX"[-values.ndim :], size), "row"))


def regions(values: NDArray[Any], options: ObjectOptions = CELLS, axes: str = "") -> Regions:
    return run_to_end(iter_regions_of_probability(image(values, axes), options))


def found(values: NDArray[Any], options: ObjectOptions = CELLS, axes: str = "") -> ObjectsUnderEdit:
    return ObjectsUnderEdit(regions(values, options, axes))


def labelled(
    values: NDArray[Any], axes: str = "", size: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> ObjectsUnderEdit:
    stack = Stack(values, Space(axes or "TZYX"[-values.ndim :], size), "labels")
    return ObjectsUnderEdit(run_to_end(iter_regions_of_labels(stack)))


def labels_of(objects: ObjectsUnderEdit) -> NDArray[np.uint32]:
    return np.asarray(objects.labels())


def cell(number: int, z: int = 1, y: int = 7, t: int = 0) -> tuple[int, int, int, int]:
    """The middle of a cell of the row."""
    return t, z, y, 12 * number + 6


def random_edit(objects: ObjectsUnderEdit, chance: np.random.Generator) -> Edit:
    """An edit at random voxels; many of them make no sense."""
    voxels = [tuple(int(chance.integers(0, length)) for length in objects.shape) for _ in range(4)]
    shape = tuple(int(side) for side in chance.integers(1, (3, 9, 9)))
    mask = pack_mask(chance.random(shape) < 0.7)
    make: tuple[Callable[[], Edit], ...] = (
        lambda: Merge((voxels[0], voxels[1])),
        lambda: Split(((voxels[0],), (voxels[1],))),
        lambda: Split((tuple(voxels[:2]), tuple(voxels[2:]))),
        lambda: Delete((voxels[0],)),
        lambda: Grow(voxels[0], float(chance.random())),
        lambda: Paint(voxels[0], shape, mask, voxels[1]),
        lambda: Paint(voxels[0], shape, mask),
        lambda: Erase(voxels[0], shape, mask),
        lambda: FillHoles(voxels[0], bool(chance.random() < 0.5)),
        lambda: Separate(voxels[0]),
        lambda: Lock((voxels[0],), bool(chance.random() < 0.3)),
        lambda: Confirm((voxels[0], voxels[1])),
    )
    return make[int(chance.integers(len(make)))]()
