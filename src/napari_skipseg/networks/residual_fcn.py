"""The deep residual FCN of Drozdzal et al. 2016 (Table 1, figure 1), in 2D and 3D.

Its residual blocks (section 2) are bottleneck, basic and simple, each in two orders.

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

from napari_skipseg.networks.gates import GateOptions, LongSkip
from napari_skipseg.networks.network import LAYERS, Deep, FeatureLevel, Network, NetworkOutput, Parts
from napari_skipseg.networks.specs import BlockName, BlockOrder, ResidualFCNSpec, Stage

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


class ResidualFCN(Network):
    """Down 1, the contracting stages, Across, the mirrored expanding stages, Up 5 and the classifier of Table 1.

    Across halves on entry and doubles on exit, so a 512×512 image is 16×16 inside it. The head: sum with Down 1,
    3×3 convolution, batch norm, ReLU, 1×1 convolution (the authors' order of May 2017, the one that fits Table 1).
    In post-activation order batch norm and ReLU follow the first convolution too, since no block begins with them.
    """

    def __init__(self, spec: ResidualFCNSpec) -> None:
        super().__init__(spec)
        layers = LAYERS[spec.dimensions]
        options = BlockOptions(spec.dimensions, spec.norm, spec.dropout, spec.short_skips, spec.block_order)

        self.first = _outer(options, spec.in_channels, spec.width)
        skip_widths = (spec.width, *(stage.out_width for stage in spec.stages))
        self.down = nn.ModuleList(
            _stage(options, stage, channels, ("halve",))
            for stage, channels in zip(spec.stages, skip_widths[:-1], strict=True)
        )
        self.across = _stage(options, spec.across, skip_widths[-1], ("halve", "double"))

        gate_options = GateOptions.of(spec)
        narrow = spec.projection == "narrow"
        channels = spec.across.out_width
        joins, ups = [], []
        for stage, skip_channels, skip in zip(
            reversed(spec.stages), reversed(skip_widths[1:]), reversed(spec.skips[1:]), strict=True
        ):
            join = LongSkip(gate_options, channels, skip_channels, skip, stage.width if narrow else None)
            ups.append(_stage(options, stage, join.joined_channels, ("double",)))
            joins.append(join)
            channels = stage.out_width
        joins.append(LongSkip(gate_options, channels, spec.width, spec.skips[0]))
        self.joins, self.up = nn.ModuleList(joins), nn.ModuleList(ups)
        self.last = _outer(options, joins[-1].joined_channels, spec.width)
        classifier = layers.convolution(spec.width, spec.out_channels, 1)
        before = activate(options, spec.width) if options.activates_first else []
        self.classifier = nn.Sequential(*before, classifier)
        self.parts = Parts(
            (f"up.{len(ups) - 1}", f"joins.{len(joins) - 1}", "last", "classifier"),
            ("up", "joins", "last", "classifier"),
        )
        self.head = f"classifier.{len(before)}"
        deepest = len(spec.stages)
        self.levels = (
            FeatureLevel("first", 1, spec.width),
            *(
                FeatureLevel(f"down.{level}", 2 ** (level + 1), stage.out_width)
                for level, stage in enumerate(spec.stages)
            ),
            FeatureLevel("across", 2**deepest, spec.across.out_width),
            *(
                FeatureLevel(f"up.{number}", 2 ** (deepest - 1 - number), stage.out_width)
                for number, stage in enumerate(reversed(spec.stages))
            ),
            FeatureLevel("last", 1, spec.width),
        )
        self.apply(_he_normal)

    def deep(self, image: Tensor) -> Deep:
        """Return the input of the last decoder level; the sides of `image` are multiples of `stride`.

        That level is the last expanding stage, which doubles, and the head behind it.
        """
        features = self.first(image)
        skips = [features]
        for stage in self.down:
            features = stage(features)
            skips.append(features)
        features = self.across(features)
        attentions: tuple[Tensor, ...] = ()
        for join, stage in zip(self.joins[:-1], (*self.up[:-1], nn.Identity()), strict=True):
            joined = join(features, skips.pop())
            attentions = (*joined.attentions, *attentions)
            features = stage(joined.features)
        return Deep(features, skips.pop(), attentions)

    def finish(self, deep: Deep) -> NetworkOutput:
        """Return the output of the last decoder level, without changing `deep`."""
        joined = self.joins[-1](self.up[-1](deep.features), deep.skip)
        logits = self.classifier(self.last(joined.features))
        return NetworkOutput(logits, (*joined.attentions, *deep.attentions))


def _outer(options: BlockOptions, in_channels: int, width: int) -> nn.Module:
    """Return the 3-wide convolution that begins or ends the network, with what the order puts behind it."""
    convolution = LAYERS[options.dimensions].convolution(in_channels, width, 3, padding=1)
    return convolution if options.activates_first else nn.Sequential(convolution, *activate(options, width))


def _stage(options: BlockOptions, stage: Stage, in_channels: int, resizes: tuple[Resize, ...]) -> nn.Sequential:
    """Return the blocks of a stage: the first halves, the last doubles, if `resizes` says so."""
    blocks: list[ResidualBlock] = []
    for number in range(stage.repetition):
        resize: Resize = "keep"
        if number == 0 and "halve" in resizes:
            resize = "halve"
        elif number == stage.repetition - 1 and "double" in resizes:
            resize = "double"
        channels = blocks[-1].out_channels if blocks else in_channels
        blocks.append(ResidualBlock(options, stage.block, channels, stage.width, resize))
    return nn.Sequential(*blocks)


def _he_normal(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
