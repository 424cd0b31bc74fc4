"""What the gates of a model make of one part of an image: which part, how it is run, what comes back.

Loads without torch; only `iter_inspect`, which the engine process calls, needs it.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import FileError, ModelError
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.jobs import events
from napari_skipseg.jobs.requests import INPUT_FILE, InspectJob
from napari_skipseg.jobs.workspace import open_array
from napari_skipseg.progress import Progress

if TYPE_CHECKING:
    from napari_skipseg.models.model import Model
    from napari_skipseg.studies.gates import GateFeatures

MOST_VOXELS = 2**22
"""How many voxels are looked at at once, 2048² or 161³: the features of every gate are in memory together."""
GRID = 32
"""A block begins on a multiple of this, so that the grids of its features are those of the whole image."""
BRIGHT = 99.5
"""Percentile of the features that is shown as white."""

Part = Mapping[str, slice]
"""A part of a stack: which positions, by axis letter."""


@dataclass(frozen=True, eq=False)
class GateMap:
    """One attention map in [0, 1], (*space / stride): of which gate, and its number among the maps of that gate."""

    place: str
    number: int
    stride: int
    data: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Inspection:
    """What one gate saw and let through in a part of an image, and the attention maps of all gates.

    place: of the gate, such as "long skip 1". axes: those that the model sees at once, "YX" or "ZYX". before, after:
    the features on both sides of its select step, (C, *space / stride). limits: the values to show as
    black and white. clearest: the channel that varies most behind the gate. start: the first voxel of the part, by
    axis letter.
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
    """Return the part to look at, by axis letter: all along the axes in `seen` where that is at most `MOST_VOXELS`,
    else the largest block around `centre`; one position along the others. Channels have no say.
    """
    sides = _sides({axis: lengths[axis] for axis in seen})
    part = {}
    for axis in lengths:
        if axis == "C":
            continue
        side = sides.get(axis, 1)
        first = centre[axis] - side // 2
        if side > 1:
            first = min(max(first, 0), lengths[axis] - side) // GRID * GRID
        part[axis] = slice(first, first + side)
    return part


def _sides(lengths: Mapping[str, int]) -> dict[str, int]:
    longest = -(-max(lengths.values()) // GRID) * GRID
    while math.prod(min(longest, length) for length in lengths.values()) > MOST_VOXELS:
        longest -= GRID
    return {axis: min(longest, length) for axis, length in lengths.items()}


def cut_part(stack: Stack, part: Part, seen: str) -> Stack:
    """Return `part` of `stack` in memory, with its channels first, where it has some, and the axes in `seen`.

    Raises:
        InputError: the values are no numbers.
    """
    values = stack.read(tuple(part.get(axis, slice(None)) for axis in stack.space.axes))
    kept = [axis for axis in ("C", *seen) if axis in stack.space.axes]
    others = tuple(place for place, axis in enumerate(stack.space.axes) if axis not in kept)
    left = [axis for axis in stack.space.axes if axis in kept]
    values = values.squeeze(others).transpose([left.index(axis) for axis in kept])
    return replace(stack, data=values, space=stack.space.with_axes("".join(kept)))


def iter_inspect(job: InspectJob, model: Model) -> Generator[Progress, None, events.Inspected]:
    """Yield between the steps; return what lies in the job's folder. The network runs in float32, in one piece.

    Raises:
        SkipsegError: the image does not fit the model, it has no such gate, the disk is full.
    """
    from napari_skipseg.inference.predict import check_fits, select_channel
    from napari_skipseg.studies.gates import gate_features

    folder = Path(job.folder)
    stack = Stack(np.load(folder / INPUT_FILE), Space(job.axes), job.name)
    stack = select_channel(stack, model, SegmentOptions())
    check_fits(stack, model)
    values = stack.read((slice(None),) * len(stack.space.axes))
    yield Progress(0, 1, "running the network")
    across_slices = model.description.spec.dimensions == 3
    pixels, _ = job.normalization.prepare(values if "C" in stack.space.axes else values[None], across_slices)
    gates = gate_features(model, pixels)
    chosen = [gate for gate in gates if gate.place == job.place]
    if not chosen:
        there = ", ".join(gate.place for gate in gates) or "none"
        raise ModelError(f"{model.description.name} has no gate at {job.place}: choose another one (gates: {there}).")
    yield Progress(0, 1, "writing the features")
    try:
        return _write(job, model, gates, chosen[0])
    except OSError as error:
        raise FileError(
            f"The features cannot be written to {folder} ({error.strerror or error}): free some space there."
        ) from error


def _write(job: InspectJob, model: Model, gates: tuple[GateFeatures, ...], chosen: GateFeatures) -> events.Inspected:
    folder = Path(job.folder)
    after = chosen.after
    np.save(folder / events.BEFORE_FILE, chosen.before)
    np.save(folder / events.AFTER_FILE, after)
    maps: list[events.GateMapFile] = []
    for gate in gates:
        for number, attention in enumerate(gate.attentions, start=1):
            maps.append(events.GateMapFile(gate.place, number, gate.stride, f"gate_map_{len(maps)}.npy"))
            np.save(folder / maps[-1].file, attention)
    low, high = float(chosen.before.min()), float(np.percentile(chosen.before, BRIGHT))
    limits = (low, high if high > low else low + 1.0)
    clearest = int(after.reshape(len(after), -1).std(axis=1).argmax())
    return events.Inspected(job.number, chosen.stride, limits, clearest, tuple(maps), _recipe(job, model))


def _recipe(job: InspectJob, model: Model) -> dict[str, Any]:
    from napari_skipseg.devices import versions

    return {
        "operation": "inspect",
        "input": {"name": job.name, "start": dict(job.start)},
        "model": model.description.name,
        "model_sha256": job.model_sha256,
        "gate": job.place,
        "normalization": asdict(job.normalization),
        "backend": "torch",
        "precision": "f32",
        "device": "cpu",
        "versions": versions(),
    }


def open_inspection(job: InspectJob, result: events.Inspected) -> Inspection:
    """Return the inspection that lies in the job's folder, memory-mapped; a file goes when it is no longer used.

    Raises:
        EngineError: a file is missing or damaged.
    """
    folder = Path(job.folder)
    return Inspection(
        job.place,
        job.axes.replace("C", ""),
        result.stride,
        open_array(folder / events.BEFORE_FILE),
        open_array(folder / events.AFTER_FILE),
        result.limits,
        result.clearest,
        tuple(GateMap(m.place, m.number, m.stride, open_array(folder / m.file)) for m in result.maps),
        dict(job.start),
        result.recipe,
    )
