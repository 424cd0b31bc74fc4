"""The certainty of a network in a few patches of an image and in their negatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_skipseg.devices import Device
from napari_skipseg.images.intensity.normalize import Normalization
from napari_skipseg.images.intensity.signature import sign_with_negative, signature_distance
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.backends.choose import BackendMaker
from napari_skipseg.inference.backends.interface import Backend, Pixels
from napari_skipseg.inference.guards import probe_grid, read_probes
from napari_skipseg.inference.tiling import TileGrid
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.models.model import Model

if TYPE_CHECKING:
    from napari_skipseg.inference.backends.interface import Backend, Pixels


POSSIBLE, CERTAIN = 0.1, 0.9
"""Probability above which a voxel may be of a class, and above which it is certain."""
INVERTED = 1.65
"""How many times as much a network must find in the negative, for the contrast to be called inverted.

Measured with the built-in models: inverted images of tissue as in the training 1.7-11, images as they are at most 1.6
(serial block-face SEM at 3 times the voxel size)."""
AS_SURE = 0.6
"""Share of its certainty in training that the network must have in the negative besides."""
UNSURE = 0.55
"""Share of its certainty in training up to which a network is unsure of an image. Measured: tissue at its scale 0.75-1,
at 2.5 times its voxel size 0.85, at 5 and 6 times 0.1-0.45."""
CLEARER = 1.25
"""How many times the certainty in an image a network must have in its negative, for the contrast to be doubted where it
is unsure of the image. Measured on inverted crops that it is unsure of: larva 1.6, medulla and neuropil 1.3."""
USUAL_CERTAINTY = 0.45
"""Certainty of a model for which none was measured. The built-in models: 0.42-0.49."""
SURE_OF_PATCH = 0.85
"""Share of its certainty in training from which one patch is enough: the image is like those of the training.

Measured on 60 images and their negatives: first patches of images that were called inverted or unsure 0-0.74, of tissue
at its scale 0.6-1.1. Four patches and their negatives cost as much as a fifth of an image of 1536 x 1536."""
LEAST_FOUND = 0.01
"""Share of voxels that may be of a class, below which nothing can be said: a seldom class is not in every patch."""
PLANES_APART = 8
"""Distance of the planes of a patch of a volume that are compared with the training images."""

Verdict = Literal["", "inverted", "perhaps inverted", "unsure"]


@dataclass(frozen=True)
class Certainty:
    """The shares of the voxels of some patches that may be of a class, and that certainly are."""

    possible: float
    certain: float

    @property
    def ratio(self) -> float:
        """The share of certain voxels among those that may be of a class, in [0, 1]."""
        return self.certain / self.possible if self.possible else 0.0

    @property
    def amount(self) -> float:
        """The amount of certain voxels: it grows with their share and with `ratio`."""
        return self.certain / math.sqrt(self.possible) if self.possible else 0.0


def certainty_of(probability: Pixels) -> Certainty:
    """Return the certainty of a network. probability: (classes, *space), of a patch without its margin."""
    best = probability.max(axis=0)
    count = best.size
    return Certainty(float(np.count_nonzero(best > POSSIBLE)) / count, float(np.count_nonzero(best > CERTAIN)) / count)


def join_certainties(patches: Sequence[Certainty]) -> Certainty:
    """Return the certainty of several patches of equal size as one."""
    return Certainty(
        float(np.mean([patch.possible for patch in patches])), float(np.mean([patch.certain for patch in patches]))
    )


def judge_contrast(
    image: Sequence[Certainty],
    negative: Sequence[Certainty],
    trained: float | None,
    negative_is_nearer: Callable[[], bool] = lambda: True,
) -> Verdict:
    """Return whether the contrast seems inverted or the network is unsure of the image; "" = neither.

    "perhaps inverted": it is unsure of the image, and surer of the negative, but by less than `INVERTED`.

    image, negative: of the same patches. trained: the certainty in training, None if it was not measured.
    negative_is_nearer: asked before the contrast is doubted: whether the negative looks more like the training images.
    """
    upright, turned = join_certainties(image), join_certainties(negative)
    usual = trained or USUAL_CERTAINTY
    if max(upright.possible, turned.possible) < LEAST_FOUND:
        return ""
    pairs = [(after.amount, before.amount) for before, after in zip(image, negative, strict=True)]
    gains = [after / max(before, 1e-6) for after, before in pairs if after or before]
    gain = min(float(np.median(gains)), turned.amount / max(upright.amount, 1e-6)) if gains else 0.0
    if gain >= INVERTED and turned.ratio >= AS_SURE * usual and negative_is_nearer():
        return "inverted"
    if trained is None or upright.ratio >= UNSURE * trained:
        return ""
    clearer = turned.ratio >= max(AS_SURE * usual, CLEARER * upright.ratio)
    return "perhaps inverted" if clearer and gain >= 1 and negative_is_nearer() else "unsure"


def _negative_is_nearer(probes: Pixels, description: ModelDescription) -> bool:
    """Return whether the negatives of `probes` look more like the training images; True if these are not known.

    A network for a rare class finds too much in negatives, and is sure of it, so its certainty alone proves nothing.
    """
    planes = probes if probes.ndim == 4 else np.concatenate(list(np.moveaxis(probes[:, :, ::PLANES_APART], 2, 0)))
    signatures = sign_with_negative(planes)
    if signatures is None or not description.signatures:
        return True
    upright, turned = (signature_distance(each, description.signatures)[0] for each in signatures)
    return turned <= upright


def measure_certainty(backend: Backend, probes: Pixels, margin: int) -> list[Certainty]:
    """Return the certainty of the network for each of the `probes`. margin: ignored border on each side."""
    found = []
    for probe in probes:
        probability = backend.run(probe[None]).probability[0]
        inner = tuple(
            slice(cut, length - cut) for length in probability.shape[1:] for cut in [min(margin, length // 4)]
        )
        found.append(certainty_of(probability[(slice(None), *inner)]))
    return found


def judge_probes(backend: Backend, probes: Pixels, description: ModelDescription) -> Verdict:
    """Return the verdict of the network on the `probes` and their negatives; the first one decides if it is clear."""
    image = measure_certainty(backend, probes[:1], description.margin)
    usual = description.certainty or USUAL_CERTAINTY
    if image[0].possible >= LEAST_FOUND and image[0].ratio >= SURE_OF_PATCH * usual:
        return ""
    image += measure_certainty(backend, probes[1:], description.margin)
    negative = measure_certainty(backend, -probes, description.margin)
    return judge_contrast(image, negative, description.certainty, lambda: _negative_is_nearer(probes, description))


def describe_verdict(verdict: Verdict, description: ModelDescription, inverted: bool) -> str:
    """Return a verdict as a sentence, "" = none. inverted: whether the network gets the negative already."""
    name = description.name
    if inverted and verdict in ("inverted", "perhaps inverted"):
        return f"{name} is surer of the image as it is than of its negative: segment without inverting (--invert)."
    if verdict == "inverted":
        return (
            f"Dark and light seem to be the other way round than in the images that {name} was trained on: invert the "
            "contrast (in a shell with --invert)."
        )
    if verdict == "perhaps inverted":
        return (
            f"{name} is unsure of nearly all that it finds in this image, and surer of its negative: check whether "
            "dark and light are the other way round (in a shell with --invert), then the voxel size and the model."
        )
    if verdict == "unsure":
        return (
            f"{name} is unsure of nearly all that it finds in this image: check the voxel size, the contrast and the "
            "model."
        )
    return ""


@dataclass(frozen=True)
class PatchProber:
    """Tests a network on patches of a stack. lengths: of its grid, by axis."""

    stack: Stack
    model: Model
    device: Device
    backend_maker: BackendMaker
    lengths: Mapping[str, int]

    def judge(
        self, normalization: Normalization, ready: tuple[TileGrid, Backend] | None, probes: Pixels | None = None
    ) -> Verdict:
        """Return the verdict of the network on the image, "" if it is too small, or cannot be read.

        ready: the grid and the backend of the run, which are used if its tiles are as small as the patches, so that no
        second backend is compiled. probes: patches that were read before.
        """
        if probes is None:
            grid = probe_grid(self.stack, self.model.description, self.lengths, None if ready is None else ready[0])
            if grid is None:
                return ""
            probes = read_probes(self.stack, grid, normalization)
            if probes is None:
                return ""
        size = probes.shape[2:]
        if ready is not None and ready[0].tiles.size == size:
            backend = ready[1]
        else:
            backend = self.backend_maker(self.model, self.device, size)
        return judge_probes(backend, probes, self.model.description)
