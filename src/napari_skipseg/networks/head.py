"""Change the classes of a trained network: new outputs of its last convolution, or pixel heads; other layers stay."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from napari_skipseg.networks.network import Network
from napari_skipseg.networks.pixel_head import TaughtNetwork
from napari_skipseg.networks.specs import SCALES, ZOOMS, PixelHeadSpec

FIRST_PROBABILITY = 0.01
"""Probability of a new class before it is trained, in pure background; in old classes it is less."""


def grow_classes(network: Network, kept: Sequence[int], *, channels: int) -> Network:
    """Return a copy of `network` with `channels` outputs: its classes `kept`, then new ones.

    kept: numbers of old classes from 0, in their new order. channels: 1 for one class, else one more than classes, the
    first one background. If all classes are kept and none is new, no probability changes. A new class starts at 1 % of
    the background's probability, so that the old classes' probabilities hardly change. If no class is kept, the last
    convolution is initialised from torch's random state. The copy has the mode, device and precision of `network`.

    A network with pixel heads loses them: their classes start like new ones.

    Raises:
        ValueError: `kept` has an unknown class, one twice, or more classes than the new network.
    """
    classes, sources = _classes(channels), sources_of(network)
    if len(set(kept)) != len(kept) or len(kept) > classes or not all(0 <= number < len(sources) for number in kept):
        raise ValueError(f"{list(kept)} cannot be kept of {len(sources)} classes in a network of {classes}")
    if isinstance(network, TaughtNetwork):
        network = network.body
    own = [sources[number] for number in kept]
    known = len(own) - own.count(None)
    old = network.get_submodule(network.head)
    if not isinstance(old, nn.Conv2d | nn.Conv3d) or old.bias is None:
        raise ValueError(f"'{network.head}' is no convolution with a bias")
    grown = copy.deepcopy(network)
    head = type(old)(old.in_channels, channels, 1).to(old.weight)
    if known:
        with torch.no_grad():
            head.weight.copy_(_rows(old.weight, own, channels, shift=0.0))
            head.bias.copy_(_rows(old.bias, own, channels, shift=_shift(classes - known)))  # type: ignore[union-attr]
    grown.set_submodule(network.head, head.train(old.training))
    grown.spec = replace(network.spec, out_channels=channels)
    return grown


def add_pixel_heads(network: Network, kept: Sequence[int], taught: Sequence[int], *, classes: int) -> TaughtNetwork:
    """Return a copy of `network` in which the classes `taught` (numbers from 0) have new pixel heads, all weights 0.

    kept: numbers of old classes, in their new order; those that are not taught again stay what they are, with the
    pixel head that they may have. classes: how many there will be. All else of the heads stays as in old ones.
    """
    old = sources_of(network)
    sources = tuple(None if number in taught else old[kept[number]] for number in range(classes))
    if isinstance(network, TaughtNetwork):
        spec = replace(network.pixel_head, sources=sources)
    else:
        dimensions = network.spec.dimensions
        spec = PixelHeadSpec(sources, scales=SCALES[dimensions], zooms=ZOOMS[dimensions])
    body = network.body if isinstance(network, TaughtNetwork) else network
    grown = TaughtNetwork(copy.deepcopy(body), spec).to(next(body.parameters())).train(network.training)
    for number, head in zip((n for n, source in enumerate(sources) if source is None), grown.heads, strict=True):
        if number not in taught and isinstance(network, TaughtNetwork):
            head.load_state_dict(network.head_of(kept[number]).state_dict())
    return grown


def sources_of(network: Network) -> tuple[int | None, ...]:
    """Return of each class the number of the network's own class that it is; None = it has a pixel head."""
    if isinstance(network, TaughtNetwork):
        return network.pixel_head.sources
    return tuple(range(_classes(network.spec.out_channels)))


def _classes(channels: int) -> int:
    return max(1, channels - 1)


def _shift(added: int) -> float:
    """Return the logit of a new class over the background's: each of `added` ones gets `FIRST_PROBABILITY` of it."""
    return math.log(FIRST_PROBABILITY / max(FIRST_PROBABILITY, 1 - FIRST_PROBABILITY * added))


def _rows(old: Tensor, own: Sequence[int | None], channels: int, shift: float) -> Tensor:
    """Return weights or biases by output: background, classes `own`, and new ones: the background's plus `shift`."""
    several = torch.cat([torch.zeros_like(old), old]) if len(old) == 1 else old
    background, new = several[:1], several[:1] + shift
    classes = [new if source is None else several[source + 1 : source + 2] for source in own]
    if channels == 1:
        return classes[0] - background  # softmax of two is the sigmoid of their difference
    return torch.cat([background, *classes, *[new] * (channels - 1 - len(own))])
