"""Quick fine-tuning to new classes: a pixel head for each, fitted on the labelled pixels alone.

The network stays as it is. Its features are computed once around the labels, and then two logistic regressions are
fitted to them in a second: on the filters alone, and on all features. Their mean, itself a logistic regression, is the
pixel head: on tissue that the network never met, the filters do best, and else all. Which it is cannot be seen in a few
strokes. What cross-validation over strokes does choose is how far each is to be trusted (a temperature).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor
from torch.nn import functional

from napari_skipseg.networks.head import sources_of
from napari_skipseg.networks.layers import LAYERS
from napari_skipseg.networks.network import Network
from napari_skipseg.networks.pixel_head import LEAST, PixelHead, StandardizedConvolution, TaughtNetwork
from napari_skipseg.progress import Progress, run_to_end
from napari_skipseg.training.compute import Compute, one_thread
from napari_skipseg.training.finetune.labels import ClassPlan
from napari_skipseg.training.losses import IGNORED
from napari_skipseg.training.settings import FinetuneSettings

Columns = NDArray[np.float32]
"""Features of pixels: (pixels, columns)."""

FEATURE_TILE = {2: 128, 3: 32}
"""Side of the tiles that features are computed in, by dimensions."""
FEATURE_BORDER = {2: 64, 3: 16}
"""Pixels around a tile, so that its features are nearly those of the whole image. They are cut off."""
MOST_TILES = 64
"""Tiles that are read; of more, as many are drawn."""
PIXELS = 64
"""Pixels of each stroke that are taken of a tile. Those of a stroke are much alike: so many teach as much as all."""
FOLDS = 5
STROKE_SIDE = {2: 64, 3: 16}
"""Side of what counts as one stroke, at the most, where pixels are held out together."""
PENALTY = 1e-2
"""L2 penalty: times the squared length of the weights, beside the mean loss."""
LBFGS_ITERATIONS = 60
"""Iterations of L-BFGS."""
TEMPERATURES = np.geomspace(0.1, 3.0, 35)
"""What logits are multiplied by, so that the classifier is as sure as it is right."""
PIXELS_AROUND = 300
"""Pixels of each tile with its border, drawn at random, on which is seen how often a class is called."""
UNPAINTED = 0.3
"""What pixels drawn at random weigh, as a share of all that counts against a class. Few strokes show few kinds of
background, and what they don't show was called the class, up to four times too often. Some of the pixels are of the
class: that lowers its logits, but changes neither their order nor where they are 0 (learning from positive and
unlabelled examples, Elkan and Noto 2008)."""
MOST_UNPAINTED = 600
"""So many of these pixels are fitted to at the most. 1500 gave the same, in twice the time."""


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


def has_pixel_heads(settings: FinetuneSettings, plan: ClassPlan, network: Network) -> bool:
    """Return whether a fine-tuning of `network` teaches pixel heads: quick, to classes that are not the network's own.

    A class of its own is better corrected in its last level: a pixel head would know no more of it than the strokes.
    """
    own = {place for place, number in enumerate(plan.kept, 1) if sources_of(network)[number] is not None}
    return settings.reach == "quick" and not own & set(plan.learnt)


def fit_pixel_heads(network: TaughtNetwork, taught: Sequence[int], pixels: LabelledPixels) -> dict[int, FittedClass]:
    """Fit the pixel heads of the classes `taught` (numbers from 0), and return the fit of each.

    Nothing else of the network changes. All that is not labelled as a class counts against it.
    """
    found: dict[int, FittedClass] = {}
    for number in taught:
        found[number] = fit_class(pixels, pixels.labels == number + 1)
        write_head(network.head_of(number), found[number], pixels)
    return found


def write_head(head: PixelHead, fitted: FittedClass, pixels: LabelledPixels) -> None:
    """Write a classifier into the weights of a pixel head, with the standard units of the pixels it was fitted to."""
    lengths = np.cumsum([len(mean) for mean in pixels.means])[:-1]
    parts = zip(head.inputs, np.split(fitted.weights, lengths), pixels.means, pixels.variances, strict=True)
    with torch.no_grad():
        for part, weights, mean, variance in parts:
            if not isinstance(part, StandardizedConvolution):
                raise ValueError(f"a pixel head reads features through {type(part).__name__}")
            part.weight.copy_(torch.from_numpy(weights).view_as(part.weight))
            part.running_mean.copy_(torch.from_numpy(mean))
            part.running_var.copy_(torch.from_numpy(variance))
        head.bias.fill_(fitted.bias)


def head_logits(head: PixelHead, columns: Columns) -> NDArray[np.float32]:
    """Return what a linear pixel head says of pixels with these features (pixels, columns), as logits."""
    weights, offset = [], float(head.bias.detach())
    for part in head.inputs:
        if not isinstance(part, StandardizedConvolution):
            raise ValueError(f"a pixel head reads features through {type(part).__name__}")
        scaled = part.weight.detach().float().flatten() * (part.running_var.float() + LEAST).rsqrt()
        weights.append(scaled.cpu().numpy())
        offset -= float(scaled @ part.running_mean.float())
    return np.asarray(columns @ np.concatenate(weights) + np.float32(offset))


def iter_read_pixels(
    network: TaughtNetwork, images: Sequence[LabelledCrop], seed: int, compute: Compute
) -> Generator[Progress, None, LabelledPixels]:
    """Yield after each tile; return pixels of all labels, held out or not, with their features."""
    compute.place(network).eval()
    generator = np.random.default_rng(seed)
    dimensions = network.spec.dimensions
    targets = [np.where(each.target == IGNORED, each.held_out, each.target) for each in images]
    strokes = [number_strokes(target, STROKE_SIDE[dimensions]) for target in targets]
    offsets = np.cumsum([0, *(int(each.max(initial=0)) + 1 for each in strokes)])
    tiles = _draw_tiles(targets, FEATURE_TILE[dimensions], generator)
    columns, labels, names, painted, around, sums = [], [], [], [], [], _Moments()
    for done, (number, tile) in enumerate(tiles):
        yield Progress(done, len(tiles), f"computing features: tile {done + 1} of {len(tiles)}")
        target = targets[number][tile]
        chosen = _draw_pixels(strokes[number][tile], generator)
        at = tuple(chosen.T)
        features, inside = compute_features(network, images[number].image, tile, compute)
        sums.add(features)
        columns.append(_columns(network, features, tuple(a + s for a, s in zip(at, inside, strict=True))))
        labels.append(target[at].astype(np.int64))
        names.append(strokes[number][tile][at] + offsets[number])
        painted.append(~images[number].accepted[tile][at])
        sides = features[0].shape[2:]  # the finest level has the resolution of the image
        around.append(
            _columns(network, features, tuple(generator.integers(side, size=PIXELS_AROUND) for side in sides))
        )
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


def _columns(network: TaughtNetwork, features: Sequence[Tensor], places: tuple[NDArray[np.intp], ...]) -> Columns:
    """Return the features (pixels, columns) at `places`, up-sampled as the head does it."""
    at = tuple(torch.from_numpy(place) for place in places)
    mode, parts = LAYERS[network.spec.dimensions].linear, []
    for stride, values in zip(network.feature_strides, features, strict=True):
        large = values
        if stride > 1:
            large = functional.interpolate(values, scale_factor=stride, mode=mode, align_corners=False)
        parts.append(large[0].flatten(1)[:, _flat_places(at, large.shape[2:])].T.cpu().numpy())
    return np.concatenate(parts, axis=1)


def _flat_places(at: tuple[Tensor, ...], shape: Sequence[int]) -> Tensor:
    flat = torch.zeros_like(at[0])
    for place, length in zip(at, shape, strict=True):
        flat = flat * length + place
    return flat


class _Moments:
    """Sums of feature maps and of their squares."""

    def __init__(self) -> None:
        self._maps: list[tuple[int, NDArray[np.float64], NDArray[np.float64]]] = []

    def add(self, features: Sequence[Tensor]) -> None:
        """Add the maps (1, channels, *space) of a tile."""
        new = []
        for values in features:
            flat = values[0].flatten(1).double()
            new.append((flat.shape[1], flat.sum(dim=1).cpu().numpy(), flat.square().sum(dim=1).cpu().numpy()))
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


@dataclass(frozen=True)
class FittedClass:
    """A logistic regression: weights of the columns in standard units, and bias.

    loss: as cross-validated, in nats; of several regressions their mean. held_out: the logit of each labelled pixel by
    a fit without its stroke, None if a side has too few strokes. marked: share of the pixels around the labels that is
    called the class. threshold: probability above which it is called so.
    """

    weights: NDArray[np.float32]
    bias: float
    loss: float
    held_out: NDArray[np.float32] | None = None
    marked: float = 0.5
    threshold: float = 0.5

    @property
    def called(self) -> NDArray[np.bool_] | None:
        """Which labelled pixels a fit without their stroke calls the class, None if that is not known."""
        return None if self.held_out is None else expit(self.held_out) > self.threshold


@dataclass(frozen=True)
class RegressionChoice:
    """What cross-validation chose for one regression: the factor on the logits.

    loss: what is left of held-out strokes, in nats; NaN if there were too few strokes to try. held_out: the logit of
    each labelled pixel by the fit that its stroke was held out of.
    """

    temperature: float = 1.0
    loss: float = math.nan
    held_out: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


def fit_class(
    pixels: LabelledPixels, positive: NDArray[np.bool_], choices: Sequence[RegressionChoice] | None = None
) -> FittedClass:
    """Return a classifier of the `positive` pixels against all others, both together as heavy as the other side.

    Every feature map is worth as much as any other, however many channels it has: so the wide levels deep in a network
    don't drown the few filters. choices: one for each group of maps, if cross-validation chose them before.
    """
    held_out: NDArray[np.float32] | None = None
    if choices is None:
        choices = run_to_end(iter_choose_regressions(pixels, positive))
        known = [choice.held_out for choice in choices if choice.held_out is not None]
        held_out = np.mean(known, axis=0, dtype=np.float32) if known else None
    columns, size = _standardized(pixels, pixels.columns)
    around, _ = _standardized(pixels, pixels.around)
    unpainted = _draw_unpainted(around)
    total, bias, losses = np.zeros(len(size), np.float32), 0.0, []
    for inside, choice in zip(_iter_groups(pixels), choices, strict=True):
        samples = _Samples.of(columns[:, inside], positive)
        weights, offset = _fit(samples.with_unpainted(unpainted[:, inside]))
        losses.append(samples.loss(samples.columns @ weights + offset) if math.isnan(choice.loss) else choice.loss)
        total[inside] += weights * np.float32(choice.temperature / len(choices))
        bias += offset * choice.temperature / len(choices)
    return FittedClass(
        weights=np.asarray(total / np.sqrt(size)),
        bias=float(bias),
        loss=float(np.mean(losses)),
        held_out=held_out,
        marked=float(np.mean(around @ total + bias > 0)),
    )


def iter_choose_regressions(
    pixels: LabelledPixels, positive: NDArray[np.bool_]
) -> Generator[Progress, None, tuple[RegressionChoice, ...]]:
    """Yield after each cross-validation; return for each group of maps the temperature that cross-validates best."""
    folds = _folds_of(pixels.strokes, positive)
    if folds is None:
        return (RegressionChoice(),) * len(pixels.groups)
    columns, _ = _standardized(pixels, pixels.columns)
    unpainted = _draw_unpainted(_standardized(pixels, pixels.around)[0])
    choices: list[RegressionChoice] = []
    for inside in _iter_groups(pixels):
        choices.append(_cross_validate(_Samples.of(columns[:, inside], positive), unpainted[:, inside], folds))
        yield Progress(len(choices), len(pixels.groups), "fitting the classes")
    return tuple(choices)


def _standardized(pixels: LabelledPixels, columns: Columns) -> tuple[Columns, NDArray[np.float32]]:
    """Return columns in standard units over the root of the width of their map, and that width for each column."""
    lengths = np.array([len(mean) for mean in pixels.means])
    size = np.repeat(lengths, lengths).astype(np.float32)
    return (columns - np.concatenate(pixels.means)) / np.sqrt(np.concatenate(pixels.variances) * size), size


def _draw_unpainted(around: Columns) -> Columns:
    """Return some of the pixels drawn at random, from all tiles alike."""
    return around[:: -(-len(around) // MOST_UNPAINTED)]


def _iter_groups(pixels: LabelledPixels) -> Iterator[NDArray[np.bool_]]:
    """Yield for each regression which columns it reads."""
    lengths = [len(mean) for mean in pixels.means]
    for group in pixels.groups:
        yield np.repeat(np.isin(np.arange(len(lengths)), group), lengths)


@dataclass(frozen=True)
class _Samples:
    """Columns (pixels, columns), whether each pixel is of the class, and what it weighs: 1 in sum."""

    columns: Columns
    positive: NDArray[np.bool_]
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, columns: Columns, positive: NDArray[np.bool_]) -> _Samples:
        """Return samples in which the class weighs as much as all else."""
        share = np.clip(positive.mean(), 1e-6, 1 - 1e-6)
        weights = np.where(positive, 0.5 / share, 0.5 / (1 - share))
        return cls(columns, positive, (weights / weights.sum()).astype(np.float32))

    def with_unpainted(self, columns: Columns) -> _Samples:
        """Return these and pixels of unknown class, which count against it: `UNPAINTED` of all that does."""
        weights = np.where(self.positive, self.weights, (1 - UNPAINTED) * self.weights)
        share = UNPAINTED * float(self.weights[~self.positive].sum()) / max(1, len(columns))
        return _Samples(
            np.concatenate([self.columns, columns]),
            np.concatenate([self.positive, np.zeros(len(columns), bool)]),
            np.concatenate([weights, np.full(len(columns), share)]).astype(np.float32),
        )

    def loss(self, logits: NDArray[np.float32]) -> float:
        """Return the mean cross-entropy in nats."""
        return float(self.weights @ (np.logaddexp(0, logits) - self.positive * logits))


def _folds_of(strokes: NDArray[np.int64], positive: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """Return which fold each pixel is held out in, strokes as wholes; None where a side has a single stroke."""
    folds = np.zeros(len(strokes), np.int64)
    for side in (positive, ~positive):
        names = np.unique(strokes[side])
        if len(names) < 2:
            return None
        folds[side] = np.searchsorted(names, strokes[side]) % min(FOLDS, len(names))
    return folds


def _cross_validate(samples: _Samples, unpainted: Columns, folds: NDArray[np.int64]) -> RegressionChoice:
    """Return by what the logits must be multiplied to be as sure as they are right, and the loss that is left."""
    logits = np.zeros(len(folds), np.float32)
    for fold in range(int(folds.max()) + 1):
        held_out = folds == fold
        rest = _Samples.of(samples.columns[~held_out], samples.positive[~held_out])
        weights, bias = _fit(rest.with_unpainted(unpainted))
        logits[held_out] = samples.columns[held_out] @ weights + bias
    losses = [samples.loss(logits * np.float32(each)) for each in TEMPERATURES]
    best = int(np.argmin(losses))
    temperature = float(TEMPERATURES[best])
    return RegressionChoice(temperature, losses[best], logits * np.float32(temperature))


def _fit(samples: _Samples) -> tuple[NDArray[np.float32], float]:
    """Return the weights and the bias of the lowest loss with the penalty."""
    # not torch.optim: its first optimizer loads torch's compiler, which takes longer than all the rest
    columns, count = torch.from_numpy(np.ascontiguousarray(samples.columns)), samples.columns.shape[1]

    def value_and_gradient(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, bias = parameters[:count], parameters[count]
        logits = (columns @ torch.from_numpy(weights.astype(np.float32))).numpy() + np.float32(bias)
        away = (samples.weights * (expit(logits) - samples.positive)).astype(np.float32)
        gradient = np.append((torch.from_numpy(away) @ columns).numpy() + 2 * PENALTY * weights, away.sum())
        return samples.loss(logits) + PENALTY * float(weights @ weights), gradient

    with one_thread():
        found = minimize(
            value_and_gradient,
            np.zeros(count + 1),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": LBFGS_ITERATIONS, "ftol": 1e-7},
        )
    return found.x[:count].astype(np.float32), float(found.x[count])
