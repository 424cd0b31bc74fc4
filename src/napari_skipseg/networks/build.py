"""From a specification to its network."""

from __future__ import annotations

import torch

from napari_skipseg.networks.network import Network, count_trainable
from napari_skipseg.networks.residual_fcn import ResidualFCN
from napari_skipseg.networks.specs import NetworkSpec, ResidualFCNSpec, UNetSpec
from napari_skipseg.networks.unet import UNet


def build(spec: NetworkSpec) -> Network:
    """Return the network that `spec` describes, freshly initialised from torch's random state."""
    match spec:
        case UNetSpec():
            return UNet(spec)
        case ResidualFCNSpec():
            return ResidualFCN(spec)


def count_parameters(spec: NetworkSpec) -> int:
    """Return the trainable parameters of the network that `spec` describes, without making its weights."""
    with torch.device("meta"):
        return count_trainable(build(spec))
