"""From a protocol to torch: the optimiser, its rate at each step, and the first weights."""

from __future__ import annotations

import math
from typing import Protocol as Contract

import torch
from torch import nn

from napari_skipseg.networks.gates import Select
from napari_skipseg.networks.network import Network
from napari_skipseg.training.protocols import Protocol
from napari_skipseg.training.updates import CONVOLUTIONS, convolutions_in_depth_order


class Scheduled(Contract):
    """Settings that say how and how long to train."""

    @property
    def training_protocol(self) -> Protocol:
        """The protocol, with all rates."""

    @property
    def steps(self) -> int:
        """How many steps."""


def make_optimizer(settings: Scheduled, network: nn.Module) -> torch.optim.Optimizer:
    """Return the protocol's optimiser of what requires a gradient, with weight decay on convolution kernels only.

    Not on biases, batch norm or select weights. Adadelta and RMSprop take the decay as L2 in the gradient, AdamW apart
    from it. Torch's RMSprop adds epsilon outside the root, g / (sqrt(v) + ε); with ε = 1e-8 that differs from inside
    the root only where gradients all but vanish.
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


def learning_rate(settings: Scheduled, step: int) -> float:
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
            nn.init.normal_(module.weight, 0.0, math.sqrt(2 / _fan_in(module)))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _fan_in(module: nn.Module) -> float:
    """Return how many products each output pixel of a convolution sums."""
    if isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
        return module.weight.shape[0] / module.groups * math.prod(module.kernel_size) / math.prod(module.stride)
    return float(module.weight[0].numel())  # type: ignore[index]
