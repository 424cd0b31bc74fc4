"""Prior shift: new classes are found as often as they occur, not as often as they were painted (Saerens et al. 2002).

Strokes show each class about as often as background, so a network that learnt from them finds too much of a rare class.
The algorithm of Saerens, Latinne & Decaestecker (eq. 2.9-2.11) estimates from the image itself how often each class
occurs: it finds the shares that agree with the network's answers once these are corrected for them. The correction
changes one number per class, the bias of its output.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_skipseg.networks.network import Network, class_probability
from napari_skipseg.progress import Progress
from napari_skipseg.thresholds import DEFAULT_THRESHOLD
from napari_skipseg.training.compute import Compute
from napari_skipseg.training.finetune.crops import CorrectionCrops
from napari_skipseg.training.finetune.task import FinetuneData
from napari_skipseg.training.losses import IGNORED

DENSE_SHARE = 0.5
"""If a larger share of the voxels is labelled, the labels themselves show how frequent a class is."""
PRIOR_PATCHES = 32
DRAWN = 64
ROUNDS = 200
SMALLEST = 1e-4
"""Share that a class has at least."""
LEAST_THRESHOLD = 0.05
"""No threshold is lower, or higher than 1 minus this: there a probability is a guess."""
_SETTLED = 1e-6

Shares = NDArray[np.float64]


def iter_correct_prior_shift(
    network: Network, data: FinetuneData, compute: Compute
) -> Generator[Progress, None, dict[int, float]]:
    """Yield while the images are predicted; then shift the outputs of `network` for its new classes to their share.

    Return the threshold of each of these classes (from 0), above which it is called as often as it occurs.

    Nothing changes if no class is new, or if the labels cover most of what was read.
    """
    plan = data.patches.plan
    new = tuple(range(len(plan.kept), len(plan.classes)))
    if not new or labelled_fraction(data.patches.corrections) > DENSE_SHARE:
        return {}
    learnt = learnt_priors(data, new)
    probability = yield from _iter_sample_probability(network, data, compute, new)
    found = estimate_priors(probability, learnt)
    shift = torch.from_numpy(np.log(found[1:] / learnt[1:]) - np.log(found[0] / learnt[0]))
    head = network.get_submodule(network.head)
    if not isinstance(head, nn.Conv2d | nn.Conv3d) or head.bias is None:
        raise ValueError(f"'{network.head}' is no convolution with a bias")
    with torch.no_grad():
        head.bias[-len(new) :] += shift.to(head.bias)
    corrected = probability * (found / learnt)
    corrected /= corrected.sum(axis=1, keepdims=True).clip(min=np.finfo(np.float64).tiny)
    return {number: matching_threshold(corrected[:, place], float(found[place])) for place, number in enumerate(new, 1)}


def matching_threshold(probability: NDArray[np.floating], share: float) -> float:
    """Return the threshold, in hundredths, above which about `share` of the voxels lies."""
    level = float(np.quantile(probability, 1 - share)) if len(probability) else DEFAULT_THRESHOLD
    return round(min(max(level, LEAST_THRESHOLD), 1 - LEAST_THRESHOLD), 2)


def labelled_fraction(corrections: CorrectionCrops) -> float:
    """Return the share of the voxels that were read that has a label, held out or not."""
    labelled = sum(
        int(np.count_nonzero((crop.target != IGNORED) | (crop.held_out != IGNORED))) for crop in corrections.crops
    )
    return labelled / sum(crop.target.size for crop in corrections.crops)


def learnt_priors(data: FinetuneData, new: tuple[int, ...]) -> Shares:
    """Return the share of all other labels and of each `new` class in the patches that are trained on."""
    batch = data.patches.draw(range(DRAWN))
    judged = batch.judged[:, list(new)].all(dim=1)
    targets = batch.targets[judged]
    counts = np.array([int((targets == number + 1).sum()) for number in new], np.float64)
    others = int((targets != IGNORED).sum()) - counts.sum()
    return _as_shares(np.array([others, *counts]))


def _iter_sample_probability(
    network: Network, data: FinetuneData, compute: Compute, new: tuple[int, ...]
) -> Generator[Progress, None, Shares]:
    """Yield after each patch; return the probability of all other classes and of each new one, (voxels, 1 + new)."""
    found = []
    for image, progress in iter_sample_images(data):
        yield progress
        with torch.inference_mode():
            probability = class_probability(compute.logits(network, image))[0]
        found.append(probability[list(new)].reshape(len(new), -1).cpu().numpy().astype(np.float64))
    of_new = np.concatenate(found, axis=1)
    return np.concatenate([1 - of_new.sum(axis=0, keepdims=True), of_new]).clip(0, 1).T


def iter_sample_images(data: FinetuneData) -> Iterator[tuple[Tensor, Progress]]:
    """Yield parts of the images (1, C, *patch), drawn at random, each with how far that is."""
    generator = np.random.default_rng(data.patches.seed)
    crops, patch = data.patches.corrections.crops, data.patches.patch
    sizes = np.array([crop.target.size for crop in crops], np.float64)
    for done, number in enumerate(generator.choice(len(sizes), PRIOR_PATCHES, p=sizes / sizes.sum())):
        image = crops[number].image
        first = [int(generator.integers(max(1, n - side + 1))) for n, side in zip(image.shape[1:], patch, strict=True)]
        cropped = image[(slice(None), *(slice(at, at + side) for at, side in zip(first, patch, strict=True)))]
        missing = [(0, side - n) for n, side in zip(cropped.shape[1:], patch, strict=True)]
        whole = torch.from_numpy(np.pad(cropped, [(0, 0), *missing], mode="symmetric").astype(np.float32))
        message = f"measuring how frequent the new classes are: {done} of {PRIOR_PATCHES}"
        yield whole[None], Progress(done, PRIOR_PATCHES, message)


def estimate_priors(probability: Shares, learnt: Shares) -> Shares:
    """Return the shares (classes,) that agree with `probability` (voxels, classes) once it is corrected for them.

    learnt: the shares that the probabilities were learnt with.
    """
    shares = _as_shares(probability.sum(axis=0))
    for _ in range(ROUNDS):
        corrected = probability * (shares / learnt)
        corrected /= corrected.sum(axis=1, keepdims=True).clip(min=np.finfo(np.float64).tiny)
        before, shares = shares, _as_shares(corrected.sum(axis=0))
        if np.abs(shares - before).max() < _SETTLED:
            break
    return shares


def _as_shares(counts: Shares) -> Shares:
    shares = (counts / max(counts.sum(), 1.0)).clip(min=SMALLEST)
    return np.asarray(shares / shares.sum())
