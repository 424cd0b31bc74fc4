"""Rehearsal samples: a few training patches stored with a model, so that a fine-tuned model does not forget them.

The data of the built-in models may not be passed on: they have synthetic patches instead, made when they are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save

from napari_skipseg.errors import ModelError
from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.images.synthetic.sample import make_isotropic_sample, make_sample
from napari_skipseg.models.catalog import BUILT_IN
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.models.folder import read_sample
from napari_skipseg.training.finetune.blocks import LabelledBlock
from napari_skipseg.training.finetune.crops import CorrectionCrops
from napari_skipseg.training.finetune.labels import ClassPlan
from napari_skipseg.training.losses import IGNORED
from napari_skipseg.training.patches import LabelledImage, TrainingData, judged_classes

_PATCH = {2: (256, 256), 3: (32, 64, 64)}
"""Size of a patch by dimensions."""
MOST_BYTES = 10_000_000
_HELD_OUT = 0.2
SYNTHETIC = {"membrane": (make_sample, (8, 256, 256)), "boundary": (make_isotropic_sample, (64, 128, 128))}
"""What replaces the data of a built-in model, by its first class, and how much of it."""

Drawn = TypeVar("Drawn")
Piece = tuple[NDArray[Any], NDArray[Any]]
"""An image (C, *space) in standard units and its target (*space)."""


@dataclass(frozen=True)
class RehearsalSamples:
    """Training patches with what is known of them.

    images: (N, C, *patch) float16 in standard units. targets: (N, *patch) int8, -1 = not known, 0 = background, 1… =
    the model's classes. judged: (N, classes) bool, the classes that the target judges. held_out: (N,) bool, kept for
    scores. synthetic: (N,) bool, of which the network's own answers are learnt; their target is for scores only.
    """

    images: NDArray[np.float16]
    targets: NDArray[np.int8]
    judged: NDArray[np.bool_]
    held_out: NDArray[np.bool_]
    synthetic: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.images)

    def of(self, chosen: NDArray[Any]) -> RehearsalSamples:
        """Return the patches that `chosen` (numbers, or a mask) names."""
        return RehearsalSamples(*(getattr(self, field.name)[chosen] for field in fields(self)))


def rehearsal_samples_of(folder: Path, description: ModelDescription) -> RehearsalSamples | None:
    """Return the samples of the model in `folder`, synthetic for a built-in one; None if there are none.

    Raises:
        ModelError: the sample is missing or damaged.
    """
    if description.sample_sha256 is not None:
        return sample_from_bytes(read_sample(folder, description), description)
    name, dimensions = description.class_names[0], description.spec.dimensions
    deep = 3 if name == "boundary" else 2
    if folder.parent == BUILT_IN and name in SYNTHETIC and description.spec.in_channels == 1 and dimensions == deep:
        return _synthesise(name, dimensions, len(description.classes))
    return None


@lru_cache(maxsize=2)
def _synthesise(name: str, dimensions: int, classes: int) -> RehearsalSamples:
    make, shape = SYNTHETIC[name]
    stack, membrane, _ = make(shape)
    image = measure(stack).apply(stack.read((slice(None),) * 3))[None]
    pieces = list(_tiles(image, membrane.astype(np.int8), dimensions))
    judged = np.arange(classes) == 0
    return _stack(pieces, [number % 4 == 3 for number in range(len(pieces))], judged, dimensions, synthetic=True)


def sample_to_bytes(samples: RehearsalSamples) -> bytes:
    """Return the content of a sample file, the same bytes for the same samples."""
    content: bytes = save(
        {field.name: torch.from_numpy(getattr(samples, field.name)) for field in fields(RehearsalSamples)}
    )
    return content


def sample_from_bytes(content: bytes, description: ModelDescription) -> RehearsalSamples:
    """Return the sample in `content`.

    Raises:
        ModelError: it is damaged, or does not fit this model.
    """
    try:
        tensors = {name: tensor.numpy() for name, tensor in load(content).items()}
        samples = RehearsalSamples(**tensors)
    except (SafetensorError, TypeError) as error:
        raise ModelError(
            f"The sample of model '{description.name}' is damaged: copy the whole folder again."
        ) from error
    spec, number = description.spec, len(samples.images)
    fits = (
        samples.images.ndim == spec.dimensions + 2
        and samples.images.shape[1] == spec.in_channels
        and samples.targets.shape == (number, *samples.images.shape[2:])
        and samples.judged.shape == (number, len(description.classes))
        and samples.held_out.shape == samples.synthetic.shape == (number,)
    )
    if not fits:
        raise ModelError(f"The sample of model '{description.name}' does not fit it: copy the whole folder again.")
    return samples


def sample_of_training(data: TrainingData, classes: int, dimensions: int, seed: int) -> RehearsalSamples:
    """Return samples of labelled slices; what was held out of training is held out in them too."""
    most = most_patches(data.training[0].image.shape[0], dimensions)
    held = _draw(_tiles_of(data.validation, dimensions, classes), round(_HELD_OUT * most), seed)
    training = _draw(_tiles_of(data.training, dimensions, classes), most - len(held), seed)
    pieces, judged = zip(*training, *held, strict=True)
    return _stack(pieces, [False] * len(training) + [True] * len(held), np.stack(judged), dimensions)


def sample_of_corrections(
    corrections: CorrectionCrops, plan: ClassPlan, dimensions: int, seed: int
) -> RehearsalSamples:
    """Return samples of corrected images, around blocks that are trained on and around those held out."""
    most, table = most_patches(corrections.crops[0].image.shape[0], dimensions), corrections.table
    held = list(_around(corrections, table.held_out, dimensions, round(_HELD_OUT * most), seed))
    training = list(_around(corrections, table.training, dimensions, most - len(held), seed))
    marks = [False] * len(training) + [True] * len(held)
    return _stack([*training, *held], marks, np.array(plan.judged), dimensions)


def join_samples(old: RehearsalSamples | None, new: RehearsalSamples, seed: int) -> RehearsalSamples:
    """Return the samples of a new model: half of them the old model's, if it has so many, half of them new."""
    if old is None:
        return new
    dimensions = new.images.ndim - 2
    most = most_patches(new.images.shape[1], dimensions)
    added = new.judged.shape[1] - old.judged.shape[1]
    wider = replace(old, judged=np.pad(old.judged, ((0, 0), (0, added))))
    first = _choose(wider, max(most // 2, most - len(new)), seed)
    second = _choose(new, most - len(first), seed)
    pairs = ((getattr(first, field.name), getattr(second, field.name)) for field in fields(RehearsalSamples))
    return RehearsalSamples(*(np.concatenate(pair) for pair in pairs))


def most_patches(channels: int, dimensions: int) -> int:
    """Return how many patches are stored at most."""
    voxels = int(np.prod(_PATCH[dimensions]))
    return MOST_BYTES // (voxels * (2 * channels + 1) + 64)


def _choose(sample: RehearsalSamples, most: int, seed: int) -> RehearsalSamples:
    """Return at most `most` patches of `sample`, held-out ones as often as in the whole."""
    if len(sample) <= most:
        return sample
    order = np.random.default_rng(seed).permutation(len(sample))
    held, rest = order[sample.held_out[order]], order[~sample.held_out[order]]
    kept = min(len(held), max(1, round(most * len(held) / len(sample))))
    return sample.of(np.sort(np.concatenate([held[:kept], rest[: most - kept]])))


def _stack(
    pieces: Sequence[Piece], held_out: list[bool], judged: NDArray[np.bool_], dimensions: int, synthetic: bool = False
) -> RehearsalSamples:
    """Return `pieces` as samples. judged: (classes,) of all of them, or (pieces, classes)."""
    count, patch = len(pieces), _PATCH[dimensions]
    images, targets = [], []
    for image, target in pieces:  # one that is smaller than a patch is mirrored, and nothing is known of what is added
        missing = [(0, side - length) for side, length in zip(patch, target.shape, strict=True)]
        images.append(np.pad(image, [(0, 0), *missing], mode="symmetric"))
        targets.append(np.pad(target, missing, mode="constant", constant_values=IGNORED))
    return RehearsalSamples(
        np.stack(images).astype(np.float16),
        np.stack(targets).astype(np.int8),
        np.array(np.broadcast_to(judged, (count, judged.shape[-1])), order="C"),
        np.array(held_out, bool),
        np.full(count, synthetic),
    )


def _tiles_of(runs: Iterable[LabelledImage], dimensions: int, classes: int) -> list[tuple[Piece, NDArray[np.bool_]]]:
    """Return patches of `runs` side by side, each with the classes that its target shows."""
    return [
        (piece, judged_classes(run, classes).numpy())
        for run in runs
        for piece in _tiles(run.image, run.target, dimensions)
    ]


def _tiles(image: NDArray[Any], target: NDArray[Any], dimensions: int) -> Iterator[Piece]:
    """Yield patches side by side of image (C, Z, Y, X) and target (Z, Y, X), slice by slice for a 2D network."""
    if dimensions == 2:
        for z in range(target.shape[0]):
            yield from _cut(image[:, z], target[z], _PATCH[2])
    else:
        yield from _cut(image, target, _PATCH[3])


def _cut(image: NDArray[Any], target: NDArray[Any], patch: tuple[int, ...]) -> Iterator[Piece]:
    starts = [
        [min(start, max(0, length - side)) for start in range(0, length, side)]
        for length, side in zip(target.shape, patch, strict=True)
    ]
    for corner in product(*starts):
        part = tuple(slice(start, start + side) for start, side in zip(corner, patch, strict=True))
        yield image[(slice(None), *part)], target[part]


def _draw(pieces: list[Drawn], most: int, seed: int) -> list[Drawn]:
    order = np.random.default_rng(seed).permutation(len(pieces))[:most]
    return [pieces[number] for number in sorted(order.tolist())]


def _around(
    corrections: CorrectionCrops, blocks: Sequence[LabelledBlock], dimensions: int, most: int, seed: int
) -> Iterator[Piece]:
    """Yield patches around blocks drawn at random, except around those in the middle of which a patch lies already."""
    patch, covered = _PATCH[dimensions], [np.zeros(crop.target.shape, bool) for crop in corrections.crops]
    for number in np.random.default_rng(seed).permutation(len(blocks)).tolist():
        block = blocks[number]
        crop, inside = corrections.locate(block)
        middle = tuple((part.start + part.stop) // 2 for part in inside)
        is_covered = covered[corrections.crop_of[block]]
        if most == 0 or is_covered[middle]:
            continue
        starts = (
            max(0, min(at - side // 2, length - side))
            for at, side, length in zip(middle, patch, crop.target.shape, strict=True)
        )
        part = tuple(slice(start, start + side) for start, side in zip(starts, patch, strict=True))
        is_covered[part] = True
        most -= 1
        yield crop.image[(slice(None), *part)], (crop.held_out if block.is_held_out else crop.target)[part]
