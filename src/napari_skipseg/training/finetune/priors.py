"""New classes as frequent as they are in the image, not as in the strokes: Saerens, Latinne & Decaestecker 2002.

Strokes show each class about as often as background, so that a network that learnt from them takes a rare class for a
frequent one and finds too much of it. How often each class really is comes out of the image itself: the shares are
found that agree with what the network, corrected for them, sees there (their algorithm, eq. 2.9-2.11). What they change
is one number per class, the bias of its output.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_skipseg.networks.network import Network, class_probability
from napari_skipseg.progress import Progress
from napari_skipseg.training.compute import Compute
from napari_skipseg.training.finetune.crops import CorrectionCrops
from napari_skipseg.training.finetune.task import FinetuneData
from napari_skipseg.training.losses import IGNORED
from napari_skipseg.training.settings import FinetuneSettings

DENSE_SHARE = 0.5
"""Where more of the voxels is labelled than this, the labels themselves show how frequent a class is."""
WINDOWS = 32
DRAWN = 64
ROUNDS = 200
SMALLEST = 1e-4
"""Share that a class has at least."""
_SETTLED = 1e-6

Shares = NDArray[np.float64]


def iter_correct_prior_shift(
    network: Network, data: FinetuneData, corrections: CorrectionCrops, settings: FinetuneSettings, compute: Compute
) -> Generator[Progress, None, None]:
    """Yield while the images are looked at; then shift the outputs of `network` for classes new to it to their share.

    Nothing changes where no class is new, or where the labels cover most of what was read.
    """
    plan = data.patches.plan
    new = tuple(range(len(plan.kept), len(plan.classes)))
    if not new or labelled_fraction(corrections) > DENSE_SHARE:
        return
    learnt = learnt_priors(data, new)
    probability = yield from _iter_sample_probability(network, data, corrections, settings, compute, new)
    found = estimate_priors(probability, learnt)
    shift = torch.from_numpy(np.log(found[1:] / learnt[1:]) - np.log(found[0] / learnt[0]))
    head = network.get_submodule(network.head)
    if not isinstance(head, nn.Conv2d | nn.Conv3d) or head.bias is None:
        raise ValueError(f"'{network.head}' is no convolution with a bias")
    with torch.no_grad():
        head.bias[-len(new) :] += shift.to(head.bias)


def labelled_fraction(corrections: CorrectionCrops) -> float:
    """Return which part of the voxels that were read has a label, held out or not."""
    labelled = sum(int(np.count_nonzero((r.target != IGNORED) | (r.held_out != IGNORED))) for r in corrections.crops)
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
    network: Network,
    data: FinetuneData,
    corrections: CorrectionCrops,
    settings: FinetuneSettings,
    compute: Compute,
    new: tuple[int, ...],
) -> Generator[Progress, None, Shares]:
    """Return (voxels, 1 + new classes): what the network says of all others and of each new class, over the images."""
    generator = np.random.default_rng(settings.seed)
    sizes = np.array([crop.target.size for crop in corrections.crops], np.float64)
    patch, told = data.patches.patch, []
    for done, number in enumerate(generator.choice(len(sizes), WINDOWS, p=sizes / sizes.sum())):
        yield Progress(done, WINDOWS, f"measuring how frequent the new classes are: {done} of {WINDOWS}")
        image = corrections.crops[number].image
        first = [int(generator.integers(max(1, n - side + 1))) for n, side in zip(image.shape[1:], patch, strict=True)]
        window = image[(slice(None), *(slice(at, at + side) for at, side in zip(first, patch, strict=True)))]
        missing = [(0, side - n) for n, side in zip(window.shape[1:], patch, strict=True)]
        whole = torch.from_numpy(np.pad(window, [(0, 0), *missing], mode="symmetric").astype(np.float32))
        with torch.inference_mode():
            probability = class_probability(compute.logits(network, whole[None]))[0]
        told.append(probability[list(new)].reshape(len(new), -1).cpu().numpy().astype(np.float64))
    of_new = np.concatenate(told, axis=1)
    return np.concatenate([1 - of_new.sum(axis=0, keepdims=True), of_new]).clip(0, 1).T


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
