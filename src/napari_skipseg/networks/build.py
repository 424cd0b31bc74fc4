"""From a specification to its network."""

from __future__ import annotations

from napari_skipseg.networks.network import Network
from napari_skipseg.networks.residual_fcn import ResidualFCN
from napari_skipseg.networks.specs import NetworkSpec, UNetSpec
from napari_skipseg.networks.unet import UNet


def build(spec: NetworkSpec) -> Network:
    """Return the network that `spec` describes, freshly initialised from torch's random state."""
    return UNet(spec) if isinstance(spec, UNetSpec) else ResidualFCN(spec)
