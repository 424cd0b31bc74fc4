"""Augmentation in 2D and 3D: one spatial transform for image and labels together, then grey values.

The warp is that of Drozdzal et al. 2016 and Ronneberger et al. 2015: a coarse grid of random displacements,
interpolated by cubic B-splines, with its outermost control points fixed. MONAI has none like it (decision 0002).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from napari_skipseg.training.settings import Augmentation


def draw(generator: torch.Generator, low: float, high: float) -> float:
    """Return a number drawn uniformly from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def draw_matrix(options: Augmentation, dimensions: int, generator: torch.Generator) -> Tensor:
    """Return a (dimensions, dimensions) matrix: flips, axis swaps, then rotation, scale and shear in Y-X.

    The shear tilts the X axis by an angle and keeps areas: [[1, tan s], [0, 1]]. Drozdzal et al. trained with Keras,
    which has [[1, -sin s], [0, cos s]]: it tilts the other way, and also scales X by cos s (to 0.92 at their 0.41
    radians). Here scale is an option of its own.
    """
    angle = math.radians(draw(generator, -options.rotation, options.rotation))
    zoom = math.exp(draw(generator, -1, 1) * math.log1p(options.scale))
    shear = math.tan(draw(generator, -options.shear, options.shear))
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = torch.eye(dimensions)
    matrix[-2:, -2:] = zoom * turn @ torch.tensor([[1.0, shear], [0.0, 1.0]])
    if options.flips:
        signs = torch.randint(0, 2, (dimensions,), generator=generator) * 2 - 1
        matrix = matrix @ torch.diag(signs.float())
    if options.swap_axes:
        matrix = matrix[:, torch.randperm(dimensions, generator=generator)]
    return matrix


def spline_basis(length: int, spans: int) -> Tensor:
    """Return the (length, spans + 3) weights of uniform cubic B-splines at `length` equidistant points."""
    points = torch.linspace(0, spans, length)
    knots = torch.arange(-1, spans + 2).float()
    distance = (points[:, None] - knots[None]).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far)


def draw_warp(options: Augmentation, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return random displacements (dimensions, *shape) in voxels; zero where `warp_sigma` is 0."""
    controls = (options.warp_grid + 3,) * len(shape)
    field = torch.randn((len(shape), *controls), generator=generator) * options.warp_sigma
    inner = (slice(None), *[slice(1, -1)] * len(shape))
    anchored = torch.zeros_like(field)
    anchored[inner] = field[inner]
    for axis, length in enumerate(shape, start=1):
        basis = spline_basis(length, options.warp_grid)
        anchored = torch.tensordot(basis, anchored, dims=([1], [axis])).movedim(0, axis)
    return anchored


def sampling_grid(options: Augmentation, shape: tuple[int, ...], centre: Tensor, generator: torch.Generator) -> Tensor:
    """Return where each voxel of a patch of `shape` around `centre` comes from: (*shape, dimensions), in voxels."""
    axes = [torch.arange(length) - (length - 1) / 2 for length in shape]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"))  # (dimensions, *shape)
    points = points + draw_warp(options, shape, generator)
    moved: Tensor = torch.tensordot(draw_matrix(options, len(shape), generator), points, dims=1)
    return moved.movedim(0, -1) + centre


def resample(image: Tensor, labels: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Return image (C, *shape) by linear and labels (*shape) by nearest interpolation at `grid`, mirrored."""
    size = torch.tensor(labels.shape, dtype=torch.float32)
    normal = (2 * grid + 1) / size - 1  # grid_sample's convention without aligned corners
    normal = normal.flip(-1)[None]
    warped = functional.grid_sample(
        image[None], normal, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    moved = functional.grid_sample(
        labels[None, None].float(), normal, mode="nearest", padding_mode="reflection", align_corners=False
    )
    return warped[0], moved[0, 0].round().to(labels.dtype)


def vary_greys(options: Augmentation, image: Tensor, generator: torch.Generator) -> Tensor:
    """Return `image` (C, *space) blurred, with a different gain and offset, and noisy."""
    if options.blur > 0 and draw(generator, 0, 1) < 0.3:
        image = blur(image, draw(generator, 0.2, max(0.2, options.blur)))
    gain = math.exp(draw(generator, -1, 1) * math.log1p(options.gain))
    image = image * gain + draw(generator, -options.offset, options.offset)
    if options.noise > 0:
        image = image + torch.randn(image.shape, generator=generator) * draw(generator, 0, options.noise)
    return image


def blur(image: Tensor, sigma: float) -> Tensor:
    """Return `image` (C, *space) convolved with a Gaussian along each axis of space."""
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    for axis in range(1, image.ndim):
        moved = image.movedim(axis, -1)
        lines = functional.pad(moved.reshape(-1, 1, moved.shape[-1]), (radius, radius), mode="replicate")
        image = functional.conv1d(lines, kernel).reshape(moved.shape).movedim(-1, axis)
    return image


FAINTEST, FAINT = 0.1, 0.5
"""Least and largest share of its contrast that a faint section keeps."""


def spoil_sections(options: Augmentation, image: Tensor, generator: torch.Generator) -> Tensor:
    """Return `image` with single sections displaced, faint or missing; the labels stay as they are.

    Each section of the sample (each index along its first axis of space) has each fault with the probability that
    `options` give. Displaced: moved by whole voxels in Y and X, mirrored at the border. Faint: its values move towards
    their mean, to 0.1-0.5 of their contrast. Missing: constant, at the sample's darkest value or at its mean. A fault
    of probability 0 draws no number.

    A 2D sample is one section and is only made faint: a missing one teaches nothing, and a displaced one no longer fits
    its labels.

    Shape: (C, Z, Y, X) or (C, Y, X), unchanged.
    """
    deep = image.ndim == 4
    spoiled = image.clone() if deep else image[:, None].clone()
    sections = spoiled.shape[1]
    chances = (options.shifted if deep else 0.0, options.low_contrast, options.missing if deep else 0.0)
    shifted, faint, missing = (
        torch.nonzero(torch.rand(sections, generator=generator) < chance).flatten().tolist() if chance else []
        for chance in chances
    )
    for z in shifted:
        offsets = (torch.rand(2, generator=generator) * 2 - 1) * options.shift
        for axis, offset in zip((1, 2), offsets.round().long().tolist(), strict=True):
            section = spoiled[:, z]
            length = section.shape[axis]
            index = torch.remainder(torch.arange(length) - offset, 2 * length)
            spoiled[:, z] = section.index_select(axis, torch.minimum(index, 2 * length - 1 - index))
    for z in faint:
        share = FAINTEST + (FAINT - FAINTEST) * float(torch.rand((), generator=generator))
        mean = spoiled[:, z].mean(dim=(1, 2), keepdim=True)
        spoiled[:, z] = mean + share * (spoiled[:, z] - mean)
    for z in missing:
        is_dark = float(torch.rand((), generator=generator)) < 0.5
        values = image.flatten(1).amin(dim=1) if is_dark else image.flatten(1).mean(dim=1)
        spoiled[:, z] = values[:, None, None]
    return spoiled if deep else spoiled[:, 0]
