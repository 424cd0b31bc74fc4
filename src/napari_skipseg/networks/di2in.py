"""DI2IN with gated skips, in 3D and 2D (Yang et al. 2017; Asgari Taghanaki et al. 2019, section 2)."""

from __future__ import annotations

from torch import Tensor, nn

from napari_skipseg.networks.gates import GateOptions, LongSkip
from napari_skipseg.networks.network import LAYERS, Deep, FeatureLevel, Network, NetworkOutput, Parts
from napari_skipseg.networks.specs import DI2INSpec


class ActivatedConvolution(nn.Sequential):
    """3-wide convolution, batch norm, ReLU.

    Shape: (N, in_channels, *space) -> (N, out_channels, *space / stride).
    """

    def __init__(self, dimensions: int, in_channels: int, out_channels: int, stride: int = 1) -> None:
        layers = LAYERS[dimensions]
        super().__init__(
            layers.convolution(in_channels, out_channels, 3, stride=stride, padding=1),
            layers.batch_norm(out_channels),
            nn.ReLU(inplace=True),
        )


class DI2IN(Network):
    """A DI2IN of `len(widths)` long skips above a bottom as wide as the last of them.

    A contracting level of width C: a convolution to C, from which the skip is taken, and one of stride 2. Two
    convolutions at the bottom. An expanding level: linear up-sampling, the skip, one convolution to C / 2. This is the
    layout that the SAT paper's parameter counts give (its text does not describe it).

    Up-sampling has no parameters and aligns pixel areas, not corners (`align_corners=False`): the other kind stretches
    by the size of its input, so that a tile would differ from the whole image. Channel dropout, which the paper does
    not mention, ends every stage: after the strided convolution, the bottom and the expanding convolution.
    """

    def __init__(self, spec: DI2INSpec) -> None:
        super().__init__(spec)
        layers = LAYERS[spec.dimensions]
        widths, bottom = spec.widths, spec.widths[-1]

        def convolution(in_channels: int, out_channels: int, stride: int = 1) -> ActivatedConvolution:
            return ActivatedConvolution(spec.dimensions, in_channels, out_channels, stride)

        def end(*stage: nn.Module) -> nn.Sequential:
            return nn.Sequential(*stage, layers.dropout(spec.dropout))

        inputs = (spec.in_channels, *widths[:-1])
        self.encoder = nn.ModuleList(convolution(i, o) for i, o in zip(inputs, widths, strict=True))
        self.down = nn.ModuleList(end(convolution(width, width, stride=2)) for width in widths)
        self.bottom = end(convolution(bottom, bottom), convolution(bottom, bottom))
        self.up = nn.Upsample(scale_factor=2, mode=layers.linear, align_corners=False)
        options = GateOptions.of(spec)
        below = (*(width // 2 for width in widths[1:]), bottom)
        gates = [LongSkip(options, b, width, skip) for b, width, skip in zip(below, widths, spec.skips, strict=True)]
        self.gates = nn.ModuleList(gates)
        self.decoder = nn.ModuleList(
            end(convolution(gate.joined_channels, width // 2)) for gate, width in zip(gates, widths, strict=True)
        )
        self.classifier = layers.convolution(widths[0] // 2, spec.out_channels, 1)
        self.parts = Parts(("gates.0", "decoder.0", "classifier"), ("gates", "decoder", "classifier"))
        self.head = "classifier"
        self.levels = (
            *(FeatureLevel(f"encoder.{level}", 2**level, width) for level, width in enumerate(widths)),
            FeatureLevel("bottom", self.stride, bottom),
            *(FeatureLevel(f"decoder.{level}", 2**level, width // 2) for level, width in enumerate(widths)),
        )

    def deep(self, image: Tensor) -> Deep:
        """Return the input of the last decoder level; the sides of `image` are multiples of `stride`."""
        features = image
        skips = []
        for encode, down in zip(self.encoder, self.down, strict=True):
            skips.append(encode(features))  # (N, widths[level], *space / 2^level)
            features = down(skips[-1])
        features = self.bottom(features)
        attentions: tuple[Tensor, ...] = ()
        for level in range(len(self.gates) - 1, 0, -1):
            joined = self.gates[level](self.up(features), skips.pop())
            attentions = (*joined.attentions, *attentions)
            features = self.decoder[level](joined.features)
        return Deep(features, skips.pop(), attentions)

    def finish(self, deep: Deep) -> NetworkOutput:
        """Return the output of the last decoder level, without changing `deep`."""
        joined = self.gates[0](self.up(deep.features), deep.skip)
        logits = self.classifier(self.decoder[0](joined.features))
        return NetworkOutput(logits, (*joined.attentions, *deep.attentions))
