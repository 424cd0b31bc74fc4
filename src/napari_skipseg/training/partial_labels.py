"""Learning from labels that judge some classes only: what they do not judge may be anywhere they say background.

The marginal loss and the distillation of Fidon et al. 2021 (label-set losses) and Li & Hoiem 2016 (learning without
forgetting), in the form of Cermelli et al. 2020: the probability of a class that the labels do not know is the
background's in the loss, and what the old network said of it is the target instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from napari_skipseg.training.losses import SMALLEST_WEIGHT

NOWHERE = -1e4
"""Logit of a class that is nowhere: its probability is 0 in float32, and its gradient too."""

OLD_CLASS_WEIGHT = 4.0
"""How much more a pixel counts in which the old network is sure of a class to remember."""


def merge_unknown(logits: Tensor, known: Tensor) -> Tensor:
    """Return logits in which the probability of every class that is not `known` has gone to the background.

    Shape: logits (N, classes + 1, *space), known (N, classes) bool. Logits of one channel, with no background of their
    own, come back as they are: there is no class to tell apart.
    """
    if logits.shape[1] == 1 or bool(known.all()):
        return logits
    shown = known.view(*known.shape, *[1] * (logits.ndim - 2))
    classes = logits[:, 1:]
    away = classes.masked_fill(shown, NOWHERE)
    background = torch.logsumexp(torch.cat([logits[:, :1], away], dim=1), dim=1, keepdim=True)
    return torch.cat([background, classes.masked_fill(~shown, NOWHERE)], dim=1)


def remembering_loss(
    logits: Tensor, old_probability: Tensor, kept: Sequence[int], remembered: Tensor, counted: Tensor
) -> Tensor:
    """Return the cross-entropy between what the old network says of the classes to remember and what the new one says.

    The mean over the pixels that are `counted`, those of old classes 4 times, so that no gap comes into a membrane; all
    other classes count as background in both.

    Shape: logits (N, C, *space) of the new network, whose first classes are those `kept` of the old one.
    old_probability (N, old classes, *space), in [0, 1]. remembered (N, new classes) bool. counted (N, *space) bool.
    """
    both = with_background(logits)
    merged = functional.log_softmax(merge_unknown(both, remembered), dim=1)
    shown = remembered[:, : len(kept)].view(-1, len(kept), *[1] * (logits.ndim - 2))
    old = old_probability[:, list(kept)] * shown
    background = (1 - old.sum(dim=1, keepdim=True)).clamp(min=0)
    told = (merged[:, 1 : len(kept) + 1] * old).sum(dim=1) + merged[:, 0] * background[:, 0]
    counts = counted & remembered.any(dim=1).view(-1, *[1] * (counted.ndim - 1))
    weights = counts * (1 + (OLD_CLASS_WEIGHT - 1) * old.sum(dim=1))
    return -(told * weights).sum() / weights.sum().clamp(min=SMALLEST_WEIGHT)


def with_background(logits: Tensor) -> Tensor:
    """Return logits with a channel of the background: of one channel z, (0, z), which says the same."""
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits
