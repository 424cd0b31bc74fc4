"""The margin that a model needs so that its tiles agree with the whole image."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.inference.backends.interface import Backend, Pixels
from napari_skipseg.progress import Progress

AGREEMENT = 0.9999
"""Share of a tile's kept voxels that must have the same binary value as in the whole image."""
_WHOLE = {2: 512, 3: 96}
"""Longest side of the image that is computed whole."""
STRIDES = (1, 2, 3, 4, 6, 8, 12, 16)
"""Margins that are tried, in strides of the network."""


def iter_measure_margin(backend: Backend, image: Pixels, stride: int) -> Generator[Progress, None, int]:
    """Return the smallest margin, in voxels, with which a tile agrees with the whole image; yield before each pass.

    The tile is the far half of the image along its long axes, so that it has its own border on one side and the image's
    on the other. If no margin is enough, return the largest one that fits into the tile.

    image: (C, *space) in standard units.
    """
    most = _WHOLE[image.ndim - 1]
    sides = [min(length, most) // stride * stride or length for length in image.shape[1:]]
    starts = [side // 2 // stride * stride if 2 * side >= max(sides) else 0 for side in sides]
    whole_image = image[(slice(None), *(slice(0, side) for side in sides))]
    cut = (slice(None), *(slice(start, None) for start in starts))
    yield Progress(0, 2, "measuring the margin: pass 1 of 2")
    whole = _binary(backend, whole_image)
    yield Progress(1, 2, "measuring the margin: pass 2 of 2")
    tile = _binary(backend, whole_image[cut])
    differs = tile != whole[cut]
    margin = 0
    for margin in (step * stride for step in STRIDES):
        kept = differs[(slice(None), *(slice(margin if start else 0, None) for start in starts))]
        if kept.size == 0:
            return margin - stride
        if kept.mean() <= 1 - AGREEMENT:
            return margin
    return margin


def _binary(backend: Backend, image: Pixels) -> NDArray[np.bool_]:
    """Return where the probabilities (classes, *space) of `image` (C, *space) are above one half."""
    output = backend.run(np.ascontiguousarray(image[None]))
    binary: NDArray[np.bool_] = output.probability[0] > 0.5
    return binary
