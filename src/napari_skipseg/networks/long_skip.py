"""A long skip connection: a gate, and how its output joins the expanding path."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_skipseg.networks.gates import Crossed, Gate, GateOptions
from napari_skipseg.networks.layers import LAYERS
from napari_skipseg.networks.specs import Skip


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
