"""The views of a batch of tiles for a network, and their average on a GPU with one upload and one download.

In a view, tiles are mirrored and turned, or computed with dropout masks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from napari_skipseg.inference.backends.interface import Pixels

Y, X, Z = -2, -1, -3
"""Axes counted from the last, so that they are the same in images and in attention maps."""


class Symmetry(NamedTuple):
    """A way to see a tile: mirrored along `mirrored` axes, then with Y and X exchanged if `turned`."""

    mirrored: tuple[int, ...]
    turned: bool

    def apply(self, values: Pixels) -> Pixels:
        """Return the copy of `values` (..., *space), contiguous."""
        return np.ascontiguousarray(self._turn(np.flip(values, self.mirrored)))

    def undo(self, values: Pixels) -> Pixels:
        """Return a result for the copy as a result for the tile itself, as a view."""
        return np.flip(self._turn(values), self.mirrored)

    def apply_to_tensor(self, values: Tensor) -> Tensor:
        """Return the copy of `values` (..., *space) on its own device."""
        mirrored = torch.flip(values, self.mirrored) if self.mirrored else values
        return mirrored.transpose(Y, X) if self.turned else mirrored

    def undo_on_tensor(self, values: Tensor) -> Tensor:
        """Return the result for the copy as the result for the tile itself, on its own device."""
        turned = values.transpose(Y, X) if self.turned else values
        return torch.flip(turned, self.mirrored) if self.mirrored else turned

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the size of the copy of a tile of `shape`."""
        return (*shape[:-2], shape[X], shape[Y]) if self.turned else shape

    def _turn(self, values: Pixels) -> Pixels:
        return np.swapaxes(values, Y, X) if self.turned else values


class Draw(NamedTuple):
    """The seed, sample and places that decide the dropout masks of a batch. Equal draws have equal masks.

    places: of each image in the stack; for a part of a tile, followed by the number of the part.
    """

    seed: int
    sample: int
    places: tuple[tuple[int, ...], ...]

    def of_images(self, images: slice) -> Draw:
        """Return the draw for some of the images."""
        return self._replace(places=self.places[images])

    def of_part(self, number: int) -> Draw:
        """Return the draw for part `number` of each tile."""
        return self._replace(places=tuple((*place, number) for place in self.places))


AS_IT_IS = Symmetry((), False)


@dataclass(frozen=True)
class NetworkView:
    """One way to see a batch. draw: None if there is no dropout."""

    symmetry: Symmetry = AS_IT_IS
    draw: Draw | None = None

    def of_images(self, images: slice) -> NetworkView:
        """Return the view of some of the images."""
        return NetworkView(self.symmetry, None if self.draw is None else self.draw.of_images(images))


See = Callable[[Tensor], tuple[Tensor, ...]]
"""Runs the network: images (N, C, *space) -> probability (N, classes, *space) and attention maps, in float32."""
AveragedPart = EllipsisType | tuple[slice, ...]
FIRST_AXIS = 2
"""First axis of space in (N, C, *space)."""


class TensorAverage:
    """Mean and deviation as `ensemble.RunningAverage`, by the same formula (Welford 1962), as tensors on a device."""

    def __init__(self, shape: tuple[int, ...], device: torch.device, with_deviation: bool = True) -> None:
        self.mean = torch.zeros(shape, dtype=torch.float32, device=device)
        self._squares = torch.zeros_like(self.mean) if with_deviation else None

    def add(self, values: Tensor, count: int, part: AveragedPart = ...) -> None:
        """Add `values` to `part` as the `count`-th there, from 1 on."""
        mean = self.mean[part]
        away = values - mean
        mean += away / count
        if self._squares is not None and count > 1:
            squares = self._squares[part]
            squares += away.square_().mul_((count - 1) / count)

    def deviation(self, count: int) -> Tensor:
        """Return the standard deviation after `count` values of every part."""
        if self._squares is None:
            raise ValueError("no deviation was requested")
        return (self._squares / count).sqrt_()


def iter_views(
    see: Callable[[Tensor, NetworkView], tuple[Tensor, ...]], images: Tensor, views: Sequence[NetworkView]
) -> Generator[None, None, list[Tensor]]:
    """Yield between views; return [finite, mean, deviation, mean of each attention map], all on the device.

    finite: a bool, whether no probability was NaN. images: (N, C, *space), on the device.
    """
    averages: list[TensorAverage] = []
    finite = torch.ones((), dtype=torch.bool, device=images.device)
    for count, view in enumerate(views, start=1):
        if count > 1:
            yield
        outputs = [view.symmetry.undo_on_tensor(output) for output in see(images, view)]
        finite = finite & torch.isfinite(outputs[0].sum())
        for number, output in enumerate(outputs):
            if count == 1:
                averages.append(TensorAverage(tuple(output.shape), output.device, with_deviation=number == 0))
            averages[number].add(output, count)
    return [finite, averages[0].mean, averages[0].deviation(len(views)), *(average.mean for average in averages[1:])]


def iter_planes_of(see: See, volumes: Tensor, at_once: int) -> Generator[None, None, list[Tensor]]:
    """Yield between batches of slices; return [finite, mean, deviation] over the three directions, on the device.

    volumes: (N, C, Z, Y, X), on the device. at_once: slices of a volume that go through the network together.
    """
    space = volumes.shape[FIRST_AXIS:]
    average: TensorAverage | None = None
    finite = torch.ones((), dtype=torch.bool, device=volumes.device)
    for number, (axis, part) in enumerate(slice_batches(tuple(space), at_once)):
        if number:
            yield
        slices = volumes[part].movedim(axis, 1)  # (N, slices, C, *plane)
        probability = see(slices.reshape(-1, *slices.shape[2:]))[0]
        finite = finite & torch.isfinite(probability.sum())
        probability = probability.reshape(*slices.shape[:2], *probability.shape[1:]).movedim(1, axis)
        if average is None:
            average = TensorAverage((*probability.shape[:FIRST_AXIS], *space), volumes.device)
        average.add(probability, axis - FIRST_AXIS + 1, part)
    if average is None:
        raise ValueError("a volume without slices")
    return [finite, average.mean, average.deviation(len(space))]


def slice_batches(shape: tuple[int, ...], at_once: int) -> Iterator[tuple[int, tuple[slice, ...]]]:
    """Yield batches of slices of (N, C, Z, Y, X): the axis across the slices, and the part of the images."""
    for axis, length in enumerate(shape, start=FIRST_AXIS):
        for first in range(0, length, at_once):
            yield axis, (*(slice(None),) * axis, slice(first, first + at_once))
