"""torch on the CPU, on CUDA or on an Apple GPU. What is for GPUs alone is marked so, and tested by `pytest -m gpu`."""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from torch import Tensor, nn

from napari_skipseg.devices import Device, best_precision
from napari_skipseg.inference.backends.folding import BATCH_NORM, ready
from napari_skipseg.inference.backends.interface import Pixels, TileOutput
from napari_skipseg.models.model import Model

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class TorchBackend:
    """torch with weights of the precision and channels-last, gates and batch norms folded; sigmoid in float32.

    The batch norms that are left stay in float32 themselves. On CUDA pixels cross through pinned memory, which torch
    keeps for the next tile, and results are read where they arrive.

    Raises:
        FloatingPointError: (by `run`) values became too large for half precision.
    """

    name = "torch"

    def __init__(self, model: Model, device: Device, precision: str | None = None) -> None:
        self._device = torch.device(device.name)
        self.precision = precision or best_precision(device.name).name
        self._dtype = DTYPES[self.precision]
        channels_last = torch.channels_last if model.description.spec.dimensions == 2 else torch.channels_last_3d
        self._format = torch.contiguous_format if device.name == "mps" else channels_last
        network = _cast(ready(model), self._dtype).to(self._device)
        self._network = network.to(memory_format=self._format)  # type: ignore[call-overload]

    def run(self, images: Pixels) -> TileOutput:
        """Return the output for `images` (N, C, *space), all of them computed together."""
        with torch.inference_mode(), _repeatable(self._device):
            tensor = self._upload(torch.from_numpy(images))
            probability, *attentions = self._download(self._network(tensor))
        if self.precision == "f16" and not np.isfinite(probability).all():
            raise FloatingPointError("values became too large for half precision")
        return TileOutput(probability, tuple(attention[:, 0] for attention in attentions))

    def _upload(self, images: Tensor) -> Tensor:
        if self._device.type == "cuda":  # GPU: the next line does not wait for what crosses from pinned memory
            images = images.pin_memory()
        tensor = images.to(self._device, non_blocking=True)
        return tensor.to(self._dtype).contiguous(memory_format=self._format)

    def _download(self, outputs: tuple[Tensor, ...]) -> list[Pixels]:
        arrived = [output.contiguous() for output in outputs]
        if self._device.type == "cuda":  # GPU: torch lets them arrive in pinned memory, all on their way at once
            arrived = [output.to("cpu", non_blocking=True) for output in arrived]
            torch.cuda.current_stream(self._device).synchronize()
        return [output.cpu().numpy() for output in arrived]


def release_memory() -> None:
    """Give memory on the GPU that no tensor holds any more back to other programs."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # GPU
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


def _cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return `network` itself, its weights cast to `dtype`, but not those of batch norms."""
    for module in network.modules():
        if not isinstance(module, BATCH_NORM):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    return network


def _repeatable(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """On CUDA, let the same tile give the same bytes, and float32 be float32."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(  # GPU
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
