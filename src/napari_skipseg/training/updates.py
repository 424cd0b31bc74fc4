"""What a training records of its network: how much each convolution changed in an epoch, and its select weights.

The weight-update map is that of Drozdzal et al. 2016, Figure 4: layer × epoch, the mean |W_end - W_begin| of every
convolution. It is the net change over an epoch, not the sum of its steps.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from napari_skipseg.networks.gates import Select
from napari_skipseg.networks.network import Network

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def convolutions_in_depth_order(network: Network) -> tuple[str, ...]:
    """Return the names of all convolutions from input to output, in the order in which they run.

    It takes one pass over a tiny image in eval mode, which changes no batch norm, random state or gradient.
    """
    names: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: names.append(name))
        for name, module in network.named_modules()
        if isinstance(module, CONVOLUTIONS)
    ]
    modes = {module: module.training for module in network.modules()}
    parameter = next(network.parameters())
    image = torch.zeros(1, network.spec.in_channels, *(network.stride,) * network.spec.dimensions)
    network.eval()
    try:
        with torch.no_grad():
            network(image.to(parameter))
    finally:
        for module, mode in modes.items():
            module.training = mode
        for hook in hooks:
            hook.remove()
    return tuple(dict.fromkeys(names))


def kernels(network: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Return a copy of the kernels of the convolutions called `names`, on the CPU."""
    return {name: network.get_parameter(f"{name}.weight").detach().cpu().clone() for name in names}


def mean_updates(begin: dict[str, Tensor], end: dict[str, Tensor]) -> dict[str, float]:
    """Return the mean |W_end - W_begin| of each kernel in `end`, in its order."""
    return {name: float((after - begin[name]).abs().mean()) for name, after in end.items()}


def select_weights(network: nn.Module) -> dict[str, tuple[float, ...]]:
    """Return the weights of every select step by its module's name, rounded to 5 digits; at or below 0 is off."""
    return {
        name: tuple(round(weight, 5) for weight in module.weight.detach().flatten().tolist())
        for name, module in network.named_modules()
        if isinstance(module, Select)
    }
