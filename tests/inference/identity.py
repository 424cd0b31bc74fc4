"""Networks without weights, whose output is known by hand: the image's own grey values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from napari_skipseg.devices import Device
from napari_skipseg.images.tiles import reflected
from napari_skipseg.inference.backends.interface import Backend, Pixels, TileOutput
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.models.model import Model
from napari_skipseg.networks.build import build
from napari_skipseg.networks.network import Network
from napari_skipseg.networks.specs import Skip, UNetSpec


def make_model(
    dimensions: int = 2,
    widths: tuple[int, ...] = (4, 8),
    classes: tuple[str, ...] = ("membrane",),
    in_channels: int = 1,
    margin: int = 8,
    skip: Skip = "sat",
    name: str = "tiny",
) -> Model:
    """A small U-Net with seeded random weights and batch-norm statistics."""
    out_channels = 1 if len(classes) == 1 else len(classes) + 1
    spec = UNetSpec(dimensions=dimensions, in_channels=in_channels, out_channels=out_channels, skip=skip, widths=widths)
    torch.manual_seed(7)
    network = _awaken(build(spec), torch.randn(2, in_channels, *(32,) * dimensions))
    labels = tuple(ClassLabel(text, value) for value, text in enumerate(classes, start=1))
    return Model(ModelDescription(name, spec, labels, margin, weights_sha256=""), network.eval())


def _awaken(network: Network, image: torch.Tensor) -> Network:
    """Set batch-norm statistics and last layer so that outputs vary as much as a trained network's."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(image)
        network.classifier.weight *= 2 / network.eval()(image).logits.std()
        network.classifier.bias -= network(image).logits.transpose(0, 1).flatten(1).mean(1)
    return network


def strided_mean(image: Pixels, stride: int) -> Pixels:
    """The mean of each block of `stride` voxels per axis, the image mirrored at its far end."""
    for axis, length in enumerate(image.shape):
        image = np.take(image, reflected(length, 0, -(-length // stride) * stride), axis=axis)
        image = image.reshape(*image.shape[:axis], -1, stride, *image.shape[axis + 1 :]).mean(axis=axis + 1)
    return image


class Identity:
    """Returns each image's first channel for every class, and its strided means as attention."""

    name, precision = "identity", "f32"

    def __init__(self, model: Model, shape: tuple[int, ...]) -> None:
        self.shape, self.strides = shape, model.network.attention_strides
        self.classes = len(model.description.classes)
        self.runs = 0

    def run(self, images: Pixels) -> TileOutput:
        assert images.shape[2:] == self.shape, "every tile has the size that the backend was made for"
        assert images.dtype == np.float32
        self.runs += 1
        first = images[:, 0]
        attentions = tuple(np.stack([strided_mean(image, stride) for image in first]) for stride in self.strides)
        return TileOutput(np.stack([first] * self.classes, axis=1), attentions)


def identity(model: Model, device: Device, shape: tuple[int, ...]) -> Backend:
    return Identity(model, shape)


def always(backend: Backend) -> Callable[[Model, Device, tuple[int, ...]], Backend]:
    return lambda model, device, shape: backend
