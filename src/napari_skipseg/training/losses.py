"""Losses over logits and targets; pixels whose target is `IGNORED` do not count."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from napari_skipseg.networks.network import class_probability
from napari_skipseg.training.settings import LossName

IGNORED = -1
DICE_SMOOTH = 1.0


def loss(name: LossName, logits: Tensor, target: Tensor, class_weight: float = 1.0) -> Tensor:
    """Return the loss as a scalar: cross-entropy ("bce"), the paper's Dice, or their sum.

    Shape: logits (N, C, *space), target (N, *space) with 0 = background, 1… = classes, -1 = not counted. With one
    channel the network's output is the logit of class 1, with several it goes through a softmax over the channels.
    Pixels of a class count `class_weight` times in the cross-entropy.
    """
    counted = target != IGNORED
    total = logits.new_zeros(())
    if "bce" in name:
        total = total + cross_entropy(logits, target, counted, class_weight)
    if "dice" in name:
        total = total + dice_loss(logits, target, counted)
    return total


def cross_entropy(logits: Tensor, target: Tensor, counted: Tensor, class_weight: float = 1.0) -> Tensor:
    """Return the mean cross-entropy over the pixels that count; those of a class count `class_weight` times."""
    if logits.shape[1] == 1:
        values = functional.binary_cross_entropy_with_logits(
            logits[:, 0], (target == 1).to(logits.dtype), reduction="none"
        )
    else:
        values = functional.cross_entropy(logits, target.clamp(min=0).long(), reduction="none")
    weights = counted * torch.where(target > 0, class_weight, 1.0)
    return (values * weights).sum() / weights.sum().clamp(min=1)


def dice_loss(logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Return minus the Dice coefficient (no squares) over the whole batch, mean over classes (Drozdzal et al. 2016).

    -(2 Σ o·y + 1) / (Σ o + Σ y + 1): -1 for a perfect prediction.
    """
    probability = class_probability(logits) * counted[:, None]
    classes = range(1, probability.shape[1] + 1)
    truth = torch.stack([target == label for label in classes], dim=1).to(probability.dtype)
    dims = (0, *range(2, probability.ndim))
    overlap = (probability * truth).sum(dims)
    sizes = probability.sum(dims) + truth.sum(dims)
    return -((2 * overlap + DICE_SMOOTH) / (sizes + DICE_SMOOTH)).mean()
