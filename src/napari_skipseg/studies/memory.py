"""What a pass through a network costs, measured: bytes of memory at their peak, and seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Protocol

import torch
from torch import Tensor

from napari_skipseg.inference.memory import StorageMeter
from napari_skipseg.networks.gates import fold_gates
from napari_skipseg.networks.network import Network

_TIMES = 3
"""How often a pass is timed; the median counts."""


class Meter(Protocol):
    """What is allocated since it was started, in bytes: now, and at the most so far."""

    @property
    def live(self) -> int:
        """Bytes now."""

    @property
    def peak(self) -> int:
        """Bytes at the most."""


class CudaMeter:
    """Reads CUDA's own counts, which hold all that the pass allocates on the GPU, work space of kernels included."""

    def __init__(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self._before = torch.cuda.memory_allocated()

    @property
    def live(self) -> int:
        """Bytes now."""
        return torch.cuda.memory_allocated() - self._before

    @property
    def peak(self) -> int:
        """Bytes at the most."""
        return torch.cuda.max_memory_allocated() - self._before


@contextmanager
def metered(device: torch.device) -> Iterator[Meter]:
    """Yield a meter of what is allocated on `device` inside the block."""
    if device.type == "cuda":
        yield CudaMeter()
        return
    with StorageMeter() as meter:
        yield meter


@dataclass(frozen=True)
class InferenceCost:
    """Of one pass without gradients: bytes of activations at their peak, and seconds."""

    peak: int
    seconds: float


@dataclass(frozen=True)
class TrainingCost:
    """Of one pass forward and backward: bytes kept for the way back, bytes at the peak, and seconds.

    The peak holds the gradients of the parameters besides; weights and the optimiser's state are in neither.
    """

    kept: int
    peak: int
    seconds: float


def measure_inference(network: Network, image: Tensor) -> InferenceCost:
    """Return the cost of segmenting `image` (N, C, *space), which lies on the network's device.

    The network is left in eval mode and its gates folded, as inference runs them: it is of no other use then.
    """
    fold_gates(network.eval())

    def run() -> None:
        with torch.no_grad():
            network(image)

    run()  # kernels are chosen on the first pass
    with metered(image.device) as meter:
        run()
        peak = meter.peak
    return InferenceCost(peak, _seconds(run, image.device))


def measure_training(network: Network, image: Tensor) -> TrainingCost:
    """Return the cost of a training step on `image` (N, C, *space), without the optimiser's; the loss is the mean."""
    network.train()

    def run(after_forward: Callable[[], None] = lambda: None) -> None:
        network.zero_grad(set_to_none=True)
        output = network(image)
        after_forward()
        output.logits.mean().backward()

    run()
    network.zero_grad(set_to_none=True)
    kept: list[int] = []
    with metered(image.device) as meter:
        run(lambda: kept.append(meter.live))
        peak = meter.peak
    return TrainingCost(kept[0], peak, _seconds(run, image.device))


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    def once() -> float:
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        return time.perf_counter() - start

    return median(once() for _ in range(_TIMES))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()
