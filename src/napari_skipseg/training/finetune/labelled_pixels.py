"""The labelled pixels of images with the features that a pixel head reads: what a classifier is fitted to."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from napari_skipseg.networks.pixel_head import TaughtNetwork
from napari_skipseg.progress import Progress
from napari_skipseg.training.compute import Compute
from napari_skipseg.training.losses import IGNORED

Columns = NDArray[np.float32]
"""Features of pixels: (pixels, columns)."""

FEATURE_TILE = {2: 128, 3: 32}
"""Side of the tiles that features are computed in, by dimensions."""
FEATURE_BORDER = {2: 64, 3: 16}
"""Pixels around a tile, so that its features are nearly those of the whole image. They are cut off."""
MOST_WINDOW = {2: 512, 3: 96}
"""Longest side, with the border, of tiles that are computed together: 512² pixels have 0.1 GB of features."""
MOST_TILES = 64
"""Tiles that are read; of more, as many are drawn."""
PIXELS = 64
"""Pixels of each stroke that are taken of a tile. Those of a stroke are much alike: so many teach as much as all."""
STROKE_SIDE = {2: 64, 3: 16}
"""Side of what counts as one stroke, at the most, where pixels are held out together."""
PIXELS_AROUND = 300
"""Pixels of each tile with its border, drawn at random, on which is seen how often a class is called."""


class LabelledCrop(Protocol):
    """A part of an image (C, *space) in standard units, and its target (*space): -1 = not labelled, 0, 1, …."""

    @property
    def image(self) -> NDArray[np.float16]:
        """The pixels."""
        ...

    @property
    def target(self) -> NDArray[np.int8]:
        """The labels, without those that are held out."""
        ...

    @property
    def held_out(self) -> NDArray[np.int8]:
        """The labels that are held out."""
        ...

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Where the labels are a model's answer that somebody accepted."""
        ...


@dataclass(frozen=True)
class LabelledPixels:
    """Pixels with features: columns (pixels, columns), and labels, strokes and whether painted, each (pixels,).

    strokes: the number of the stroke that a pixel belongs to. is_painted: and not accepted. around: columns of pixels
    drawn from all that was read, labelled or not. means, variances: of each feature map over all that was read. groups:
    the feature maps, by number, that each of the regressions reads.
    """

    columns: Columns
    labels: NDArray[np.int64]
    strokes: NDArray[np.int64]
    is_painted: NDArray[np.bool_]
    around: Columns
    means: tuple[NDArray[np.float32], ...]
    variances: tuple[NDArray[np.float32], ...]
    groups: tuple[tuple[int, ...], ...]

    def judged(self, positive: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the pixels that scores are taken on: of the class and of all else the painted ones, if there are some.

        What was accepted is the old model's own answer.
        """
        chosen = np.zeros_like(positive)
        for side in (positive, ~positive):
            painted = side & self.is_painted
            chosen |= painted if painted.any() else side
        return chosen


def iter_read_pixels(
    network: TaughtNetwork, images: Sequence[LabelledCrop], seed: int, compute: Compute
) -> Generator[Progress, None, LabelledPixels]:
    """Yield before each part; return pixels of all labels, held out or not, with their features."""
    compute.place(network).eval()
    generator = np.random.default_rng(seed)
    dimensions = network.spec.dimensions
    targets = [np.where(each.target == IGNORED, each.held_out, each.target) for each in images]
    strokes = [number_strokes(target, STROKE_SIDE[dimensions]) for target in targets]
    offsets = np.cumsum([0, *(int(each.max(initial=0)) + 1 for each in strokes)])
    tiles = _draw_tiles(targets, FEATURE_TILE[dimensions], generator)
    columns, labels, names, painted, around, sums = [], [], [], [], [], _Moments()
    windows = join_tiles(tiles, [target.shape for target in targets], FEATURE_BORDER[dimensions])
    for done, (number, window, inside_it) in enumerate(windows):
        yield Progress(done, len(windows), f"computing features: part {done + 1} of {len(windows)}")
        features, start = compute_features(network, images[number].image, window, compute)
        sums.add(features)
        corner = [at - part.start for at, part in zip(start, window, strict=True)]
        for tile in inside_it:
            target = targets[number][tile]
            chosen = _draw_pixels(strokes[number][tile], generator)
            at = tuple(chosen.T)
            places = tuple(a + part.start + first for a, part, first in zip(at, tile, corner, strict=True))
            columns.append(columns_at(network.feature_strides, features, places))
            labels.append(target[at].astype(np.int64))
            names.append(strokes[number][tile][at] + offsets[number])
            painted.append(~images[number].accepted[tile][at])
        sides = features[0].shape[2:]  # the finest level has the resolution of the image
        drawn = tuple(generator.integers(side, size=PIXELS_AROUND * len(inside_it)) for side in sides)
        around.append(columns_at(network.feature_strides, features, drawn))
    means, variances = sums.means_and_variances()
    return LabelledPixels(
        columns=np.concatenate(columns),
        labels=np.concatenate(labels),
        strokes=np.concatenate(names),
        is_painted=np.concatenate(painted),
        around=np.concatenate(around),
        means=means,
        variances=variances,
        groups=group_maps(network),
    )


def group_maps(network: TaughtNetwork) -> tuple[tuple[int, ...], ...]:
    """Return the numbers of the feature maps of each regression: the filters, and all."""
    maps = len(network.feature_strides)
    return tuple(range(len(network.levels), maps)), tuple(range(maps))


def number_strokes(target: NDArray[np.int8], side: int) -> NDArray[np.int64]:
    """Return numbers from 1 of connected pixels with one label, parted by a grid of `side`; 0 = not labelled."""
    cells = np.zeros(target.shape, np.int64)
    for axis, length in enumerate(target.shape):
        index = np.arange(length).reshape([-1 if other == axis else 1 for other in range(target.ndim)])
        cells = cells * (length // side + 1) + index // side
    numbers, count = np.zeros(target.shape, np.int64), 0
    for label in np.unique(target[target != IGNORED]):
        pieces, _ = ndimage.label(target == label, np.ones((3,) * target.ndim))
        small = np.bincount(pieces.ravel())[pieces] <= side**2
        # a stroke is one piece, however it lies in the grid; an accepted region is as many as it has cells
        parts = np.where(small, 0, cells + 1) + pieces * (int(cells.max()) + 2)
        inside = pieces > 0
        _, number = np.unique(parts[inside], return_inverse=True)
        numbers[inside] = count + 1 + number.ravel()
        count = int(numbers.max())
    return numbers


def _draw_tiles(
    targets: Sequence[NDArray[np.int8]], side: int, generator: np.random.Generator
) -> list[tuple[int, tuple[slice, ...]]]:
    """Return tiles with labels, (number of the image, tile): at most `MOST_TILES`, those with rare labels first."""
    found: list[tuple[int, tuple[slice, ...], frozenset[int]]] = []
    for number, target in enumerate(targets):
        for corner in product(*(range(0, length, side) for length in target.shape)):
            tile = tuple(slice(start, start + side) for start in corner)
            labels = frozenset(np.unique(target[tile]).tolist()) - {IGNORED}
            if labels:
                found.append((number, tile, labels))
    order = [found[place] for place in generator.permutation(len(found))]
    counts = {label: sum(label in tile[2] for tile in order) for tile in order for label in tile[2]}
    if len(order) > MOST_TILES:
        order.sort(key=lambda tile: min(counts[label] for label in tile[2]))  # stable: drawn among equals
        rare = order[: MOST_TILES // 2]
        rest = order[MOST_TILES // 2 :]
        order = [*rare, *(rest[place] for place in generator.permutation(len(rest))[: MOST_TILES - len(rare)])]
    return [(number, tile) for number, tile, _ in order]


def join_tiles(
    tiles: Sequence[tuple[int, tuple[slice, ...]]], shapes: Sequence[tuple[int, ...]], border: int
) -> list[tuple[int, tuple[slice, ...], list[tuple[slice, ...]]]]:
    """Return what is computed at once, (number of the image, window, its tiles): tiles whose windows overlap are one.

    Two are joined if that is less to compute than both with their borders, and no side is longer than `MOST_WINDOW`.
    """
    windows = [(number, tile, [tile]) for number, tile in tiles]
    place = 0
    while place < len(windows):
        number, window, inside = windows[place]
        shape, own = shapes[number], math.prod(sides_with_border(window, shapes[number], border))
        for other in range(place + 1, len(windows)):
            its_number, its_window, its_tiles = windows[other]
            if its_number != number:
                continue
            both = tuple(
                slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(window, its_window, strict=True)
            )
            sides = sides_with_border(both, shape, border)
            apart = own + math.prod(sides_with_border(its_window, shape, border))
            if max(sides) <= MOST_WINDOW[len(window)] and math.prod(sides) <= apart:
                windows[place] = number, both, [*inside, *its_tiles]
                del windows[other]
                place = -1  # a larger window may now overlap with one that was passed
                break
        place += 1
    return windows


def sides_with_border(window: tuple[slice, ...], shape: tuple[int, ...], border: int) -> list[int]:
    """Return the sides of a window of an image of this shape with its border, as far as that is in the image."""
    return [
        min(length, part.stop + border) - max(0, part.start - border)
        for part, length in zip(window, shape, strict=True)
    ]


def _draw_pixels(strokes: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.intp]:
    """Return places (pixels, dimensions) of at most `PIXELS` of each stroke. strokes: their numbers, 0 = none."""
    chosen = []
    for number in np.unique(strokes[strokes > 0]):
        there = np.argwhere(strokes == number)
        chosen.append(there[generator.permutation(len(there))[:PIXELS]])
    return np.concatenate(chosen)


def compute_features(
    network: TaughtNetwork, image: NDArray[Any], tile: tuple[slice, ...], compute: Compute
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Return the features of a tile with its border, and where the tile begins in them."""
    border, stride = FEATURE_BORDER[network.spec.dimensions], network.stride
    first = [max(0, part.start - border) // stride * stride for part in tile]
    last = [min(length, part.stop + border) for part, length in zip(tile, image.shape[1:], strict=True)]
    cut = image[(slice(None), *(slice(a, b) for a, b in zip(first, last, strict=True)))].astype(np.float32)
    missing = [(0, -length % stride) for length in cut.shape[1:]]
    padded = torch.from_numpy(np.pad(cut, [(0, 0), *missing], mode="symmetric"))
    with torch.inference_mode(), compute.autocast():
        features = network.features(compute.upload(padded[None]))
    inside = tuple(part.start - start for part, start in zip(tile, first, strict=True))
    return tuple(values.float() for values in features), inside


def columns_at(strides: Sequence[int], features: Sequence[Tensor], places: tuple[NDArray[np.intp], ...]) -> Columns:
    """Return the features (pixels, columns) at `places` of the finest map, up-sampled as the head does it.

    At these pixels alone: to up-sample whole maps would take longer than the network.
    """
    at = [torch.from_numpy(place).to(features[0].device) for place in places]
    parts = []
    for stride, values in zip(strides, features, strict=True):
        maps = values[0]
        total = torch.zeros(len(maps), len(at[0]), device=maps.device)
        axes = [_neighbours(place, stride, length) for place, length in zip(at, maps.shape[1:], strict=True)]
        for corner in product(*axes):
            where: tuple[slice | Tensor, ...] = (slice(None), *(place for place, _ in corner))
            total += maps[where] * math.prod(share for _, share in corner)
        parts.append(total)
    return torch.cat(parts).T.cpu().numpy()


def _neighbours(place: Tensor, stride: int, length: int) -> list[tuple[Tensor, Tensor]]:
    """Return the nearest positions along an axis of a map, each with its weight: two, or one at full resolution.

    Positions beyond the end are the end.
    """
    # positions of pixel centres, as `interpolate` has them without aligned corners
    exact = ((place + 0.5) / stride - 0.5).clamp(min=0, max=length - 1)
    if stride == 1:
        return [(exact.long(), torch.ones_like(exact))]
    low = exact.floor().long()
    share = (exact - low).float()
    return [(low, 1 - share), ((low + 1).clamp(max=length - 1), share)]


class _Moments:
    """Sums of feature maps and of their squares."""

    def __init__(self) -> None:
        self._maps: list[tuple[int, NDArray[np.float64], NDArray[np.float64]]] = []

    def add(self, features: Sequence[Tensor]) -> None:
        """Add the maps (1, channels, *space) of a tile."""
        new = []
        for values in features:
            flat = values[0].flatten(1)
            total, square = (each.double().cpu().numpy() for each in (flat.sum(dim=1), flat.square().sum(dim=1)))
            new.append((flat.shape[1], total, square))
        old = self._maps or [(0, np.zeros_like(total), np.zeros_like(total)) for _, total, _ in new]
        self._maps = [(n + m, a + c, b + d) for (n, a, b), (m, c, d) in zip(old, new, strict=True)]

    def means_and_variances(self) -> tuple[tuple[NDArray[np.float32], ...], tuple[NDArray[np.float32], ...]]:
        """Return those of each map."""
        means = tuple(total / count for count, total, _ in self._maps)
        variances = tuple(
            np.maximum(square / count - mean**2, 1e-6)
            for (count, _, square), mean in zip(self._maps, means, strict=True)
        )
        return tuple(m.astype(np.float32) for m in means), tuple(v.astype(np.float32) for v in variances)
