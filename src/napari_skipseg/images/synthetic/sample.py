"""Synthetic EM samples: neural tissue with its truth, the same for the same seed.

Everything is drawn from parameters; no pixel of a real image is used.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.synthetic.neurites import SectionSpacing, cut_sections
from napari_skipseg.images.synthetic.texture import (
    ION_BEAM,
    TRANSMISSION,
    Microscope,
    add_mitochondria,
    add_vesicles,
    expose,
    find_clots,
    render_cytoplasm,
    render_membranes,
    trace_membranes,
)


class SyntheticSample(NamedTuple):
    """A synthetic stack and its truth.

    stack: uint8 (Z, Y, X), dark membranes on light cytoplasm, voxel size in nm.
    membrane: uint8 (Z, Y, X), 1 = membrane between cells; outlines of organelles are 0, as in the ISBI 2012 truth.
    mitochondria: uint8 (Z, Y, X), 1 = mitochondrion, its outer membrane included.
    """

    stack: Stack
    membrane: NDArray[np.uint8]
    mitochondria: NDArray[np.uint8]


def make_sample(shape: tuple[int, int, int] = (16, 512, 512), seed: int = 0) -> SyntheticSample:
    """Return a sample like serial-section TEM of an insect larva's nerve cord, at 50 × 4 × 4 nm.

    shape: (Z, Y, X), at least (1, 64, 64). The same shape and seed give the same bytes.

    Raises:
        InputError: the shape is too small.
    """
    return _make(shape, seed, (50.0, 4.0, 4.0), 1.0, TRANSMISSION, "EM sample (synthetic)")


def make_isotropic_sample(shape: tuple[int, int, int] = (64, 128, 128), seed: int = 0) -> SyntheticSample:
    """Return a sample like FIB-SEM of the same tissue, at 8 × 8 × 8 nm.

    shape: (Z, Y, X), at least (1, 64, 64). The same shape and seed give the same bytes.

    Raises:
        InputError: the shape is too small.
    """
    return _make(shape, seed, (8.0, 8.0, 8.0), 1.35, ION_BEAM, "Isotropic EM sample (synthetic)")


def _make(
    shape: tuple[int, int, int], seed: int, spacing: SectionSpacing, girth: float, microscope: Microscope, name: str
) -> SyntheticSample:
    if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < 64:
        raise InputError(f"A sample of shape {tuple(shape)} is too small: give (Z, Y, X) of at least (1, 64, 64).")
    rng = np.random.default_rng(seed)
    tissue = cut_sections(rng, shape, spacing, girth)
    clots = find_clots(rng, tissue)
    membrane = trace_membranes(tissue, microscope, clots)
    grey = render_cytoplasm(rng, tissue, microscope)
    mitochondria = add_mitochondria(rng, tissue, microscope, grey)
    add_vesicles(rng, tissue, microscope, grey, mitochondria)
    grey -= render_membranes(rng, tissue, microscope, clots)
    image = expose(rng, grey, spacing, microscope)
    return SyntheticSample(Stack(image, Space("ZYX", spacing, "nm"), name), membrane, mitochondria)
