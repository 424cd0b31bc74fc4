"""Gates: modules of a connection that transform the features it passes (Asgari Taghanaki et al. 2019, section 2, eq.
1-4).

Select, attend and their special cases st, at and sat; the additive gate of Attention U-Net (Oktay et al. 2018); and the
plain baseline of the single map, a 1×1 convolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from napari_skipseg.networks.network import LAYERS
from napari_skipseg.networks.specs import ATTENDING, MAPPING, SELECTING, SelectInit, Skip, SkipSpec


@dataclass(frozen=True)
class GateOptions:
    """The options that all gates of a network share."""

    dimensions: int
    init: SelectInit
    norm: bool
    maps: int = 1

    @classmethod
    def of(cls, spec: SkipSpec) -> GateOptions:
        """Return the options in `spec`."""
        return cls(spec.dimensions, spec.select_init, spec.gate_norm, spec.gate_maps)


class Crossed(NamedTuple):
    """What passes a gate, (N, channels, *space), and the attention maps in [0, 1] that it made, each (N, 1, *space)."""

    features: Tensor
    attentions: tuple[Tensor, ...]


def truncated_relu(weights: Tensor) -> Tensor:
    """Return `min(max(weights, 0), 1)`, the select step's activation (SAT, eq. 1)."""
    return weights.clamp(0, 1)


class Select(nn.Module):
    """One learned weight per channel, the same for every image and pixel: off, on or in between (SAT, eq. 1-2).

    `init` = `glorot` (the paper's initialiser for a weight of shape (C,): uniform in ±sqrt(3 / sqrt(C)), so that half
    of the channels start off with zero gradient), `ones`, or `uniform01` (all channels start with a gradient). The
    paper's optimiser has no weight decay; ours does not decay these weights.

    Shape: (N, C, *space) -> (N, C, *space).
    """

    def __init__(self, channels: int, init: SelectInit) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        bound = math.sqrt(3 / math.sqrt(channels))
        low, high = {"glorot": (-bound, bound), "ones": (1.0, 1.0), "uniform01": (0.0, 1.0)}[init]
        nn.init.uniform_(self.weight, low, high)

    def forward(self, skip: Tensor) -> Tensor:
        """Return `skip` with each channel multiplied by its truncated weight."""
        return skip * truncated_relu(self.weight).view(-1, *[1] * (skip.ndim - 2))

    @property
    def fraction_off(self) -> float:
        """Share of channels that are switched off (weight at or below 0)."""
        return float((self.weight <= 0).float().mean())


class Reduce(nn.Module):
    """A 1×1 convolution of all channels to one (or `maps`): the plain baseline of one attention map.

    Batch norm on the map (`norm`) adds two parameters per map: the paper's U-Net counts need it in the attend step.

    Shape: (N, C, *space) -> (N, maps, *space).
    """

    def __init__(self, options: GateOptions, channels: int) -> None:
        super().__init__()
        layers = LAYERS[options.dimensions]
        self.convolution: nn.Conv2d | nn.Conv3d = layers.convolution(channels, options.maps, 1)
        self.norm: nn.Module = layers.batch_norm(options.maps) if options.norm else nn.Identity()

    def forward(self, skip: Tensor) -> Tensor:
        """Return the map of `skip`."""
        reduced: Tensor = self.norm(self.convolution(skip))
        return reduced


class Attend(Reduce):
    """One attention map of all channels: a 1×1 convolution to one channel and a sigmoid (SAT, eq. 3-4).

    Shape: (N, C, *space) -> (N, maps, *space), in [0, 1].
    """

    def forward(self, skip: Tensor) -> Tensor:
        """Return the attention map of `skip`."""
        return torch.sigmoid(super().forward(skip))


class AdditiveAttend(nn.Module):
    """σ(ψ(ReLU(W_x x + W_g g))): attention of features x to the expanding path's signal g (Oktay et al. 2018).

    g is the up-sampled expanding path, of the same resolution as x; the inner width is half of x's. Batch norm (`norm`)
    follows each convolution.

    Shape: (N, C, *space), (N, signal_channels, *space) -> (N, 1, *space), in [0, 1].
    """

    def __init__(self, options: GateOptions, channels: int, signal_channels: int) -> None:
        super().__init__()
        layers = LAYERS[options.dimensions]
        width = max(1, channels // 2)

        def one_wide(inputs: int, outputs: int) -> nn.Sequential:
            norm = [layers.batch_norm(outputs)] if options.norm else []
            return nn.Sequential(layers.convolution(inputs, outputs, 1), *norm)

        self.from_skip = one_wide(channels, width)
        self.from_signal = one_wide(signal_channels, width)
        self.to_map = one_wide(width, 1)

    def forward(self, skip: Tensor, signal: Tensor) -> Tensor:
        """Return the attention map."""
        return torch.sigmoid(self.to_map(torch.relu(self.from_skip(skip) + self.from_signal(signal))))


class Gate(nn.Module):
    """The gate of a connection: it transforms the features that the connection passes.

    `org` and `sum` pass the features, `st` selects among them, `at` passes one attention map, `sat` one of the selected
    ones, `reduce` one plain map, `additive` the features times a map. With C channels st has C parameters, at and
    reduce C + 1, sat 2C + 1; batch norm on the map adds 2.

    Shape: (N, C, *space), and for `additive` the signal (N, signal_channels, *space) -> features (N, out_channels,
    *space), out_channels being C or the number of maps.
    """

    def __init__(self, options: GateOptions, channels: int, skip: Skip, signal_channels: int = 0) -> None:
        super().__init__()
        self.skip = skip
        self.out_channels = options.maps if skip in MAPPING else channels
        self.select: nn.Module = Select(channels, options.init) if skip in SELECTING else nn.Identity()
        self.attend: nn.Module = nn.Identity()
        if skip in ("at", "sat"):
            self.attend = Attend(options, channels)
        elif skip == "reduce":
            self.attend = Reduce(options, channels)
        elif skip == "additive":
            self.attend = AdditiveAttend(options, channels, signal_channels)

    def cross(self, skip: Tensor, signal: Tensor | None = None) -> Crossed:
        """Return what passes the connection."""
        if self.skip == "additive":
            attention: Tensor = self.attend(skip, signal)
            return Crossed(skip * attention, (attention,))
        crossed: Tensor = self.attend(self.select(skip))
        return Crossed(crossed, crossed.chunk(self.out_channels, dim=1) if self.skip in ATTENDING else ())

    def fold(self) -> None:
        """Turn select, attend's convolution and its batch norm into one 1×1 convolution, for inference only."""
        if not isinstance(self.attend, Reduce) or self.training:
            return
        attend = self.attend
        if isinstance(self.select, Select):
            kept = truncated_relu(self.select.weight.detach())
            attend.convolution.weight.data = attend.convolution.weight.data * kept.view(
                1, -1, *[1] * (attend.convolution.weight.ndim - 2)
            )
            self.select = nn.Identity()
        if isinstance(attend.norm, nn.BatchNorm2d | nn.BatchNorm3d):
            attend.convolution = fuse_conv_bn_eval(attend.convolution, attend.norm)
            attend.norm = nn.Identity()


def fold_gates(network: nn.Module) -> None:
    """Fold every gate of `network`, which must be in eval mode; its outputs stay the same up to rounding."""
    for module in network.modules():
        if isinstance(module, Gate):
            module.fold()


class LongSkip(Gate):
    """Joins features of the contracting path to the expanding one: by a sum, by concatenation after a gate, or not.

    If widths differ, a sum needs 1×1 convolutions. Drozdzal et al. 2016 do not say which; their code had two rules: the
    expanding path is projected to the skip's width and the skip is unchanged, or (January 2017) both are projected to a
    narrower width (`narrow_to`).

    Shape: (N, up_channels, *space), (N, channels, *space) -> features (N, joined_channels, *space).
    """

    def __init__(
        self, options: GateOptions, up_channels: int, channels: int, skip: Skip, narrow_to: int | None = None
    ) -> None:
        super().__init__(options, channels, skip, up_channels)
        summed = channels if narrow_to is None else narrow_to
        self.joined_channels = {"none": up_channels, "sum": summed}.get(skip, up_channels + self.out_channels)
        convolution = LAYERS[options.dimensions].convolution
        self.project_up: nn.Module = nn.Identity()
        self.project_skip: nn.Module = nn.Identity()
        if skip == "sum" and up_channels != summed:
            self.project_up = convolution(up_channels, summed, 1)
        if skip == "sum" and channels != summed:
            self.project_skip = convolution(channels, summed, 1)

    def forward(self, up: Tensor, skip: Tensor) -> Crossed:
        """Return the input of the next expanding stage, and the attention maps of the gate."""
        if self.skip == "none":
            return Crossed(up, ())
        if self.skip == "sum":
            return Crossed(self.project_up(up) + self.project_skip(skip), ())
        crossed = self.cross(skip, up)
        return Crossed(torch.cat([up, crossed.features], dim=1), crossed.attentions)
