"""Tissue as seen by an electron microscope: membranes, organelles, staining and noise; lengths in nanometres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_skipseg.images.synthetic.neurites import FloatArray, SectionSpacing, Tissue, smooth_noise

Labels = NDArray[np.uint8]

SPECK = 450.0
"""Area (nm²) of a gap between membranes that a tracer would not see."""


@dataclass(frozen=True)
class Microscope:
    """The parameters of an instrument: grey levels of 0-255, lengths in nm, blur in pixels."""

    section: float
    """Depth that one section projects: tilted walls are smeared over it."""
    cytoplasm: float
    mottle: float
    """Contrast of the cytoplasm's texture."""
    membrane_depth: float
    membrane_sigma: float
    membrane_half_width: float
    """Half the width that a tracer would mark as membrane."""
    matrix_depth: float
    """How much darker than cytoplasm the inside of a mitochondrion is."""
    organelle_depth: float
    """How much darker than their surroundings the membranes of organelles are."""
    vesicles: float
    """Places tried per cubic micrometre; walls, mitochondria and crowding refuse most of them."""
    blur: float
    grain: float
    """Standard deviation of the noise before `blur`; `shot` is added after it."""
    shot: float
    jitter: tuple[float, float]
    """Standard deviations of a section's brightness (grey levels) and contrast (ratio)."""


TRANSMISSION = Microscope(
    section=50,
    cytoplasm=160,
    mottle=1.0,
    membrane_depth=100,
    membrane_sigma=8.0,
    membrane_half_width=12.1,
    matrix_depth=34,
    organelle_depth=60,
    vesicles=6000,
    blur=0.7,
    grain=42,
    shot=7.0,
    jitter=(10, 0.06),
)
"""Serial-section transmission microscopy of 50 nm sections."""
ION_BEAM = Microscope(
    section=8,
    cytoplasm=204,
    mottle=1.3,
    membrane_depth=150,
    membrane_sigma=12.5,
    membrane_half_width=14.0,
    matrix_depth=110,
    organelle_depth=55,
    vesicles=4800,
    blur=0.7,
    grain=30,
    shot=7.0,
    jitter=(2, 0.01),
)
"""Focused-ion-beam scanning microscopy of isotropic voxels."""


def trace_membranes(tissue: Tissue, microscope: Microscope, clots: FloatArray) -> Labels:
    """Return 1 where a tracer would mark a membrane: wider where walls are tilted, and dark clots at walls."""
    spread = _spread(tissue, microscope)
    half_width = microscope.membrane_half_width * np.minimum(spread, 3.0) ** 0.6
    membrane = np.asarray((tissue.distance < half_width) | (clots > 0.5), dtype=np.uint8)
    for section in membrane:
        parts, _ = ndimage.label(section == 0)
        areas = np.bincount(parts.ravel()) * tissue.spacing[1] * tissue.spacing[2]
        section[(areas < SPECK)[parts]] = 1
    return membrane


def _spread(tissue: Tissue, microscope: Microscope) -> FloatArray:
    """Return how much wider than an upright wall each wall looks after projection through the section."""
    shift = microscope.section * tissue.tilt / microscope.membrane_sigma
    return np.asarray(np.sqrt(1 + tissue.tilt**2 + shift**2 / 12), dtype=np.float32)


def find_clots(rng: np.random.Generator, tissue: Tissue) -> FloatArray:
    """Return, in [0, 1], the dark thickenings of a few walls (densities of synapses, grazed walls)."""
    field = smooth_noise(rng, tissue.cells.shape, noise_scales(tissue.spacing, 90, 42))
    near = np.exp(-0.5 * (tissue.distance / 18) ** 2)
    return np.asarray(near / (1 + np.exp(-7 * (field - 1.75))), dtype=np.float32)


def noise_scales(spacing: SectionSpacing, depth: float, across: float) -> tuple[float, float, float]:
    """Return `depth` and `across` in voxels (z, y, x), at least half of one."""
    z, y, x = spacing
    return max(depth / z, 0.5), max(across / y, 0.5), max(across / x, 0.5)


def render_membranes(rng: np.random.Generator, tissue: Tissue, microscope: Microscope, clots: FloatArray) -> FloatArray:
    """Return how much darker membranes are than cytoplasm: paler where tilted, of varying stain, with clots."""
    spread = _spread(tissue, microscope)
    profile = np.exp(-0.5 * (tissue.distance / (microscope.membrane_sigma * spread)) ** 2)
    stain = 1 + 0.13 * smooth_noise(rng, tissue.cells.shape, noise_scales(tissue.spacing, 120, 60))
    depth = microscope.membrane_depth * np.clip(stain, 0.5, 1.4) * (spread / np.hypot(1, tissue.tilt)) ** -0.4
    return np.asarray(np.maximum(depth * profile, 1.1 * microscope.membrane_depth * clots), dtype=np.float32)


def render_cytoplasm(rng: np.random.Generator, tissue: Tissue, microscope: Microscope) -> FloatArray:
    """Return grey levels of cytoplasm: each cell its own, mottled, with cisternae and microtubules."""
    shape = tissue.cells.shape
    tone = 8 * rng.standard_normal(len(tissue.neurites) + 1, dtype=np.float32)
    tone -= 24 * (rng.random(len(tone)) < 0.1)
    grey = microscope.cytoplasm + tone[tissue.cells]
    for amplitude, depth, across in ((6, 150, 130), (8, 80, 42), (7, 50, 17), (9, 30, 8), (9, 20, 4)):
        grey += microscope.mottle * amplitude * smooth_noise(rng, shape, noise_scales(tissue.spacing, depth, across))
    lines = smooth_noise(rng, shape, noise_scales(tissue.spacing, 80, 55))
    patches = smooth_noise(rng, shape, noise_scales(tissue.spacing, 80, 70))
    cisternae = np.exp(-0.5 * (lines / 0.09) ** 2) / (1 + np.exp(-6 * (patches - 1.1)))
    grey -= 38 * cisternae * (tissue.distance > 34)
    dots = smooth_noise(rng, shape, noise_scales(tissue.spacing, 20, 5.5))
    grey -= 38 * np.clip(dots - 1.1, 0, 1.6) * (tissue.distance > 24)
    return np.asarray(grey, dtype=np.float32)


def expose(rng: np.random.Generator, grey: FloatArray, spacing: SectionSpacing, microscope: Microscope) -> Labels:
    """Return the micrograph of `grey` (taken as scratch): uneven staining, section jitter, blur, noise, 8 bits."""
    depth = grey.shape[0]
    for amplitude, depths, across in ((9.0, 70.0, 500.0), (6.0, 45.0, 220.0)):
        grey += amplitude * smooth_noise(rng, grey.shape, noise_scales(spacing, depths, across))
    level = float(grey.mean())
    contrast = 1 + microscope.jitter[1] * rng.standard_normal((depth,), dtype=np.float32)
    brightness = microscope.jitter[0] * rng.standard_normal((depth,), dtype=np.float32)
    result = np.empty(grey.shape, np.uint8)
    for z in range(depth):
        grain = microscope.grain * rng.standard_normal(grey.shape[1:], dtype=np.float32)
        seen = ndimage.gaussian_filter(grey[z] + grain, microscope.blur)
        shot = microscope.shot * rng.standard_normal(seen.shape, dtype=np.float32)
        seen += shot * np.sqrt(np.maximum(seen, 10) / level)
        result[z] = np.clip(np.rint(level + contrast[z] * (seen - level) + brightness[z]), 0, 255)
    return result
