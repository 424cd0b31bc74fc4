"""The fit: from labelled slices and a network to trained weights. It knows no file format and no window."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from napari_skipseg.errors import FileError, SpecError
from napari_skipseg.networks.network import Network, class_probability
from napari_skipseg.progress import Progress
from napari_skipseg.training.checkpoint import FitState, read_checkpoint, write_checkpoint
from napari_skipseg.training.distributed import ALONE, Processes
from napari_skipseg.training.losses import loss
from napari_skipseg.training.optimizers import learning_rate, make_optimizer
from napari_skipseg.training.samples import Labelled, TrainingData, draw_batch
from napari_skipseg.training.settings import TrainSettings
from napari_skipseg.training.updates import convolutions_in_depth_order, kernels, mean_updates, select_weights

MEMORY_FORMAT = {2: torch.channels_last, 3: torch.channels_last_3d}
HALF_BY_ITSELF = ("cpu", "cuda")
"""Devices on which precision "auto" means bf16."""
VALIDATION_SIDE = 512
SHOWN_EVERY = 10
SAVED_EVERY = 60.0
"""Seconds between checkpoints: what a kill costs at most."""


@dataclass(frozen=True)
class _Run:
    """What stays the same from step to step; `state` is what changes."""

    settings: TrainSettings
    data: TrainingData
    network: Network
    optimizer: torch.optim.Optimizer
    device: torch.device
    processes: Processes
    layers: tuple[str, ...]
    """The convolutions whose updates are recorded, in order of depth; none where no epoch is named."""
    state: FitState


def iter_fit(
    settings: TrainSettings,
    data: TrainingData,
    network: Network,
    checkpoint: Path,
    device: torch.device,
    processes: Processes = ALONE,
) -> Generator[Progress, None, FitState]:
    """Yield after each step; return the end state, with `network` at its best weights, in eval mode.

    The same settings and network give the same weights, bit for bit on a CPU with as many threads. Killed at any
    moment, the same call goes on from `checkpoint` and ends with those weights. Closing the generator writes a
    checkpoint first. Of several `processes` each calls this at the same time; the first one validates, writes, and
    ends with the best weights.
    """
    run = _begin(settings, data, network, checkpoint, device, processes)
    state = run.state
    saved, saved_at = state.step, time.monotonic()
    try:
        while not _has_ended(run):
            _take_step(run)
            if state.step % SHOWN_EVERY == 0 or state.step == settings.steps:
                state.record_recent()
            if state.step % settings.validate_every == 0 or state.step == settings.steps:
                _validate_and_save(run, checkpoint)
                saved, saved_at = state.step, time.monotonic()
            elif processes.is_first and time.monotonic() - saved_at > SAVED_EVERY:
                write_checkpoint(checkpoint, settings, state, network, run.optimizer)
                saved, saved_at = state.step, time.monotonic()
            yield Progress(state.step, settings.steps, _in_words(state))
    except GeneratorExit:  # at a yield, between two steps: after any other fault a step may be half done
        if state.step != saved and processes.is_first:
            write_checkpoint(checkpoint, settings, state, network, run.optimizer)
        raise
    if state.best_weights:
        network.load_state_dict(state.best_weights)
    network.eval()
    return state


def _begin(
    settings: TrainSettings,
    data: TrainingData,
    network: Network,
    checkpoint: Path,
    device: torch.device,
    processes: Processes,
) -> _Run:
    """Return the run at its first step, or where its checkpoint left it."""
    network.to(device=device, memory_format=MEMORY_FORMAT[settings.spec.dimensions])  # type: ignore[call-overload]
    optimizer = make_optimizer(settings, network)
    layers = convolutions_in_depth_order(network) if settings.epoch else ()
    with processes.failing_together():
        state = read_checkpoint(checkpoint, settings, network, optimizer)
    if processes.highest(state.step) != -processes.highest(-state.step):
        raise FileError(f"Not all processes of this training see {checkpoint}: choose a folder that all share.")
    if state.step == 0:
        state.select_start = select_weights(network)
    return _Run(settings, data, network, optimizer, device, processes, layers, state)


def _has_ended(run: _Run) -> bool:
    return run.state.step >= run.settings.steps or 0 < run.settings.patience <= run.state.stale


def _take_step(run: _Run) -> None:
    """Take the next step, and record what it did."""
    settings, state = run.settings, run.state
    if settings.epoch and state.step % settings.epoch == 0:
        state.epoch_begin = kernels(run.network, run.layers)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(settings, state.step)
    run.network.train()
    run.optimizer.zero_grad(set_to_none=True)
    with run.processes.failing_together():
        value = _gather_gradients(run)
    gradients = [parameter.grad for parameter in run.network.parameters() if parameter.grad is not None]
    run.processes.average([value, *gradients])
    run.optimizer.step()
    state.step += 1
    state.recent.append(float(value))
    if settings.epoch and state.step % settings.epoch == 0:
        for name, update in mean_updates(state.epoch_begin, kernels(run.network, run.layers)).items():
            state.updates.setdefault(name, []).append(update)


def _gather_gradients(run: _Run) -> Tensor:
    """Return the loss of this process's share of the batch, part after part, and leave its gradients."""
    settings, step, processes = run.settings, run.state.step, run.processes
    share = processes.share(settings)
    # Dropout: seeded by the step, so that a resumed run repeats the same masks.
    torch.manual_seed(settings.seed * 1_000_003 + step + (processes.rank << 40))
    total = torch.zeros((), device=run.device)
    for part in range(settings.accumulate):
        number = (step * processes.count + processes.rank) * settings.accumulate + part
        images, targets = draw_batch(run.data.training, share, number)
        value = loss(settings.loss, _logits(run, images), targets.to(run.device), settings.class_weight)
        if not torch.isfinite(value):
            raise SpecError(f"The loss is not finite at step {step}: train with a smaller learning rate.")
        value = value / settings.accumulate
        value.backward()  # type: ignore[no-untyped-call]
        total += value.detach()
    return total


def _logits(run: _Run, images: Tensor) -> Tensor:
    kind, precision = run.device.type, run.settings.precision
    images = images.to(device=run.device).to(memory_format=MEMORY_FORMAT[images.ndim - 2])
    half = precision == "bf16" or (precision == "auto" and kind in HALF_BY_ITSELF)
    with torch.autocast(kind, torch.bfloat16, enabled=half):
        logits: Tensor = run.network(images).logits
    return logits.float()


def _validate_and_save(run: _Run, checkpoint: Path) -> None:
    """Validate and write the checkpoint, in the first process; let all know whether the loss still falls."""
    with run.processes.failing_together():
        if run.processes.is_first:
            _validate(run)
            write_checkpoint(checkpoint, run.settings, run.state, run.network, run.optimizer)
    run.state.stale = int(run.processes.highest(run.state.stale if run.processes.is_first else 0))


def _validate(run: _Run) -> None:
    state = run.state
    if not run.data.validation:
        return
    run.network.eval()
    losses, overlap, sizes = [], 0.0, 0.0
    with torch.inference_mode():
        for image, target in _validation_windows(run.data.validation, run.settings.spec.dimensions):
            logits = _logits(run, image)
            truth = target.to(run.device)
            losses.append(float(loss(run.settings.loss, logits, truth, run.settings.class_weight)))
            predicted = (class_probability(logits) > 0.5).any(dim=1) & (truth >= 0)
            overlap += float((predicted & (truth > 0)).sum())
            sizes += float(predicted.sum() + (truth > 0).sum())
    value = sum(losses) / len(losses)
    state.record("held-out loss", value)
    state.record("held-out Dice", 2 * overlap / max(1.0, sizes))
    state.stale = 0 if value < state.best_loss else state.stale + 1
    if value <= state.best_loss:
        state.best_loss = value
        state.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in run.network.state_dict().items()}


def _validation_windows(runs: tuple[Labelled, ...], dimensions: int) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Yield the middle window (at most 512 a side) of each held-out slice, or of each run in 3D, as a batch of one."""
    for run in runs:
        middle = tuple(
            slice(start := max(0, (length - VALIDATION_SIDE) // 2), start + VALIDATION_SIDE)
            for length in run.target.shape[1:]
        )
        image, target = run.image[(slice(None), slice(None), *middle)], run.target[(slice(None), *middle)]
        if dimensions == 3:
            yield torch.from_numpy(image.copy())[None], torch.from_numpy(target.copy())[None]
        else:
            for z in range(target.shape[0]):
                yield torch.from_numpy(image[:, z].copy())[None], torch.from_numpy(target[z].copy())[None]


def _in_words(state: FitState) -> str:
    latest = (f"{name} {curve[-1][1]:.3f}" for name, curve in state.curves.items())
    return f"step {state.step}, " + ", ".join(latest)
