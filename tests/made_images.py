"""Images of tests: made-up tissue, folders of slices and files of several images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage


def tissue(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    """Grey values like those of EM: structures of some pixels, with noise; 40 to 215."""
    random = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(random.normal(size=shape), (0,) * (len(shape) - 2) + (4, 4))
    return (128 + 35 * smooth / smooth.std() + random.normal(0, 8, shape)).clip(40, 215).astype(np.uint8)


def write_slices(folder: Path, values: NDArray[Any], numbers: tuple[int, ...] = (1, 9, 10)) -> Path:
    """Write a file for each slice; without number 2, as a stack that lacks slices."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, plane in zip(numbers, values, strict=True):
        tifffile.imwrite(folder / f"s_{number}.tif", plane, photometric="minisblack")
    return folder


def write_positions(file: Path, *stacks: NDArray[Any]) -> Path:
    """Write an OME-TIFF of several stacks, which are called Pos0, Pos1, …"""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(file, ome=True) as writer:
        for number, values in enumerate(stacks):
            writer.write(values, photometric="minisblack", metadata={"axes": "ZYX", "Name": f"Pos{number}"})
    return file
