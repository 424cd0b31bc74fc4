"""The network's grid: that of the stack, or one with the voxel size of the model's training."""

from __future__ import annotations

import math
from collections.abc import Mapping

from napari_skipseg.errors import InputError
from napari_skipseg.images.resample import SAME, network_lengths
from napari_skipseg.images.space import METRES
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.models.description import ModelDescription
from napari_skipseg.wording import sides_in_words

SMALLEST, LARGEST = 1 / 16, 16.0
"""Largest length of the network's grid along an axis, relative to the image."""
FAR_OFF = 1.5
"""Ratio of voxel sizes at which an image differs too much from what a model was trained on."""
_UNLIKE = 1.5
"""Largest ratio of the sides of a voxel that counts as a cube."""


def axes_seen(description: ModelDescription, options: SegmentOptions) -> str:
    """Return the axes that a tile spans: those of the network, or all three."""
    return "ZYX" if options.planes == "xyz" else "ZYX"[-description.spec.dimensions :]


def trained_voxel_size(description: ModelDescription, unit: str, seen: str) -> tuple[float, float, float] | None:
    """Return the voxel size (z, y, x) that the model expects, in `unit`; None if one of the two is not known.

    A 2D network along all three axes expects voxels as long in z as in its planes.
    """
    if description.unit not in METRES or unit not in METRES:
        return None
    factor = METRES[description.unit] / METRES[unit]
    z, y, x = (size * factor for size in description.voxel_size)
    return (math.sqrt(y * x) if description.spec.dimensions < len(seen) else z, y, x)


def describe_unknown_size(stack: Stack, description: ModelDescription) -> str:
    """Return a sentence with a cure if the voxel size of an image is not known, "" if it is known."""
    if stack.space.has_size:
        return ""
    lacks = "is not known" if set(stack.space.voxel_size) == {1.0} else "has no unit"
    trained = ""
    if description.unit in METRES:
        size = sides_in_words(description.voxel_size[-description.spec.dimensions :])
        trained = f"; {description.name} was trained at {size} {description.unit}"
    rescale = ", and --rescale if the two differ" if trained else ""
    return f"The voxel size of '{stack.name}' {lacks}{trained}: give it with --voxel-size Z Y X --unit nm{rescale}."


def is_far_off(factors: Mapping[str, float]) -> bool:
    """Return whether an image's voxels differ too much from a model's. factors: as from `network_scale`."""
    return not all(1 / FAR_OFF < factor < FAR_OFF for factor in factors.values())


def describe_far_off(stack: Stack, description: ModelDescription, options: SegmentOptions) -> str:
    """Return a sentence with a cure if the voxels are not rescaled and far from the model's, "" otherwise."""
    seen = axes_seen(description, options)
    factors = network_scale(stack, description, seen)
    trained = trained_voxel_size(description, stack.space.unit, seen)
    if options.rescale or trained is None or not is_far_off(factors):
        return ""
    here, there = (sides_in_words(size[-len(seen) :]) for size in (stack.space.voxel_size, trained))
    kind = "pixels" if seen == "YX" else "voxels"
    can_rescale = all(SMALLEST <= factor <= LARGEST for factor in factors.values())
    cure = "add --rescale" if can_rescale else "check the voxel size and the model"
    return f"'{stack.name}' has {kind} of {here} {stack.space.unit}, {description.name} was trained at {there}: {cure}."


def network_scale(stack: Stack, description: ModelDescription, seen: str) -> dict[str, float]:
    """Return the length of a stack's voxel in voxels of the network, by axis: 1 if they are nearly the same.

    Empty if one of the two voxel sizes is not known.
    """
    wanted = trained_voxel_size(description, stack.space.unit, seen)
    if wanted is None:
        return {}
    factors = {axis: stack.space.size_along(axis) / wanted["ZYX".index(axis)] for axis in seen}
    return {axis: 1.0 if abs(math.log(factor)) <= SAME else factor for axis, factor in factors.items()}


def lengths_seen_by_network(stack: Stack, description: ModelDescription, seen: str, rescale: bool) -> tuple[int, ...]:
    """Return the lengths along `seen` of the grid that the network sees.

    Raises:
        InputError: rescaling is requested and a voxel size is not known, or the two differ too much; or it is not
            requested, and a 2D network would get voxels with different sides along the three axes.
    """
    if not rescale:
        if len(seen) > description.spec.dimensions:
            _check_isotropic(stack)
        return tuple(stack.length(axis) for axis in seen)
    wanted = trained_voxel_size(description, stack.space.unit, seen)
    if wanted is None:
        owner = f"'{stack.name}'" if not stack.space.has_size else description.name
        raise InputError(
            f"The voxel size of {owner} is not known, so it cannot be rescaled: give it (in a shell with --voxel-size "
            "and --unit), or segment without rescaling."
        )
    for axis, factor in network_scale(stack, description, seen).items():
        if not SMALLEST <= factor <= LARGEST:
            raise InputError(
                f"Along {axis} '{stack.name}' has voxels {factor:.3g} times as long as {description.name} was trained "
                "at: check the voxel size, or segment without rescaling."
            )
    return network_lengths(stack, seen, wanted)


def network_lengths_of(stack: Stack, description: ModelDescription, options: SegmentOptions) -> dict[str, int]:
    """Return the lengths of the grid that the network sees, by axis.

    Raises:
        InputError: as `lengths_seen_by_network`.
    """
    seen = axes_seen(description, options)
    return dict(zip(seen, lengths_seen_by_network(stack, description, seen, options.rescale), strict=True))


def _check_isotropic(stack: Stack) -> None:
    """Raise InputError if voxels are known to be no cubes."""
    size, unit = stack.space.voxel_size, stack.space.unit
    if stack.space.has_size and max(size) > _UNLIKE * min(size):
        sides = " × ".join(f"{side:g}" for side in size)
        raise InputError(
            f"Along three axes a network must see equal voxels, and those of '{stack.name}' are {sides} {unit}: "
            "rescale too (in a shell with --rescale), or segment with planes xy."
        )
