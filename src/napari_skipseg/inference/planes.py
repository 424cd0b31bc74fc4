"""A 2D network over a volume along all three axes, averaged: for voxels as long as they are wide and high."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

import numpy as np

from napari_skipseg.inference.averaging import AveragingBackend, RunningAverage
from napari_skipseg.inference.backends import Backend, Pixels, TileOutput
from napari_skipseg.inference.backends.device_average import FIRST_AXIS, slice_batches
from napari_skipseg.inference.dropout import Place

SLICES = 8
"""Slices of a volume that go through the network together on a CPU, and the least on a GPU."""


def plane_shapes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the sizes of the slices across each axis of a volume (Z, Y, X): those in XY, XZ and YZ."""
    return tuple(shape[:axis] + shape[axis + 1 :] for axis in range(len(shape)))


def count_batches(shape: tuple[int, ...], at_once: int = SLICES) -> int:
    """Return how often a network runs until it has seen all slices of a volume of `shape`, whatever its directions."""
    return sum(1 for _ in slice_batches(shape, at_once))


def iter_planes(
    backends: Mapping[tuple[int, ...], Backend], images: Pixels, places: Sequence[Place], at_once: int = SLICES
) -> Generator[None, None, TileOutput]:
    """Yield between batches of slices; return the mean over the three directions, with the deviation over them.

    images: volumes (N, C, Z, Y, X). backends: a 2D one for each of `plane_shapes`. at_once: slices of a volume that go
    through the network together. Attention maps are left out: those of different directions have different grids.
    """
    space = images.shape[FIRST_AXIS:]
    first = backends[plane_shapes(space)[0]]
    if isinstance(first, AveragingBackend) and first.averages:
        averaged = yield from first.iter_planes(images, at_once)
        if averaged is not None:
            return averaged
    for number, (axis, part) in enumerate(slice_batches(space, at_once)):
        if number:
            yield
        probability = _run_slices(backends, images[part], axis)
        if not number:
            average = RunningAverage((*probability.shape[:FIRST_AXIS], *space))
        average.add(probability, axis - FIRST_AXIS + 1, part)
    return TileOutput(average.mean, (), average.deviation(len(space)))


def _run_slices(backends: Mapping[tuple[int, ...], Backend], images: Pixels, axis: int) -> Pixels:
    """Return the probability (N, classes, *space) of `images` (N, C, *space), seen slice by slice across `axis`."""
    slices = np.moveaxis(images, axis, 1)  # (N, slices, C, *plane)
    batch = np.ascontiguousarray(slices.reshape(-1, *slices.shape[2:]))
    probability = backends[batch.shape[FIRST_AXIS:]].run(batch).probability
    return np.moveaxis(probability.reshape(*slices.shape[:2], *probability.shape[1:]), 1, axis)
