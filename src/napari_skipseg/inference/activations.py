"""The memory of a network's activations, counted by torch in a pass over a tiny tile."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from napari_skipseg.inference.backends.folding import ready_for_inference
from napari_skipseg.inference.backends.torch_backend import DTYPES
from napari_skipseg.models.model import Model

_SAMPLE = 2
"""Sides of the tiny tile, in strides of the network."""


class ByteCounts(NamedTuple):
    """Bytes of a network's weights, and of all else at its peak for an image of so many voxels."""

    weights: int
    bytes: int
    voxels: int


def count_bytes(model: Model, precision: str) -> ByteCounts:
    """Return the bytes of the model's network, folded and cast to `precision`, in a pass over a tiny tile.

    The memory of all activations is proportional to the voxels, so that of a tile of any size follows exactly. A pass
    on torch's "meta" device returns the same for a large tile, but loads torch's compiler, which takes seconds.
    """
    dtype, stride = DTYPES[precision], model.network.stride
    network = ready_for_inference(model).to(dtype)
    weights = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    spec = model.description.spec
    image = torch.zeros(1, spec.in_channels, *(_SAMPLE * stride,) * spec.dimensions)
    with torch.inference_mode(), StorageMeter() as meter:
        outputs = network(image.to(dtype, copy=True))
        peak = meter.peak
        outside = sum(tensor.nbytes for tensor in (image, *outputs))  # tiles go in and come out in float32
    return ByteCounts(weights, peak + outside, image[0, 0].numel())


class StorageMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages of all tensors that operations make while it is on, each once and until it is freed.

    Tensors from before (weights, the image), views and in-place changes do not count. Temporary memory of kernels, such
    as oneDNN's scratch memory, is not counted.
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
        """Run the operation, then count its results."""
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
