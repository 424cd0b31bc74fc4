"""What is looked at in an image before it is segmented: its slices, whether it is of a known kind, a few patches.

Loads without torch: what a network makes of the patches is in `inference.certainty`.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.intensity.normalize import GreyStatistics, Normalization, iter_measure_greys
from napari_skipseg.images.intensity.padding import PaddingRule, find_mask
from napari_skipseg.images.intensity.samples import read_window
from napari_skipseg.images.intensity.signature import LEAST_SIDE, PATCH, PATCHES, ImageSignature, distance, sign
from napari_skipseg.images.slice_checks.checks import iter_slice_faults
from napari_skipseg.images.slice_checks.messages import describe_faults
from napari_skipseg.images.slice_checks.samples import LOOKING
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.tiles import plan_tiles
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.scale import lengths_of
from napari_skipseg.inference.tiling import Grid, make_grid, read_pixels
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.progress import Progress

if TYPE_CHECKING:
    from napari_skipseg.inference.backends.interface import Pixels


PROBE = {2: (256, 256), 3: (32, 96, 96)}
"""Size of the patches that a network looks at, and at their negatives, by its dimensions."""
PROBES = 4
LEAST_PROBED = 64
"""Side of an image below which a network cannot be asked what it makes of it."""
MOSTLY_PADDING = 0.2
"""Share of padding from which on a patch is not measured."""
SEED = 1

IN_WORDS = {
    "grey values": "its grey values are distributed in another way",
    "sizes": "its structures are of other sizes, or there is more or less noise",
    "edges": "its edges are sharper and rarer, or softer",
    "evenness": "it changes more from place to place",
}
"""What differs most, by the name of the group of features."""


@dataclass(frozen=True)
class Examined:
    """What was found about a stack. unlike, may_be_inverted: as in `GreyStatistics`."""

    findings: tuple[str, ...]
    unlike: str = ""
    may_be_inverted: bool = False


def iter_examine(
    stack: Stack,
    description: ModelDescription,
    lengths: Mapping[str, int],
    normalization: Normalization,
    *,
    keeps_empty: bool = False,
) -> Generator[Progress, None, Examined]:
    """Yield now and then; return which slices of a stack look faulty, and whether it is unlike the training images.

    lengths: of the network's grid, by axis. keeps_empty: an empty slice is no fault, as constant areas are tissue.

    What cannot be read is left out here: the run meets it too, says where it is, and keeps what it wrote before.
    """
    try:
        faults = yield from iter_slice_faults(stack)
    except (FileError, InputError):
        faults = ()
    told = [fault for fault in faults if fault.kind != "empty" or not keeps_empty]
    findings = describe_faults(told, _files_of_slices(stack))
    if not description.signatures:
        return Examined(findings)
    yield LOOKING
    patches = _read_patches(stack, lengths, normalization)
    signature = sign(patches)
    if signature is None:
        return Examined(findings)
    away, name = distance(signature, description.signatures)
    if away <= 1:
        return Examined(findings)
    negative = sign([-patch for patch in patches])
    may_be_inverted = negative is not None and distance(negative, description.signatures)[0] <= 1
    unlike = (
        f"The image is unlike those that {description.name} was trained on ({IN_WORDS[name]}): check the voxel size, "
        "the channel and the model."
    )
    return Examined(findings, unlike, may_be_inverted)


def _files_of_slices(stack: Stack) -> tuple[str, ...]:
    """Return the names of the files of the slices that are judged, empty if they have no files of their own."""
    along = next((axis for axis in "ZT" if stack.length(axis) > 1), "")
    is_named = stack.space.axes[0] == along and len(stack.slice_names) == stack.length(along)
    return stack.slice_names if is_named else ()


def sign_stack(stack: Stack, lengths: Mapping[str, int], normalization: Normalization) -> ImageSignature | None:
    """Return the signature of a stack on the network's grid, of patches drawn at random; None if it is too small."""
    return sign(_read_patches(stack, lengths, normalization))


def _read_patches(stack: Stack, lengths: Mapping[str, int], normalization: Normalization) -> list[NDArray[np.float32]]:
    """Return patches (C, Y, X) as the network sees them, but for padding; none of an image that is too small.

    Patches that cannot be read are left out.
    """
    shape = {axis: lengths.get(axis, stack.length(axis)) for axis in stack.space.axes}
    if min(shape["Y"], shape["X"]) < LEAST_SIDE:
        return []
    generator = np.random.default_rng(SEED)
    channels = range(stack.length("C")) if "C" in stack.space.axes else [0]
    patches = []
    for _ in range(PATCHES):
        ranges = {}
        for axis, length in shape.items():
            size = min(PATCH, length) if axis in "YX" else 1
            start = int(generator.integers(0, length - size + 1))
            ranges[axis] = (start, start + size)
        planes = []
        try:
            for channel in channels:
                place = ranges | ({"C": (channel, channel + 1)} if "C" in stack.space.axes else {})
                planes.append(read_window(stack, shape, place))
        except (FileError, InputError):
            continue
        patch = np.stack(planes)
        if normalization.padding:
            mask = find_mask(patch, normalization.padding)
            if mask is not None and mask.mean() > MOSTLY_PADDING:
                continue
        patch = np.nan_to_num(patch.astype(np.float32), posinf=0.0, neginf=0.0)
        patches.append(-patch if normalization.inverted else patch)
    return patches


def probe_grid(
    stack: Stack, description: ModelDescription, lengths: Mapping[str, int], like: Grid | None = None
) -> Grid | None:
    """Return the grid of patches that a network is asked about; None for an image that is too small.

    like: the grid of a run, taken where its tiles are not much larger, as the network is ready for these.
    """
    seen = "ZYX"[-description.spec.dimensions :]
    if min(lengths.get(axis, stack.length(axis)) for axis in "YX") < LEAST_PROBED:
        return None
    size = PROBE[len(seen)]
    if like is not None and like.seen == seen and math.prod(like.tiles.size) <= 1.5 * math.prod(size):
        return like
    shape = tuple(stack.length(axis) for axis in seen)
    network = tuple(lengths.get(axis, stack.length(axis)) for axis in seen)
    tiles = plan_tiles(shape, size, description.margin, description.spec.stride, 1, network)
    return make_grid(stack, seen, tiles)


def read_probes(stack: Stack, grid: Grid, normalization: Normalization) -> Pixels | None:
    """Return patches of a stack as a network sees them, (N, C, *space), those without padding if there are any.

    Patches that cannot be read are left out; None if none can.
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
        is_clean = tile.padding is None or float(tile.padding.mean()) < MOSTLY_PADDING
        (kept if is_clean else rest).append(tile.pixels)
        if len(kept) == PROBES:
            break
    return np.stack((kept or rest)[:PROBES]) if kept or rest else None


SLICES_SEED = 0
"""Of the sample that grey values are measured on."""


def iter_measure_for(
    stack: Stack, description: ModelDescription, options: SegmentOptions
) -> Generator[Progress, None, GreyStatistics]:
    """Yield now and then; return how a stack is normalised for a model, and what was found about it.

    stack: as the network takes it, one channel if it takes one.

    Raises:
        InputError: as `measure_greys` and `scale.seen_lengths`.
    """
    lengths = lengths_of(stack, description, options)
    rule = padding_rule(description, options)
    greys = yield from iter_measure_greys(stack, SLICES_SEED, lengths, rule)
    normalization = replace(greys.normalization, inverted=options.invert)
    examined = yield from iter_examine(stack, description, lengths, normalization, keeps_empty=rule == "none")
    findings = (*greys.findings, *examined.findings)
    return GreyStatistics(normalization, findings, examined.unlike, examined.may_be_inverted)


def padding_rule(description: ModelDescription, options: SegmentOptions) -> PaddingRule:
    """Return whether constant areas may be padding: not if the options say so, or the model was taught otherwise."""
    return "none" if "none" in (options.padding, description.padding) else "auto"
