"""Tissue as seen by an electron microscope: membranes, organelles, staining and noise; lengths in nanometres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_skipseg.images.synthetic.neurites import (
    FloatArray,
    Neurite,
    SectionSpacing,
    Tissue,
    grid,
    smooth_noise,
    window_around,
)

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


@dataclass(frozen=True)
class Mitochondrion:
    """A wavy ellipsoid along z that follows a neurite's middle node; lengths in nm, `turn` in radians."""

    neurite: int
    middle: float
    half_length: float
    place: FloatArray
    axes: tuple[float, float]
    turn: float
    lamella_axis: int
    lamella_period: float
    stain: float


def add_mitochondria(rng: np.random.Generator, tissue: Tissue, microscope: Microscope, grey: FloatArray) -> Labels:
    """Return 1 inside mitochondria, after darkening `grey` there: matrix, double outer membrane, cristae."""
    inside = np.zeros(tissue.cells.shape, np.uint8)
    wobble = smooth_noise(rng, tissue.cells.shape, noise_scales(tissue.spacing, 80, 26))
    extent = tissue.cells.shape[0] * tissue.spacing[0]
    for index, neurite in enumerate(tissue.neurites):
        if neurite.radii.mean() > 58 and rng.random() < 0.45:
            mitochondrion = _grow(rng, index, neurite, extent)
            for z in range(tissue.cells.shape[0]):
                _stamp(mitochondrion, z, tissue, microscope, wobble[z], grey[z], inside[z])
    return inside


def _grow(rng: np.random.Generator, index: int, neurite: Neurite, extent: float) -> Mitochondrion:
    girth = float(neurite.radii.mean())
    minor = min(rng.uniform(0.5, 0.85) * girth, rng.uniform(65, 140))
    return Mitochondrion(
        neurite=index,
        middle=rng.uniform(-0.2, 1.2) * extent,
        half_length=rng.uniform(250, 700),
        place=rng.uniform(-0.22, 0.22, 2).astype(np.float32) * np.float32(girth),
        axes=(minor * rng.uniform(1.0, 1.9), minor),
        turn=rng.uniform(0, np.pi),
        lamella_axis=int(rng.integers(2)),
        lamella_period=rng.uniform(24, 36),
        stain=rng.uniform(0.6, 1.9),
    )


def _stamp(
    mitochondrion: Mitochondrion,
    z: int,
    tissue: Tissue,
    microscope: Microscope,
    wobble: FloatArray,
    grey: FloatArray,
    inside: Labels,
) -> None:
    """Draw the section `z` of a mitochondrion into `grey` and `inside` (Y, X), within its own neurite."""
    share = 1 - ((z * tissue.spacing[0] - mitochondrion.middle) / mitochondrion.half_length) ** 2
    if share < 0.15:
        return
    nodes = tissue.neurites[mitochondrion.neurite].nodes[z]
    centre = nodes[len(nodes) // 2] + mitochondrion.place
    long, short = (axis * share**0.5 for axis in mitochondrion.axes)
    warp = tissue.warp[:, z]
    reach = np.abs(warp).max(axis=(1, 2)) + np.float32(1.3 * long)
    window = window_around(centre - reach, centre + reach, grey.shape, tissue.spacing)
    if not inside[window].size:
        return
    y, x = grid(warp, window, tissue.spacing)
    sine, cosine = np.float32(np.sin(mitochondrion.turn)), np.float32(np.cos(mitochondrion.turn))
    along = (y - centre[0]) * sine + (x - centre[1]) * cosine
    aside = (y - centre[0]) * cosine - (x - centre[1]) * sine
    outward = (np.hypot(along / long, aside / short) - 1) * short + 5 * wobble[window]
    outward = np.maximum(outward, 34 - tissue.distance[z][window])
    outward[tissue.cells[z][window] != mitochondrion.neurite] = np.inf
    inside[window][outward < 0] = 1
    across = (along, aside)[mitochondrion.lamella_axis] + 9 * wobble[window]
    density = _density(outward, across / mitochondrion.lamella_period, microscope, mitochondrion.stain)
    grey[window] -= density


def _density(outward: FloatArray, lamella: FloatArray, microscope: Microscope, stain: float) -> FloatArray:
    """Return how much darker a mitochondrion is than cytoplasm at `outward` nm from its rim (negative inside)."""
    matrix = stain * microscope.matrix_depth / (1 + np.exp(np.clip(outward / 3, -30, 30)))
    double = np.exp(-0.5 * (outward / 6) ** 2) + 0.6 * np.exp(-0.5 * ((outward + 19) / 6) ** 2)
    deep = 1 / (1 + np.exp(np.clip((outward + 26) / 4, -30, 30)))
    cristae = deep * (np.maximum(np.cos(2 * np.pi * lamella), -0.4))
    return np.asarray(matrix + microscope.organelle_depth * (double + 0.6 * cristae), dtype=np.float32)


def add_vesicles(
    rng: np.random.Generator, tissue: Tissue, microscope: Microscope, grey: FloatArray, taken: Labels
) -> None:
    """Draw vesicles into `grey`, in clusters, not on walls or on `taken` pixels: dark rings, some dense cores."""
    shape, spacing = tissue.cells.shape, np.array(tissue.spacing)
    crowd = smooth_noise(rng, shape, noise_scales(tissue.spacing, 150, 90))
    count = rng.poisson(microscope.vesicles * np.prod(spacing * shape) * 1e-9)
    centres = rng.uniform(0, 1, (count, 3)) * shape
    radii = np.clip(rng.normal(17, 4.0, count), 9, 36)
    strengths = rng.uniform(0.5, 1.2, count)
    cores = rng.random(count) < 0.06
    luck = rng.random(count)
    for centre, radius, strength, core, chance in zip(centres, radii, strengths, cores, luck, strict=True):
        z, y, x = (int(place) for place in centre)
        likely = 0.12 + 0.5 * (crowd[z, y, x] > 0.6) + 0.38 * (crowd[z, y, x] > 1.4)
        if chance < likely and tissue.distance[z, y, x] > radius + 14 and not taken[z, y, x]:
            _stamp_ring(tissue, microscope, grey, centre, float(radius) * (1.3 if core else 1.0), (strength, core))


def _stamp_ring(
    tissue: Tissue,
    microscope: Microscope,
    grey: FloatArray,
    centre: np.ndarray[tuple[int], np.dtype[np.float64]],
    radius: float,
    kind: tuple[float, bool],
) -> None:
    """Darken the shell of a sphere (its lumen too where it has a dense core) in all sections that it crosses."""
    strength, core = kind
    section, row, _ = tissue.spacing
    for z in range(max(0, int(centre[0] - radius / section)), int(centre[0] + radius / section) + 1):
        height = max(0.0, abs(z + 0.5 - centre[0]) - 0.5) * section
        if z >= grey.shape[0] or height >= radius:
            continue
        rim = (radius**2 - height**2) ** 0.5
        half = int(rim / row) + 4
        rows, columns = (slice(max(0, int(place) - half), int(place) + half + 1) for place in centre[1:])
        window = grey[z, rows, columns]
        y = np.arange(rows.start, rows.start + window.shape[0])[:, None] - centre[1]
        x = np.arange(columns.start, columns.start + window.shape[1]) - centre[2]
        off = np.hypot(y, x) * row - rim
        shell = np.exp(-0.5 * (off / 5) ** 2) + (0.6 if core else -0.15) / (1 + np.exp(np.clip(off + 4, -60, 60) / 3))
        window -= np.float32(strength) * microscope.organelle_depth * shell.astype(np.float32)
