"""How often new classes are found: as often as their first fit found them, not as often as they were painted.

Strokes show each class about as often as all else, so each step of a training draws the network towards finding as much
of a rare class. The first fit of a pixel head has the better estimate: it counts what nobody painted against the class
(`pixel_classifier.UNPAINTED`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from napari_skipseg.networks.pixel_head import TaughtNetwork
from napari_skipseg.progress import Progress
from napari_skipseg.training.compute import Compute
from napari_skipseg.training.finetune.crops import CorrectionCrops
from napari_skipseg.training.finetune.pixel_classifier import FittedClass
from napari_skipseg.training.finetune.task import FinetuneData
from napari_skipseg.training.losses import IGNORED

DENSE_SHARE = 0.5
"""If a larger share of the voxels is labelled, the labels themselves show how frequent a class is."""
PRIOR_PATCHES = 32
LEAST_SHARE = 0.005
"""Share of an image that a class is taken to have at least, and all else too."""


def iter_keep_shares(
    network: TaughtNetwork, fits: Mapping[int, FittedClass], data: FinetuneData, compute: Compute
) -> Generator[Progress, None, None]:
    """Yield while the images are predicted; then shift each new head so that its class is called as often as at first.

    Strokes show a class as often as all else, and each step draws the network towards that share.
    """
    found: dict[int, list[Tensor]] = {number: [] for number in fits}
    columns = {number: network.pixel_head.sources[:number].count(None) for number in fits}
    for image, progress in iter_sample_images(data):
        yield progress
        with torch.inference_mode():
            logits = compute.logits(network, image)[0, network.spec.out_channels :]
        for number, values in found.items():
            values.append(logits[columns[number]].flatten().cpu())
    for number, fitted in fits.items():
        share = np.clip(fitted.marked, LEAST_SHARE, 1 - LEAST_SHARE)
        level = float(np.quantile(torch.cat(found[number]).numpy(), 1 - share))
        with torch.no_grad():
            network.head_of(number).bias.sub_(level)


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


def labelled_fraction(corrections: CorrectionCrops) -> float:
    """Return the share of the voxels that were read that has a label, held out or not."""
    labelled = sum(
        int(np.count_nonzero((crop.target != IGNORED) | (crop.held_out != IGNORED))) for crop in corrections.crops
    )
    return labelled / sum(crop.target.size for crop in corrections.crops)
