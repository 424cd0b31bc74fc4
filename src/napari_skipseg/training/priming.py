"""A new class gets its start: the last level learns it first, on features of the old network, before all else moves.

A class that begins at nearly nothing sends gradients of no direction through the whole network for many steps, which
cost time and distort what it knew (linear probing, then fine-tuning: Kumar et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace

import torch

from napari_skipseg.networks.network import Network
from napari_skipseg.progress import Progress
from napari_skipseg.training.compute import Compute
from napari_skipseg.training.distributed import Processes
from napari_skipseg.training.finetune_settings import RATES, STEPS, FinetuneSettings
from napari_skipseg.training.finetune_task import QUICK_BATCH, Lessons, QuickTask, patch_of

SHOWN = "warming up the new classes"


def iter_prime(
    settings: FinetuneSettings, lessons: Lessons, network: Network, compute: Compute, processes: Processes
) -> Generator[Progress, None, None]:
    """Yield after each step of a quick fine-tuning of `network`, which goes before a normal or a full one.

    The same settings give the same weights, in every process.
    """
    quick = replace(settings, reach="quick", learning_rate=None, patch=(), batch=0, steps=0, minutes=0.0)
    sides = zip(patch_of(quick, network), lessons.patches.patch, strict=True)
    patches = replace(lessons.patches, patch=tuple(min(pair) for pair in sides))
    steps = STEPS["quick"]
    task = QuickTask(quick, Lessons(patches, (), lessons.teacher), steps, QUICK_BATCH, compute)
    yield from task.iter_prepare(network)
    parameters = list(task.parameters(network))
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATES["quick"] * 0.5 * (1 + math.cos(math.pi * step / steps))
        task.set_modes(network)
        torch.manual_seed(settings.seed * 1_000_003 + step)
        optimizer.zero_grad(set_to_none=True)
        task.loss(network, step).backward()  # type: ignore[no-untyped-call]
        processes.average([parameter.grad for parameter in parameters if parameter.grad is not None])
        optimizer.step()
        yield Progress(step + 1, steps, f"{SHOWN}: step {step + 1} of {steps}")
    network.zero_grad(set_to_none=True)
    network.eval()
