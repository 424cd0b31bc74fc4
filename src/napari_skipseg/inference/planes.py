"""A 2D network over a volume along all three axes, averaged: for voxels as long as they are wide and high."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence

import numpy as np

from napari_skipseg.inference.averaging import RunningAverage
from napari_skipseg.inference.backends import Backend, Pixels, TileOutput
from napari_skipseg.inference.dropout import Place

SLICES = 8
"""Slices of a volume that go through the network together."""
FIRST_AXIS = 2
"""Of space, in (N, C, *space)."""


def plane_shapes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the sizes of the slices across each axis of a volume (Z, Y, X): those in XY, XZ and YZ."""
    return tuple(shape[:axis] + shape[axis + 1 :] for axis in range(len(shape)))


def count_batches(shape: tuple[int, ...]) -> int:
    """Return how often a network runs until it has seen all slices of a volume of `shape`, whatever its directions."""
    return sum(1 for _ in _batches(shape))


def iter_planes(
    backends: Mapping[tuple[int, ...], Backend], images: Pixels, places: Sequence[Place]
) -> Generator[None, None, TileOutput]:
    """Yield between batches of slices; return the mean over the three directions, with the deviation over them.

    images: volumes (N, C, Z, Y, X). backends: a 2D one for each of `plane_shapes`. Attention maps are left out: those
    of different directions have different grids.
    """
    space = images.shape[FIRST_AXIS:]
    for number, (axis, part) in enumerate(_batches(space)):
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
    return np.ascontiguousarray(np.moveaxis(probability.reshape(*slices.shape[:2], *probability.shape[1:]), 1, axis))


def _batches(shape: tuple[int, ...]) -> Iterator[tuple[int, tuple[slice, ...]]]:
    """Yield the axis of (N, C, Z, Y, X) that slices lie across, and the part of the images that a batch of them is."""
    for axis, length in enumerate(shape, start=FIRST_AXIS):
        for first in range(0, length, SLICES):
            yield axis, (*(slice(None),) * axis, slice(first, first + SLICES))
