"""How much memory a run over tiles takes, counted in a pass over a tiny one."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from napari_skipseg.inference.backends.folding import ready
from napari_skipseg.inference.backends.torch_backend import DTYPES
from napari_skipseg.models.model import Model

FLOAT = 4
"""Bytes of a float32, in which tiles go in and come out."""
SAMPLE = 2
"""Sides of the tiny tile, in strides of the network."""
FACTORS = {"cpu": 1.7, "cuda": 2.0, "mps": 2.0}
"""What a process takes at the most, in `tile_bytes`, by device.

CPU: measured as growth of resident memory, on tiles of 100 MB and more (2 cores with AVX-512 bf16; OpenVINO 2026.4,
torch 2.13): OpenVINO 0.7 to 1.7, the most being its compilation of a wide network, and at most 1.2 from 250 MB on;
torch, which takes over where OpenVINO fails, 1.0 to 1.3. GPUs: room for cuDNN's work space and torch's cache of freed
blocks, a guess that was not measured yet.
"""


@dataclass(frozen=True)
class NetworkMemory:
    """What a network takes: its weights, and for `voxels` of tiles `bytes` more, which grow with the voxels.

    stride: tiles are padded to multiples of it.
    """

    weights: int
    bytes: int
    voxels: int
    stride: int

    def run_bytes(self, shape: tuple[int, ...], batch: int) -> int:
        """Return the bytes of one run over `batch` tiles of `shape` (*space) at its peak."""
        voxels = batch * math.prod(-(-length // self.stride) * self.stride for length in shape)
        return self.weights + -(-self.bytes * voxels // self.voxels)


def tile_bytes(model: Model, shape: tuple[int, ...], batch: int, precision: str) -> int:
    """Return the bytes that one run over `batch` tiles of `shape` (*space) takes at its peak, on any device.

    These are the activations that are alive together, the weights, and the tiles before and after in float32; not what
    a backend takes for itself (`FACTORS`).
    """
    return measure_memory(model, precision).run_bytes(shape, batch)


def measure_memory(model: Model, precision: str) -> NetworkMemory:
    """Return what the model's network, folded and cast to `precision`, takes in a pass over a tiny tile.

    All that a network keeps grows with the voxels, so that what a tile of any size takes follows to the byte. A pass on
    torch's "meta" device says the same of a large tile, but has to load torch's compiler first, for seconds.
    """
    dtype, stride = DTYPES[precision], model.network.stride
    network = ready(model).to(dtype)
    weights = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    spec = model.description.spec
    image = torch.zeros(1, spec.in_channels, *(SAMPLE * stride,) * spec.dimensions)
    with torch.inference_mode(), StorageMeter() as meter:
        outputs = network(image.to(dtype, copy=True))
        peak = meter.peak
        outside = FLOAT * sum(tensor.numel() for tensor in (image, *outputs))
    return NetworkMemory(weights, peak + outside, image[0, 0].numel(), stride)


class StorageMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages of all tensors that operations make while it is on, each once and until it is freed.

    Tensors that were there before (weights, the image) do not count, nor do views and what is changed in place. What a
    kernel takes for itself and gives back, such as oneDNN's scratch memory, is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: else torch loads its compiler on the first pass, which takes seconds and 70 MB."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then count what it made."""
        for tensor in _tensors((args, kwargs)):
            self._meet(tensor, is_new=False)
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._meet(tensor, is_new=True)
        return result

    def _meet(self, tensor: Tensor, is_new: bool) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)  # torch gives a storage one Python object as long as it lives
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes() if is_new else 0
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._part, key, size).atexit = False

    def _part(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _tensors(values: Any) -> Iterator[Tensor]:
    return (value for value in tree_iter(values) if isinstance(value, Tensor))
