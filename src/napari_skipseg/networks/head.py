"""Change the classes of a trained network: its last convolution gets new outputs, all other layers stay."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from napari_skipseg.networks.network import Network

FIRST_PROBABILITY = 0.01
"""Probability of a new class before it is trained, in pure background; in old classes it is less."""


def grow_classes(network: Network, kept: Sequence[int], *, channels: int) -> Network:
    """Return a copy of `network` with `channels` outputs: its classes `kept`, then new ones.

    kept: numbers of old classes from 0, in their new order. channels: 1 for one class, else one more than classes, the
    first one background. If all classes are kept and none is new, no probability changes. A new class starts at 1 % of
    the background's probability, so that the old classes' probabilities hardly change. If no class is kept, the last
    convolution is initialised from torch's random state. The copy has the mode, device and precision of `network`.

    Raises:
        ValueError: `kept` has an unknown class, one twice, or more classes than the new network.
    """
    classes, old_classes = _classes(channels), _classes(network.spec.out_channels)
    if len(set(kept)) != len(kept) or len(kept) > classes or not all(0 <= number < old_classes for number in kept):
        raise ValueError(f"{list(kept)} cannot be kept of {old_classes} classes in a network of {classes}")
    old = network.get_submodule(network.head)
    if not isinstance(old, nn.Conv2d | nn.Conv3d) or old.bias is None:
        raise ValueError(f"'{network.head}' is no convolution with a bias")
    grown = copy.deepcopy(network)
    head = type(old)(old.in_channels, channels, 1).to(old.weight)
    if kept:
        with torch.no_grad():
            head.weight.copy_(_rows(old.weight, kept, channels, shift=0.0))
            head.bias.copy_(_rows(old.bias, kept, channels, shift=_shift(classes - len(kept))))  # type: ignore[union-attr]
    grown.set_submodule(network.head, head.train(old.training))
    grown.spec = replace(network.spec, out_channels=channels)
    return grown


def _classes(channels: int) -> int:
    return max(1, channels - 1)


def _shift(added: int) -> float:
    """Return the logit of a new class over the background's: each of `added` ones gets `FIRST_PROBABILITY` of it."""
    return math.log(FIRST_PROBABILITY / max(FIRST_PROBABILITY, 1 - FIRST_PROBABILITY * added))


def _rows(old: Tensor, kept: Sequence[int], channels: int, shift: float) -> Tensor:
    """Return weights or biases by output: background, those kept, and the background's plus `shift` for new ones."""
    several = torch.cat([torch.zeros_like(old), old]) if len(old) == 1 else old
    background, classes = several[:1], several[1:][list(kept)]
    if channels == 1:
        return classes - background  # softmax of two is the sigmoid of their difference
    new = (background + shift).expand(channels - 1 - len(kept), *old.shape[1:])
    return torch.cat([background, classes, new])
