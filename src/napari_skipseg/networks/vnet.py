"""V-Net with gated skips, in 2D and 3D (Milletari et al. 2016; Asgari Taghanaki et al. 2019, section 2)."""

from __future__ import annotations

from torch import Tensor, nn

from napari_skipseg.networks.expanding import ExpandingNetwork, levels_of
from napari_skipseg.networks.gates import GateOptions, LongSkip
from napari_skipseg.networks.network import LAYERS
from napari_skipseg.networks.specs import VNetSpec


class Repeat(nn.Module):
    """The input's channels repeated up to `channels`; if it has more, the first ones.

    Shape: (N, in_channels, *space) -> (N, channels, *space).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, image: Tensor) -> Tensor:
        """Return `image` with as many channels as the stage has."""
        times = -(-self.channels // image.shape[1])
        return image.repeat(1, times, *(1,) * (image.ndim - 2))[:, : self.channels]


class ResidualStage(nn.Module):
    """Convolutions with batch norm and PReLUs between; their output is added to the stage's input, then a PReLU.

    residual: maps the input to `channels` channels for the sum. Channel dropout ends the branch, before the sum.

    Shape: (N, in_channels, *space) -> (N, channels, *space).
    """

    def __init__(self, spec: VNetSpec, in_channels: int, channels: int, convolutions: int, residual: nn.Module) -> None:
        super().__init__()
        layers = LAYERS[spec.dimensions]
        branch: list[nn.Module] = []
        for number in range(convolutions):
            if number:
                branch.append(nn.PReLU(channels))
            inputs = channels if number else in_channels
            branch.append(layers.convolution(inputs, channels, spec.kernel, padding=spec.kernel // 2))
            branch.append(layers.batch_norm(channels))
        self.branch = nn.Sequential(*branch, layers.dropout(spec.dropout))
        self.residual = residual
        self.activation = nn.PReLU(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return the stage's output."""
        activated: Tensor = self.activation(self.residual(features) + self.branch(features))
        return activated


class VNet(ExpandingNetwork):
    """A V-Net of `len(widths) - 1` long skips above a bottom.

    A contracting stage of width C sums its input with its convolutions' result; the first stage repeats the image's
    channels to its width. Convolutions of width and stride 2 lead down, transposed ones lead up to C channels. The
    expanding stage of a level has width 2C, which is what `org` joins. So the k-wide part of org - sat is
    Σ (C - 1)·2C·k^d: 43,040·k^d with the paper's widths.

    The papers do not describe the following. The sum needs 2C channels, but a skip of one map joins C + 1, a summed one
    C. Then, and only then, the residual passes a 1×1 convolution to 2C (with bias, without batch norm). Batch norm
    follows every other convolution, transposed ones too, except the classifier. PReLUs are the original's, with a slope
    per channel; the last one of a stage comes after the sum.
    """

    def __init__(self, spec: VNetSpec) -> None:
        super().__init__(spec)
        layers = LAYERS[spec.dimensions]
        *levels, bottom = spec.widths

        residuals = (Repeat(spec.widths[0]), *(nn.Identity() for _ in levels))
        inputs = (spec.in_channels, *spec.widths[1:])
        self.encoder = nn.ModuleList(
            ResidualStage(spec, in_channels, width, convolutions, residual)
            for in_channels, width, convolutions, residual in zip(
                inputs, spec.widths, spec.convolutions, residuals, strict=True
            )
        )
        self.down = nn.ModuleList(
            nn.Sequential(layers.convolution(width, below, 2, stride=2), layers.batch_norm(below), nn.PReLU(below))
            for width, below in zip(levels, spec.widths[1:], strict=True)
        )
        options = GateOptions.of(spec)
        gates = [LongSkip(options, width, width, skip) for width, skip in zip(levels, spec.skips, strict=True)]
        self.gates = nn.ModuleList(gates)
        self.up = nn.ModuleList(
            nn.Sequential(layers.up_convolution(below, width, 2, stride=2), layers.batch_norm(width), nn.PReLU(width))
            for width, below in zip(levels, (*(2 * width for width in levels[1:]), bottom), strict=True)
        )
        self.decoder = nn.ModuleList(
            _expanding_stage(spec, gate.joined_channels, 2 * width, convolutions)
            for gate, width, convolutions in zip(gates, levels, spec.convolutions[:-1], strict=True)
        )
        self.classifier = layers.convolution(2 * levels[0], spec.out_channels, 1)
        self.levels = levels_of(spec.widths, [2 * width for width in levels])

    def contract(self, level: int, features: Tensor) -> Tensor:
        """Return the input of a level of the encoder: a convolution of stride 2 over the level above."""
        below: Tensor = self.down[level - 1](features)
        return below


def _expanding_stage(spec: VNetSpec, joined_channels: int, channels: int, convolutions: int) -> ResidualStage:
    """Return the stage that follows a long skip: its residual is what was joined, projected if widths differ."""
    residual: nn.Module = nn.Identity()
    if joined_channels != channels:
        residual = LAYERS[spec.dimensions].convolution(joined_channels, channels, 1)
    return ResidualStage(spec, joined_channels, channels, convolutions, residual)
