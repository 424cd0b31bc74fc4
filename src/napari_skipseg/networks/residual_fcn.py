"""The deep residual FCN of Drozdzal et al. 2016 (Table 1, figure 1), in 2D and 3D."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_skipseg.networks.blocks import Block, BlockOptions, Resize, activate
from napari_skipseg.networks.layers import LAYERS
from napari_skipseg.networks.network import Network, NetworkOutput
from napari_skipseg.networks.specs import ResidualFCNSpec, Stage


class LongSkip(nn.Module):
    """How features from the contracting path join the expanding one: summed as in the paper, or concatenated.

    Where widths differ a sum needs 1×1 convolutions. The paper does not say which; the authors' code has had two rules:
    `skip-width` brings the expanding path to the skip's width and leaves the skip untouched, `narrow` (January 2017)
    brings both to the inner width of the stage that follows.

    Shape: (N, up_channels, *space), (N, skip_channels, *space) -> (N, out_channels, *space).
    """

    def __init__(self, spec: ResidualFCNSpec, up_channels: int, skip_channels: int, narrow_to: int) -> None:
        super().__init__()
        self.merge = spec.skip
        target = narrow_to if spec.projection == "narrow" else skip_channels
        self.out_channels = {"none": up_channels, "sum": target, "org": up_channels + skip_channels}[spec.skip]
        convolution = LAYERS[spec.dimensions].convolution
        self.project_up: nn.Module = nn.Identity()
        self.project_skip: nn.Module = nn.Identity()
        if spec.skip == "sum" and up_channels != target:
            self.project_up = convolution(up_channels, target, 1)
        if spec.skip == "sum" and skip_channels != target:
            self.project_skip = convolution(skip_channels, target, 1)

    def forward(self, up: Tensor, skip: Tensor) -> Tensor:
        """Return what the next expanding stage takes."""
        if self.merge == "org":
            return torch.cat([up, skip], dim=1)
        if self.merge == "sum":
            summed: Tensor = self.project_up(up) + self.project_skip(skip)
            return summed
        return up


class ResidualFCN(Network):
    """Down 1, the contracting stages, Across, the mirrored expanding stages, Up 5 and the classifier of Table 1.

    Across halves on entry and doubles on exit, so a 512×512 image is 16×16 inside it. The head goes: sum with Down 1,
    3×3 convolution, batch norm, ReLU, 1×1 convolution (the authors' order of May 2017, the one that fits Table 1).
    """

    def __init__(self, spec: ResidualFCNSpec) -> None:
        super().__init__()
        self.spec = spec
        self.stride = spec.stride
        self.attention_strides = ()
        layers = LAYERS[spec.dimensions]
        options = BlockOptions(spec.dimensions, spec.norm, spec.dropout, spec.short_skips)

        self.first = layers.convolution(spec.in_channels, spec.width, 3, padding=1)
        skip_widths = (spec.width, *(stage.out_width for stage in spec.stages))
        self.down = nn.ModuleList(
            _stage(options, stage, channels, ("halve",))
            for stage, channels in zip(spec.stages, skip_widths[:-1], strict=True)
        )
        self.across = _stage(options, spec.across, skip_widths[-1], ("halve", "double"))

        channels = spec.across.out_width
        joins, ups = [], []
        for stage, skip_channels in zip(reversed(spec.stages), reversed(skip_widths[1:]), strict=True):
            join = LongSkip(spec, channels, skip_channels, stage.width)
            ups.append(_stage(options, stage, join.out_channels, ("double",)))
            joins.append(join)
            channels = stage.out_width
        joins.append(LongSkip(spec, channels, spec.width, spec.width))
        self.joins, self.up = nn.ModuleList(joins), nn.ModuleList(ups)
        self.last = layers.convolution(joins[-1].out_channels, spec.width, 3, padding=1)
        self.classifier = nn.Sequential(
            *activate(options, spec.width), layers.convolution(spec.width, spec.out_channels, 1)
        )
        self.apply(_he_normal)

    def run(self, image: Tensor) -> NetworkOutput:
        """Return the output for an image whose sides are multiples of `stride`."""
        features = self.first(image)
        skips = [features]
        for stage in self.down:
            features = stage(features)
            skips.append(features)
        features = self.across(features)
        for join, stage in zip(self.joins, self.up, strict=False):
            features = stage(join(features, skips.pop()))
        features = self.last(self.joins[-1](features, skips.pop()))
        return NetworkOutput(self.classifier(features), ())


def _stage(options: BlockOptions, stage: Stage, in_channels: int, resizes: tuple[Resize, ...]) -> nn.Sequential:
    """Return the blocks of a stage: the first halves, the last doubles, where `resizes` says so."""
    blocks: list[Block] = []
    for number in range(stage.repetition):
        resize: Resize = "keep"
        if number == 0 and "halve" in resizes:
            resize = "halve"
        elif number == stage.repetition - 1 and "double" in resizes:
            resize = "double"
        channels = blocks[-1].out_channels if blocks else in_channels
        blocks.append(Block(options, stage.block, channels, stage.width, resize))
    return nn.Sequential(*blocks)


def _he_normal(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
