"""How training samples are varied: one frozen value. Loads without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from napari_skipseg.errors import SpecError


@dataclass(frozen=True)
class Augmentation:
    """How a sample is varied: geometry for image and labels together, then grey values.

    rotation: degrees to either side, in the Y-X plane. scale: factor to either side of 1. shear: radians, likewise.
    warp_sigma: voxels, of the displacements of a cubic B-spline of `warp_grid` spans per axis, its outermost control
    points fixed.
    gain, offset, noise: in standard deviations of the stack. blur: largest Gaussian sigma in pixels.
    swap_axes: exchange the axes of space (cubic voxels only).
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    flips: bool = True
    swap_axes: bool = False
    rotation: float = 180.0
    scale: float = 0.15
    shear: float = 0.1
    warp_grid: int = 3
    warp_sigma: float = 8.0
    gain: float = 0.25
    offset: float = 0.25
    noise: float = 0.2
    blur: float = 1.0

    def __post_init__(self) -> None:
        factors = (self.scale, self.warp_sigma, self.gain, self.offset, self.noise, self.blur)
        if not all(0 <= factor < math.inf for factor in factors) or self.warp_grid < 1:
            raise SpecError(
                "Augmentation needs scale, warp_sigma, gain, offset, noise and blur of 0 or more, and a warp_grid of "
                "at least 1."
            )
        if not (math.isfinite(self.rotation) and abs(self.shear) < 1.5):
            raise SpecError("Augmentation needs a rotation in degrees and a shear below 1.5 radians.")
