"""U-Net with gated skips, in 2D and 3D (Ronneberger et al. 2015; Çiçek et al. 2016; Asgari Taghanaki et al. 2019)."""

from __future__ import annotations

from torch import Tensor, nn

from napari_skipseg.networks.expanding import ExpandingNetwork, levels_of
from napari_skipseg.networks.gates import GateOptions, LongSkip
from napari_skipseg.networks.network import LAYERS
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


class UNet(ExpandingNetwork):
    """A U-Net of `len(widths) - 1` long skips above a bottom.

    The decoder's first convolution of a level takes the up-convolved features and what the gate passes, and returns as
    many channels as the skip has: so org - sat = Σ (C - 1)·C·3^d - Σ gate parameters.
    """

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__(spec)
        layers = LAYERS[spec.dimensions]
        levels = spec.widths[:-1]

        def pair(in_channels: int, out_channels: int) -> ConvolutionPair:
            return ConvolutionPair(spec.dimensions, in_channels, out_channels, spec.dropout)

        inputs = (spec.in_channels, *levels)
        self.encoder = nn.ModuleList(pair(i, o) for i, o in zip(inputs, spec.widths, strict=True))
        self.pool = layers.max_pool(2)
        options = GateOptions.of(spec)
        gates = [LongSkip(options, width, width, skip) for width, skip in zip(levels, spec.skips, strict=True)]
        self.gates = nn.ModuleList(gates)
        self.up = nn.ModuleList(
            layers.up_convolution(below, width, 2, stride=2)
            for width, below in zip(levels, spec.widths[1:], strict=True)
        )
        self.decoder = nn.ModuleList(pair(g.joined_channels, w) for g, w in zip(gates, levels, strict=True))
        self.classifier = layers.convolution(levels[0], spec.out_channels, 1)
        self.levels = levels_of(spec.widths, levels)

    def contract(self, level: int, features: Tensor) -> Tensor:
        """Return the input of a level of the encoder: the largest of 2^d neighbours of the level above."""
        pooled: Tensor = self.pool(features)
        return pooled
