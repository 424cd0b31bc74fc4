"""The fit: from labelled slices and a network to trained weights. It knows no file format and no window."""

from __future__ import annotations

import math
from collections.abc import Generator
from pathlib import Path

import torch
from torch import Tensor, nn

from napari_skipseg.errors import SpecError
from napari_skipseg.networks.gates import Select
from napari_skipseg.networks.network import Network, class_probability
from napari_skipseg.progress import Progress
from napari_skipseg.training.checkpoint import FitState, read_checkpoint, write_checkpoint
from napari_skipseg.training.losses import loss
from napari_skipseg.training.samples import Labelled, TrainingData, draw_batch
from napari_skipseg.training.settings import TrainSettings, settings_to_dict

MEMORY_FORMAT = {2: torch.channels_last, 3: torch.channels_last_3d}
VALIDATION_SIDE = 512
SHOWN_EVERY = 10


def iter_fit(
    settings: TrainSettings, data: TrainingData, network: Network, checkpoint: Path, device: torch.device
) -> Generator[Progress, None, FitState]:
    """Yield every few steps; return the end state, with `network` at its best weights, in eval mode.

    Killed at any moment, the same call goes on from `checkpoint` and ends with the same weights. Closing the generator
    writes a checkpoint first.
    """
    network.to(device=device, memory_format=MEMORY_FORMAT[settings.spec.dimensions])  # type: ignore[call-overload]
    optimizer = make_optimizer(settings, network)
    state = read_checkpoint(checkpoint, settings_to_dict(settings), network, optimizer)
    saved = state.step
    running = []
    try:
        while state.step < settings.steps:
            running.append(_take_step(settings, data, network, optimizer, state.step, device))
            state.step += 1
            last = state.step == settings.steps
            if state.step % SHOWN_EVERY == 0 or last:
                state.record("training loss", sum(running) / len(running))
                running.clear()
            if state.step % settings.validate_every == 0 or last:
                _validate(settings, data, network, state, device)
                write_checkpoint(checkpoint, settings_to_dict(settings), state, network, optimizer)
                saved = state.step
            if state.step % SHOWN_EVERY == 0 or last:
                yield Progress(state.step, settings.steps, _in_words(state))
    except GeneratorExit:  # at a yield, between two steps: after any other fault a step may be half done
        if state.step != saved:
            write_checkpoint(checkpoint, settings_to_dict(settings), state, network, optimizer)
        raise
    if state.best_weights:
        network.load_state_dict(state.best_weights)
    network.eval()
    return state


def make_optimizer(settings: TrainSettings, network: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW with weight decay on convolution kernels only: not on biases, batch norm or select weights."""
    plain = {id(module.weight) for module in network.modules() if isinstance(module, Select)}
    kernels: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in network.parameters():
        (others if parameter.ndim < 2 or id(parameter) in plain else kernels).append(parameter)
    groups = [
        {"params": kernels, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Return the rate at `step`: a linear rise over the first `warm_up` share, then half a cosine down to 0."""
    rise = max(1, round(settings.warm_up * settings.steps))
    if step < rise:
        return settings.learning_rate * (step + 1) / rise
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, settings.steps - rise)))


def _take_step(
    settings: TrainSettings,
    data: TrainingData,
    network: Network,
    optimizer: torch.optim.Optimizer,
    step: int,
    device: torch.device,
) -> float:
    torch.manual_seed(settings.seed * 1_000_003 + step)  # dropout: so that a resumed run repeats the same masks
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(settings, step)
    images, targets = draw_batch(data.training, settings, step)
    network.train()
    value = loss(settings.loss, _logits(network, images, device), targets.to(device), settings.class_weight)
    if not torch.isfinite(value):
        raise SpecError(f"The loss is not finite at step {step}: train with a smaller learning rate.")
    optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(value.detach())


def _logits(network: Network, images: Tensor, device: torch.device) -> Tensor:
    images = images.to(device=device).to(memory_format=MEMORY_FORMAT[images.ndim - 2])
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type in ("cpu", "cuda")):
        logits: Tensor = network(images).logits
    return logits.float()


def _validate(
    settings: TrainSettings, data: TrainingData, network: Network, state: FitState, device: torch.device
) -> None:
    if not data.validation:
        return
    network.eval()
    losses, overlap, sizes = [], 0.0, 0.0
    with torch.inference_mode():
        for image, target in _validation_windows(data.validation, settings.spec.dimensions):
            logits = _logits(network, image, device)
            truth = target.to(device)
            losses.append(float(loss(settings.loss, logits, truth, settings.class_weight)))
            predicted = (class_probability(logits) > 0.5).any(dim=1) & (truth >= 0)
            overlap += float((predicted & (truth > 0)).sum())
            sizes += float(predicted.sum() + (truth > 0).sum())
    value = sum(losses) / len(losses)
    state.record("held-out loss", value)
    state.record("held-out Dice", 2 * overlap / max(1.0, sizes))
    if value <= state.best_loss:
        state.best_loss = value
        state.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}


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
