"""Pictures of the training patches that are stored with a model. Loads without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from napari_skipseg.errors import ModelError
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.models.folder import read_sample

PICTURES = 3
"""Patches that are shown."""
SIDE = 128
"""Pixels of a picture's side."""
_TINT = np.array([63, 140, 255], np.float32)


def sample_pictures(folder: Path, description: ModelDescription) -> list[NDArray[np.uint8]]:
    """Return pictures (Y, X, 3) of some patches, what is labelled in them in blue; none if the model has no patches.

    Of a volume its middle slice is shown.

    Raises:
        ModelError: the patches are damaged.
    """
    if description.sample_sha256 is None:
        return []
    try:
        arrays = load(read_sample(folder, description))
        images, targets = arrays["images"], arrays["targets"]
        dimensions = description.spec.dimensions
        if images.ndim != dimensions + 2 or targets.shape != (len(images), *images.shape[2:]):
            raise ValueError("the shapes do not fit")
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelError(
            f"The sample of model '{description.name}' is damaged: copy the whole folder again."
        ) from error
    middle = (images.shape[2] // 2,) if dimensions == 3 else ()
    # those with most labels say most
    counts = (targets > 0).reshape(len(targets), -1).sum(axis=1)
    chosen = np.argsort(-counts, kind="stable")[:PICTURES]
    return [_picture(images[(number, 0, *middle)], targets[(number, *middle)]) for number in chosen]


def _picture(image: NDArray[np.float16], target: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Return one patch (Y, X) in grey, with its labels."""
    step = max(1, -(-max(image.shape) // SIDE))
    values, labels = image[::step, ::step].astype(np.float32), target[::step, ::step]
    low, high = np.percentile(values, (1, 99))
    grey = np.clip((values - low) / max(high - low, 1e-6), 0, 1)[..., None] * np.full(3, 255, np.float32)
    mixed = np.where((labels > 0)[..., None], 0.6 * grey + 0.4 * _TINT, grey)
    found: NDArray[np.uint8] = np.ascontiguousarray(mixed.astype(np.uint8))
    return found
