"""The One Hundred Layers Tiramisu, FC-DenseNet, in 2D and 3D (Jégou et al. 2017), with gates (SAT, figure 4).

A dense layer sees the features of all layers of its block before it (Huang et al. 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from napari_skipseg.networks.gates import Gate, GateOptions, LongSkip
from napari_skipseg.networks.network import LAYERS, Deep, FeatureLevel, Network, NetworkOutput, Parts
from napari_skipseg.networks.specs import Skip, TiramisuSpec

DENSE_GATES: tuple[Skip, ...] = ("st", "at", "sat", "reduce")
"""Skips that also put a gate inside the dense blocks of their level."""


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


class TransitionDown(nn.Sequential):
    """Batch norm, ReLU, 1-wide convolution that keeps the channels, dropout, max-pool (table 1).

    Shape: (N, channels, *space) -> (N, channels, *space / 2).
    """

    def __init__(self, options: DenseOptions, channels: int) -> None:
        layers = LAYERS[options.dimensions]
        super().__init__(
            layers.batch_norm(channels),
            nn.ReLU(inplace=True),
            layers.convolution(channels, channels, 1),
            nn.Dropout(options.dropout),
            layers.max_pool(2),
        )


class Tiramisu(Network):
    """Dense blocks and transitions down, a dense block, transitions up and dense blocks (section 3, table 2).

    On the contracting path a block's output is its input and its new features: that is the long skip. A transition up,
    a 3-wide transposed convolution, takes the new features of the block below and not its input; the last block is
    followed by its input as well. The authors' code does the same. The first convolution has no batch norm of its own.

    If a level's skip is gated, its dense blocks have gates inside too (`DenseBlock`); the bottom block does as the
    deepest level. The saving of 20.7 % in the SAT paper (17.1 % of `org`) cannot be checked: its layout is not known.
    Here FC-DenseNet103 in 2D saves 29.0 % of `org`, 25.1 % with gates on the long skips alone. `NetworkOutput` has the
    attention maps of the long skips only.
    """

    def __init__(self, spec: TiramisuSpec) -> None:
        super().__init__(spec)
        layers = LAYERS[spec.dimensions]
        dense = DenseOptions(spec.dimensions, spec.growth, spec.dropout, spec.bottleneck)
        gates = GateOptions.of(spec)

        def block(channels: int, count: int, skip: Skip) -> DenseBlock:
            gated = spec.dense_gates and skip in DENSE_GATES and count > 1
            return DenseBlock(dense, channels, count, Gate(gates, channels, skip) if gated else None)

        self.first = layers.convolution(spec.in_channels, spec.width, 3, padding=1)
        levels = list(zip(spec.layers, spec.skips, strict=True))
        channels, skip_channels, down = spec.width, [], []
        for count, skip in levels:
            down.append(block(channels, count, skip))
            channels += down[-1].out_channels
            skip_channels.append(channels)
        self.down = nn.ModuleList(down)
        self.transitions_down = nn.ModuleList(TransitionDown(dense, width) for width in skip_channels)
        self.bottom = block(channels, spec.bottom_layers, spec.skips[-1])

        below = self.bottom.out_channels
        transitions_up, joins, up = [], [], []
        for width, (count, skip) in zip(reversed(skip_channels), reversed(levels), strict=True):
            transitions_up.append(layers.up_convolution(below, below, 3, stride=2, padding=1, output_padding=1))
            joins.append(LongSkip(gates, below, width, skip))
            up.append(block(joins[-1].joined_channels, count, skip))
            below = up[-1].out_channels
        self.transitions_up, self.joins, self.up = (nn.ModuleList(part) for part in (transitions_up, joins, up))
        self.classifier = layers.convolution(joins[-1].joined_channels + below, spec.out_channels, 1)
        decoder = ("transitions_up", "joins", "up")
        self.parts = Parts((*(f"{part}.{len(up) - 1}" for part in decoder), "classifier"), (*decoder, "classifier"))
        self.head = "classifier"
        self.levels = (
            FeatureLevel("first", 1, spec.width),
            *(FeatureLevel(f"down.{level}", 2**level, block.out_channels) for level, block in enumerate(down)),
            FeatureLevel("bottom", self.stride, self.bottom.out_channels),
            *(
                FeatureLevel(f"up.{number}", 2 ** (len(up) - 1 - number), each.out_channels)
                for number, each in enumerate(up)
            ),
        )
        self.apply(_he_uniform)

    def deep(self, image: Tensor) -> Deep:
        """Return the input of the last decoder level; the sides of `image` are multiples of `stride`."""
        features = self.first(image)
        skips = []
        for block, transition in zip(self.down, self.transitions_down, strict=True):
            skips.append(torch.cat([features, block(features)], dim=1))
            features = transition(skips[-1])  # (N, channels, *space / 2^level)
        new = self.bottom(features)
        attentions: tuple[Tensor, ...] = ()
        for transition, join, block in zip(self.transitions_up[:-1], self.joins[:-1], self.up[:-1], strict=True):
            joined = join(transition(new), skips.pop())
            attentions = (*joined.attentions, *attentions)
            new = block(joined.features)
        return Deep(new, skips.pop(), attentions)

    def finish(self, deep: Deep) -> NetworkOutput:
        """Return the output of the last decoder level, without changing `deep`."""
        joined = self.joins[-1](self.transitions_up[-1](deep.features), deep.skip)
        new = self.up[-1](joined.features)
        logits = self.classifier(torch.cat([joined.features, new], dim=1))
        return NetworkOutput(logits, (*joined.attentions, *deep.attentions))


def _he_uniform(module: nn.Module) -> None:
    """Initialise as section 4 of the paper does (HeUniform)."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
