"""One training in several processes, which `torchrun` starts: each takes its share of every batch.

Each process has the whole network and draws its own samples; the gradients are averaged before each step, in one
message, so all processes have the same weights at all times. Statistics of batch norm (the first process's are kept),
Dice, the balance of classes and the number of counted pixels are those of each process's share, not of the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as group

from napari_skipseg.devices import Device
from napari_skipseg.errors import DeviceError, EngineError, SpecError
from napari_skipseg.training.settings import TrainSettings

_PATIENCE = timedelta(hours=1)
"""How long a process waits for the others, such as for the first one while that validates."""
SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Processes:
    """The number of this process and of all processes; the first one validates, writes and reports."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process validates, writes and reports for all."""
        return self.rank == 0

    def share(self, settings: TrainSettings) -> TrainSettings:
        """Return `settings` with the batch of one backward pass: that of one process, and of one part if accumulated.

        Raises:
            SpecError: the batch cannot be divided so.
        """
        return replace(settings, batch=self.part_of(settings.batch, settings.accumulate), accumulate=1)

    def part_of(self, batch: int, accumulate: int = 1) -> int:
        """Return the samples of one backward pass: those of one process, and of one part if accumulated.

        Raises:
            SpecError: the batch cannot be divided so.
        """
        parts = self.count * accumulate
        if batch % parts:
            raise SpecError(
                f"A batch of {batch} cannot be shared by {self.count} processes in {accumulate} parts each: choose a "
                f"batch that {parts} divides."
            )
        return batch // parts

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over all processes."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        summed = flat if group.get_backend() == "nccl" else flat.cpu()
        group.all_reduce(summed)
        mean = (summed / self.count).to(flat.device)
        parts = torch.split(mean, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def highest(self, value: float) -> float:
        """Return the highest `value` that any process gave."""
        if self.count == 1:
            return value
        device = "cuda" if group.get_backend() == "nccl" else "cpu"
        shared = torch.tensor(value, dtype=torch.float64, device=device)
        group.all_reduce(shared, group.ReduceOp.MAX)
        return float(shared)

    @contextmanager
    def failing_together(self) -> Generator[None, None, None]:
        """Make what is within fail in all processes if it fails in one, so that none waits for ever.

        Raises:
            EngineError: it failed in another process, whose own message says why.
        """
        fault: Exception | None = None
        try:
            yield
        except Exception as error:
            fault = error
        failed = self.highest(float(fault is not None)) > 0
        if fault is not None:
            raise fault
        if failed:
            raise EngineError("Another process of this training failed; its own message says why.")


ONE_PROCESS = Processes()


def started_by_torchrun() -> Processes:
    """Return the number of this process among those that torchrun started; `ONE_PROCESS` if it started none."""
    if not all(os.environ.get(name) for name in SET_BY_TORCHRUN) or int(os.environ["WORLD_SIZE"]) < 2:
        return ONE_PROCESS
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return Processes(rank, count, int(os.environ.get("LOCAL_RANK", rank)))


def own_device(device: Device, processes: Processes) -> torch.device:
    """Return the torch device of this process; on CUDA each process has its own GPU.

    Raises:
        DeviceError: there are fewer GPUs than processes on this machine.
    """
    if device.name != "cuda" or processes.count == 1:
        return torch.device(device.name)
    if processes.local_rank >= torch.cuda.device_count():
        raise DeviceError(
            f"There are {torch.cuda.device_count()} GPUs for more processes: start torchrun with as many processes."
        )
    torch.cuda.set_device(processes.local_rank)
    return torch.device("cuda", processes.local_rank)


@contextmanager
def joined(processes: Processes, device: torch.device) -> Generator[None, None, None]:
    """Connect all processes for what is within, by NCCL between GPUs, else by gloo; do nothing for one process."""
    if processes.count == 1:
        yield
        return
    group.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        group.destroy_process_group()
