"""The signature of an image: few numbers that show whether two images are of one kind.

It does not change with brightness and contrast. It has the shape of the histogram. For each octave of size it has the
octave's share of the contrast, its asymmetry, how peaked it is, and how much it changes from place to place. The last
two distinguish photographs, with few sharp edges and flat areas, from tissue; the shares show noise and scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from napari_skipseg.images.intensity.quantiles import percentiles

PATCH = 256
"""Side of the patches that are measured, in pixels; smaller ones are mirrored."""
LEAST_SIDE = 48
"""Side below which an image shows too little of its structures."""
PATCHES = 16
"""Patches that are measured of an image."""
LIVELY = 0.2
"""A patch of less than this share of the highest contrast of an image shows hardly anything."""
OCTAVES = 5
_BLOCK = 32
"""Side of the blocks whose contrast is compared, in pixels of the patch."""
SMOOTHING = (6 / 16, 4 / 16, 1 / 16)
"""Weights of a pixel, of those beside it and of the next ones."""
QUANTILES = (1, 5, 25, 50, 75, 95, 99)
SMALL = 1e-6


@dataclass(frozen=True)
class _Group:
    """Features that are judged together: how much each may differ among images of one kind, and their common limit."""

    start: int
    tolerances: tuple[float, ...]
    limit: float


GROUPS = {
    "grey values": _Group(0, (0.12, 0.08, 0.10, 0.08, 0.15, 0.6, 0.6, 0.6), 1.4),
    "sizes": _Group(8, (0.22, 0.13, 0.09, 0.08, 0.09), 1.9),
    "edges": _Group(13, (0.05,) * OCTAVES, 1.9),
    "evenness": _Group(18, (0.12, 0.12, 0.14, 0.20, 0.30), 1.9),
}
"""Measured on 28 images of EM, 4 of nuclei and 15 photographs, see `benchmarks/guards.py`."""
SIGNATURE_FEATURES = 23
ENOUGH, ALLOWANCE = 8.0, 0.65
"""Patches that are enough to recognise the kind of an image, and how fast the limit rises if there are fewer.

Measured on crops of neural EM, whose full stacks lie at 0.2-0.9: of 3 x 256 x 256 pixels up to 1.13 (one of 96 at
1.38), of 128 x 128 up to 1.26, of 3 x 64 x 64 up to 1.65."""


@dataclass(frozen=True)
class ImageSignature:
    """The signature of an image, or of what a model was trained on.

    middle, width: of each feature, the median over patches and half their robust standard deviation; one tuple for each
    channel.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    middle: tuple[tuple[float, ...], ...]
    width: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        rows = [*self.middle, *self.width]
        if len(self.middle) != len(self.width) or any(len(row) != SIGNATURE_FEATURES for row in rows):
            raise ValueError(f"a signature has {SIGNATURE_FEATURES} numbers for each channel")


def sign_image(patches: Iterable[NDArray[Any]]) -> ImageSignature | None:
    """Return the signature of `patches`, each (C, Y, X); None if none of them shows anything.

    Patches in which hardly anything is seen, compared with the others, are left out.
    """
    both = sign_with_negative(patches)
    return None if both is None else both[0]


def sign_with_negative(patches: Iterable[NDArray[Any]]) -> tuple[ImageSignature, ImageSignature] | None:
    """Return the signatures of `patches` and of their negatives, as `sign_image` does."""
    kept = [patch for patch in patches if min(patch.shape[1:]) >= LEAST_SIDE]
    spreads = []
    for patch in kept:
        low, high = percentiles(patch[:, ::2, ::2], (2, 98))
        spreads.append(high - low)
    if not kept or not max(spreads) > 0:
        return None
    chosen = [patch for patch, spread in zip(kept, spreads, strict=True) if spread > LIVELY * max(spreads)]
    features = np.array([[_features(channel) for channel in patch] for patch in chosen])  # (patches, C, 2, features)
    middle = np.median(features, axis=0)
    width = 1.4826 * np.median(np.abs(features - middle), axis=0) / 2
    upright, negative = (ImageSignature(_rounded(middle[:, side]), _rounded(width[:, side])) for side in (0, 1))
    return upright, negative


def signature_distance(image: ImageSignature, known: Sequence[ImageSignature]) -> tuple[float, str]:
    """Return how far an image is from the nearest of the `known` ones, and in what most.

    An image farther away than `limit_for` its size (1 for all but small images) is of a different kind. The distance is
    0 if no known signature has as many channels.
    """
    distances = [_distance(image, each) for each in known if len(each.middle) == len(image.middle)]
    return min(distances, default=(0.0, ""))


def limit_for(lengths: Mapping[str, int]) -> float:
    """Return the distance from which an image of these lengths, by axis, is of a different kind: small ones vary more.

    Slices resemble their neighbours: they count as the square root of their number.
    """
    depth = math.prod(length for axis, length in lengths.items() if axis not in "CYX")
    patches = lengths["Y"] * lengths["X"] / PATCH**2 * math.sqrt(depth)
    return 1.0 + ALLOWANCE * max(0.0, 1 / math.sqrt(patches) - 1 / math.sqrt(ENOUGH))


def _distance(image: ImageSignature, known: ImageSignature) -> tuple[float, str]:
    away = np.array(image.middle) - np.array(known.middle)
    width = np.array(known.width)
    found = []
    for name, group in GROUPS.items():
        part = slice(group.start, group.start + len(group.tolerances))
        tolerance = np.hypot(np.array(group.tolerances), width[:, part])
        found.append((float(np.sqrt(np.mean((away[:, part] / tolerance) ** 2))) / group.limit, name))
    return max(found)


def _features(picture: NDArray[Any]) -> NDArray[np.float64]:
    """Return the features of one channel of a patch and those of its negative, in the order of `GROUPS`, (2, n)."""
    values = picture[:PATCH, :PATCH].astype(np.float32)
    if values.shape != (PATCH, PATCH):
        values = np.pad(values, [(0, PATCH - length) for length in values.shape], mode="symmetric")
    found = np.array(percentiles(values, QUANTILES))
    spread = max(float(found[5] - found[1]), float(found[6] - found[0]) / 3, SMALL)
    histograms = [(levels[[0, 2, 3, 4, 6]] - levels[1]) / spread for levels in (found, -found[::-1])]
    rest = (np.clip(values, found[0], found[6]) - found[3]).astype(np.float32) / np.float32(spread)
    sizes, asymmetry, edges, evenness = [], [], [], []
    for octave in range(OCTAVES):
        smooth = _smoothed(_smoothed(rest, 0), 1)
        band = rest - smooth
        squares = band * band
        deviation = math.sqrt(max(float(squares.mean()) - float(band.mean()) ** 2, 0.0)) + SMALL
        sizes.append(math.log10(deviation))
        # products, as numpy takes 100 times as long for the third power of float32
        asymmetry.append(float(np.cbrt((squares * band).mean() / deviation**3)))
        edges.append(-math.log(float(np.abs(band).mean()) / deviation + SMALL))
        side = _BLOCK >> octave
        energy = squares.reshape(len(band) // side, side, -1).sum(1).reshape(len(band) // side, -1, side).sum(2)
        evenness.append(float(np.log(energy / side**2 + SMALL**1.5).std()))
        rest = smooth[::2, ::2]
    return np.array(
        [
            [*histogram, *(sign * each for each in asymmetry[:3]), *sizes, *edges, *evenness]
            for histogram, sign in zip(histograms, (1, -1), strict=True)
        ],
        np.float64,
    )


def _smoothed(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Return `values` smoothed along an axis, mirrored at its ends."""
    reach = len(SMOOTHING) - 1
    around = [(reach, reach) if number == axis else (0, 0) for number in range(2)]
    padded = np.pad(values, around, mode="symmetric")
    length = values.shape[axis]
    parts = [padded[start : start + length] if axis == 0 else padded[:, start : start + length] for start in range(5)]
    inner, middle, outer = (np.float32(weight) for weight in SMOOTHING)
    smooth: NDArray[np.float32] = (parts[0] + parts[4]) * outer
    smooth += (parts[1] + parts[3]) * middle
    smooth += parts[2] * inner
    return smooth


def _rounded(rows: NDArray[Any]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(float(value), 4) for value in row) for row in rows)
