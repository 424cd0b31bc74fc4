"""Labels that the tests of this folder export."""

import numpy as np

from napari_skipseg.exports.labels import ObjectLabels, labels_at_time
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack

SPACE = Space("ZYX", (30.0, 10.0, 8.0), "nm", (300.0, 200.0, 80.0))
"""Anisotropic, and not at 0."""


def shapes() -> np.ndarray:
    """A ball (3), a rod that crosses it (9), and single voxels in two corners (1, 70)."""
    labels = np.zeros((30, 44, 50), np.uint32)
    z, y, x = np.indices(labels.shape)
    labels[(z - 14) ** 2 + (y - 20) ** 2 + (x - 22) ** 2 < 11**2] = 3
    labels[12:16, 18:22, 20:50] = 9
    labels[0, 0, 0], labels[-1, -1, -1] = 1, 70
    return labels


def opened(values: np.ndarray, space: Space = SPACE, name: str = "made") -> ObjectLabels:
    return labels_at_time(Stack(values, space, name))
