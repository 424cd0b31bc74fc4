"""Torch layers by dimension: a network is written once for 2D and 3D, with layers from `LAYERS[dimensions]`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Layers:
    """The torch layers and names that differ between 2D and 3D."""

    convolution: type[nn.Conv2d] | type[nn.Conv3d]
    up_convolution: type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]
    batch_norm: type[nn.BatchNorm2d] | type[nn.BatchNorm3d]
    max_pool: type[nn.MaxPool2d] | type[nn.MaxPool3d]
    dropout: type[nn.Dropout2d] | type[nn.Dropout3d]
    linear: str
    """Torch's name of linear interpolation."""


LAYERS = {
    2: Layers(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d, nn.Dropout2d, "bilinear"),
    3: Layers(nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.MaxPool3d, nn.Dropout3d, "trilinear"),
}
