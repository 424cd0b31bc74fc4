"""Losses over logits and targets; pixels with the target `IGNORED` do not count."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from napari_skipseg.networks.network import class_probability
from napari_skipseg.training.settings import LossName

IGNORED = -1
DICE_SMOOTH = 1.0
FOCUS = 2.0
"""γ of the focal loss, as Lin et al. 2017 found best."""
SMALLEST_WEIGHT = 1e-6


def loss(name: LossName, logits: Tensor, target: Tensor, class_weight: float = 1.0) -> Tensor:
    """Return the loss as a scalar: one of the cross-entropies, the paper's Dice, or the sum of two ("bce+dice").

    Shape: logits (N, C, *space), target (N, *space) with 0 = background, 1… = classes, -1 = not counted. With one
    channel the network's output is the logit of class 1, with several it goes through a softmax over the channels.
    Pixels of a class count `class_weight` times in the cross-entropies. If no pixel counts, the loss is finite and its
    gradient 0.
    """
    counted = target != IGNORED
    total = logits.new_zeros(())
    for part in name.split("+"):
        match part:
            case "bce":
                total = total + cross_entropy(logits, target, counted, class_weight)
            case "focal":
                total = total + focal_loss(logits, target, counted, class_weight)
            case "balanced":
                total = total + balanced_cross_entropy(logits, target, counted, class_weight)
            case "dice":
                total = total + dice_loss(logits, target, counted)
    return total


def cross_entropy(logits: Tensor, target: Tensor, counted: Tensor, class_weight: float = 1.0) -> Tensor:
    """Return the mean cross-entropy over the pixels that count; those of a class count `class_weight` times."""
    return _weighted_mean(_entropy(logits, target), _weights(target, counted, class_weight))


def focal_loss(logits: Tensor, target: Tensor, counted: Tensor, class_weight: float = 1.0) -> Tensor:
    """Return the mean of -(1 - p)^2 log p, p the probability of the true class (Lin et al. 2017, eq. 4, γ = 2).

    Their α is `class_weight`; the mean is over the pixels that count, where they divide by the number of anchors.
    """
    entropy = _entropy(logits, target)
    return _weighted_mean((1 - torch.exp(-entropy)) ** FOCUS * entropy, _weights(target, counted, class_weight))


def balanced_cross_entropy(logits: Tensor, target: Tensor, counted: Tensor, class_weight: float = 1.0) -> Tensor:
    """Return the cross-entropy in which all classes of the batch, background included, have the same weight.

    The mean over classes of the mean over their pixels: for two classes that of HED (Xie & Tu 2015, eq. 2), here
    divided by the number of pixels. A class counts `class_weight` times as much as the background.
    """
    share = torch.zeros_like(target, dtype=logits.dtype)
    for label in range(max(2, logits.shape[1])):
        own = counted & (target == label)
        share = share + own / own.sum().clamp(min=1)
    return _weighted_mean(_entropy(logits, target), share * _weights(target, counted, class_weight))


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


def _entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return -log of the true class's probability per pixel, (N, *space); anything if the target is no class."""
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(
            logits[:, 0], (target == 1).to(logits.dtype), reduction="none"
        )
    return functional.cross_entropy(logits, target.clamp(min=0).long(), reduction="none")


def _weights(target: Tensor, counted: Tensor, class_weight: float) -> Tensor:
    return counted * torch.where(target > 0, class_weight, 1.0)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=SMALLEST_WEIGHT)


_EXCLUDED = -1e4
"""Logit of a class that is excluded: its probability and its gradient are 0 in float32."""

OLD_CLASS_WEIGHT = 4.0
"""Weight of a pixel in which the old network is sure of a class to remember; that of background is 1."""


def merge_unknown(logits: Tensor, known: Tensor) -> Tensor:
    """Return logits in which the probability of every class that is not `known` is added to the background.

    Shape: logits (N, classes + 1, *space), known (N, classes) bool. Logits of one channel have
    no channel of background and are returned unchanged.
    """
    if logits.shape[1] == 1 or bool(known.all()):
        return logits
    is_known = known.view(*known.shape, *[1] * (logits.ndim - 2))
    classes = logits[:, 1:]
    unknown = classes.masked_fill(is_known, _EXCLUDED)
    background = torch.logsumexp(torch.cat([logits[:, :1], unknown], dim=1), dim=1, keepdim=True)
    return torch.cat([background, classes.masked_fill(~is_known, _EXCLUDED)], dim=1)


def distillation_loss(
    logits: Tensor, old_probability: Tensor, kept: Sequence[int], remembered: Tensor, counted: Tensor
) -> Tensor:
    """Return the cross-entropy between the old and the new network's probabilities of the classes to remember.

    The mean over the pixels that are `counted`; those of old classes count 4 times, so that membranes get no gaps. All
    other classes are background in both.

    Shape: logits (N, C, *space) of the new network, whose first classes are those `kept` of the old one.
    old_probability (N, old classes, *space), in [0, 1]. remembered (N, new classes) bool. counted (N, *space) bool.
    """
    both = with_background(logits)
    merged = functional.log_softmax(merge_unknown(both, remembered), dim=1)
    is_remembered = remembered[:, : len(kept)].view(-1, len(kept), *[1] * (logits.ndim - 2))
    old = old_probability[:, list(kept)] * is_remembered
    background = (1 - old.sum(dim=1, keepdim=True)).clamp(min=0)
    agreement = (merged[:, 1 : len(kept) + 1] * old).sum(dim=1) + merged[:, 0] * background[:, 0]
    counts = counted & remembered.any(dim=1).view(-1, *[1] * (counted.ndim - 1))
    weights = counts * (1 + (OLD_CLASS_WEIGHT - 1) * old.sum(dim=1))
    return -(agreement * weights).sum() / weights.sum().clamp(min=SMALLEST_WEIGHT)


def with_background(logits: Tensor) -> Tensor:
    """Return logits with a channel of background; for one channel z that is (0, z), the same probability."""
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits
