"""Training on whole labelled slices, from scratch or from another model's weights, as a task for the fit."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
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
VALIDATION_VOXELS = 2**21
"""Of a block in 3D: a U-Net of 32 channels takes some 0.7 GB for it in f32."""


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

    def iter_validate(self, network: Network) -> Generator[tuple[int, int], None, Validation | None]:
        """Yield after each window held out; return their mean loss, Dice of all classes together, and a picture.

        The picture is that of the window with the most voxels of a class.
        """
        windows = _validation_windows(self.data.validation, self.settings.spec.dimensions)
        if not windows:
            return None
        losses, overlap, sizes, most = [], 0.0, 0.0, -1
        picture: Pictured | None = None
        for number, window in enumerate(windows):
            with torch.inference_mode():  # not around the yield: it would hold for the caller too
                image, target = (torch.from_numpy(np.ascontiguousarray(each)) for each in (window.image, window.target))
                logits = self.compute.logits(network, image[None])
                truth = target[None].to(logits.device)
                losses.append(float(loss(self.settings.loss, logits, truth, self.settings.class_weight)))
                probability = class_probability(logits)
                predicted = (probability > 0.5).any(dim=1) & (truth >= 0)
                overlap += float((predicted & (truth > 0)).sum())
                sizes += float(predicted.sum() + (truth > 0).sum())
                found = int((target > 0).sum())
                if found > most:
                    most, picture = found, picture_of(image, probability[0], target, target > 0)
            if number + 1 < len(windows):
                yield number + 1, len(windows)
        dice = 2 * overlap / max(1.0, sizes)
        return Validation(sum(losses) / len(losses), {"held-out Dice": dice}, picture)


def picture_of(image: Tensor, probability: Tensor, target: Tensor, shown: Tensor) -> Pictured:
    """Return the picture of one sample; of a volume the slice in which most is `shown`, the middle one if nothing is.

    image: (C, *space), of which the first channel is shown. probability: (classes, *space), of which the sum is shown:
    that of any class. target: (*space). shown: (*space) bool.
    """
    place: tuple[int, ...] = ()
    if target.ndim == 3:
        counts = shown.sum(dim=(1, 2))
        place = (int(counts.argmax()) if bool(counts.any()) else len(counts) // 2,)
    return Pictured(
        0,
        0,
        image=image[(0, *place)].float().cpu().numpy().copy(),
        probability=probability.sum(dim=0)[place].float().cpu().numpy().copy(),
        target=target[place].to(torch.int16).cpu().numpy().copy(),
    )


def _as_trained(settings: TrainSettings) -> TrainSettings:
    used = settings.training_protocol
    return replace(settings, learning_rate=used.learning_rate, weight_decay=used.weight_decay, warm_up=used.warm_up)


def _validation_windows(runs: tuple[Labelled, ...], dimensions: int) -> list[Labelled]:
    """Return the middle (at most 512 a side) of each slice held out; in 3D of each run of slices, in blocks.

    A window is (C, *space) and (*space). Blocks have no margin, as training patches have none, and at most
    `VALIDATION_VOXELS`: so a run of any number of slices takes the memory of a block.
    """
    windows = []
    for run in runs:
        middle = tuple(
            slice(start := max(0, (length - VALIDATION_SIDE) // 2), start + min(length, VALIDATION_SIDE))
            for length in run.target.shape[1:]
        )
        image, target = run.image[(slice(None), slice(None), *middle)], run.target[(slice(None), *middle)]
        if dimensions == 2:
            windows += [Labelled(image[:, z], target[z]) for z in range(len(target))]
        else:
            windows += [Labelled(image[(slice(None), *block)], target[block]) for block in _blocks(target.shape)]
    return windows


def _blocks(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Return blocks of nearly equal sides, each of at most `VALIDATION_VOXELS`, that cover `shape`."""
    counts = [1] * len(shape)
    sides = list(shape)
    while math.prod(sides) > VALIDATION_VOXELS:
        longest = sides.index(max(sides))
        counts[longest] += 1
        sides[longest] = -(-shape[longest] // counts[longest])
    edges = [[length * part // count for part in range(count + 1)] for length, count in zip(shape, counts, strict=True)]
    return list(product(*([slice(*pair) for pair in pairwise(edge)] for edge in edges)))
