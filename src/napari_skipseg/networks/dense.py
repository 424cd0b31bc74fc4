"""Dense layers and blocks: a layer sees the features of all before it (Huang et al. 2017; Jégou et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from napari_skipseg.networks.gates import Gate
from napari_skipseg.networks.layers import LAYERS


@dataclass(frozen=True)
class DenseOptions:
    """The options that all dense layers of a network share.

    growth: channels that a layer adds. bottleneck: 0, or the width of DenseNet's 1-wide convolution in growths.
    """

    dimensions: int
    growth: int
    dropout: float = 0.0
    bottleneck: int = 0


class DenseLayer(nn.Sequential):
    """Batch norm, ReLU, 3-wide convolution, dropout; with a bottleneck after batch norm, ReLU, 1-wide convolution.

    Jégou et al. 2017, table 1; the bottleneck is that of DenseNet-B (Huang et al. 2017, section 3).

    Shape: (N, in_channels, *space) -> (N, growth, *space).
    """

    def __init__(self, options: DenseOptions, in_channels: int) -> None:
        layers = LAYERS[options.dimensions]
        width = options.bottleneck * options.growth
        narrow: list[nn.Module] = []
        if width:
            narrow = [layers.batch_norm(in_channels), nn.ReLU(inplace=True), layers.convolution(in_channels, width, 1)]
        channels = width or in_channels
        super().__init__(
            *narrow,
            layers.batch_norm(channels),
            nn.ReLU(inplace=True),
            layers.convolution(channels, options.growth, 3, padding=1),
            nn.Dropout(options.dropout),
        )


class DenseBlock(nn.Module):
    """Layers that each take the block's input and the new features of all layers before it.

    It returns the new features of all layers without the input: the caller concatenates that where the paper does.

    A `gate` is on the longest skip inside the block, from its input to its last layer: that layer takes the output of
    the gate instead of the input, the others take the input itself. This is how we read figure 4 of the SAT paper; its
    text only says "the long skip connections inside of each dense block". A block of one layer has no such skip, and
    no gate.

    Shape: (N, in_channels, *space) -> (N, out_channels, *space), out_channels being layers · growth.
    """

    def __init__(self, options: DenseOptions, in_channels: int, layers: int, gate: Gate | None = None) -> None:
        super().__init__()
        self.gate = gate if layers > 1 else None
        self.out_channels = layers * options.growth
        added = (layers - 1) * options.growth
        self.layers = nn.ModuleList(
            DenseLayer(options, in_channels + grown) for grown in range(0, added, options.growth)
        )
        kept = in_channels if self.gate is None else self.gate.out_channels
        self.last = DenseLayer(options, kept + added)

    def forward(self, features: Tensor) -> Tensor:
        """Return the new features, the first layer's first."""
        new: list[Tensor] = []
        for layer in self.layers:
            new.append(layer(torch.cat([features, *new], dim=1)))
        longest = features if self.gate is None else self.gate.cross(features).features
        return torch.cat([*new, self.last(torch.cat([longest, *new], dim=1))], dim=1)
