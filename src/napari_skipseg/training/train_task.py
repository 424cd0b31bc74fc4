"""Training on whole labelled slices, from scratch or from another model's weights, as a task for the fit."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from napari_skipseg.errors import SpecError
from napari_skipseg.networks.network import Network, class_probability
from napari_skipseg.training.checkpoint import PRECISION
from napari_skipseg.training.compute import Compute
from napari_skipseg.training.distributed import ALONE, Processes
from napari_skipseg.training.learning import Pictured
from napari_skipseg.training.losses import loss
from napari_skipseg.training.samples import Labelled, TrainingData, draw_batch
from napari_skipseg.training.settings import TrainSettings, settings_from_json, settings_to_dict
from napari_skipseg.training.task import Pace, Validation

VALIDATION_SIDE = 512


class TrainTask:
    """What `TrainSettings` ask for on `data`: random patches, the whole network, validation on the slices held out."""

    def __init__(
        self, settings: TrainSettings, data: TrainingData, compute: Compute, processes: Processes = ALONE
    ) -> None:
        self.settings, self.data, self.compute = settings, data, compute
        self.share = processes.share(settings)
        self.pace = Pace(
            steps=settings.steps,
            training_protocol=settings.training_protocol,
            validate_every=settings.validate_every,
            accumulate=settings.accumulate,
            patience=settings.patience,
            epoch=settings.epoch,
            seed=settings.seed,
        )

    def record(self) -> dict[str, Any]:
        """Return the settings as a checkpoint keeps them, and the precision that the fit computes in."""
        return settings_to_dict(self.settings) | {PRECISION: self.compute.precision}

    def is_same_run(self, written: dict[str, Any]) -> bool:
        """Return whether these settings train the same; what an older version did not know has its default."""
        known = {name: value for name, value in written.items() if name != PRECISION}
        try:
            found = settings_from_json(json.dumps(known))
        except SpecError:
            return False
        return _as_trained(found) == _as_trained(self.settings)

    def parameters(self, network: Network) -> Sequence[nn.Parameter]:
        """Return all parameters."""
        return tuple(network.parameters())

    def set_modes(self, network: Network) -> None:
        """Put the whole network into training mode."""
        network.train()

    def loss(self, network: Network, number: int) -> Tensor:
        """Return the loss of part `number` of all batches."""
        images, targets = draw_batch(self.data.training, self.share, number)
        logits = self.compute.logits(network, images)
        return loss(self.settings.loss, logits, targets.to(logits.device), self.settings.class_weight)

    def validate(self, network: Network) -> Validation | None:
        """Return the mean loss over the windows held out, Dice of all classes against the background, a picture."""
        if not self.data.validation:
            return None
        losses, overlap, sizes = [], 0.0, 0.0
        picture: Pictured | None = None
        with torch.inference_mode():
            for image, target in _validation_windows(self.data.validation, self.settings.spec.dimensions):
                logits = self.compute.logits(network, image)
                truth = target.to(logits.device)
                losses.append(float(loss(self.settings.loss, logits, truth, self.settings.class_weight)))
                probability = class_probability(logits)
                predicted = (probability > 0.5).any(dim=1) & (truth >= 0)
                overlap += float((predicted & (truth > 0)).sum())
                sizes += float(predicted.sum() + (truth > 0).sum())
                picture = picture or picture_of(image, probability, target)
        dice = 2 * overlap / max(1.0, sizes)
        return Validation(sum(losses) / len(losses), {"held-out Dice": dice}, picture)


def picture_of(image: Tensor, probability: Tensor, target: Tensor) -> Pictured:
    """Return the picture of the first sample of a batch; of a volume its middle slice.

    image: (N, C, *space), of which the first channel is shown. probability: (N, classes, *space), of which the sum is
    shown: that of any class. target: (N, *space).
    """
    middle = (image.shape[2] // 2,) if image.ndim == 5 else ()
    return Pictured(
        0,
        0,
        image=image[(0, 0, *middle)].float().cpu().numpy().copy(),
        probability=probability[0].sum(dim=0)[middle].float().cpu().numpy().copy(),
        target=target[(0, *middle)].to(torch.int16).cpu().numpy().copy(),
    )


def _as_trained(settings: TrainSettings) -> TrainSettings:
    used = settings.training_protocol
    return replace(settings, learning_rate=used.learning_rate, weight_decay=used.weight_decay, warm_up=used.warm_up)


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
