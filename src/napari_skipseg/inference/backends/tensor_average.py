"""Averages over views and planes as tensors on a device, with one upload and one download."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from types import EllipsisType

import torch
from torch import Tensor

from napari_skipseg.inference.backends.views import FIRST_AXIS, NetworkView, slice_batches

See = Callable[[Tensor], tuple[Tensor, ...]]
"""Runs the network: images (N, C, *space) -> probability (N, classes, *space) and attention maps, in float32."""
AveragedPart = EllipsisType | tuple[slice, ...]


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
