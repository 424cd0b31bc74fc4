"""The same patches for the same seed: what is drawn from labelled images is compared with recorded values.

The channels of the images are the coordinates of their voxels, so that a patch shows where each of its pixels is from.
"""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_skipseg.images.intensity.normalize import measure
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.models.description import ClassLabel, ModelDescription
from napari_skipseg.networks.specs import UNetSpec
from napari_skipseg.progress import run_to_end
from napari_skipseg.training.finetune import crops
from napari_skipseg.training.finetune.blocks import iter_find_labelled_blocks
from napari_skipseg.training.finetune.crops import iter_read_crops
from napari_skipseg.training.finetune.labels import Corrected, plan_classes
from napari_skipseg.training.finetune.patches import PatchSampler, iter_held_out_patches, iter_whole_patches
from napari_skipseg.training.finetune.rehearsal import RehearsalSamples
from napari_skipseg.training.settings import AUGMENTATIONS, FinetuneSettings

pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13), reason="an older torch draws other numbers"
)

PATCH = {2: (64, 64), 3: (16, 32, 32)}


def coordinates(*shape, axes="CZYX"):
    """Return an image whose three channels are 8 · Z, Y and X."""
    z, y, x = np.meshgrid(*map(np.arange, shape[-3:]), indexing="ij")
    values = np.stack([8 * z, y, x]).astype(np.uint16)
    return Stack(np.broadcast_to(values, (*shape[:-3], *values.shape)), Space(axes), name="cells")


def pattern(*shape, classes=1):
    """Return labels of every value that repeat irregularly, with gaps."""
    z, y, x = np.meshgrid(*map(np.arange, shape), indexing="ij")
    values = (z * 5 + y // 9 * 7 + x // 6 * 3 + y * x // 301) % 13
    return np.where(values > classes + 1, 0, values).astype(np.uint8)


def whole_slices(*shape):
    return 1 + (pattern(*shape) == 1).astype(np.uint8)


def strokes_over(labels):
    strokes = np.zeros_like(labels)
    strokes[:, 10:240:50, 20:200] = 1
    strokes[:, 30:240:70, 10:160] = 2
    return Corrected(coordinates(*labels.shape), np.where(strokes > 0, strokes, labels), "cells", strokes)


def framed():
    stack = coordinates(2, 256, 256)
    values = stack.data.copy()
    values[..., :60, :] = 0
    return Corrected(replace(stack, data=values), pattern(2, 256, 256), "cells")


def sides_of_time():
    labels = np.stack([pattern(2, 192, 200), np.zeros((2, 192, 200), np.uint8), 3 - pattern(2, 192, 200)])
    return Corrected(coordinates(3, 2, 192, 200, axes="TCZYX"), np.where(labels == 3, 0, labels), "cells")


CASES = {
    "sparse": (2, 1, "auto", lambda: (Corrected(coordinates(3, 200, 256), pattern(3, 200, 256), "cells"),)),
    "strokes": (2, 1, "auto", lambda: (strokes_over(pattern(2, 256, 256)),)),
    "accepted": (2, 1, "auto", lambda: (strokes_over(whole_slices(2, 256, 256)),)),
    "slices": (
        2,
        2,
        "1,5-6",
        lambda: (
            Corrected(coordinates(4, 160, 256), 3 - pattern(4, 160, 256, classes=2), "a"),
            Corrected(coordinates(4, 160, 256), pattern(4, 160, 256, classes=2), "b"),
        ),
    ),
    "whole": (2, 1, "1", lambda: (Corrected(coordinates(3, 160, 192), whole_slices(3, 160, 192), "cells"),)),
    "frame": (2, 1, "auto", lambda: (framed(),)),
    "time": (2, 1, "auto", lambda: (sides_of_time(),)),
    "volume": (3, 2, "auto", lambda: (Corrected(coordinates(40, 80, 64), pattern(40, 80, 64, classes=2), "cells"),)),
    "volume, slices": (3, 1, "9-14", lambda: (Corrected(coordinates(30, 64, 80), pattern(30, 64, 80), "cells"),)),
    "few of many": (2, 1, "auto", lambda: (Corrected(coordinates(9, 400, 400), pattern(9, 400, 400), "cells"),)),
}
RECORDED = {
    ("sparse", 0): ("be43f232e77a", "f17ef519e9cf", "2c784cce50e6", (3, 10, 2, 0)),
    ("sparse", 5): ("24dd4ed07994", "02001f977aa6", "82101ef829ce", (3, 10, 2, 0)),
    ("strokes", 0): ("8a221f28ece3", "25f9a416699c", "d4414d45f411", (2, 6, 2, 2)),
    ("strokes", 5): ("79b8dc7f4456", "cb4de2331516", "4c972d2ae530", (2, 6, 2, 2)),
    ("accepted", 0): ("934b4e5054cb", "434133110b19", "34821b37e9a9", (2, 6, 2, 2)),
    ("accepted", 5): ("ac129a217b16", "175faaa8578d", "71d69b7a73dc", (2, 6, 2, 2)),
    ("slices", 0): ("5aa0fa330db5", "7cf842f4afcd", "82da46ba6b1f", (8, 20, 12, 0)),
    ("slices", 5): ("870b5abebcd3", "5a1ff2b0e846", "82da46ba6b1f", (8, 20, 12, 0)),
    ("whole", 0): ("5cfe07e924c4", "a527bb7fe4a9", "c8af6b82f115", (3, 8, 4, 0)),
    ("whole", 5): ("a8e44c5444ef", "6736926a4794", "c8af6b82f115", (3, 8, 4, 0)),
    ("time", 0): ("c05ca73e195c", "5da230d2a991", "3c87c825e035", (4, 13, 3, 0)),
    ("time", 5): ("dbf38f7a5f5b", "f0e4f56d4365", "58846e2c3db9", (4, 13, 3, 0)),
    ("volume", 0): ("4d902c835c4f", "36ac0fd7dc00", "4bc51b65c678", (1, 10, 2, 0)),
    ("volume", 5): ("f308c212eb6d", "d3300bf5a962", "faac493645c2", (1, 10, 2, 0)),
    ("volume, slices", 0): ("cf6696d65206", "0ba7e3a49702", "438cd155d9ce", (1, 12, 6, 0)),
    ("volume, slices", 5): ("2c3e2eba6748", "2b66d4372364", "438cd155d9ce", (1, 12, 6, 0)),
    ("few of many", 0): ("c740c9befa41", "3b0fe9bcb637", "f054afbc9031", (14, 60, 12, 0)),
    ("few of many", 5): ("a31bc474227b", "0efbb5d61b91", "aac3c0d26268", (9, 60, 12, 0)),
    ("frame", 0): ("60714aca1e79", "65cb749fd234", "d5e8cfb61d5b", (2, 6, 2, 0)),
    ("frame", 5): ("e103d7cf1a8d", "16e8a9d95991", "b06944e5f843", (2, 6, 2, 0)),
}
"""By case and seed: digests of patches without and with rehearsal samples, of what is held out, and numbers."""


def samples(dimensions):
    """Return a model's own sample of six patches, two of them held out and one synthetic."""
    side = {2: (80, 80), 3: (20, 40, 40)}[dimensions]
    images = np.stack([np.broadcast_to(np.arange(side[-1]) + number, (3, *side)) for number in range(6)])
    numbers = np.arange(6)
    return RehearsalSamples(
        images.astype(np.float16),
        (images[:, 0] % 3 == 0).astype(np.int8),
        np.ones((6, 1), bool),
        numbers > 3,
        numbers == 2,
    )


def digest(*arrays):
    sha256 = hashlib.sha256()
    for values in arrays:
        sha256.update(repr(values.shape).encode() + np.ascontiguousarray(values).tobytes())
    return sha256.hexdigest()[:12]


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("case", CASES)
def test_the_same_patches_are_drawn_for_the_same_seed(case, seed, monkeypatch):
    dimensions, classes, validate, make = CASES[case]
    named = tuple(ClassLabel(f"class {value}", value) for value in range(2, 2 + classes))
    spec = UNetSpec(dimensions=dimensions, widths=(4, 8), in_channels=3)
    parent = ModelDescription("old", spec, (ClassLabel("membrane", 0),), 4, "")
    settings = FinetuneSettings("new", ("a",), ("b",), named, model="old", validate=validate, seed=seed)
    monkeypatch.setattr(crops, "MOST_TRAINED", 60)
    monkeypatch.setattr(crops, "MOST_SCORED", 12)
    corrected = make()
    plan = plan_classes(settings, parent)
    found_blocks = run_to_end(iter_find_labelled_blocks(settings, corrected, plan, dimensions))
    read = run_to_end(iter_read_crops(corrected, found_blocks, plan, PATCH[dimensions], seed))
    greys = measure(corrected[0].stack)

    def positions(images, targets):
        """Return the coordinates of all pixels; of padding, which is filled with mixtures, those that are labelled."""
        values = np.asarray(images) * greys.deviation + greys.mean
        if case == "frame":
            values = np.where(np.asarray(targets)[..., None, :, :] >= 0, values, -1)
        assert np.abs(values - np.rint(values)).max() < 0.25
        return np.rint(values).astype(np.int16)

    found = {}
    for name, sample in (("new", None), ("with old", samples(dimensions))):
        draw = PatchSampler(read, plan, sample, PATCH[dimensions], AUGMENTATIONS["none"], seed, True).draw
        batch = draw(range(16))
        is_old = np.arange(16) % 4 == 0 if sample else np.zeros(16, bool)
        images, targets = batch.images.numpy(), batch.targets.numpy()
        old = np.rint(images[is_old]).astype(np.int16)
        new = positions(images[~is_old], targets[~is_old])
        found[name] = digest(old, new, targets, batch.judged.numpy(), batch.distilled.numpy())
    painted = read.table.with_strokes(read.table.held_out)
    scored = [
        *iter_held_out_patches(read, read.table.held_out, 4, 8),
        *iter_held_out_patches(read, painted, 4, 8, only_painted=True),
        *iter_whole_patches(read, 8),
    ]
    found["held out"] = digest(*(each for image, target in scored for each in (positions(image, target), target)))
    found["numbers"] = (len(read.crops), len(read.table.training), len(read.table.held_out), len(painted))
    assert tuple(found.values()) == RECORDED[case, seed]
