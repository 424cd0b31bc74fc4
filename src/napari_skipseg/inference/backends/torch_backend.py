"""torch on the CPU, on CUDA or on an Apple GPU. Lines for GPUs alone are marked, and tested by `pytest -m gpu`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from types import EllipsisType
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_skipseg.devices import Device, best_precision
from napari_skipseg.errors import ModelError
from napari_skipseg.inference.backends.folding import BATCH_NORM, ready_for_inference
from napari_skipseg.inference.backends.interface import FIRST_AXIS, NetworkView, Pixels, TileOutput, slice_batches
from napari_skipseg.models.model import Model

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


DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class TorchBackend:
    """torch with weights of the precision, gates and batch norms folded; sigmoid in float32.

    The batch norms that are left stay in float32. On CUDA pixels are copied through pinned memory, which torch keeps
    for the next tile, and results are read only after they have arrived.

    attention: whether attention maps are returned; it may be changed between two runs.

    Raises:
        FloatingPointError: (also by `run`) values became too large for half precision.
        ModelError: (also by `run`) the network returns NaN in any precision.
    """

    name = "torch"

    def __init__(self, model: Model, device: Device, precision: str | None = None) -> None:
        self._device = torch.device(device.name)
        self.precision = precision or best_precision(device.name).name
        self.attention = True
        self._model_name = model.description.name
        self._dtype = DTYPES[self.precision]
        self._format = memory_format(device.name, model.description.spec.dimensions, self.precision)
        self._network = ready_for_inference(model)
        _cast(self._network, self._dtype).to(self._device)
        self._network.to(memory_format=self._format)  # type: ignore[call-overload]

    @property
    def averages(self) -> bool:
        """Whether `iter_average` and `iter_planes` are faster than one run after the other: on a GPU."""
        return self._device.type != "cpu"

    def run(self, images: Pixels) -> TileOutput:
        """Return the output for `images` (N, C, *space), all of them computed together."""
        with torch.inference_mode(), _repeatable(self._device):
            outputs = self._forward(self._upload(images).to(self._dtype))
            # one sum is the cheapest look at all values: probabilities cannot become infinite by adding, and NaN stays
            finite = torch.isfinite(outputs[0].sum())
            finite_there, probability, *attentions = self._download((finite, *outputs))
        self._check(bool(finite_there))
        return TileOutput(probability, tuple(attention[:, 0] for attention in attentions))

    def iter_average(self, images: Pixels, views: Sequence[NetworkView]) -> Generator[None, None, TileOutput]:
        """Yield between views; return the mean over them with the deviation, averaged on the device."""
        with torch.inference_mode():
            tensor = self._upload(images).to(self._dtype)
        return (yield from self._iter_averaged(iter_views(self._forward_view, tensor, views)))

    def iter_planes(self, volumes: Pixels, at_once: int) -> Generator[None, None, TileOutput]:
        """Yield between batches of slices; return the mean over the three directions of `volumes` (N, C, Z, Y, X).

        at_once: slices of a volume that go through the network together. Attention maps are left out.
        """
        with torch.inference_mode():
            tensor = self._upload(volumes).to(self._dtype)
        return (yield from self._iter_averaged(iter_planes_of(self._forward, tensor, at_once)))

    def _iter_averaged(self, work: Generator[None, None, list[Tensor]]) -> Generator[None, None, TileOutput]:
        while True:
            # these modes belong to the thread, so they must be off while the caller's code runs
            with torch.inference_mode(), _repeatable(self._device):
                try:
                    next(work)
                except StopIteration as stop:
                    finite, mean, deviation, *attentions = self._download(stop.value)
                    break
            yield
        self._check(bool(finite))
        return TileOutput(mean, tuple(attention[:, 0] for attention in attentions), deviation)

    def _forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the network's output for `images` on the device."""
        self._network.attention = self.attention
        outputs: tuple[Tensor, ...] = self._network(images.contiguous(memory_format=self._format))
        return outputs

    def _forward_view(self, images: Tensor, view: NetworkView) -> tuple[Tensor, ...]:
        return self._forward(view.symmetry.apply_to_tensor(images))

    def _check(self, finite: bool) -> None:
        if finite:
            return
        # bf16 has the range of f32, so on a CPU f32 would also give NaN
        if self.precision == "f16" or (self.precision == "bf16" and self._device.type != "cpu"):
            raise FloatingPointError(f"values became too large for half precision ({self.precision})")
        raise ModelError(
            f"{self._model_name} returns values that are not numbers (NaN): its weights are damaged or its training "
            "went wrong. Train it again, or choose a different model."
        )

    def _upload(self, images: Pixels) -> Tensor:
        tensor = torch.from_numpy(images)
        if self._device.type != "cuda":
            return tensor.to(self._device)
        return tensor.pin_memory().to(self._device, non_blocking=True)  # GPU: only from pinned memory without waiting

    def _download(self, outputs: Sequence[Tensor]) -> list[NDArray[Any]]:
        arrived = [output.contiguous() for output in outputs]
        if self._device.type == "cuda":  # GPU: torch copies all of them at once, into pinned memory
            arrived = [output.to("cpu", non_blocking=True) for output in arrived]
            torch.cuda.current_stream(self._device).synchronize()
        return [output.cpu().numpy() for output in arrived]


def memory_format(device: str, dimensions: int, precision: str) -> torch.memory_format:
    """Return the memory format for `device`: channels last if its convolutions are optimised for that.

    These are oneDNN on a CPU and the tensor cores of CUDA, which take bf16 and f16. Metal, and CUDA in float32 (without
    TF32, which rounds), compute on contiguous tensors.
    """
    if device == "cpu" or (device == "cuda" and precision != "f32"):
        return torch.channels_last if dimensions == 2 else torch.channels_last_3d
    return torch.contiguous_format


def _cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return `network` itself, its weights cast to `dtype`, but not those of batch norms."""
    for module in network.modules():
        if not isinstance(module, BATCH_NORM):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    return network


def _repeatable(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Make CUDA return the same bytes for the same tile, and compute float32 without rounding to TF32.

    These flags belong to the process, not to the thread; one thread computes at a time.
    """
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(  # GPU
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
