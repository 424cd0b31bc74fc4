"""Normal and full fine-tuning to classes that were shown by strokes: it goes on from what *quick* learns of them.

The new classes have pixel heads, fitted as *quick* does. Then the decoder, or all of the network, learns through them:
a pixel head reads every level, so each level gets a gradient of its own, and the first step begins at the result of
*quick*. A new output of the last level, which knew nothing at first, needed most of the time to get so far.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from napari_skipseg.networks.head import sources_of
from napari_skipseg.networks.network import Network
from napari_skipseg.networks.pixel_head import TaughtNetwork
from napari_skipseg.progress import Progress
from napari_skipseg.training.compute import Compute
from napari_skipseg.training.finetune.crops import CorrectionCrops
from napari_skipseg.training.finetune.labelled_pixels import iter_read_pixels
from napari_skipseg.training.finetune.labels import ClassPlan
from napari_skipseg.training.finetune.patches import PatchBatch
from napari_skipseg.training.finetune.pixel_classifier import FittedClass, fit_pixel_heads
from napari_skipseg.training.finetune.priors import DENSE_SHARE
from napari_skipseg.training.finetune.task import FinetuneData, FinetuneTask
from napari_skipseg.training.losses import (
    IGNORED,
    SMALLEST_WEIGHT,
    distillation_loss,
    loss,
    merge_unknown,
    with_background,
)
from napari_skipseg.training.settings import FinetuneSettings


def classes_with_heads(settings: FinetuneSettings, plan: ClassPlan, network: Network, share: float) -> list[int]:
    """Return the classes (from 0) with pixel heads through which a deep reach learns: all but the network's own.

    None of them if a large share of what was read is labelled: that shows an output of the network all that it needs.
    share: of the voxels that have a label.
    """
    if settings.reach == "quick" or share > DENSE_SHARE:
        return []
    sources = sources_of(network)
    own = {place for place, number in enumerate(plan.kept) if sources[number] is not None}
    return [number for number in range(len(plan.classes)) if number not in own]


def iter_fit_first_heads(
    network: TaughtNetwork, taught: Sequence[int], corrections: CorrectionCrops, seed: int, compute: Compute
) -> Generator[Progress, None, dict[int, FittedClass]]:
    """Yield while features are computed; fit the heads of the classes `taught` to all labels that are not held out."""
    crops = [replace(crop, held_out=np.full_like(crop.held_out, IGNORED)) for crop in corrections.crops]
    pixels = yield from iter_read_pixels(network, crops, seed, compute)
    yield Progress(1, 1, "fitting the classes")
    return fit_pixel_heads(network, taught, pixels)


HEAD_RATES: dict[str, float] = {"normal": 2e-3, "full": 2e-3}
"""On Kasthuri (one seed), 24 steps at 6e-4 raised Dice at the true area from 0.618 to 0.634, and at 2e-3 to 0.655."""


class HeadTask(FinetuneTask):
    """Training of the decoder or of the whole network beneath pixel heads, and of the heads."""

    rates = HEAD_RATES

    def __init__(
        self,
        settings: FinetuneSettings,
        data: FinetuneData,
        steps: int,
        batch: int,
        compute: Compute,
        network: TaughtNetwork,
    ) -> None:
        super().__init__(settings, data, steps, batch, compute)
        sources = network.pixel_head.sources
        self._channels = network.spec.out_channels
        self._heads = [number for number, source in enumerate(sources) if source is None]
        places = {source: number for number, source in enumerate(sources) if source is not None}
        self._owners = [places.get(channel, -1) for channel in range(max(1, self._channels - 1))]
        """Of each output of the network but the background the class that it is, -1 if that was dropped."""
        self._values = torch.zeros(len(sources) + 2, dtype=torch.int8)
        self._values[0] = IGNORED
        for channel, number in enumerate(self._owners):
            if number >= 0:
                self._values[number + 2] = channel + 1

    def _total_loss(self, logits: Tensor, batch: PatchBatch, answers: Tensor | None, weight: float) -> Tensor:
        """Return the loss of the network's own classes and of those with heads, beside that of forgetting."""
        own = with_background(logits[:, : self._channels])
        value = self._own_loss(own, batch, answers, weight)
        targets = batch.targets.to(self.compute.device)
        for column, number in enumerate(self._heads):
            head = logits[:, self._channels + column]
            if self.data.patches.plan.judged[number]:
                counted = (targets != IGNORED) & _by_patch(batch.judged[:, number], targets)
                value = value + balanced_loss(head, targets == number + 1, counted, self.settings.class_weight)
            elif answers is not None:
                asked = _by_patch(batch.distilled[:, number], targets)
                before = answers[:, self.data.patches.plan.kept[number]]
                entropy = functional.binary_cross_entropy_with_logits(head, before, reduction="none")
                value = value + weight * (entropy * asked).sum() / asked.expand_as(head).sum().clamp(min=1)
        return value

    def _own_loss(self, own: Tensor, batch: PatchBatch, answers: Tensor | None, weight: float) -> Tensor:
        targets = self._values.to(own.device)[batch.targets.to(own.device).long() + 1]
        is_there = torch.tensor([number >= 0 for number in self._owners])
        judged, distilled = (
            (each[:, self._owners] & is_there).to(own.device) for each in (batch.judged, batch.distilled)
        )
        value = loss(self.settings.loss, merge_unknown(own, judged), targets, self.settings.class_weight)
        if answers is None:
            return value
        # the old classes come first, in the order of the old model, so they are numbered as its answers are
        kept = [self.data.patches.plan.kept[number] if number >= 0 else 0 for number in self._owners]
        return value + weight * distillation_loss(own, answers, kept, distilled, targets <= 0)


def balanced_loss(logits: Tensor, positive: Tensor, counted: Tensor, class_weight: float = 1.0) -> Tensor:
    """Return the binary cross-entropy in which the class weighs as much as all else, as in the fit of a pixel head.

    Shape: all (N, *space).
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="none")
    weights = torch.zeros_like(entropy)
    for side, factor in ((positive & counted, class_weight), (~positive & counted, 1.0)):
        weights = weights + factor * side / side.sum().clamp(min=1)
    return (entropy * weights).sum() / weights.sum().clamp(min=SMALLEST_WEIGHT)


def _by_patch(chosen: Tensor, targets: Tensor) -> Tensor:
    return chosen.to(targets.device).view(-1, *[1] * (targets.ndim - 1))
