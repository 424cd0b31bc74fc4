"""Fine-tuning as a task for the fit: patches with partial labels, an old network that is not to be forgotten."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from napari_skipseg.errors import SpecError
from napari_skipseg.networks.network import Deep, Network
from napari_skipseg.networks.pixel_head import TaughtNetwork
from napari_skipseg.progress import Progress
from napari_skipseg.training.checkpoint import PRECISION
from napari_skipseg.training.compute import Compute
from napari_skipseg.training.distributed import Processes
from napari_skipseg.training.finetune.patches import PatchBatch, PatchSampler
from napari_skipseg.training.losses import IGNORED, distillation_loss, loss, merge_unknown
from napari_skipseg.training.protocols import PROTOCOLS
from napari_skipseg.training.settings import RATES, STEPS, FinetuneSettings, Reach, equals_written, settings_to_dict
from napari_skipseg.training.task import TrainingPace, Validation
from napari_skipseg.training.train import picture_of

_BATCH_NORM = (nn.BatchNorm2d, nn.BatchNorm3d)
_PATCH = {2: (192, 192), 3: (32, 64, 64)}
QUICK_PATCH = {2: (128, 128), 3: (16, 48, 48)}
"""Size of a patch by dimensions, if the settings name none."""
BATCH = {2: 4, 3: 2}
QUICK_BATCH = 8
DISTILLATION_WEIGHT = 5.0
"""Weight of the old network's answers beside the labels in training; in a validation both weigh the same."""
UNPAINTED_WEIGHTS = {"quick": 4.0, "normal": 0.0, "full": 0.0}
"""Their weight on the pixels that nobody painted, by reach. A few strokes over the hardest spots would make the last
level alone lose what was right beside them; deeper reaches can tell such spots apart."""
VALIDATIONS = {"quick": 4, "normal": 12, "full": 12}
"""Validations of a fit, by reach."""
VALIDATED_BLOCKS = {"quick": 8, "normal": 48, "full": 48}
"""Held-out blocks of a validation, by reach; the scores at the end take all."""
STEPS_FACTOR = 3
"""A fit that minutes end gets so many times the steps that were measured to fit into them, because other programs may
have disturbed the measurement; it validates so much more often, counted by steps."""
LEARNT_FROM = "learnt_from_sha256"
KEPT_FEATURES = 96
"""Patches whose features are computed once, if only the last level is trained."""


@dataclass(frozen=True)
class FinetuneData:
    """What a fine-tuning works with: where its patches come from, and what is held out.

    held_out: patches of the corrections and of the rehearsal samples. teacher: the old network, None if nothing is to
    be remembered. sha256: of all that is learnt from, so that no checkpoint is resumed with different corrections.
    """

    patches: PatchSampler
    held_out: tuple[PatchBatch, ...]
    teacher: Network | None
    sha256: str = ""


def patch_of(settings: FinetuneSettings, network: Network) -> tuple[int, ...]:
    """Return the size of a patch, named or that of the reach, in whole strides of the network.

    Raises:
        SpecError: the named size has different dimensions than the network.
    """
    dimensions = network.spec.dimensions
    patch = settings.patch or (QUICK_PATCH if settings.reach == "quick" else _PATCH)[dimensions]
    if len(patch) != dimensions or min(patch) < 8:
        given = ", ".join(map(str, patch))
        raise SpecError(f"A {dimensions}D network needs a patch of {dimensions} lengths >= 8, not {given}.")
    return tuple(-(-side // network.stride) * network.stride for side in patch)


def batch_of(settings: FinetuneSettings, dimensions: int) -> int:
    """Return the patches of a step, all processes together."""
    return settings.batch or (QUICK_BATCH if settings.reach == "quick" else BATCH[dimensions])


def trained_parts(network: Network, reach: Reach) -> list[nn.Module]:
    """Return the parts of `network` that the reach trains."""
    if isinstance(network, TaughtNetwork):
        return [*trained_parts(network.body, reach), network.heads]
    if reach == "full":
        return [network]
    names = network.parts.last if reach == "quick" else network.parts.decoder
    return [network.get_submodule(name) for name in names]


def set_modes(network: Network, settings: FinetuneSettings) -> None:
    """Put what is trained, except frozen batch norms, into training mode, and all else into evaluation mode."""
    network.eval()
    for part in trained_parts(network, settings.reach):
        part.train()
        for module in part.modules():
            if isinstance(module, _BATCH_NORM) and settings.batch_norm == "frozen":
                module.eval()


def is_record_of(written: dict[str, Any], settings: FinetuneSettings, sha256: str) -> bool:
    """Return whether a checkpoint with the `written` record is one of these settings.

    sha256: of what is learnt from.
    """
    known = {name: value for name, value in written.items() if name not in (LEARNT_FROM, PRECISION)}
    return written.get(LEARNT_FROM) == sha256 and equals_written(settings, known)


class _Prepared(NamedTuple):
    """A batch with its features below the last level of the network, and the old network's answers."""

    batch: PatchBatch
    deep: Deep
    answers: Tensor | None


class FinetuneTask:
    """Training of the decoder or of the whole network, with new patches for every step.

    rates: the highest learning rate by reach, if the settings name none.
    """

    rates: Mapping[str, float] = RATES

    def __init__(
        self, settings: FinetuneSettings, data: FinetuneData, steps: int, batch: int, compute: Compute
    ) -> None:
        self.settings, self.data, self.compute, self._batch = settings, data, compute, batch
        fitted = settings.time_limit > 0 and not settings.steps
        rate = settings.learning_rate or self.rates[settings.reach]
        self.pace = TrainingPace(
            steps=steps,
            training_protocol=replace(PROTOCOLS["modern"], learning_rate=rate),
            validate_every=max(1, -(-steps // (VALIDATIONS[settings.reach] * (STEPS_FACTOR if fitted else 1)))),
            shown_every=max(1, min(10, steps // 10)),
            seed=settings.seed,
            minutes=settings.time_limit,
        )
        if data.teacher is not None:
            compute.place(data.teacher)

    def record(self) -> dict[str, Any]:
        """Return the settings as a checkpoint keeps them, what is learnt from, and the precision of the fit."""
        return settings_to_dict(self.settings) | {
            LEARNT_FROM: self.data.sha256,
            PRECISION: self.compute.precision,
        }

    def is_same_run(self, written: dict[str, Any]) -> bool:
        """Return whether a checkpoint with the settings `written` is one of these."""
        return is_record_of(written, self.settings, self.data.sha256)

    def parameters(self, network: Network) -> Sequence[nn.Parameter]:
        """Return the parameters that the reach trains."""
        return [parameter for part in trained_parts(network, self.settings.reach) for parameter in part.parameters()]

    def set_modes(self, network: Network) -> None:
        """Put what is trained, except frozen batch norms, into training mode."""
        set_modes(network, self.settings)

    def loss(self, network: Network, number: int) -> Tensor:
        """Return the loss of part `number` of all batches."""
        batch = self.data.patches.draw(range(number * self._batch, (number + 1) * self._batch))
        logits = self.compute.logits(network, batch.images)
        return self._total_loss(logits, batch, self._ask_teacher(batch), DISTILLATION_WEIGHT)

    def _total_loss(self, logits: Tensor, batch: PatchBatch, answers: Tensor | None, weight: float) -> Tensor:
        """Return the loss on the labels, and `weight` times that of forgetting the old network's answers."""
        targets = batch.targets.to(self.compute.device)
        merged = merge_unknown(logits, batch.judged.to(self.compute.device))
        value = loss(self.settings.loss, merged, targets, self.settings.class_weight)
        if answers is None:
            return value
        kept, distilled = self.data.patches.plan.kept, batch.distilled.to(self.compute.device)
        value = value + weight * distillation_loss(logits, answers, kept, distilled, targets <= 0)
        unpainted_weight = UNPAINTED_WEIGHTS[self.settings.reach]
        if unpainted_weight == 0:
            return value
        is_old = torch.arange(batch.judged.shape[1], device=self.compute.device) < len(kept)
        painted = batch.judged.to(self.compute.device) & is_old
        return value + unpainted_weight * distillation_loss(logits, answers, kept, painted, targets == IGNORED)

    def _ask_teacher(self, batch: PatchBatch) -> Tensor | None:
        """Return the old network's probabilities (N, old classes, *space); 0 for patches that need none."""
        asked = batch.distilled.any(dim=1)
        if UNPAINTED_WEIGHTS[self.settings.reach] > 0:
            asked = asked | (batch.targets == IGNORED).flatten(1).any(dim=1)
        if self.data.teacher is None or not bool(asked.any()):
            return None
        with torch.no_grad():
            logits = self.compute.logits(self.data.teacher, batch.images[asked])
            found = self.data.teacher.probability(logits)
            if bool(asked.all()):
                return found
            answers = found.new_zeros(len(asked), *found.shape[1:])
            answers[asked.to(self.compute.device)] = found
        return answers

    def iter_validate(self, network: Network) -> Generator[tuple[int, int], None, Validation | None]:
        """Yield after each held-out batch; return their mean loss, that of rehearsal samples included, and Dice.

        Dice is the mean over the classes that the labels judge. The picture shows the patch with the most voxels of the
        last one.
        """
        losses: list[float] = []
        learnt = self.data.patches.plan.learnt
        overlap, sizes = torch.zeros(len(learnt)), torch.zeros(len(learnt))
        picture, most = None, -1
        for number, batch in enumerate(self.data.held_out):
            if number:
                yield number, len(self.data.held_out)
            with torch.inference_mode():  # not around the yield: the caller would be in this mode too
                logits, answers = self._predict_held_out(network, number)
                losses.append(float(self._total_loss(logits, batch, answers, 1.0)))
                if not bool(batch.judged[:, learnt[-1] - 1].all()):
                    continue
                probability = network.probability(logits).cpu()
            for column, label in enumerate(learnt):
                true = batch.targets == label
                predicted = (probability[:, label - 1] > 0.5) & (batch.targets >= 0)
                overlap[column] += 2 * (predicted & true).sum()
                sizes[column] += predicted.sum() + true.sum()
            shown = batch.targets == learnt[-1]
            counts = shown.flatten(1).sum(dim=1)
            best = int(counts.argmax())
            if int(counts[best]) > most:
                most = int(counts[best])
                of_class = probability[best, [learnt[-1] - 1]]
                picture = picture_of(batch.images[best], of_class, batch.targets[best], shown[best])
        dice = float((overlap / sizes.clamp(min=1)).mean())
        return Validation(sum(losses) / len(losses), {"held-out Dice": dice}, picture)

    def _predict_held_out(self, network: Network, number: int) -> tuple[Tensor, Tensor | None]:
        """Return the logits of held-out batch `number`, and the old network's answers."""
        batch = self.data.held_out[number]
        return self.compute.logits(network, batch.images), self._ask_teacher(batch)


class QuickTask(FinetuneTask):
    """Training of the last level and its gate; the features below it do not change and are computed once."""

    _training: list[_Prepared]
    _held_out: list[_Prepared]

    def iter_prepare(self, network: Network) -> Generator[Progress, None, None]:
        """Yield while the features are computed; call it before the first step."""
        self.compute.place(network).eval()
        self._training, self._held_out = [], []
        patches, batch, held_out = self.data.patches, self._batch, self.data.held_out
        count = max(1, min(self.pace.steps, KEPT_FEATURES // batch))
        total = count + len(held_out)
        for number in range(total):
            yield Progress(number, total, f"preparing patches: {number + 1} of {total}")
            if number < count:
                drawn = patches.draw(range(number * batch, (number + 1) * batch))
                self._training.append(self._prepare(network, drawn))
            else:
                self._held_out.append(self._prepare(network, held_out[number - count]))

    def _prepare(self, network: Network, batch: PatchBatch) -> _Prepared:
        with torch.no_grad(), self.compute.autocast():
            deep = network.deep(self.compute.upload(batch.images))
        return _Prepared(batch, deep, self._ask_teacher(batch))

    def loss(self, network: Network, number: int) -> Tensor:
        """Return the loss of part `number` of all batches; the prepared ones are used again and again."""
        prepared = self._training[number % len(self._training)]
        return self._total_loss(self._finish(network, prepared), prepared.batch, prepared.answers, DISTILLATION_WEIGHT)

    def _finish(self, network: Network, prepared: _Prepared) -> Tensor:
        with self.compute.autocast():
            return network.finish(prepared.deep).logits.float()

    def _predict_held_out(self, network: Network, number: int) -> tuple[Tensor, Tensor | None]:
        return self._finish(network, self._held_out[number]), self._held_out[number].answers


def iter_warm_up_head(
    settings: FinetuneSettings, data: FinetuneData, network: Network, compute: Compute, processes: Processes
) -> Generator[Progress, None, None]:
    """Yield after each step of a quick fine-tuning of `network`, which precedes a normal or a full one.

    The same settings give the same weights in every process.
    """
    quick = replace(settings, reach="quick", learning_rate=None, patch=(), batch=0, steps=0, minutes=0.0)
    sides = zip(patch_of(quick, network), data.patches.patch, strict=True)
    patches = replace(data.patches, patch=tuple(min(pair) for pair in sides))
    steps = STEPS["quick"]
    task = QuickTask(quick, FinetuneData(patches, (), data.teacher), steps, QUICK_BATCH, compute)
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
        yield Progress(step + 1, steps, f"warming up the new classes: step {step + 1} of {steps}")
    network.zero_grad(set_to_none=True)
    network.eval()
