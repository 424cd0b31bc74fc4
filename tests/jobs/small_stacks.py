"""Small images for jobs."""

from __future__ import annotations

import numpy as np

from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack


def make_stack(shape: tuple[int, ...] = (3, 60, 70), axes: str = "ZYX", dtype: str = "uint8") -> Stack:
    values = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    return Stack(values, Space(axes, (50.0, 4.0, 4.0), "nm", (100.0, 0.0, 8.0)), "sample")
