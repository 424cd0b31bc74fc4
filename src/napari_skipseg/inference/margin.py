"""How far a tile's border is felt: the margin that a model needs so that its tiles agree with the whole image."""

from __future__ import annotations

import numpy as np

from napari_skipseg.inference.backends import Backend, Pixels

AGREEMENT = 0.9999
"""Share of a tile's kept voxels whose binary value must be that of the whole image."""
WHOLE = {2: 512, 3: 96}
"""Longest side of the image that counts as whole."""
STRIDES = (1, 2, 3, 4, 6, 8, 12, 16)
"""Margins that are tried, in strides of the network."""


def measure_margin(backend: Backend, image: Pixels, stride: int) -> int:
    """Return the smallest margin, in voxels, at which the middle of a tile agrees with the whole image.

    image: (C, *space) in standard units. Where no margin that fits into the image is enough, the largest that fits.
    """
    dimensions = image.ndim - 1
    sides = [min(length, WHOLE[dimensions]) // stride * stride for length in image.shape[1:]]
    whole_image = image[(slice(None), *(slice(0, side) for side in sides))]
    whole = backend.run(np.ascontiguousarray(whole_image)).probability > 0.5
    cut = tuple(slice(_quarter(side, stride), side - _quarter(side, stride)) for side in sides)
    tile = backend.run(np.ascontiguousarray(whole_image[(slice(None), *cut)])).probability > 0.5
    differs = tile != whole[(slice(None), *cut)]
    margin = 0
    for margin in (step * stride for step in STRIDES):
        inner = tuple(_inside(part, side, margin) for part, side in zip(cut, sides, strict=True))
        kept = differs[(slice(None), *inner)]
        if kept.size == 0:
            return margin - stride
        if kept.mean() <= 1 - AGREEMENT:
            return margin
    return margin


def _quarter(side: int, stride: int) -> int:
    return side // 4 // stride * stride


def _inside(part: slice, side: int, margin: int) -> slice:
    """Return the part of a tile that lies `margin` inside it; at the image's own border nothing is cut off."""
    first = 0 if part.start == 0 else margin
    length = part.stop - part.start
    return slice(first, length if part.stop == side else max(first, length - margin))
