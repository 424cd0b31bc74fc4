"""Classes that are found pixel by pixel: by a small classifier on the features of a trained network, and on filters.

The features of a network's levels, up-sampled to the image, are a hypercolumn (Hariharan et al. 2015). A classifier on
it learns from a few strokes in a second, and the network stays as it is, so that its own classes do too. The network
reads the image at half and at a quarter of its size too: so it sees structures that are larger than those that it was
trained on, and more of what is around. Beside these features stand the filters of pixel classification (Sommer et al.
2011): a network that never met a tissue may separate it less well than they do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from napari_skipseg.networks.network import LAYERS, FeatureLevel, Network, NetworkOutput, class_probability
from napari_skipseg.networks.specs import PixelHeadSpec

FILTERS_PER_SCALE = 5
"""Filters of a scale: the smoothed image, its gradient's length, Laplacian, the rest of its Hessian, and deviation."""
_REACH = 3
"""Half the width of a kernel, in standard deviations of its Gaussian."""
LEAST = 1e-6


class PixelHead(nn.Module):
    """A class's classifier on features of several resolutions: linear, or with a layer of hidden units.

    It is 1 wide, so each level's part is computed at the level's own resolution and then up-sampled: that is the same
    as the classifier of the up-sampled features, for a fraction of the work.

    Shape: features (N, channels, *space / stride) of each level -> logits (N, 1, *space).
    """

    def __init__(self, dimensions: int, strides: tuple[int, ...], channels: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        layers = LAYERS[dimensions]
        self._linear, self._strides = layers.linear, strides
        width = hidden or 1
        self.inputs = nn.ModuleList(StandardizedConvolution(dimensions, count, width) for count in channels)
        self.bias = nn.Parameter(torch.zeros(width))
        self.classifier: nn.Module = nn.Identity()
        if hidden:
            self.classifier = nn.Sequential(nn.ReLU(), layers.convolution(hidden, 1, 1))

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """Return the class's logits."""
        total = self.bias.view(1, -1, *[1] * (features[0].ndim - 2))
        for stride, convolution, values in zip(self._strides, self.inputs, features, strict=True):
            part = convolution(values)
            if stride > 1:  # pixel areas are aligned, not corners: those depend on the size of the tile
                part = functional.interpolate(part, scale_factor=stride, mode=self._linear, align_corners=False)
            total = total + part
        logits: Tensor = self.classifier(total)
        return logits


class StandardizedConvolution(nn.Module):
    """A 1-wide convolution without bias of features in standard units.

    The mean and variance are kept apart from the weights, in float32: weights are stored in half precision, in which
    the sum of a mean's terms would not vanish.

    Shape: (N, in_channels, *space) -> (N, out_channels, *space).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dimensions: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self._dimensions = dimensions
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, *[1] * dimensions))
        self.register_buffer("running_mean", torch.zeros(in_channels))  # named as those that keep float32 on disk
        self.register_buffer("running_var", torch.ones(in_channels))

    def forward(self, features: Tensor) -> Tensor:
        """Return the sums."""
        around = (1, -1, *[1] * self._dimensions)
        weight = self.weight.float() * (self.running_var.float() + LEAST).rsqrt().view(around)
        bias = -(weight * self.running_mean.float().view(around)).flatten(1).sum(dim=1)
        convolve = functional.conv2d if self._dimensions == 2 else functional.conv3d
        return convolve(features, weight.to(features.dtype), bias.to(features.dtype))


class FilterBank(nn.Module):
    """Filters of one scale of an image, all of them independent of directions, computed in float32.

    A scale above 2 pixels is taken from the image averaged over blocks, as a level of a pyramid, so that a kernel of 2
    of its pixels suffices. The kernels are separable: derivatives of a Gaussian along each axis in turn, several at a
    time, because many small convolutions take OpenVINO seconds to convert.

    Shape: (N, C, *space) -> (N, FILTERS_PER_SCALE · C, *space / stride).
    """

    def __init__(self, dimensions: int, channels: int, scale: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self._dimensions, self._channels = dimensions, channels
        sigma = scale / stride
        self._reach = round(_REACH * sigma)
        kernels = _gaussian_derivatives(sigma, self._reach)
        self.orders: list[tuple[int, ...]] = [()]
        """Of each output of the derivatives, how often it is derived along each axis."""
        for axis in range(dimensions):
            orders = [(*old, more) for old in self.orders for more in range(3 - sum(old))]
            steps = [(self.orders.index(new[:-1]), kernels[new[-1]]) for new in orders]
            weight = _block_kernel(channels, len(self.orders), steps)
            self.register_buffer(f"derive{axis}", _along(axis, dimensions, weight), persistent=False)
            smooth = _block_kernel(channels, 1, [(0, kernels[0])])
            self.register_buffer(f"smooth{axis}", _along(axis, dimensions, smooth), persistent=False)
            self.orders = orders

    def forward(self, image: Tensor) -> Tensor:
        """Return the filtered image."""
        pool = functional.avg_pool2d if self._dimensions == 2 else functional.avg_pool3d
        values, squares = image.float(), image.float().square()
        if self.stride > 1:
            values, squares = pool(values, self.stride), pool(squares, self.stride)
        derived = self._filter(values, "derive")
        of = {order: derived[:, number :: len(self.orders)] for number, order in enumerate(self.orders)}
        zero = (0,) * self._dimensions
        smooth = of[zero]
        gradient = torch.stack([value.square() for order, value in of.items() if sum(order) == 1]).sum(dim=0)
        laplacian = torch.stack([value for order, value in of.items() if 2 in order]).sum(dim=0)
        squared = torch.stack(
            [value.square() * (1 if 2 in order else 2) for order, value in of.items() if sum(order) == 2]
        ).sum(dim=0)
        rest = squared - laplacian.square() / self._dimensions
        deviation = self._filter(squares, "smooth") - smooth.square()
        gradient, rest, deviation = ((each.clamp(min=0) + LEAST).sqrt() for each in (gradient, rest, deviation))
        return torch.cat([smooth, gradient, laplacian, rest, deviation], dim=1).to(image.dtype)

    def _filter(self, values: Tensor, kind: str) -> Tensor:
        convolve = functional.conv2d if self._dimensions == 2 else functional.conv3d
        values = functional.pad(values, [self._reach] * (2 * self._dimensions), mode="replicate")
        for axis in range(self._dimensions):
            kernel: Tensor = getattr(self, f"{kind}{axis}")
            values = convolve(values, kernel.float())
        return values


def _gaussian_derivatives(sigma: float, reach: int) -> list[NDArray[np.float32]]:
    """Return the kernels of a Gaussian and of its first and second derivative, times sigma and its square."""
    at = np.arange(-reach, reach + 1) / sigma
    smooth = np.exp(-(at**2) / 2)
    smooth /= smooth.sum()
    second = (at**2 - 1) * smooth
    # a convolution of torch does not turn the kernel round: the first derivative has the sign of a slope so
    return [kernel.astype(np.float32) for kernel in (smooth, at * smooth, second - second.mean())]


def _block_kernel(channels: int, inputs: int, steps: Sequence[tuple[int, NDArray[np.float32]]]) -> NDArray[np.float32]:
    """Return (channels · outputs, channels · inputs, length): each output of a channel is one of its inputs, filtered.

    steps: of each output its input and its kernel.
    """
    weight = np.zeros((channels, len(steps), channels, inputs, len(steps[0][1])), np.float32)
    for channel in range(channels):
        for output, (source, kernel) in enumerate(steps):
            weight[channel, output, channel, source] = kernel
    return weight.reshape(channels * len(steps), channels * inputs, -1)


def _along(axis: int, dimensions: int, weight: NDArray[np.float32]) -> Tensor:
    """Return kernels (outputs, inputs, length) as those of a convolution along `axis`."""
    shape = [*weight.shape[:2], *[1] * dimensions]
    shape[2 + axis] = weight.shape[2]
    return torch.from_numpy(weight.reshape(shape))


class TaughtNetwork(Network):
    """A network with pixel heads: some classes are its own, others have a head each.

    Its own classes stay what they are, to the bit. Probabilities of pixel heads are independent of all others: a pixel
    may be sure of two classes.

    Shape: (N, in_channels, *space) -> logits (N, out_channels + heads, *space), those of the heads last.
    """

    def __init__(self, body: Network, pixel_head: PixelHeadSpec) -> None:
        super().__init__(body.spec)
        self.body, self.pixel_head = body, pixel_head
        dimensions = body.spec.dimensions
        self.filters = nn.ModuleList(
            FilterBank(dimensions, body.spec.in_channels, scale, stride)
            for scale, stride in zip(pixel_head.scales, pixel_head.strides, strict=True)
        )
        banks = pixel_head.strides
        self.stride = pixel_head.stride_over(body.stride)
        self.levels = tuple(
            FeatureLevel(f"body.{level.name}", level.stride * zoom, level.channels)
            for zoom in pixel_head.zooms
            for level in body.levels
        )
        strides = (*(level.stride for level in self.levels), *banks)
        of_bank = FILTERS_PER_SCALE * body.spec.in_channels
        channels = (*(level.channels for level in self.levels), *[of_bank] * len(banks))
        self.heads = nn.ModuleList(
            PixelHead(dimensions, strides, channels, pixel_head.hidden) for _ in range(pixel_head.heads)
        )
        self.feature_strides: tuple[int, ...] = strides

    def run(self, image: Tensor) -> NetworkOutput:
        """Return the output for an image whose sides are multiples of `stride`."""
        output, features = self._read(image)
        logits = [output.logits, *(head(features) for head in self.heads)]
        return NetworkOutput(torch.cat(logits, dim=1), output.attentions)

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return what a pixel head reads of an image whose sides are multiples of `stride`: levels, then filters."""
        return self._read(image)[1]

    def head_of(self, number: int) -> PixelHead:
        """Return the pixel head of a class of the model (from 0)."""
        head = self.heads[self.pixel_head.sources[:number].count(None)]
        if self.pixel_head.sources[number] is not None or not isinstance(head, PixelHead):
            raise ValueError(f"class {number} has no pixel head")
        return head

    def probability(self, logits: Tensor) -> Tensor:
        """Return the probability of each class of the model.

        Shape: (N, out_channels + heads, *space) -> (N, classes, *space).
        """
        own = class_probability(logits[:, : self.spec.out_channels])
        taught = torch.sigmoid(logits[:, self.spec.out_channels :])
        classes, head = [], 0
        for source in self.pixel_head.sources:
            classes.append(taught[:, head : head + 1] if source is None else own[:, source : source + 1])
            head += source is None
        return torch.cat(classes, dim=1)

    def _read(self, image: Tensor) -> tuple[NetworkOutput, tuple[Tensor, ...]]:
        output, features = self._run_body(image)
        pool = functional.avg_pool2d if self.spec.dimensions == 2 else functional.avg_pool3d
        for zoom in self.pixel_head.zooms[1:]:
            features += self._run_body(pool(image.float(), zoom).to(image.dtype))[1]  # 3D has no bfloat16
        return output, (*features, *(bank(image) for bank in self.filters))

    def _run_body(self, image: Tensor) -> tuple[NetworkOutput, list[Tensor]]:
        found: dict[str, Tensor] = {}

        def keep(name: str) -> torch.utils.hooks.RemovableHandle:
            def on_output(module: nn.Module, inputs: object, output: Tensor) -> None:
                found[name] = output

            return self.body.get_submodule(name).register_forward_hook(on_output)

        handles = [keep(level.name) for level in self.body.levels]
        try:
            output = self.body.run(image)
        finally:
            for handle in handles:
                handle.remove()
        return output, [found[level.name] for level in self.body.levels]
