"""Gates on long skip connections: org, st, at and sat (Asgari Taghanaki et al. 2019, section 2, eq. 1-4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from napari_skipseg.networks.layers import LAYERS
from napari_skipseg.networks.specs import ATTENDING, SelectInit, Skip


def truncated_relu(weights: Tensor) -> Tensor:
    """Return `min(max(weights, 0), 1)`, the select step's activation (SAT, eq. 1)."""
    return weights.clamp(0, 1)


class Select(nn.Module):
    """One learned weight per channel, the same for every image and place: off, on or in between (SAT, eq. 1-2).

    `init` = `glorot` (the paper's initialiser for a weight of shape (C,): uniform in ±sqrt(3 / sqrt(C)), so that half
    of the channels start off with zero gradient), `ones`, or `uniform01` (all channels start alive).

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


class Attend(nn.Module):
    """One attention map of all channels: a 1×1 convolution to one channel and a sigmoid (SAT, eq. 3-4).

    Batch norm on the one-channel map (`norm`) adds its two parameters: the paper's U-Net counts need it.

    Shape: (N, C, *space) -> (N, 1, *space), in [0, 1].
    """

    def __init__(self, dimensions: int, channels: int, norm: bool) -> None:
        super().__init__()
        layers = LAYERS[dimensions]
        self.convolution = layers.convolution(channels, 1, 1)
        self.norm = layers.batch_norm(1) if norm else nn.Identity()

    def forward(self, selected: Tensor) -> Tensor:
        """Return the attention map of `selected`."""
        return torch.sigmoid(self.norm(self.convolution(selected)))


class Gate(nn.Module):
    """What a long skip connection passes on in place of its features.

    `org` passes the features, `st` selects among them, `at` passes one attention map, `sat` one of the selected ones.
    A gate of C channels has 0, C, C + 1 and 2C + 1 parameters; batch norm on the map adds 2.

    Shape: (N, C, *space) -> (N, C or 1, *space).
    """

    def __init__(self, dimensions: int, channels: int, skip: Skip, init: SelectInit, norm: bool) -> None:
        super().__init__()
        self.attends = skip in ATTENDING
        self.out_channels = 1 if self.attends else channels
        self.select = Select(channels, init) if skip in ("st", "sat") else nn.Identity()
        self.attend = Attend(dimensions, channels, norm) if self.attends else nn.Identity()

    def forward(self, skip: Tensor) -> Tensor:
        """Return what crosses the connection."""
        crossed: Tensor = self.attend(self.select(skip))
        return crossed
