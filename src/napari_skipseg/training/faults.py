"""Faults of serial sections: lost, displaced or faint ones, as electron microscopy has them."""

from __future__ import annotations

import torch
from torch import Tensor

from napari_skipseg.training.augmentation import Augmentation

FAINTEST, FAINT = 0.1, 0.5
"""Between these shares of its contrast a faint section keeps one."""


def spoil_sections(options: Augmentation, image: Tensor, generator: torch.Generator) -> Tensor:
    """Return `image` with single sections displaced, faint or missing; labels are none of its business.

    Each section of the sample (each place along its first axis of space) has each fault with the probability that
    `options` give. Displaced: moved by whole voxels in Y and X, mirrored at the border. Faint: its values fall towards
    their mean, to 0.1-0.5 of their contrast. Missing: constant, at the sample's darkest value or at its mean. A fault
    of probability 0 draws no number.

    A 2D sample is one section and can only be faint: missing, it would teach nothing; displaced, something wrong.

    Shape: (C, Z, Y, X) or (C, Y, X), unchanged.
    """
    deep = image.ndim == 4
    spoiled = image.clone() if deep else image[:, None].clone()
    chances = (options.shifted if deep else 0.0, options.low_contrast, options.missing if deep else 0.0)
    shifted, faint, missing = (_struck(chance, spoiled.shape[1], generator) for chance in chances)
    for z in shifted:
        spoiled[:, z] = _displaced(spoiled[:, z], options.shift, generator)
    for z in faint:
        spoiled[:, z] = _faded(spoiled[:, z], generator)
    for z in missing:
        spoiled[:, z] = _fill_value(image, generator)
    return spoiled if deep else spoiled[:, 0]


def _struck(chance: float, sections: int, generator: torch.Generator) -> list[int]:
    """Return the numbers of the sections that a fault of probability `chance` befalls."""
    if chance == 0:
        return []
    numbers: list[int] = torch.nonzero(torch.rand(sections, generator=generator) < chance).flatten().tolist()
    return numbers


def _displaced(section: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Return `section` (C, Y, X) moved by up to `most` voxels either way along Y and along X."""
    offsets = (torch.rand(2, generator=generator) * 2 - 1) * most
    for axis, offset in zip((1, 2), offsets.round().long().tolist(), strict=True):
        section = section.index_select(axis, _mirrored(section.shape[axis], offset))
    return section


def _mirrored(length: int, offset: int) -> Tensor:
    """Return which of `length` places each place sees when moved by `offset`; beyond the border those mirrored."""
    places = torch.remainder(torch.arange(length) - offset, 2 * length)
    return torch.minimum(places, 2 * length - 1 - places)


def _faded(section: Tensor, generator: torch.Generator) -> Tensor:
    """Return `section` (C, Y, X) with a share of its contrast, about the mean of each channel."""
    share = FAINTEST + (FAINT - FAINTEST) * float(torch.rand((), generator=generator))
    mean = section.mean(dim=(1, 2), keepdim=True)
    return mean + share * (section - mean)


def _fill_value(image: Tensor, generator: torch.Generator) -> Tensor:
    """Return (C, 1, 1) values of a missing section: the darkest of each channel of `image`, or its mean."""
    dark = float(torch.rand((), generator=generator)) < 0.5
    values = image.flatten(1).amin(dim=1) if dark else image.flatten(1).mean(dim=1)
    return values[:, None, None]
