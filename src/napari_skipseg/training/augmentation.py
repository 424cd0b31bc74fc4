"""How training samples are varied: one frozen value. Loads without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from napari_skipseg.errors import SpecError


@dataclass(frozen=True)
class Augmentation:
    """How a sample is varied: geometry for image and labels together, then grey values, then faults of sections.

    rotation: degrees to either side, in the Y-X plane. scale: factor to either side of 1. shear: radians, likewise.
    warp_sigma: voxels, of the displacements of a cubic B-spline of `warp_grid` spans per axis, its outermost control
    points fixed.
    gain, offset, noise: in standard deviations of the stack. blur: largest Gaussian sigma in pixels.
    swap_axes: exchange the axes of space (cubic voxels only).
    missing, shifted, low_contrast: the probability of that fault for each section of a sample; a 2D sample is one
    section, which only low_contrast changes. shift: voxels in Y and in X by which a shifted section lies off at most.
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
    missing: float = 0.0
    shifted: float = 0.0
    low_contrast: float = 0.0
    shift: float = 10.0

    def __post_init__(self) -> None:
        factors = (self.scale, self.warp_sigma, self.gain, self.offset, self.noise, self.blur, self.shift)
        if not all(0 <= factor < math.inf for factor in factors) or self.warp_grid < 1:
            raise SpecError(
                "Augmentation needs scale, warp_sigma, gain, offset, noise, blur and shift of 0 or more, and a "
                "warp_grid of at least 1."
            )
        if not (math.isfinite(self.rotation) and abs(self.shear) < 1.5):
            raise SpecError("Augmentation needs a rotation in degrees and a shear below 1.5 radians.")
        if not all(0 <= chance <= 1 for chance in (self.missing, self.shifted, self.low_contrast)):
            raise SpecError("Augmentation needs missing, shifted and low_contrast as probabilities from 0 to 1.")


AUGMENTATIONS: dict[str, Augmentation] = {
    "default": Augmentation(),
    "none": Augmentation(flips=False, rotation=0, scale=0, shear=0, warp_sigma=0, gain=0, offset=0, noise=0, blur=0),
    "drozdzal": Augmentation(
        rotation=25, scale=0, shear=0.41, warp_grid=3, warp_sigma=10, gain=0, offset=0, noise=0, blur=0
    ),
}
"""Augmentations by name: ours, nothing at all, and that of Drozdzal et al. 2016 (what the authors' code does to EM)."""
