"""Checks of an image before it is segmented: faulty slices, similarity to the training images, and a few patches.

Loads without torch; the network's results on the patches are in `inference.certainty`.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.intensity.grey_steps import iter_measure_steps
from napari_skipseg.images.intensity.normalize import GreyStatistics, Normalization, iter_measure_greys
from napari_skipseg.images.intensity.padding import PaddingRule, find_mask
from napari_skipseg.images.intensity.samples import read_window
from napari_skipseg.images.intensity.signature import (
    LEAST_SIDE,
    PATCH,
    PATCHES,
    ImageSignature,
    limit_for,
    sign_image,
    sign_with_negative,
    signature_distance,
)
from napari_skipseg.images.slice_checks.checks import iter_slice_faults
from napari_skipseg.images.slice_checks.messages import describe_faults
from napari_skipseg.images.slice_checks.samples import LOOKING
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.tiles import plan_tiles
from napari_skipseg.images.views import ClippedArray
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.scale import network_lengths_of
from napari_skipseg.inference.tiling import TileGrid, make_tile_grid, read_pixels
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.progress import Progress

if TYPE_CHECKING:
    from napari_skipseg.inference.backends.interface import Pixels


PROBE = {2: (256, 256), 3: (32, 96, 96)}
"""Size of the patches on which a network is tested, by its dimensions."""
PROBES = 4
LEAST_PROBED = 64
"""Least side of an image on which a network can be tested."""
MOSTLY_PADDING = 0.2
"""A patch with more than this share of padding is not measured."""
LEAST_TISSUE = 48
"""Least side of the rectangle of tissue in a patch on which the network is tested."""
NEARER, LIKELY = 0.98, 2.25
"""The network is tested on an unlike image too if its negative is nearer to the training images by this factor, and
not farther away than that many times the limit."""
FAMILIAR, UNFAMILIAR = 0.25, 0.5
"""The network is not tested on an image that is so near to the training images, while its negative is so far away.

Measured on 60 images and their negatives with two built-in models: those that a network was unsure of or called
inverted lie at 0.39 and more, stacks of the kind of the training at 0.13-0.22 and their negatives at 0.61-0.77."""
TRIES = 4
"""Factor for the number of places that are tried if some may lie on padding."""
SEED = 1

IN_WORDS = {
    "grey values": "its grey values are distributed in a different way",
    "sizes": "its structures are of other sizes, or there is more or less noise",
    "edges": "its edges are sharper and rarer, or softer",
    "evenness": "it changes more from place to place",
}
"""The main difference in words, by the name of the group of features."""


@dataclass(frozen=True)
class ImageExamination:
    """The findings on a stack. unlike, asks_network: as in `GreyStatistics`."""

    findings: tuple[str, ...]
    unlike: str = ""
    asks_network: bool = True


def iter_examine_image(
    stack: Stack,
    description: ModelDescription,
    lengths: Mapping[str, int],
    normalization: Normalization,
    *,
    keeps_empty: bool = False,
) -> Generator[Progress, None, ImageExamination]:
    """Find the faulty slices of a stack, and whether it is unlike the training images; yield now and then.

    lengths: of the network's grid, by axis. keeps_empty: an empty slice is no fault, as constant areas are tissue.

    What cannot be read is left out here: the run meets it too, says where it is, and keeps what it wrote before.
    """
    try:
        faults = yield from iter_slice_faults(_without_outliers(stack, normalization))
    except (FileError, InputError):
        faults = ()
    reported = [fault for fault in faults if fault.kind != "empty" or not keeps_empty]
    findings = describe_faults(reported, _files_of_slices(stack))
    if not description.signatures:
        return ImageExamination(findings)
    yield LOOKING
    patches = _read_patches(stack, lengths, normalization)
    signatures = sign_with_negative(patches)
    if signatures is None:
        return ImageExamination(findings)
    limit = limit_for({axis: lengths.get(axis, stack.length(axis)) for axis in stack.space.axes})
    (away, name), (turned, _) = (signature_distance(each, description.signatures) for each in signatures)
    if away <= limit:
        is_known = bool(name) and away <= FAMILIAR and turned >= UNFAMILIAR
        return ImageExamination(findings, asks_network=not is_known)
    asks_network = turned <= limit or (turned <= NEARER * away and turned <= LIKELY * limit)
    unlike = (
        f"The image is unlike those that {description.name} was trained on ({IN_WORDS[name]}): check the voxel size, "
        "the channel and the model."
    )
    return ImageExamination(findings, unlike, asks_network)


def _files_of_slices(stack: Stack) -> tuple[str, ...]:
    """Return the names of the files of the slices, empty if they have no separate files."""
    along = next((axis for axis in "ZT" if stack.length(axis) > 1), "")
    is_named = stack.space.axes[0] == along and len(stack.slice_names) == stack.length(along)
    return stack.slice_names if is_named else ()


def _without_outliers(stack: Stack, normalization: Normalization) -> Stack:
    """Return the stack with clipped outliers: one hot pixel would decide the displacement and contrast of a slice."""
    if normalization.low is None and normalization.high is None:
        return stack
    return replace(stack, data=ClippedArray(stack.data, normalization.low, normalization.high))


def sign_stack(stack: Stack, lengths: Mapping[str, int], normalization: Normalization) -> ImageSignature | None:
    """Return the signature of a stack on the network's grid, of patches drawn at random; None if it is too small."""
    return sign_image(_read_patches(stack, lengths, normalization))


def _read_patches(stack: Stack, lengths: Mapping[str, int], normalization: Normalization) -> list[NDArray[np.float32]]:
    """Return patches (C, Y, X) in standard units; none of an image that is too small.

    A patch with padding shows properties of the padding, so smaller ones are used if large ones always have padding.
    Patches that cannot be read are skipped.
    """
    shape = {axis: lengths.get(axis, stack.length(axis)) for axis in stack.space.axes}
    if min(shape["Y"], shape["X"]) < LEAST_SIDE:
        return []
    generator = np.random.default_rng(SEED)
    side, kept = PATCH, list[NDArray[np.float32]]()
    tries = PATCHES if not normalization.has_padding else TRIES * PATCHES
    if all(length <= (PATCH if axis in "YX" else 1) for axis, length in shape.items() if axis != "C"):
        tries = 1  # all patches would be the same: the whole image
    while not kept and side >= LEAST_SIDE:
        for _ in range(tries):
            if len(kept) < PATCHES and (patch := _read_patch(stack, shape, normalization, side, generator)) is not None:
                kept.append(patch)
        side, tries = (side // 2, TRIES * PATCHES) if normalization.has_padding else (0, 0)
    return kept


def _read_patch(
    stack: Stack, shape: Mapping[str, int], normalization: Normalization, side: int, generator: np.random.Generator
) -> NDArray[np.float32] | None:
    """Return a patch at a random place, None if it has padding or cannot be read."""
    ranges = {}
    for axis, length in shape.items():
        size = min(side, length) if axis in "YX" else 1
        start = int(generator.integers(0, length - size + 1))
        ranges[axis] = (start, start + size)
    channels = range(stack.length("C")) if "C" in stack.space.axes else [0]
    try:
        planes = [
            read_window(stack, shape, ranges | ({"C": (number, number + 1)} if "C" in stack.space.axes else {}))
            for number in channels
        ]
    except (FileError, InputError):
        return None
    patch = np.stack(planes)
    if normalization.has_padding and find_mask(patch, normalization.padding, normalization.flat) is not None:
        return None
    return normalization.apply(np.nan_to_num(patch.astype(np.float32), posinf=0.0, neginf=0.0))


def probe_grid(
    stack: Stack, description: ModelDescription, lengths: Mapping[str, int], like: TileGrid | None = None
) -> TileGrid | None:
    """Return the grid of patches on which a network is tested, None for an image that is too small.

    like: the grid of a run, used if its tiles are not much larger, because the network is prepared for these.
    """
    seen = "ZYX"[-description.spec.dimensions :]
    if min(lengths.get(axis, stack.length(axis)) for axis in "YX") < LEAST_PROBED:
        return None
    size = PROBE[len(seen)]
    if like is not None and like.seen == seen and math.prod(like.tiles.size) <= 1.5 * math.prod(size):
        return like
    shape = tuple(stack.length(axis) for axis in seen)
    network = tuple(lengths.get(axis, stack.length(axis)) for axis in seen)
    tiles = plan_tiles(shape, size, description.margin, description.stride, 1, network)
    return make_tile_grid(stack, seen, tiles)


def read_probes(stack: Stack, grid: TileGrid, normalization: Normalization) -> Pixels | None:
    """Return patches of a stack as input of a network, (N, C, *space), those with little padding if there are any.

    In other patches the tissue is mirrored over the padding, which would make the network unsure. Patches that cannot
    be read are skipped; return None if none is left.
    """
    generator = np.random.default_rng(SEED)
    numbers = (
        np.unique(generator.integers(0, len(grid), 4 * PROBES)) if len(grid) > 4 * PROBES else np.arange(len(grid))
    )
    generator.shuffle(numbers)
    kept: list[Pixels] = []
    rest: list[Pixels] = []
    for number in numbers.tolist():
        try:
            tile = read_pixels(stack, grid, grid.unit(number), normalization)
        except (FileError, InputError):
            continue
        if tile.padding is None or float(tile.padding.mean()) < MOSTLY_PADDING:
            kept.append(tile.pixels)
        elif (mirrored := _over_padding(tile.pixels, tile.padding[0])) is not None:
            rest.append(mirrored)
        if len(kept) == PROBES:
            break
    return np.stack((kept or rest)[:PROBES]) if kept or rest else None


def _over_padding(pixels: Pixels, padding: Pixels) -> Pixels | None:
    """Return a patch (C, *space) with a rectangle of its tissue mirrored over the rest, None if it is too small."""
    flat = padding.reshape(-1, *padding.shape[-2:]).max(axis=0) > 0
    top, bottom, left, right = 0, flat.shape[0], 0, flat.shape[1]
    while min(bottom - top, right - left) >= LEAST_TISSUE:
        inner = flat[top:bottom, left:right]
        lines = [inner[0].mean(), inner[-1].mean(), inner[:, 0].mean(), inner[:, -1].mean()]
        if not inner.any():
            around = [(0, 0)] * (pixels.ndim - 2) + [(top, flat.shape[0] - bottom), (left, flat.shape[1] - right)]
            return np.pad(pixels[..., top:bottom, left:right], around, mode="symmetric")
        worst = int(np.argmax(lines)) if max(lines) > 0 else int(np.argmax([bottom - top, 0, right - left, 0]))
        top, bottom = top + (worst == 0), bottom - (worst == 1)
        left, right = left + (worst == 2), right - (worst == 3)
    return None


READ_ONCE = 2**25
"""Most bytes of a stack that is read into memory for the checks."""
SLICES_SEED = 0
"""Seed of the sample in which grey values are measured."""


def iter_measure_for(
    stack: Stack, description: ModelDescription, options: SegmentOptions
) -> Generator[Progress, None, GreyStatistics]:
    """Measure the grey values of a stack for a model, and check it; yield now and then.

    stack: as the network needs it, with one channel if it needs one.

    Raises:
        InputError: as `measure_greys` and `scale.lengths_seen_by_network`.
    """
    lengths = network_lengths_of(stack, description, options)
    rule = padding_rule(description, options)
    stack = _read_once(stack)
    if description.normalization == "steps":
        greys = yield from iter_measure_steps(stack, description.grey_steps, SLICES_SEED)
    else:
        greys = yield from iter_measure_greys(stack, SLICES_SEED, lengths, rule)
    normalization = replace(greys.normalization, inverted=options.invert)
    examined = yield from iter_examine_image(stack, description, lengths, normalization, keeps_empty=rule == "none")
    findings = (*greys.findings, *examined.findings)
    return GreyStatistics(normalization, findings, examined.unlike, greys.asks_network and examined.asks_network)


def _read_once(stack: Stack) -> Stack:
    """Return the stack in memory if it is small: grey values, slices and patches read the same voxels three times."""
    if isinstance(stack.data, np.ndarray) or math.prod(stack.shape) * np.dtype(stack.data.dtype).itemsize > READ_ONCE:
        return stack
    try:
        return replace(stack, data=stack.read((slice(None),) * len(stack.shape)))
    except (FileError, InputError):  # what of it can be read is looked at
        return stack


def padding_rule(description: ModelDescription, options: SegmentOptions) -> PaddingRule:
    """Return whether constant areas may be padding: not if they are tissue for the options or the model."""
    return "none" if "none" in (options.padding, description.padding) else "auto"
