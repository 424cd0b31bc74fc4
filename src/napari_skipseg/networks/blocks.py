"""The residual blocks of Drozdzal et al. 2016 (section 2, figure 1): bottleneck, basic and simple, in two orders.

Pre-activation, the paper's: batch norm, ReLU, convolution, and the shortcut is added. Post-activation, that of the
first ResNet (He et al. 2015): convolution, batch norm, ReLU; the last batch norm comes before the sum, the last ReLU
after it.

The first block of a contracting stage halves the resolution, the last of an expanding one doubles it (nearest
neighbour). The shortcut is the input, decimated or repeated, with a 1×1 convolution only if the channel counts
differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from napari_skipseg.networks.layers import LAYERS
from napari_skipseg.networks.specs import BlockName, BlockOrder

Resize = Literal["keep", "halve", "double"]


@dataclass(frozen=True)
class BlockOptions:
    """The options that all blocks of a network share."""

    dimensions: int
    norm: bool
    dropout: float
    short_skips: bool
    order: BlockOrder = "pre-activation"

    @property
    def activates_first(self) -> bool:
        """Whether batch norm and ReLU come before a convolution (pre-activation), not after it."""
        return self.order == "pre-activation"


def activate(options: BlockOptions, channels: int) -> list[nn.Module]:
    """Return the layers between two convolutions: batch norm (if wanted) and ReLU."""
    return [*_norm(options, channels), nn.ReLU(inplace=options.norm)]


def _norm(options: BlockOptions, channels: int) -> list[nn.Module]:
    return [LAYERS[options.dimensions].batch_norm(channels)] if options.norm else []


def _enter(options: BlockOptions, channels: int) -> list[nn.Module]:
    """Return the layers before the first convolution of a branch."""
    return activate(options, channels) if options.activates_first else []


def _leave(options: BlockOptions, channels: int) -> list[nn.Module]:
    """Return the layers right after the last convolution of a branch."""
    return [] if options.activates_first else _norm(options, channels)


def _double() -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="nearest")


def bottleneck(options: BlockOptions, in_channels: int, width: int, resize: Resize) -> list[nn.Module]:
    """Return 1×1 (strided), 3×3 and 1×1 convolutions to 4·width channels; doubling comes before the last one."""
    layers = LAYERS[options.dimensions]
    return [
        *_enter(options, in_channels),
        layers.convolution(in_channels, width, 1, stride=2 if resize == "halve" else 1),
        *activate(options, width),
        layers.convolution(width, width, 3, padding=1),
        *activate(options, width),
        *([_double()] if resize == "double" else []),
        layers.convolution(width, 4 * width, 1),
        *_leave(options, 4 * width),
        nn.Dropout(options.dropout),
    ]


def basic(options: BlockOptions, in_channels: int, width: int, resize: Resize) -> list[nn.Module]:
    """Return two 3×3 convolutions (the first strided) with dropout between; doubling comes before the second."""
    layers = LAYERS[options.dimensions]
    return [
        *_enter(options, in_channels),
        layers.convolution(in_channels, width, 3, stride=2 if resize == "halve" else 1, padding=1),
        nn.Dropout(options.dropout),
        *activate(options, width),
        *([_double()] if resize == "double" else []),
        layers.convolution(width, width, 3, padding=1),
        *_leave(options, width),
    ]


def simple(options: BlockOptions, in_channels: int, width: int, resize: Resize) -> list[nn.Module]:
    """Return one 3×3 convolution after a max-pool (halving), then dropout and doubling."""
    layers = LAYERS[options.dimensions]
    return [
        *_enter(options, in_channels),
        *([layers.max_pool(2)] if resize == "halve" else []),
        layers.convolution(in_channels, width, 3, padding=1),
        *_leave(options, width),
        nn.Dropout(options.dropout),
        *([_double()] if resize == "double" else []),
    ]


BRANCHES: dict[BlockName, Callable[[BlockOptions, int, int, Resize], list[nn.Module]]] = {
    "bottleneck": bottleneck,
    "basic": basic,
    "simple": simple,
}


class ResidualBlock(nn.Module):
    """A residual branch, with short skips added to a shortcut; in post-activation order a ReLU follows.

    Shape: (N, in_channels, *space) -> (N, 4·width (bottleneck) or width, *space, halved or doubled).
    """

    def __init__(self, options: BlockOptions, name: BlockName, in_channels: int, width: int, resize: Resize) -> None:
        super().__init__()
        self.branch = nn.Sequential(*BRANCHES[name](options, in_channels, width, resize))
        self.out_channels = 4 * width if name == "bottleneck" else width
        self.short_skip = options.short_skips
        self.resize = resize
        self.enlarge = _double() if resize == "double" else nn.Identity()
        self.project: nn.Module = nn.Identity()
        if options.short_skips and in_channels != self.out_channels:
            self.project = LAYERS[options.dimensions].convolution(in_channels, self.out_channels, 1)
        self.end: nn.Module = nn.Identity() if options.activates_first else nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's output."""
        ended: Tensor = self.end(
            self._shortcut(features) + self.branch(features) if self.short_skip else self.branch(features)
        )
        return ended

    def _shortcut(self, features: Tensor) -> Tensor:
        if self.resize == "halve":
            every_second = (slice(None, None, 2),) * (features.ndim - 2)
            features = features[(slice(None), slice(None), *every_second)]
        shortcut: Tensor = self.project(self.enlarge(features))
        return shortcut
