"""How far two pictures of the same object are shifted against each other, by phase correlation (Kuglin, Hines 1975)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

COARSE = 128
"""Longest side of the pictures that are compared; larger ones are averaged down to it."""
_HIGHEST = 0.12
"""Standard deviation of the Gaussian low pass, in cycles per coarse pixel: serial sections agree in large structures
only."""
_LOWEST = 1.5
"""Wavelengths longer than the picture's side over this are left out: they show brightness, not place."""

Spectrum = NDArray[np.complex64]


class PhaseCorrelation:
    """Compares pictures of one `shape` (Y, X)."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.factor = max(1, math.ceil(max(shape) / COARSE))
        self._kept = (shape[0] // self.factor * self.factor, shape[1] // self.factor * self.factor)
        self._coarse = (self._kept[0] // self.factor, self._kept[1] // self.factor)
        self._taper = np.outer(np.hanning(self._coarse[0]), np.hanning(self._coarse[1])).astype(np.float32)
        rows, columns = np.fft.fftfreq(self._coarse[0])[:, None], np.fft.rfftfreq(self._coarse[1])[None]
        squared, low = rows**2 + columns**2, _LOWEST / min(self._coarse)
        self._band = (np.exp(-squared / (2 * _HIGHEST**2)) * (1 - np.exp(-squared / (2 * low**2)))).astype(np.float32)

    def spectrum(self, picture: NDArray[Any]) -> Spectrum:
        """Return the phases of a picture, which `shift` compares."""
        step = self.factor
        coarse = np.zeros(self._coarse, np.float32)
        for y in range(step):  # sums of strided parts: ten times as fast as a mean over axes of length `step`
            for x in range(step):
                coarse += picture[y : self._kept[0] : step, x : self._kept[1] : step]
        from scipy import fft  # it takes 0.2 s to import, and single slices do not need it

        found = fft.rfft2((coarse - coarse.mean()) * self._taper)
        phases: Spectrum = (found / (np.abs(found) + np.float32(1e-9))).astype(np.complex64)
        return phases

    def shift(self, moved: Spectrum, still: Spectrum) -> tuple[tuple[float, float], float]:
        """Return how far (y, x) `moved` lies from `still`, in pixels, and the peak in deviations of the surface.

        A peak below 5 may be noise. Shifts beyond half a side come out as their complement.
        """
        from scipy import fft

        surface = fft.irfft2(moved * np.conj(still) * self._band, s=self._coarse)
        deviation = float(surface.std())
        if not deviation > 0:
            return (0.0, 0.0), 0.0
        top = np.unravel_index(int(surface.argmax()), surface.shape)
        y, x = (self._refined(surface, (int(top[0]), int(top[1])), axis) * self.factor for axis in (0, 1))
        return (y, x), float(surface[top]) / deviation

    def _refined(self, surface: NDArray[Any], top: tuple[int, int], axis: int) -> float:
        """Return the place of the peak along an axis, by a parabola through it and its neighbours."""
        length = surface.shape[axis]
        line = np.moveaxis(surface, axis, 0)[:, top[1 - axis]]
        below, at, above = (float(line[(top[axis] + step) % length]) for step in (-1, 0, 1))
        bend = below - 2 * at + above
        offset = 0.5 * (below - above) / bend if bend < 0 else 0.0
        centred = (top[axis] + length // 2) % length - length // 2
        return float(centred + max(-0.5, min(0.5, offset)))
