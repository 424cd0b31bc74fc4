"""Mean and deviation over several passes over a tile, as the passes come: over copies, samples or directions alike."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from math import prod
from types import EllipsisType
from typing import Protocol, runtime_checkable

import numpy as np

from napari_skipseg.inference.backends import Backend, Pixels, TileOutput
from napari_skipseg.inference.backends.views import View

Part = EllipsisType | tuple[slice, ...]
"""Which part of an array: all of it, or what its slices cut out."""
BLOCK = 2**15
"""Values that are averaged together. Their arrays stay in the cache of a core: measured on 1056² values, 20 passes take
58 ns a voxel in whole arrays and 24 in blocks of 2¹⁴ to 2¹⁷."""


@runtime_checkable
class AveragingBackend(Backend, Protocol):
    """A backend that may average over views or planes on its own device, which saves copies and the computer's time."""

    @property
    def averages(self) -> bool:
        """Whether it does at this moment."""
        ...

    def iter_average(self, images: Pixels, views: Sequence[View]) -> Generator[None, None, TileOutput | None]:
        """Yield between views; return the mean with the deviation, None if the device could not."""
        ...

    def iter_planes(self, volumes: Pixels, at_once: int) -> Generator[None, None, TileOutput | None]:
        """Yield between batches of slices; return the mean over three directions, None if the device could not."""
        ...


class RunningMean:
    """The mean of arrays of one `shape` that come one after another; they are not kept, whole or in parts."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean = np.zeros(shape, np.float32)

    def add(self, values: Pixels, count: int, part: Part = ...) -> None:
        """Take `values` into the mean of `part` as the `count`-th there, from 1 on."""
        mean = self.mean[part]
        for block in _blocks(mean.shape):
            _approach(mean[block], values[block], count)


class RunningAverage(RunningMean):
    """The mean with the standard deviation beside it (Welford 1962).

    The deviation is that of the arrays themselves (divided by their number), so that of probabilities lies in [0, 0.5].
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self._squares = np.zeros(shape, np.float32)

    def deviation(self, count: int) -> Pixels:
        """Return the standard deviation, in the mean's shape, once every part has taken in `count` arrays."""
        variance = self._squares / count
        return np.sqrt(variance, out=variance)

    def add(self, values: Pixels, count: int, part: Part = ...) -> None:
        """Take `values` into mean and deviation of `part` as the `count`-th there, from 1 on."""
        mean, squares = self.mean[part], self._squares[part]
        for block in _blocks(mean.shape):
            away = _approach(mean[block], values[block], count)
            if count > 1:  # the first lies where the mean is then
                away *= away
                away *= (count - 1) / count
                into = squares[block]
                into += away


def _approach(mean: Pixels, values: Pixels, count: int) -> Pixels:
    """Move `mean` towards `values`; return how far away it was."""
    away: Pixels = values - mean
    mean += away / count
    return away


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice | int, ...]]:
    """Yield the blocks that an array of `shape` is cut into along its first axes, of some `BLOCK` values each."""
    depth = next((depth for depth in range(len(shape)) if prod(shape[depth + 1 :]) <= BLOCK), 0)
    if not shape:
        yield ()
        return
    rows = max(1, BLOCK // max(1, prod(shape[depth + 1 :])))
    for lead in np.ndindex(*shape[:depth]):
        for first in range(0, shape[depth], rows):
            yield (*lead, slice(first, first + rows))


def iter_on_device(backend: Backend, images: Pixels, views: Sequence[View]) -> Generator[None, None, TileOutput | None]:
    """Yield between views; return the mean over them if `backend` averages on its device, else None."""
    if isinstance(backend, AveragingBackend) and backend.averages:
        return (yield from backend.iter_average(images, views))
    return None


def iter_average(passes: Sequence[Callable[[], TileOutput]]) -> Generator[None, None, TileOutput]:
    """Yield between passes, one or more; return the mean of their outputs, with the deviation of their probability."""
    output = passes[0]()
    probability = RunningAverage(output.probability.shape)
    attentions = [RunningMean(values.shape) for values in output.attentions]
    for count in range(1, len(passes) + 1):
        if count > 1:
            yield
            output = passes[count - 1]()
        probability.add(output.probability, count)
        for running, values in zip(attentions, output.attentions, strict=True):
            running.add(values, count)
    return TileOutput(
        probability.mean, tuple(running.mean for running in attentions), probability.deviation(len(passes))
    )
