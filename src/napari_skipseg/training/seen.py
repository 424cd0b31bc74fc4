"""What a model saw in its training, in a few numbers, from which unlike images are recognised later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.intensity.signature import LEAST_SIDE, PATCH, PATCHES, sign_image
from napari_skipseg.inference.backends.interface import Backend
from napari_skipseg.inference.certainty import LEAST_FOUND, join_certainties, measure_certainty
from napari_skipseg.inference.guards import LEAST_PROBED, PROBE, PROBES
from napari_skipseg.models.description import ModelDescription

MOST_SIGNATURES = 8
"""Signatures that are kept, of a model's own images and of its parents'; of more the latest."""

Images = Sequence[NDArray[Any]]
"""Images (C, *space) in standard units, of 2 or 3 dimensions in space."""


def with_signature(
    description: ModelDescription, images: Images, backend: Backend, parent: ModelDescription | None, seed: int
) -> ModelDescription:
    """Return the description with what was measured on the `images` that the model was trained on.

    backend: runs the new network. parent: the model that it started from. The signatures of a parent are kept; if it
    has none, the new model gets none, as the parent's own images would seem unlike.
    """
    generator = np.random.default_rng(seed)
    own = sign_image(_patches(images, (PATCH, PATCH), PATCHES, LEAST_SIDE, generator))
    known = () if parent is None else parent.signatures
    signatures = known if own is None or (parent is not None and not known) else (*known, own)
    size = PROBE[description.spec.dimensions]
    patches = [patch[None] for patch in _patches(images, size, PROBES, LEAST_PROBED, generator)]
    found = [each for patch in patches for each in measure_certainty(backend, patch, description.margin)]
    # None if the network finds hardly anything in its training images: the ratio of few pixels says little.
    is_certain = bool(found) and join_certainties(found).possible >= LEAST_FOUND
    certainty = round(join_certainties(found).ratio, 3) if is_certain else None
    before = None if parent is None else parent.certainty
    lowest = min((each for each in (certainty, before) if each is not None), default=None)
    return replace(description, signatures=signatures[-MOST_SIGNATURES:], certainty=lowest)


def _patches(
    images: Images, size: tuple[int, ...], count: int, least: int, generator: np.random.Generator
) -> Iterator[NDArray[np.float32]]:
    """Yield random patches (C, *size), smaller ones of smaller images. `images` of more axes than `size` are sliced.

    least: the shortest Y and X of an image.
    """
    usable = [image for image in images if min(image.shape[-2:]) >= least]
    if not usable:
        return
    share = np.array([image.size for image in usable], float)
    for number in generator.choice(len(usable), count, p=share / share.sum()).tolist():
        image = usable[number]
        index: list[int | slice] = [slice(None)]
        for axis, length in enumerate(image.shape[1:]):
            side = axis - (image.ndim - 1 - len(size))
            if side < 0:
                index.append(int(generator.integers(length)))
                continue
            start = int(generator.integers(0, max(1, length - size[side] + 1)))
            index.append(slice(start, min(start + size[side], length)))
        yield np.ascontiguousarray(image[tuple(index)], np.float32)
