"""Normal and full against quick, which they began at: on the held-out strokes the better of the two is kept."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logit

from napari_skipseg.networks.network import Network
from napari_skipseg.networks.pixel_head import TaughtNetwork
from napari_skipseg.progress import Progress
from napari_skipseg.thresholds import DEFAULT_THRESHOLD
from napari_skipseg.training.compute import Compute
from napari_skipseg.training.finetune.crops import CorrectionCrops
from napari_skipseg.training.finetune.labelled_pixels import STROKE_SIDE, number_strokes
from napari_skipseg.training.finetune.patches import iter_held_out_patches
from napari_skipseg.training.finetune.pixel_classifier import FittedClass
from napari_skipseg.training.finetune.stroke_scores import CalledPixels
from napari_skipseg.training.losses import IGNORED

QUICK_IS_BETTER = (
    "On the held-out strokes this training was no better than Quick, so the new model is what Quick learns from all "
    "strokes."
)


class _Called(NamedTuple):
    """What both networks call a class in a place, and the place's labels: classes (from 1) and numbers of strokes."""

    first: NDArray[np.bool_]
    trained: NDArray[np.bool_]
    labels: NDArray[np.int8]
    strokes: NDArray[np.int64]


def iter_is_first_better(
    first: TaughtNetwork,
    trained: TaughtNetwork,
    fits: Mapping[int, FittedClass],
    corrections: CorrectionCrops,
    margin: int,
    compute: Compute,
) -> Generator[Progress, None, bool]:
    """Yield after each held-out place; return whether the first fit sorts the held-out strokes better.

    Both call each class equally often in the images, so it is compared how much more of the class than of all else is
    called: the mean over the classes. A side without a stroke says nothing. fits: the first fit of each class (from 0).
    """
    blocks, stride = corrections.table.held_out, trained.stride
    found: dict[int, list[_Called]] = {number: [] for number in fits}
    first_levels = {number: float(logit(fitted.threshold)) for number, fitted in fits.items()}
    levels = dict.fromkeys(fits, float(logit(DEFAULT_THRESHOLD)))
    count = 0
    networks = ((first, first_levels), (trained, levels))
    for network, _ in networks:
        compute.place(network).eval()
    for done, (image, target) in enumerate(iter_held_out_patches(corrections, blocks, margin, stride)):
        yield Progress(done, len(blocks), f"comparing with Quick: place {done + 1} of {len(blocks)}")
        numbers = number_strokes(target, STROKE_SIDE[target.ndim])
        there = target != IGNORED
        numbers[there] += count
        count = max(count, int(numbers.max(initial=0)))
        one, other = (_called(network, image, there, each, compute) for network, each in networks)
        for number in fits:
            found[number].append(_Called(one[number], other[number], target[there], numbers[there]))
    gains = [_gain(number, pieces) for number, pieces in found.items()]
    known = [gain for gain in gains if gain is not None]
    return bool(known) and float(np.mean(known)) < 0


def has_body_of(network: Network, parent: Network) -> bool:
    """Return whether all that a network has beside pixel heads is its parent's: training changed nothing, or lost."""
    own, old = (each.body if isinstance(each, TaughtNetwork) else each for each in (network, parent))
    states = own.state_dict(), old.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(value, states[1][name]) for name, value in states[0].items()
    )


def _called(
    network: TaughtNetwork,
    image: NDArray[np.float32],
    there: NDArray[np.bool_],
    levels: Mapping[int, float],
    compute: Compute,
) -> dict[int, NDArray[np.bool_]]:
    """Return which voxels `there` a network calls each class: those with logits above its level."""
    with torch.inference_mode():
        logits = compute.logits(network, torch.from_numpy(image[None]))[0, network.spec.out_channels :].cpu().numpy()
    column = {number: network.pixel_head.sources[:number].count(None) for number in levels}
    return {number: logits[column[number]][there] > level for number, level in levels.items()}


def _gain(number: int, pieces: list[_Called]) -> float | None:
    """Return by how much better the trained network sorts the strokes of a class; None if a side has none."""
    first, trained, labels, strokes = (np.concatenate(each) for each in zip(*pieces, strict=True))
    positive = labels == number + 1
    if positive.all() or not positive.any():
        return None
    (found, wrong), (found_first, wrong_first) = (
        CalledPixels(called, positive, strokes).rates() for called in (trained, first)
    )
    return (found - wrong) - (found_first - wrong_first)
