"""Quick fine-tuning to new classes: a pixel head for each, fitted on the labelled pixels alone.

The network stays as it is. Its features are computed once around the labels, and then logistic regressions are fitted
to them in a second: on the filters alone, with the features of the way down, and with all. Their mean, itself a
logistic regression, is the pixel head. The better one does on strokes that it did not learn from (cross-validation),
the more it weighs: on tissue that the network never met, the filters do best.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from napari_skipseg.networks.head import sources_of
from napari_skipseg.networks.layers import LAYERS
from napari_skipseg.networks.network import Network
from napari_skipseg.networks.pixel_head import PixelHead, TaughtNetwork
from napari_skipseg.progress import Progress
from napari_skipseg.training.compute import Compute
from napari_skipseg.training.finetune.labels import ClassPlan
from napari_skipseg.training.losses import IGNORED
from napari_skipseg.training.settings import FinetuneSettings

TILE = {2: 128, 3: 32}
"""Side of the tiles that features are computed in, by dimensions."""
BORDER = {2: 48, 3: 16}
"""Pixels around a tile, so that its features are nearly those of the whole image. They are cut off."""
MOST_TILES = 64
"""Tiles that are read; of more, as many are drawn."""
PIXELS = 200
"""Pixels of each label that are taken of a tile. Those of a stroke are much alike: 64 of each teach as much as all."""
FOLDS = 5
STROKE = {2: 64, 3: 16}
"""Side of what counts as one stroke, at the most, where pixels are held out together."""
PENALTIES = (1e-3, 1e-2, 1e-1)
"""L2 penalties that are tried: times the squared length of the weights, beside the mean loss."""
UNTRIED = 1e-2
"""The penalty where there are too few strokes to try."""
ROUNDS = 60
"""Iterations of L-BFGS."""
TEMPERATURES = np.geomspace(0.1, 3.0, 35)
"""What logits are multiplied by, so that the classifier is as sure as it is right."""
SHARPNESS = 20.0
"""A regression weighs exp(-SHARPNESS * loss) in their mean."""
AROUND = 300
"""Pixels of each tile with its border, drawn at random, on which is seen how often a class is called."""
SHIFT = 0.3
"""What is taken back of the prior shift, as a share of it. Strokes show a class as often as background, so a rare class
is called too often. From few strokes its true share cannot be estimated: to take all back (as `priors` does) made
classes of 4 % vanish. On six sets of images, 0.3 gave the highest Dice, and 0.5 nearly the same."""
RAREST = 0.02
"""Share that a class has at least where the prior shift is taken back."""


class LabelledImage(Protocol):
    """A part of an image (C, *space) in standard units, and its target (*space): -1 = not labelled, 0, 1, …."""

    @property
    def image(self) -> NDArray[np.float16]:
        """The pixels."""
        ...

    @property
    def target(self) -> NDArray[np.int8]:
        """The labels."""
        ...


@dataclass(frozen=True)
class LabelledPixels:
    """Pixels with features: columns (pixels, columns), labels and the stroke that each belongs to (pixels,).

    around: columns of pixels drawn from all that was read, labelled or not. means, variances: of each feature map over
    all that was read. groups: the feature maps, by number, that each of the regressions reads.
    """

    columns: Tensor
    labels: NDArray[np.int64]
    strokes: NDArray[np.int64]
    around: Tensor
    means: tuple[Tensor, ...]
    variances: tuple[Tensor, ...]
    groups: tuple[tuple[int, ...], ...]


def has_pixel_heads(settings: FinetuneSettings, plan: ClassPlan, network: Network) -> bool:
    """Return whether a fine-tuning of `network` teaches pixel heads: quick, to classes that are not the network's own.

    A class of its own is better corrected in its last level: a pixel head would know no more of it than the strokes.
    """
    own = {place for place, number in enumerate(plan.kept, 1) if sources_of(network)[number] is not None}
    return settings.reach == "quick" and not own & set(plan.learnt)


def iter_fit_pixel_heads(
    network: TaughtNetwork, taught: Sequence[int], images: Sequence[LabelledImage], seed: int, compute: Compute
) -> Generator[Progress, None, dict[str, float]]:
    """Yield while features are computed; then fit the pixel heads of the classes `taught` (numbers from 0).

    All that is not labelled as a class counts against it. Return the cross-validated loss of each class, by the
    number of the class, in nats: ln 2 = 0.69 is that of a coin. Nothing else of the network changes.
    """
    compute.place(network).eval()
    pixels = yield from iter_read_pixels(network, images, seed, compute)
    losses = {}
    for number in taught:
        yield Progress(1, 1, "fitting the classes")
        fitted = fit_class(pixels, pixels.labels == number + 1)
        losses[str(number)] = fitted.loss
        _put(network.head_of(number), fitted, pixels)
    return losses


def iter_read_pixels(
    network: TaughtNetwork, images: Sequence[LabelledImage], seed: int, compute: Compute
) -> Generator[Progress, None, LabelledPixels]:
    """Yield after each tile; return labelled pixels with their features, each label as evenly as it is spread."""
    generator = np.random.default_rng(seed)
    dimensions = network.spec.dimensions
    strokes = [_number_strokes(each.target, STROKE[dimensions]) for each in images]
    offsets = np.cumsum([0, *(int(each.max(initial=0)) + 1 for each in strokes)])
    tiles = _draw_tiles([each.target for each in images], TILE[dimensions], generator)
    columns, labels, names, around, sums = [], [], [], [], _Moments()
    for done, (number, tile) in enumerate(tiles):
        yield Progress(done, len(tiles), f"computing features: tile {done + 1} of {len(tiles)}")
        target = images[number].target[tile]
        chosen = _draw_pixels(target, generator)
        at = tuple(chosen.T)
        features, inside = _features_of(network, images[number].image, tile, compute)
        sums.add(features)
        columns.append(_columns(network, features, tuple(a + s for a, s in zip(at, inside, strict=True))))
        labels.append(target[at].astype(np.int64))
        names.append(strokes[number][tile][at] + offsets[number])
        sides = features[0].shape[2:]  # the finest level has the resolution of the image
        around.append(_columns(network, features, tuple(generator.integers(side, size=AROUND) for side in sides)))
    means, variances = sums.means_and_variances()
    return LabelledPixels(
        columns=torch.cat(columns),
        labels=np.concatenate(labels),
        strokes=np.concatenate(names),
        around=torch.cat(around),
        means=means,
        variances=variances,
        groups=_group_maps(network),
    )


def _group_maps(network: TaughtNetwork) -> tuple[tuple[int, ...], ...]:
    """Return the numbers of the feature maps of each regression: filters, with those of the way down, and all."""
    strides = [level.stride for level in network.levels]
    deepest = max(number for number, stride in enumerate(strides) if stride == max(strides))
    maps = len(network.feature_strides)
    filters = tuple(range(len(strides), maps))
    return filters, (*range(deepest + 1), *filters), tuple(range(maps))


def _number_strokes(target: NDArray[np.int8], side: int) -> NDArray[np.int64]:
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


def _draw_pixels(target: NDArray[np.int8], generator: np.random.Generator) -> NDArray[np.intp]:
    """Return places (pixels, dimensions) of at most `PIXELS` of each label."""
    chosen = []
    for label in np.unique(target[target != IGNORED]):
        there = np.argwhere(target == label)
        chosen.append(there[generator.permutation(len(there))[:PIXELS]])
    return np.concatenate(chosen)


def _features_of(
    network: TaughtNetwork, image: NDArray[Any], tile: tuple[slice, ...], compute: Compute
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Return the features of a tile with its border, and where the tile begins in them."""
    border, stride = BORDER[network.spec.dimensions], network.stride
    first = [max(0, part.start - border) // stride * stride for part in tile]
    last = [min(length, part.stop + border) for part, length in zip(tile, image.shape[1:], strict=True)]
    cut = image[(slice(None), *(slice(a, b) for a, b in zip(first, last, strict=True)))].astype(np.float32)
    missing = [(0, -length % stride) for length in cut.shape[1:]]
    padded = torch.from_numpy(np.pad(cut, [(0, 0), *missing], mode="symmetric"))
    with torch.inference_mode(), compute.autocast():
        features = network.features(compute.upload(padded[None]))
    inside = tuple(part.start - start for part, start in zip(tile, first, strict=True))
    return tuple(values.float() for values in features), inside


def _columns(network: TaughtNetwork, features: Sequence[Tensor], places: tuple[NDArray[np.intp], ...]) -> Tensor:
    """Return the features (pixels, columns) at `places`, up-sampled as the head does it."""
    at = tuple(torch.from_numpy(place) for place in places)
    mode, parts = LAYERS[network.spec.dimensions].linear, []
    for stride, values in zip(network.feature_strides, features, strict=True):
        large = values
        if stride > 1:
            large = functional.interpolate(values, scale_factor=stride, mode=mode, align_corners=False)
        parts.append(large[(0, slice(None), *at)].T.cpu())
    return torch.cat(parts, dim=1).clone()


class _Moments:
    """Sums of feature maps and of their squares."""

    def __init__(self) -> None:
        self._maps: list[tuple[int, Tensor, Tensor]] = []

    def add(self, features: Sequence[Tensor]) -> None:
        """Add the maps (1, channels, *space) of a tile."""
        new = []
        for values in features:
            flat = values[0].flatten(1).double()
            new.append((flat.shape[1], flat.sum(dim=1).cpu(), flat.square().sum(dim=1).cpu()))
        old = self._maps or [(0, torch.zeros_like(total), torch.zeros_like(total)) for _, total, _ in new]
        self._maps = [(n + m, a + c, b + d) for (n, a, b), (m, c, d) in zip(old, new, strict=True)]

    def means_and_variances(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return those of each map."""
        means = tuple(total / count for count, total, _ in self._maps)
        squares = (square / count for count, _, square in self._maps)
        variances = tuple((square - mean**2).clamp(min=1e-6) for square, mean in zip(squares, means, strict=True))
        return tuple(mean.float() for mean in means), tuple(variance.float() for variance in variances)


@dataclass(frozen=True)
class FittedClass:
    """A logistic regression: weights of the columns in standard units, and bias. loss: as cross-validated, in nats."""

    weights: Tensor
    bias: float
    loss: float


def fit_class(pixels: LabelledPixels, positive: NDArray[np.bool_]) -> FittedClass:
    """Return a classifier of the `positive` pixels against all others, both together as heavy as the other side.

    Every feature map is worth as much as any other, however many channels it has: so the wide levels deep in a network
    don't drown the few filters.
    """
    lengths = [len(mean) for mean in pixels.means]
    sizes = torch.cat([torch.full((length,), float(length)) for length in lengths])
    scale = (torch.cat(pixels.variances) * sizes).rsqrt()
    columns, around = ((each - torch.cat(pixels.means)) * scale for each in (pixels.columns, pixels.around))
    target = torch.from_numpy(positive).float()
    share = target.mean()
    heavy = torch.where(target > 0, 0.5 / share.clamp(min=1e-6), 0.5 / (1 - share).clamp(min=1e-6))
    folds = _folds_of(pixels.strokes, positive)
    fitted = []
    for group in pixels.groups:
        inside = torch.cat([torch.full((length,), number in group) for number, length in enumerate(lengths)])
        one = _fit_regression(columns[:, inside], target, heavy, folds)
        fitted.append(FittedClass(torch.zeros(len(sizes)).masked_scatter(inside, one.weights), one.bias, one.loss))
    lowest = min(one.loss for one in fitted)
    trust = np.array([np.exp(SHARPNESS * (lowest - one.loss)) for one in fitted])
    trust /= trust.sum()
    weights = sum((one.weights * part for one, part in zip(fitted, trust, strict=True)), torch.zeros(len(sizes)))
    bias = sum(one.bias * part for one, part in zip(fitted, trust, strict=True))
    called = float((around @ weights + bias > 0).float().mean().clamp(RAREST, 0.5))
    bias += SHIFT * float(np.log(called / (1 - called)))
    return FittedClass(weights / sizes.sqrt(), float(bias), lowest)


def _fit_regression(columns: Tensor, target: Tensor, heavy: Tensor, folds: Tensor | None) -> FittedClass:
    """Return a regression with the penalty that cross-validates best, as sure as it is right."""
    if folds is None:
        weights, bias = _fit(columns, target, heavy, UNTRIED)
        return FittedClass(weights, float(bias), float(_loss(columns @ weights + bias, target, heavy)))
    tried = [_cross_validate(columns, target, heavy, folds, penalty) for penalty in PENALTIES]
    best = min(range(len(PENALTIES)), key=lambda number: tried[number][1])
    temperature, loss = tried[best]
    weights, bias = _fit(columns, target, heavy, PENALTIES[best])
    return FittedClass(weights * temperature, float(bias) * temperature, loss)


def _folds_of(strokes: NDArray[np.int64], positive: NDArray[np.bool_]) -> Tensor | None:
    """Return which fold each pixel is held out in, strokes as wholes; None where a side has a single stroke."""
    folds = np.zeros(len(strokes), np.int64)
    for side in (positive, ~positive):
        names = np.unique(strokes[side])
        if len(names) < 2:
            return None
        folds[side] = np.searchsorted(names, strokes[side]) % min(FOLDS, len(names))
    return torch.from_numpy(folds)


def _cross_validate(
    columns: Tensor, target: Tensor, heavy: Tensor, folds: Tensor, penalty: float
) -> tuple[float, float]:
    """Return by what the logits must be multiplied to be as sure as they are right, and the loss that is left."""
    logits = torch.zeros_like(target)
    for fold in range(int(folds.max()) + 1):
        held_out = folds == fold
        weights, bias = _fit(columns[~held_out], target[~held_out], heavy[~held_out], penalty)
        logits[held_out] = columns[held_out] @ weights + bias
    losses = [float(_loss(logits * each, target, heavy)) for each in TEMPERATURES]
    best = int(np.argmin(losses))
    return float(TEMPERATURES[best]), losses[best]


def _fit(columns: Tensor, target: Tensor, heavy: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    weights, bias = torch.zeros(columns.shape[1], requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        value = _loss(columns @ weights + bias, target, heavy) + penalty * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    optimizer.step(closure)
    return weights.detach(), bias.detach()


def _loss(logits: Tensor, target: Tensor, heavy: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, target, heavy, reduction="sum") / heavy.sum()


def _put(head: PixelHead, fitted: FittedClass, pixels: LabelledPixels) -> None:
    """Write a fitted class into its head."""
    parts = fitted.weights.split([len(mean) for mean in pixels.means])
    with torch.no_grad():
        for part, weights, mean, variance in zip(head.inputs, parts, pixels.means, pixels.variances, strict=True):
            part.weight.copy_(weights.view_as(part.weight))
            part.running_mean.copy_(mean)
            part.running_var.copy_(variance)
        head.bias.fill_(fitted.bias)
