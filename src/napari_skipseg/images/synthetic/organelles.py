"""Organelles of synthetic tissue: mitochondria and vesicles. A tracer of cells does not count their outlines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_skipseg.images.synthetic.neurites import FloatArray, Neurite, Tissue, grid, smooth_noise, window_around
from napari_skipseg.images.synthetic.texture import Labels, Microscope, noise_scales


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
