"""The training loop: from a network and a task to trained weights. It depends on no file format and no viewer."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol as Contract

import torch
from torch import Tensor, nn

from napari_skipseg.errors import FileError, SpecError
from napari_skipseg.networks.gates import Select
from napari_skipseg.networks.network import Network
from napari_skipseg.progress import Progress
from napari_skipseg.training.checkpoint import FitState, read_checkpoint, write_checkpoint
from napari_skipseg.training.compute import Compute
from napari_skipseg.training.distributed import ONE_PROCESS, Processes
from napari_skipseg.training.progress import KeepBest, TrainingProgress, ValidationPicture
from napari_skipseg.training.protocols import Protocol
from napari_skipseg.training.task import TrainingPace, TrainingTask, Validation
from napari_skipseg.training.updates import (
    CONVOLUTIONS,
    convolutions_in_depth_order,
    kernels,
    mean_updates,
    select_weights,
)


class ScheduledOptimizer(Contract):
    """Settings with the protocol and the length of a training."""

    @property
    def training_protocol(self) -> Protocol:
        """The protocol, with all rates."""

    @property
    def steps(self) -> int:
        """Number of steps."""


def make_optimizer(settings: ScheduledOptimizer, network: nn.Module) -> torch.optim.Optimizer:
    """Return the protocol's optimiser of what requires a gradient, with weight decay on convolution kernels only.

    Biases, batch norm and select weights do not decay. Adadelta and RMSprop add the decay to the gradient (L2), AdamW
    does not. Torch's RMSprop adds epsilon outside the root, g / (sqrt(v) + ε); with ε = 1e-8 that differs from inside
    the root only if gradients nearly vanish.
    """
    protocol = settings.training_protocol
    plain = {id(module.weight) for module in network.modules() if isinstance(module, Select)}
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in network.parameters():
        if not parameter.requires_grad:
            continue
        (others if parameter.ndim < 2 or id(parameter) in plain else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": protocol.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    rate, decay, epsilon = protocol.learning_rate, protocol.decay, protocol.epsilon
    match protocol.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, lr=rate, betas=(0.9, decay), eps=epsilon)
        case "adadelta":
            return torch.optim.Adadelta(groups, lr=rate, rho=decay, eps=epsilon)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=rate, alpha=decay, eps=epsilon)


def learning_rate(settings: ScheduledOptimizer, step: int) -> float:
    """Return the rate at `step`: a linear rise over the `warm_up` share, then constant or half a cosine down to 0."""
    protocol = settings.training_protocol
    rise = max(1, round(protocol.warm_up * settings.steps))
    if step < rise:
        return protocol.learning_rate * (step + 1) / rise
    if protocol.schedule == "constant":
        return protocol.learning_rate
    return protocol.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, settings.steps - rise)))


def initialise(network: Network, protocol: Protocol) -> None:
    """Give all convolutions of `network` the protocol's first weights, from torch's random state, and biases of 0.

    "glorot-uniform": all kernels uniform in ±sqrt(6 / (fan in + fan out)). "he-normal": normal of deviation
    sqrt(2 / fan in), but the classifier, the last convolution to run, Glorot-uniform: Keras's default where the
    authors' code names none. The fan in of an up-convolution is what each of its output pixels sums. "own": nothing
    changes. Select weights and batch norm keep their own first values.
    """
    if protocol.initialiser == "own":
        return
    last = convolutions_in_depth_order(network)[-1]
    for name, module in network.named_modules():
        if not isinstance(module, CONVOLUTIONS):
            continue
        if protocol.initialiser == "glorot-uniform" or name == last:
            nn.init.xavier_uniform_(module.weight)
        else:
            fan_in = float(module.weight[0].numel())
            if isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
                channels = module.weight.shape[0] / module.groups
                fan_in = channels * math.prod(module.kernel_size) / math.prod(module.stride)
            nn.init.normal_(module.weight, 0.0, math.sqrt(2 / fan_in))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


SHOWN_EVERY = 10
SAVED_EVERY = 60.0
"""Seconds between checkpoints: the most that a kill costs."""
LONG_STEP = 5.0
"""After longer steps a checkpoint is written each time: a signal may end the process in the middle of the next one."""


@dataclass
class _Run:
    """A running fit: what is the same in all steps, its `state`, and the steps and times of the last checkpoint.

    layers: the convolutions whose updates are recorded, in order of depth; none if no epoch is named. began: the time
    when the fit began, without the breaks before it was resumed. saved, validated: the last steps that were. keeps:
    whether a `KeepBest` was sent back in the middle of a validation.
    """

    task: TrainingTask
    network: Network
    checkpoint: Path
    optimizer: torch.optim.Optimizer
    device: torch.device
    processes: Processes
    layers: tuple[str, ...]
    state: FitState
    began: float
    saved_at: float
    saved: int
    validated: int = -1
    keeps: bool = False

    @property
    def pace(self) -> TrainingPace:
        """The length and rates of the fit."""
        return self.task.pace

    @property
    def place(self) -> int:
        """How far the fit is, in steps; with a time limit, by time if that is further."""
        if not self.pace.minutes:
            return self.state.step
        by_time = int(self.pace.steps * self.state.seconds / (60 * self.pace.minutes))
        return max(self.state.step, min(self.pace.steps, by_time))

    @property
    def has_ended(self) -> bool:
        """Whether all steps are done, or something ended the fit before."""
        return self.state.ended or self.state.step >= self.pace.steps or 0 < self.pace.patience <= self.state.stale

    @property
    def message(self) -> str:
        """The step, with their number unless minutes end the run, and the newest values of the curves."""
        state, pace = self.state, self.pace
        step = f"step {state.step}" if pace.minutes else f"step {state.step} of {pace.steps}"
        if pace.minutes:
            step += f", {state.seconds / 60:.1f} of {pace.minutes:g} min"
        return ", ".join([step, *(f"{name} {curve[-1][1]:.3f}" for name, curve in state.curves.items())])


def iter_learn(
    task: TrainingTask, network: Network, checkpoint: Path, compute: Compute, processes: Processes = ONE_PROCESS
) -> Generator[Progress, KeepBest | None, FitState]:
    """Yield after each step; return the end state, with `network` at its best weights, in eval mode.

    The progress is a `TrainingProgress`, with values when curves get new points; a `ValidationPicture` follows each
    validation. A `KeepBest` sent back ends the fit: its current weights are validated, and the best are kept.

    The same task and network give the same weights, bit for bit on a CPU with as many threads, unless time or a
    `KeepBest` ends them. After a kill at any moment, the same call resumes from `checkpoint` and ends with those
    weights. Closing the generator writes a checkpoint first. Each of several `processes` calls this at the same time;
    the first one validates, writes, and ends with the best weights.

    Raises:
        SpecError: the checkpoint is of a different run or damaged, or the loss is not finite.
        FileError: the checkpoint cannot be written.
    """
    requires_grad = {parameter: parameter.requires_grad for parameter in network.parameters()}
    try:
        run = _begin(task, network, checkpoint, compute, processes)
        try:
            while run.state.is_due or not run.has_ended:
                if not run.state.is_due:
                    _take_step(run)
                picture = None
                if run.state.is_due:
                    picture = yield from _iter_validate_and_save(run)
                curves = run.state.curves.items()
                values = {name: curve[-1][1] for name, curve in curves if curve[-1][0] == run.state.step}
                progress = TrainingProgress(run.place, run.pace.steps, run.message, run.state.step, values)
                keeps = isinstance((yield progress), KeepBest)
                if picture is not None:
                    shown = replace(picture, done=run.place, total=run.pace.steps, message=run.message)
                    keeps = isinstance((yield shown), KeepBest) or keeps
                if processes.highest(float(keeps or run.keeps)):
                    yield from _iter_end_early(run)
        except GeneratorExit:  # at a yield, between two steps: after any other fault a step may be half done
            if (run.state.step != run.saved or run.state.is_due) and processes.is_first:
                _save(run)
            raise
    finally:
        for parameter, gradient in requires_grad.items():
            parameter.requires_grad_(gradient)
    if run.state.best_weights:
        network.load_state_dict(run.state.best_weights)
    network.eval()
    return run.state


def _begin(task: TrainingTask, network: Network, checkpoint: Path, compute: Compute, processes: Processes) -> _Run:
    """Return the run at its first step or at that of its checkpoint; only trained parameters require gradients."""
    compute.place(network)
    trained = set(task.parameters(network))
    for parameter in network.parameters():
        parameter.requires_grad_(parameter in trained)
    optimizer = make_optimizer(task.pace, network)
    layers = convolutions_in_depth_order(network) if task.pace.epoch else ()
    with processes.failing_together():
        state = read_checkpoint(checkpoint, task.is_same_run, network, optimizer)
    if processes.highest(state.step) != -processes.highest(-state.step):
        raise FileError(f"Not all processes of this training see {checkpoint}: choose a folder that all share.")
    if state.step == 0:
        state.select_start = select_weights(network)
    now = time.monotonic()
    began = now - state.seconds
    saved_at = now - SAVED_EVERY  # the first step of a call is saved: from then on any signal leaves a checkpoint
    return _Run(
        task, network, checkpoint, optimizer, compute.device, processes, layers, state, began, saved_at, state.step
    )


def _take_step(run: _Run) -> None:
    """Take the next step; record it and write a checkpoint if it is time to."""
    pace, state, before = run.pace, run.state, run.state.seconds
    if pace.epoch and state.step % pace.epoch == 0:
        state.epoch_begin = kernels(run.network, run.layers)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(pace, run.place)
    run.task.set_modes(run.network)
    run.optimizer.zero_grad(set_to_none=True)
    with run.processes.failing_together():
        value = _gather_gradients(run)
    gradients = [parameter.grad for parameter in run.network.parameters() if parameter.grad is not None]
    run.processes.average([value, *gradients])
    run.optimizer.step()
    state.step += 1
    state.recent.append(float(value))
    if pace.epoch and state.step % pace.epoch == 0:
        for name, update in mean_updates(state.epoch_begin, kernels(run.network, run.layers)).items():
            state.updates.setdefault(name, []).append(update)
    state.seconds = time.monotonic() - run.began
    if pace.minutes:
        state.seconds = run.processes.highest(state.seconds)
        state.ended = state.seconds >= 60 * pace.minutes
    is_last = state.ended or state.step == pace.steps
    if is_last or state.step % (pace.shown_every or SHOWN_EVERY) == 0:
        state.record_recent()
    state.is_due = is_last or state.step % pace.validate_every == 0
    is_long = state.seconds - before > LONG_STEP or time.monotonic() - run.saved_at > SAVED_EVERY
    with run.processes.failing_together():  # a full disk ends the training in all processes
        if is_long and run.processes.is_first and not state.is_due:  # after a validation it is saved in any case
            _save(run)


def _gather_gradients(run: _Run) -> Tensor:
    """Return the loss of this process's share of the batch, and set its gradients."""
    pace, step, processes = run.pace, run.state.step, run.processes
    # Dropout: seeded by the step, so that a resumed run repeats the same masks.
    torch.manual_seed(pace.seed * 1_000_003 + step + (processes.rank << 40))
    total = torch.zeros((), device=run.device)
    for part in range(pace.accumulate):
        value = run.task.loss(run.network, (step * processes.count + processes.rank) * pace.accumulate + part)
        if not torch.isfinite(value):
            raise SpecError(f"The loss is not finite at step {step}: train with a smaller learning rate.")
        value = value / pace.accumulate
        value.backward()  # type: ignore[no-untyped-call]
        total += value.detach()
    return total


def _iter_end_early(run: _Run) -> Generator[Progress, KeepBest | None, None]:
    """Validate the current weights, so that the best can be kept, and store that the run has ended."""
    run.state.ended = True
    if run.state.recent:
        run.state.record_recent()
    if run.validated != run.state.step:
        run.state.is_due = True
        yield from _iter_validate_and_save(run)
    else:
        with run.processes.failing_together():
            if run.processes.is_first:
                _save(run)


def _save(run: _Run) -> None:
    write_checkpoint(run.checkpoint, run.task.record(), run.state, run.network, run.optimizer)
    run.saved, run.saved_at = run.state.step, time.monotonic()


def _iter_validate_and_save(run: _Run) -> Generator[Progress, KeepBest | None, ValidationPicture | None]:
    """Validate and write the checkpoint in the first process; let all processes know whether the loss still falls."""
    picture = None
    with run.processes.failing_together():
        if run.processes.is_first:
            picture = yield from _iter_validate(run)
        run.state.is_due = False
        if run.processes.is_first:
            _save(run)
    run.validated = run.state.step
    run.state.stale = int(run.processes.highest(run.state.stale if run.processes.is_first else 0))
    return picture


def _iter_validate(run: _Run) -> Generator[Progress, KeepBest | None, ValidationPicture | None]:
    """Score the network on what is held out, and keep its weights if they are the best."""
    state = run.state
    run.network.eval()
    work = run.task.iter_validate(run.network)
    while True:
        try:
            done, total = next(work)
        except StopIteration as stop:
            found: Validation | None = stop.value
            break
        message = f"{run.message}, looking at what is held out: {done} of {total}"
        progress = TrainingProgress(run.place, run.pace.steps, message, state.step)
        run.keeps = isinstance((yield progress), KeepBest) or run.keeps
    if found is None:
        return None
    for curve, value in {"held-out loss": found.loss, **found.values}.items():
        state.record(curve, value)
    state.stale = 0 if found.loss < state.best_loss else state.stale + 1
    if found.loss <= state.best_loss:
        state.best_loss = found.loss
        state.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in run.network.state_dict().items()}
    return found.picture
