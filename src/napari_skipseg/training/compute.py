"""The device and precision of a training: chosen before it begins, and tried with a step of its network."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from napari_skipseg.devices import ChosenPrecision, Device, best_precision, choose_device, cpu_title, first_line
from napari_skipseg.errors import DeviceError
from napari_skipseg.networks.network import Network
from napari_skipseg.training.checkpoint import precision_in
from napari_skipseg.training.distributed import Processes, own_device
from napari_skipseg.training.settings import Precision

CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
UP_TO_AVX2 = ("AVX2", "AVX2_VNNI", "AVX2_VNNI_2")
"""Values of `ONEDNN_MAX_CPU_ISA` that keep oneDNN from AVX-512."""


@dataclass(frozen=True)
class Compute:
    """A torch device and the precision, "f32" or "bf16", in which networks compute on it.

    reason: why both were chosen, to be shown.
    """

    device: torch.device
    precision: str = "f32"
    reason: str = ""

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context in which a network computes in this precision."""
        if self.precision == "f32":  # torch 2.4 refuses to make an autocast for MPS, also one that is switched off
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def memory_format(self, dimensions: int) -> torch.memory_format:
        """Return the fastest order of a tensor's values; Apple's GPU has no kernels for channels-last.

        With AVX2, oneDNN takes twice as long for the gradients of 2D kernels in channels-last: two patches of 192² took
        0.91 s of a core in `em-membrane` in f32, and 0.73 s contiguous. In 3D (1.07 and 1.27 s) and with AVX-512 (0.74
        and 0.72 s; 0.47 and 0.55 s where the decoder alone is trained) channels-last is as fast or faster.
        """
        is_slow = self.device.type == "cpu" and dimensions == 2 and self.precision == "f32" and computes_in_avx2()
        return torch.contiguous_format if self.device.type == "mps" or is_slow else CHANNELS_LAST[dimensions]

    def place(self, network: Network) -> Network:
        """Move `network` to the device, in the order of values that is fastest there, and return it."""
        order = self.memory_format(network.spec.dimensions)
        network.to(device=self.device, memory_format=order)  # type: ignore[call-overload]
        return network

    def upload(self, images: Tensor) -> Tensor:
        """Return `images` (N, C, *space) on the device."""
        return images.to(device=self.device).to(memory_format=self.memory_format(images.ndim - 2))

    def logits(self, network: Network, images: Tensor) -> Tensor:
        """Return the logits (N, channels, *space) of `images` (N, C, *space): float32 on the device."""
        with self.autocast():
            logits: Tensor = network(self.upload(images)).logits
        return logits.float()


def computes_in_avx2() -> bool:
    """Return whether torch convolves with AVX2: the processor has nothing newer, or the user limits oneDNN to it."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    return limit in UP_TO_AVX2 or torch.backends.cpu.get_cpu_capability() == "AVX2"


def choose_compute(
    network: Network, requested: Precision, device_name: str, checkpoint: Path | None, processes: Processes
) -> Compute:
    """Return the device and precision in which `network` is trained.

    "auto" takes a GPU only if a step of this network succeeds on it: a GPU may lack a layer (3D ones on MPS) or the
    memory for a single step. A resumed training keeps the precision of its checkpoint.

    Raises:
        DeviceError: the named device cannot train this network, or not in the precision that is requested.
    """
    device = choose_device(device_name)
    compute = _compute_on(device, own_device(device, processes), requested, checkpoint)
    if device.name == "cpu":
        return compute
    fault = _why_no_step(network, compute)
    if not fault:
        return compute
    if device_name != "auto" or processes.count > 1:
        raise DeviceError(f"{device.title} cannot train this network ({fault}): choose --device cpu.")
    cpu = Device("cpu", cpu_title(), f"{device.title} cannot train this network ({fault})")
    return _compute_on(cpu, torch.device("cpu"), requested, checkpoint)


def _compute_on(device: Device, own: torch.device, requested: Precision, checkpoint: Path | None) -> Compute:
    begun_in = "" if checkpoint is None else precision_in(checkpoint)
    if requested != "auto":
        chosen = ChosenPrecision(requested, "chosen by you")
    elif begun_in:
        chosen = ChosenPrecision(begun_in, "as this training was begun")
    else:
        chosen = best_precision(own.type, training=True)
    return Compute(own, chosen.name, f"{device.title} ({device.reason}) in {chosen}")


def _why_no_step(network: Network, compute: Compute) -> str:
    """Return why a training step of `network` fails, in words; an empty text if it succeeds."""
    trial: nn.Module | None = None
    try:
        trial = compute.place(copy.deepcopy(network)).train()
        spec = network.spec
        images = torch.zeros(2, spec.in_channels, *(2 * network.stride,) * spec.dimensions)
        compute.logits(trial, images).square().mean().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # torch has several classes of errors for what a device cannot do
        return first_line(error)
    return ""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread.

    The thousands of small products of a fit took 100 times as long in two threads (20 s in place of 0.2) where another
    process took one of two cores: at the end of each product one thread waits for the other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
