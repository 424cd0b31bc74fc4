"""A long skip connection: a gate, and how what passes it joins the expanding path."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_skipseg.networks.gates import Crossed, Gate, GateOptions
from napari_skipseg.networks.layers import LAYERS
from napari_skipseg.networks.specs import Skip


class LongSkip(Gate):
    """How features of the contracting path join the expanding one: summed, or concatenated behind a gate, or not.

    Where widths differ a sum needs 1×1 convolutions. Drozdzal et al. 2016 do not say which; their code has had two
    rules: the expanding path is brought to the skip's width and the skip stays as it is, or (January 2017) both are
    brought to a narrower width (`narrow_to`).

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
        """Return what the next expanding stage takes, and the attention maps of the gate."""
        if self.skip == "none":
            return Crossed(up, ())
        if self.skip == "sum":
            return Crossed(self.project_up(up) + self.project_skip(skip), ())
        crossed = self.cross(skip, up)
        return Crossed(torch.cat([up, crossed.features], dim=1), crossed.attentions)
