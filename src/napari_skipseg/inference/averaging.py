"""Mean and deviation over several passes over a tile, as the passes come: over copies, samples or directions alike."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from types import EllipsisType

import numpy as np

from napari_skipseg.inference.backends import Pixels, TileOutput

Part = EllipsisType | tuple[slice, ...]
"""Which part of an array: all of it, or what its slices cut out."""


class RunningMean:
    """The mean of arrays of one `shape` that come one after another; they are not kept, whole or in parts."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean = np.zeros(shape, np.float32)

    def add(self, values: Pixels, count: int, part: Part = ...) -> None:
        """Take `values` into the mean of `part` as the `count`-th there, from 1 on."""
        self._approach(values, count, part)

    def _approach(self, values: Pixels, count: int, part: Part) -> Pixels:
        """Move the mean towards `values`; return how far away it was."""
        mean = self.mean[part]
        away: Pixels = values - mean
        mean += away / count
        return away


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
        away = self._approach(values, count, part)
        if count > 1:  # the first lies where the mean is then
            away *= away
            away *= (count - 1) / count
            squares = self._squares[part]
            squares += away


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
