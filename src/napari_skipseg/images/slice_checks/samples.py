"""Measurements of every slice of a stack, in windows of limited size: in one pass, a block of slices at a time."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.intensity.quantiles import percentiles
from napari_skipseg.images.stack import Stack
from napari_skipseg.progress import Progress

WINDOW, SMALL = 512, 128
"""Sides of the large window and of the small ones, in pixels."""
MIDDLE = 256
"""Side of the part of a window that fine structure is measured in."""
_FEWEST = 2**14
"""Fewest pixels that percentiles are taken from."""
LARGE_SLICE = 768
"""Least side of a slice of which small windows are measured too."""
MOST_SAMPLED_VOXELS = 2**28
"""Most voxels of the large windows of all slices together. If there are more slices, the windows are smaller."""
BLOCK_VOXELS, BLOCK_SLICES = 2**24, 64
"""Most voxels and slices that are read at once from chunks of several slices."""
BOX = 2
"""How many times the area of all windows their bounding box may have to be read instead of them: one read of a
compressed chunk or page instead of five."""
DULL = 0.3
"""A window whose spread of grey values is less than this share of the largest one shows no object."""

LOOKING = Progress(0, 1, "looking at the slices")

SliceWindow = tuple[slice, slice]
Picture = NDArray[np.float32]


@dataclass(frozen=True)
class SliceSamples:
    """Measurements of n slices in w windows, and of the n - 1 pairs of neighbours.

    level: median grey value. spread: from the 1st to the 99th percentile. roughness: mean size of the Laplacian.
    smoothness: correlation of neighbouring pixels. These are (n, w). unexplained: (n - 1, w), share of a slice's
    variance that the slice before does not explain, 1 where one of the two is constant. shift: (n - 1, 2), displacement
    (y, x) against the slice before in pixels; peak: (n - 1,), how certain it is (see `PhaseCorrelation.shift`).
    wide_shift, wide_peak: (n - 2, 2) and (n - 2,), the same against the slice before that.
    """

    level: NDArray[np.float64]
    spread: NDArray[np.float64]
    roughness: NDArray[np.float64]
    smoothness: NDArray[np.float64]
    unexplained: NDArray[np.float64]
    shift: NDArray[np.float64]
    peak: NDArray[np.float64]
    wide_shift: NDArray[np.float64]
    wide_peak: NDArray[np.float64]


def iter_sample_slices(
    stack: Stack, along: str, fixed: Mapping[str, int], most_voxels: int = MOST_SAMPLED_VOXELS
) -> Generator[Progress, None, SliceSamples]:
    """Measure every slice along an axis; yield after each.

    fixed: the place along all other axes but Y and X.

    Raises:
        FileError, InputError: the voxels cannot be read or are no numbers.
    """
    windows = _choose_windows(stack, along, fixed, most_voxels)
    first = windows[0]
    correlation = PhaseCorrelation((first[0].stop - first[0].start, first[1].stop - first[1].start))
    values, unexplained = [], []
    displaced: dict[int, list[tuple[float, float, float]]] = {1: [], 2: []}
    before: tuple[Picture, ...] = ()
    spectra: list[Spectrum] = []
    for pictures in _pictures(stack, along, fixed, windows):
        values.append([_measure(picture) for picture in pictures])
        if before:
            unexplained.append([_unexplained(new, old) for new, old in zip(pictures, before, strict=True)])
        spectra = [*spectra[-2:], correlation.spectrum(pictures[0])]
        for back, found in displaced.items():
            if len(spectra) > back:
                (y, x), peak = correlation.shift(spectra[-1], spectra[-1 - back])
                found.append((y, x, peak))
        before = pictures
        yield LOOKING
    level, spread, roughness, smoothness = np.moveaxis(np.array(values, np.float64), 2, 0)
    near, wide = (np.array(found, np.float64).reshape(-1, 3) for found in displaced.values())
    return SliceSamples(
        level=level,
        spread=spread,
        roughness=roughness,
        smoothness=smoothness,
        unexplained=np.array(unexplained, np.float64).reshape(-1, len(windows)),
        shift=near[:, :2],
        peak=near[:, 2],
        wide_shift=wide[:, :2],
        wide_peak=wide[:, 2],
    )


def _measure(picture: Picture) -> tuple[float, float, float, float]:
    """Return level, spread, roughness and smoothness of a picture."""
    step = max(1, math.isqrt(picture.size // _FEWEST))
    low, level, high = percentiles(picture[::step, ::step], (1, 50, 99))
    part = _middle(picture)
    inner = part[1:-1, 1:-1]
    laplacian = 4 * inner - part[:-2, 1:-1] - part[2:, 1:-1] - part[1:-1, :-2] - part[1:-1, 2:]
    centred = part - part.mean()
    variance = _mean_product(centred, centred)
    smoothness = _mean_product(centred[:, :-1], centred[:, 1:]) / variance if variance > 0 else 0.0
    return level, high - low, float(np.abs(laplacian).mean()), smoothness


def _unexplained(new: Picture, old: Picture) -> float:
    """Return 1 - r² of two pictures, 1 where one of them is constant."""
    new, old = _middle(new), _middle(old)
    new, old = new - new.mean(), old - old.mean()
    variances = _mean_product(new, new) * _mean_product(old, old)
    return 1.0 - _mean_product(new, old) ** 2 / variances if variances > 0 else 1.0


def _mean_product(one: Picture, other: Picture) -> float:
    return float(np.einsum("yx,yx->", one, other, dtype=np.float64)) / one.size


def _middle(picture: Picture) -> Picture:
    """Return the middle of a picture: that is enough to measure fine structure."""
    top, left = (max(0, (length - MIDDLE) // 2) for length in picture.shape)
    return picture[top : top + MIDDLE, left : left + MIDDLE]


def _choose_windows(stack: Stack, along: str, fixed: Mapping[str, int], most_voxels: int) -> tuple[SliceWindow, ...]:
    """Return the windows, the large one first: in the middle, or elsewhere if the middle shows nothing."""
    height, width = stack.length("Y"), stack.length("X")
    count = stack.length(along)
    side = max(SMALL, min(WINDOW, int(math.sqrt(most_voxels / count))))
    if max(height, width) < LARGE_SLICE:
        return (_around(height / 2, width / 2, side, height, width),)
    centres = [(height / 2, width / 2), *product((height / 4, 3 * height / 4), (width / 4, 3 * width / 4))]
    small = [_around(y, x, SMALL, height, width) for y, x in centres]
    probed = sorted({count // 4, count // 2, 3 * count // 4})
    spreads = np.median(
        [
            [_measure(picture)[1] for picture in pictures]
            for number in probed
            for pictures in _read_block(stack, along, fixed, small, range(number, number + 1))
        ],
        axis=0,
    )
    main = 0 if spreads[0] >= DULL * spreads.max() else int(spreads.argmax())
    return (_around(*centres[main], side, height, width), *(each for n, each in enumerate(small) if n != main))


def _around(y: float, x: float, side: int, height: int, width: int) -> SliceWindow:
    top, left = (max(0, min(round(middle - side / 2), length - side)) for middle, length in ((y, height), (x, width)))
    return slice(top, min(top + side, height)), slice(left, min(left + side, width))


def _pictures(
    stack: Stack, along: str, fixed: Mapping[str, int], windows: tuple[SliceWindow, ...]
) -> Iterator[tuple[Picture, ...]]:
    """Yield the windows of every slice, in order. Slices of one chunk are read together, as it is decoded whole."""
    area = max((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in windows)
    depth = max(1, min(_chunk_length(stack, along), BLOCK_SLICES, BLOCK_VOXELS // area))
    count = stack.length(along)
    for start in range(0, count, depth):
        yield from _read_block(stack, along, fixed, list(windows), range(start, min(start + depth, count)))


def _read_block(
    stack: Stack, along: str, fixed: Mapping[str, int], windows: list[SliceWindow], numbers: range
) -> Iterator[tuple[Picture, ...]]:
    """Yield the windows of the slices of these numbers."""

    def read(rows: slice, columns: slice) -> NDArray[Any]:
        place: dict[str, int | slice] = {**fixed, along: slice(numbers.start, numbers.stop), "Y": rows, "X": columns}
        values = stack.read(tuple(place[axis] for axis in stack.space.axes))
        left = [axis for axis in stack.space.axes if axis in (along, "Y", "X")]
        return values.transpose([left.index(axis) for axis in (along, "Y", "X")])

    top, left = (min(window[axis].start for window in windows) for axis in (0, 1))
    bottom, right = (max(window[axis].stop for window in windows) for axis in (0, 1))
    area = sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in windows)
    if (bottom - top) * (right - left) <= BOX * area:
        box = read(slice(top, bottom), slice(left, right))
        blocks = [
            box[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            for rows, columns in windows
        ]
    else:
        blocks = [read(rows, columns) for rows, columns in windows]
    for number in range(len(numbers)):
        yield tuple(_finite(block[number]) for block in blocks)


def _finite(values: NDArray[Any]) -> Picture:
    picture: Picture = values.astype(np.float32)
    return np.nan_to_num(picture, posinf=0, neginf=0) if values.dtype.kind == "f" else picture


def _chunk_length(stack: Stack, axis: str) -> int:
    """Return the number of slices in a chunk of the array along an axis, 1 if it is not stored in chunks."""
    chunks = getattr(stack.data, "chunks", None)
    if not chunks or len(chunks) != len(stack.space.axes):
        return 1
    length = chunks[stack.space.axes.index(axis)]  # dask gives the lengths of all chunks along an axis, zarr one number
    return int(length[0] if isinstance(length, tuple) else length)


COARSE = 128
"""Longest side of the pictures that are compared; larger ones are averaged down to it."""
_HIGHEST = 0.12
"""Standard deviation of the Gaussian low pass, in cycles per coarse pixel: serial sections agree in large structures
only."""
_LOWEST = 1.5
"""Wavelengths longer than the picture's side over this are left out: they show brightness, not place."""

Spectrum = NDArray[np.complex64]


class PhaseCorrelation:
    """Finds how far two pictures of the same object, both of `shape` (Y, X), are shifted (Kuglin and Hines 1975)."""

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
