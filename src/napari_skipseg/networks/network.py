"""The base class of all networks, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from napari_skipseg.networks.specs import NetworkSpec


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


class NetworkOutput(NamedTuple):
    """The output of a network.

    logits: (N, out_channels, *space), before sigmoid (one channel) or softmax (several).
    attentions: one (N, 1, *space / stride) map in [0, 1] per map of an attending long skip, finest level first.
    """

    logits: Tensor
    attentions: tuple[Tensor, ...]


class Deep(NamedTuple):
    """The input of the last decoder level, which can be computed once and kept while that level is trained.

    features: (N, C, *space / 2), to be up-sampled. skip: (N, C', *space), of the finest long skip. attentions: the maps
    of the levels below, finest first. Each tensor can be indexed by N.
    """

    features: Tensor
    skip: Tensor
    attentions: tuple[Tensor, ...] = ()

    def of(self, samples: Tensor | slice) -> Deep:
        """Return the part of some samples: an index, or a slice, along N."""
        return Deep(self.features[samples], self.skip[samples], tuple(map_[samples] for map_ in self.attentions))


class FeatureLevel(NamedTuple):
    """Features of a network that a pixel head reads: the output of a submodule, in eval mode.

    name: of the submodule. stride: image pixels per pixel of its output. channels: of its output.
    """

    name: str
    stride: int
    channels: int


class Parts(NamedTuple):
    """Names of submodules. last: those that run in `Network.finish`. decoder: the whole expanding path, with `last`."""

    last: tuple[str, ...]
    decoder: tuple[str, ...]


class Network(nn.Module):
    """A network for inputs of any size: it pads by reflection to a multiple of its stride, and crops its output.

    It runs in two parts, `deep` and `finish`, so that the last decoder level can be trained alone on kept features.

    Shape: (N, in_channels, *space) -> logits (N, out_channels, *space) and the attention maps of its gates.
    """

    spec: NetworkSpec
    stride: int
    """Image pixels per pixel of the deepest level; tile origins lie on multiples of it."""
    attention_strides: tuple[int, ...]
    """Image pixels per pixel of each attention map, in the order of `NetworkOutput.attentions`."""
    parts: Parts
    head: str
    """Name of the last convolution, 1 wide, whose outputs are the logits."""
    levels: tuple[FeatureLevel, ...]
    """The features of each resolution, on the way down and up."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.stride = spec.stride
        self.attention_strides = spec.attention_strides

    def forward(self, image: Tensor) -> NetworkOutput:
        """Return logits and attention maps of `image`, both cropped to its size."""
        size = image.shape[2:]
        missing = [-length % self.stride for length in size]
        for axis, extra in enumerate(missing, start=2):
            if extra:
                image = image.index_select(axis, mirrored_positions(image.shape[axis], extra, image.device))
        logits, attentions = self.run(image)
        if any(missing):
            logits = _crop(logits, size, 1)
            attentions = tuple(
                _crop(attention, size, stride)
                for attention, stride in zip(attentions, self.attention_strides, strict=True)
            )
        return NetworkOutput(logits, attentions)

    def run(self, image: Tensor) -> NetworkOutput:
        """Return the output for an image whose sides are multiples of `stride`."""
        return self.finish(self.deep(image))

    def probability(self, logits: Tensor) -> Tensor:
        """Return the probability of each class but the background: (N, C, *space) -> (N, classes, *space)."""
        return class_probability(logits)

    def deep(self, image: Tensor) -> Deep:
        """Return the input of the last decoder level; the sides of `image` are multiples of `stride`."""
        raise TypeError(f"{type(self).__name__} has no `deep`")

    def finish(self, deep: Deep) -> NetworkOutput:
        """Return the output of the last decoder level, without changing `deep`."""
        raise TypeError(f"{type(self).__name__} has no `finish`")


def mirrored_positions(length: int, extra: int, device: torch.device) -> Tensor:
    """Return the positions 0 … length - 1 and `extra` more, mirrored at the ends as often as necessary."""
    period = max(1, 2 * (length - 1))
    folded = torch.arange(length + extra, device=device) % period
    return torch.minimum(folded, period - folded)


def _crop(tensor: Tensor, size: torch.Size, stride: int) -> Tensor:
    space = tuple(slice(0, -(-length // stride)) for length in size)
    return tensor[(slice(None), slice(None), *space)]


def class_probability(logits: Tensor) -> Tensor:
    """Return the probability of each class except the background: (N, C, *space) -> (N, classes, *space)."""
    if logits.shape[1] == 1:
        return torch.sigmoid(logits)
    return torch.softmax(logits, dim=1)[:, 1:]


def count_trainable(network: nn.Module) -> int:
    """Return the number of trainable parameters (batch norm counts 2 per channel)."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
