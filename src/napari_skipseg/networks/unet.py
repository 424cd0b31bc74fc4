"""U-Net with gated skips, in 2D and 3D (Ronneberger et al. 2015; Çiçek et al. 2016; Asgari Taghanaki et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_skipseg.networks.gates import Gate
from napari_skipseg.networks.layers import LAYERS
from napari_skipseg.networks.network import Network, NetworkOutput
from napari_skipseg.networks.specs import UNetSpec


class ConvolutionPair(nn.Sequential):
    """Twice 3-wide convolution, batch norm, ReLU; dropout after the pair.

    Shape: (N, in_channels, *space) -> (N, out_channels, *space).
    """

    def __init__(self, dimensions: int, in_channels: int, out_channels: int, dropout: float) -> None:
        layers = LAYERS[dimensions]
        super().__init__(
            layers.convolution(in_channels, out_channels, 3, padding=1),
            layers.batch_norm(out_channels),
            nn.ReLU(inplace=True),
            layers.convolution(out_channels, out_channels, 3, padding=1),
            layers.batch_norm(out_channels),
            nn.ReLU(inplace=True),
            layers.dropout(dropout),
        )


class UNet(Network):
    """A U-Net of `len(widths) - 1` gated levels above a bottom.

    The decoder's first convolution of a level takes the up-convolved features and what the gate passes, and returns as
    many channels as the skip has: so org - sat = Σ (C - 1)·C·3^d - Σ gate parameters.
    """

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        self.spec = spec
        layers = LAYERS[spec.dimensions]
        levels = spec.widths[:-1]
        self.stride = spec.stride
        gated = range(len(levels)) if spec.skip in ("at", "sat") else ()
        self.attention_strides = tuple(2**level for level in gated)

        def pair(in_channels: int, out_channels: int) -> ConvolutionPair:
            return ConvolutionPair(spec.dimensions, in_channels, out_channels, spec.dropout)

        inputs = (spec.in_channels, *levels)
        self.encoder = nn.ModuleList(pair(i, o) for i, o in zip(inputs, spec.widths, strict=True))
        self.pool = layers.max_pool(2)
        self.gates = nn.ModuleList(
            Gate(spec.dimensions, width, spec.skip, spec.select_init, spec.gate_norm) for width in levels
        )
        self.up = nn.ModuleList(
            layers.up_convolution(below, width, 2, stride=2)
            for width, below in zip(levels, spec.widths[1:], strict=True)
        )
        crossing = (1 if self.attention_strides else width for width in levels)
        self.decoder = nn.ModuleList(pair(w + c, w) for w, c in zip(levels, crossing, strict=True))
        self.classifier = layers.convolution(levels[0], spec.out_channels, 1)

    def run(self, image: Tensor) -> NetworkOutput:
        """Return the output for an image whose sides are multiples of `stride`."""
        features = self.encoder[0](image)
        crossed = []
        for encode, gate in zip(self.encoder[1:], self.gates, strict=True):
            crossed.append(gate(features))
            features = encode(self.pool(features))  # (N, widths[level], *space / 2^level)
        for up, decode, across in zip(reversed(self.up), reversed(self.decoder), reversed(crossed), strict=True):
            features = decode(torch.cat([up(features), across], dim=1))
        attentions = tuple(crossed) if self.attention_strides else ()
        return NetworkOutput(self.classifier(features), attentions)
