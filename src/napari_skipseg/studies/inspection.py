"""Inspection of the gates of a model in one part of an image: the choice of the part, the run, and its result.

This loads without torch; only `iter_inspect`, which runs in the engine process, needs it.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.devices import versions
from napari_skipseg.errors import FileError, ModelError
from napari_skipseg.images.intensity.normalize import Normalization
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.progress import Progress

if TYPE_CHECKING:
    from napari_skipseg.models.model import Model

MOST_INSPECTED_VOXELS = 2**22
"""Voxels of a part, 2048² or 161³: the features of all gates are in memory together."""
_GRID = 32
"""A part begins on a multiple of this, so that the grids of its features are those of the whole image."""
BRIGHT = 99.5
"""Percentile of the features that is shown as white."""

InspectedPart = Mapping[str, slice]
"""A part of a stack: a slice for each axis letter."""


@dataclass(frozen=True, eq=False)
class GateMap:
    """One attention map in [0, 1], (*space / stride), with its gate and its number among the maps of that gate."""

    place: str
    number: int
    stride: int
    data: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Inspection:
    """The features at one gate in a part of an image, and the attention maps of all gates.

    place: of the gate, such as "long skip 1". axes: those that the model sees at once, "YX" or "ZYX". before, after:
    the features on both sides of its select step, (C, *space / stride). limits: the values to show as black and white.
    clearest: the channel that varies most behind the gate. start: the first voxel of the part, by axis letter.
    """

    place: str
    axes: str
    stride: int
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    limits: tuple[float, float]
    clearest: int
    attentions: tuple[GateMap, ...]
    start: dict[str, int]
    recipe: dict[str, Any]


def choose_part(lengths: Mapping[str, int], seen: str, centre: Mapping[str, int]) -> dict[str, slice]:
    """Return the part to inspect, by axis letter: the whole length of the axes in `seen` if that is at most
    `MOST_INSPECTED_VOXELS`, else the largest block around `centre`; one position along the other axes but C.
    """
    longest = -(-max(lengths[axis] for axis in seen) // _GRID) * _GRID
    while math.prod(min(longest, lengths[axis]) for axis in seen) > MOST_INSPECTED_VOXELS:
        longest -= _GRID
    sides = {axis: min(longest, lengths[axis]) for axis in seen}
    part = {}
    for axis in lengths:
        if axis == "C":
            continue
        side = sides.get(axis, 1)
        first = centre[axis] - side // 2
        if side > 1:
            first = min(max(first, 0), lengths[axis] - side) // _GRID * _GRID
        part[axis] = slice(first, first + side)
    return part


def cut_part(stack: Stack, part: InspectedPart, seen: str) -> Stack:
    """Return `part` of `stack` in memory, with its channels first, if it has any, and the axes in `seen`.

    Raises:
        InputError: the values are no numbers.
    """
    values = stack.read(tuple(part.get(axis, slice(None)) for axis in stack.space.axes))
    kept = [axis for axis in ("C", *seen) if axis in stack.space.axes]
    others = tuple(place for place, axis in enumerate(stack.space.axes) if axis not in kept)
    left = [axis for axis in stack.space.axes if axis in kept]
    values = values.squeeze(others).transpose([left.index(axis) for axis in kept])
    return replace(stack, data=values, space=stack.space.with_axes("".join(kept)))


def iter_inspect(
    stack: Stack, model: Model, *, gate: str, normalization: Normalization, start: Mapping[str, int], folder: Path
) -> Generator[Progress, None, Inspection]:
    """Compute the features of the gates in a part of an image; yield the progress, return them mapped from `folder`.

    The network runs in float32, in one piece. stack: the part, from `cut_part`. start: its first voxel in the image, by
    axis letter.

    Raises:
        SkipsegError: the image does not fit the model, it has no such gate, the disk is full.
    """
    from napari_skipseg.inference.predict import check_fits, select_channel
    from napari_skipseg.studies.gates import gate_features

    stack = select_channel(stack, model, SegmentOptions())
    check_fits(stack, model)
    values = stack.read((slice(None),) * len(stack.space.axes))
    yield Progress(0, 1, "running the network")
    across_slices = model.description.spec.dimensions == 3
    pixels, _ = normalization.prepare(values if "C" in stack.space.axes else values[None], across_slices)
    gates = gate_features(model, pixels)
    chosen = [each for each in gates if each.place == gate]
    if not chosen:
        there = ", ".join(each.place for each in gates) or "none"
        raise ModelError(f"{model.description.name} has no gate at {gate}: choose a different one (gates: {there}).")
    yield Progress(0, 1, "writing the features")
    maps = [
        GateMap(each.place, number, each.stride, _to_file(attention, folder / f"{each.place}_{number}.npy"))
        for each in gates
        for number, attention in enumerate(each.attentions, start=1)
    ]
    before = _to_file(chosen[0].before, folder / "before.npy")
    after = _to_file(chosen[0].after, folder / "after.npy")
    recipe = {
        "operation": "inspect",
        "input": {"name": stack.name, "start": dict(start)},
        "model": model.description.name,
        "model_sha256": model.description.weights_sha256,
        "gate": gate,
        "normalization": asdict(normalization),
        "backend": "torch",
        "precision": "f32",
        "device": "cpu",
        "versions": versions(),
    }
    low, high = float(before.min()), float(np.percentile(before, BRIGHT))
    return Inspection(
        place=gate,
        axes=stack.space.axes.replace("C", ""),
        stride=chosen[0].stride,
        before=before,
        after=after,
        limits=(low, high if high > low else low + 1.0),
        clearest=int(after.reshape(len(after), -1).std(axis=1).argmax()),
        attentions=tuple(maps),
        start=dict(start),
        recipe=recipe,
    )


def _to_file(values: NDArray[np.float32], file: Path) -> NDArray[np.float32]:
    """Write an array to `file` and return it memory-mapped, so that the viewer can open the file."""
    try:
        np.save(file, values)
        mapped: NDArray[np.float32] = np.load(file, mmap_mode="r")
    except OSError as error:
        raise FileError(
            f"The features cannot be written to {file.parent} ({error.strerror or error}): free some space there."
        ) from error
    return mapped
