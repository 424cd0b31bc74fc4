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

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from napari_skipseg.networks.head import sources_of
from napari_skipseg.networks.network import Network
from napari_skipseg.networks.pixel_head import LEAST, PixelHead, StandardizedConvolution, TaughtNetwork
from napari_skipseg.progress import Progress, run_to_end
from napari_skipseg.training.compute import one_thread
from napari_skipseg.training.finetune.labelled_pixels import Columns, LabelledPixels
from napari_skipseg.training.finetune.labels import ClassPlan
from napari_skipseg.training.settings import FinetuneSettings

FOLDS = 5
PENALTY = 1e-2
"""L2 penalty: times the squared length of the weights, beside the mean loss."""
LBFGS_ITERATIONS = 60
"""Iterations of L-BFGS."""
TEMPERATURES = np.geomspace(0.1, 3.0, 35)
"""What logits are multiplied by, so that the classifier is as sure as it is right."""
UNPAINTED = 0.3
"""What pixels drawn at random weigh, as a share of all that counts against a class. Few strokes show few kinds of
background, and what they don't show was called the class, up to four times too often. Some of the pixels are of the
class: that lowers its logits, but changes neither their order nor where they are 0 (learning from positive and
unlabelled examples, Elkan and Noto 2008)."""
MOST_UNPAINTED = 600
"""So many of these pixels are fitted to at the most. 1500 gave the same, in twice the time."""


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
