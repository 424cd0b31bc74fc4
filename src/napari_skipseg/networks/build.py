"""From a specification to its network."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from napari_skipseg.networks.di2in import DI2IN
from napari_skipseg.networks.imported import ImportedNetwork
from napari_skipseg.networks.network import Network, count_trainable
from napari_skipseg.networks.pixel_head import TaughtNetwork
from napari_skipseg.networks.residual_fcn import ResidualFCN
from napari_skipseg.networks.specs import (
    DI2INSpec,
    ImportedSpec,
    NetworkSpec,
    PixelHeadSpec,
    ResidualFCNSpec,
    TiramisuSpec,
    UNetSpec,
    VNetSpec,
)
from napari_skipseg.networks.tiramisu import Tiramisu
from napari_skipseg.networks.unet import UNet
from napari_skipseg.networks.vnet import VNet


def build(spec: NetworkSpec, pixel_head: PixelHeadSpec | None = None) -> Network:
    """Return the network that `spec` describes, initialised from torch's random state.

    pixel_head: describes the classes that have a pixel head; None = all are the network's own.
    """
    if pixel_head is not None:
        return TaughtNetwork(build(spec), pixel_head)
    match spec:
        case UNetSpec():
            return UNet(spec)
        case ResidualFCNSpec():
            return ResidualFCN(spec)
        case VNetSpec():
            return VNet(spec)
        case TiramisuSpec():
            return Tiramisu(spec)
        case DI2INSpec():
            return DI2IN(spec)
        case ImportedSpec():
            return ImportedNetwork(spec)


@cache
def count_parameters(spec: NetworkSpec) -> int:
    """Return the trainable parameters of the network that `spec` describes, without making its weights."""
    return count_trainable(outline(spec))


def outline(spec: NetworkSpec, pixel_head: PixelHeadSpec | None = None) -> Network:
    """Return the network that `build` returns with the shapes of its weights only, on torch's "meta" device."""
    with _Shapes():
        return build(spec, pixel_head)


class _Shapes(TorchFunctionMode):
    """Makes tensors without memory and leaves them unfilled.

    `torch.device("meta")` alone is slower: there `normal_` first loads torch's compiler, for seconds.
    """

    MAKING = frozenset({torch.empty, torch.zeros, torch.ones, torch.tensor})
    FILLING = frozenset(
        {Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_, nn.init.kaiming_uniform_, nn.init.uniform_}
    )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func in self.FILLING:
            return args[0] if args else named["tensor"]
        if func in self.MAKING:
            named = named | {"device": "meta"}
        return func(*args, **named)
