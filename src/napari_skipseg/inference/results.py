"""The arrays that a run fills: which there are, how they lie, and what each unit gives to each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.backends import TileOutput
from napari_skipseg.inference.grid import Grid, Region, Unit
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.outputs import label
from napari_skipseg.inference.tile_pixels import keep_map_pixels, keep_pixels
from napari_skipseg.models.model import Model

PROBABILITY, BINARY, UNCERTAINTY = "probability", "binary", "uncertainty"
ATTENTION = "attention_"
"""How the names of attention maps begin; their level follows."""


@dataclass(frozen=True)
class ResultArray:
    """One array of a run. axes: "C" first where it has classes, then those of the grid. stride: per axis of the grid.

    chunks: of which each unit writes whole ones. level: of an attention map, else 0.
    """

    name: str
    axes: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    chunks: tuple[int, ...]
    level: int = 0

    @property
    def is_labels(self) -> bool:
        """Whether its values are labels, not shares of 1."""
        return self.name == BINARY

    def placed(self, stack: Stack) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Return the voxel size and the origin (z, y, x) at which it lies exactly over `stack`."""
        steps = dict(zip(self.axes.replace("C", ""), self.stride, strict=True))
        step = [steps.get(axis, 1) for axis in "ZYX"]
        size = [side * count for side, count in zip(stack.voxel_size, step, strict=True)]
        origin = [
            first + side * (count - 1) / 2
            for first, side, count in zip(stack.origin, stack.voxel_size, step, strict=True)
        ]
        return (size[0], size[1], size[2]), (origin[0], origin[1], origin[2])


class Piece(NamedTuple):
    """What a unit gives to one array: `values` for the `region` of it."""

    name: str
    region: Region
    values: NDArray[Any]


def names_of(model: Model, options: SegmentOptions) -> list[str]:
    """Return the names of the arrays that the options ask for, in the order in which they are told of."""
    averaged = options.samples or options.average > 1 or options.planes != "xy"
    levels = len(model.network.attention_strides) if options.attention and options.planes == "xy" else 0
    attentions = [f"{ATTENTION}{level}" for level in range(1, levels + 1)]
    return [PROBABILITY, BINARY, *([UNCERTAINTY] if averaged else []), *attentions]


def results_of(grid: Grid, model: Model, options: SegmentOptions, with_binary: bool) -> tuple[ResultArray, ...]:
    """Return these arrays, the probability last: where it is written, all is. The viewer makes its own binary."""
    names = [name for name in names_of(model, options) if with_binary or name != BINARY]
    return tuple(_result(name, grid, model) for name in sorted(names, key=lambda name: name == PROBABILITY))


def _result(name: str, grid: Grid, model: Model) -> ResultArray:
    level = int(name.removeprefix(ATTENTION)) if name.startswith(ATTENTION) else 0
    stride = model.network.attention_strides[level - 1] if level else 1
    steps = tuple(stride if axis in grid.seen else 1 for axis in grid.axes)
    classes = len(model.description.class_names)
    shape, chunks = grid.shape_of_level(stride), grid.chunks(stride)
    if classes == 1 or name not in (PROBABILITY, UNCERTAINTY):
        return ResultArray(name, grid.axes, shape, steps, chunks, level)
    return ResultArray(name, f"C{grid.axes}", (classes, *shape), steps, (1, *chunks), level)


def in_order(results: tuple[ResultArray, ...]) -> list[ResultArray]:
    """Return the arrays in the order in which they are told of: probability, binary, uncertainty, attention maps."""
    ranks = {PROBABILITY: 0, BINARY: 1, UNCERTAINTY: 2}
    return sorted(results, key=lambda result: (ranks.get(result.name, 3), result.level))


def pieces(
    results: tuple[ResultArray, ...],
    grid: Grid,
    unit: Unit,
    output: TileOutput,
    number: int,
    threshold: float,
    padding: NDArray[np.bool_] | None = None,
) -> Iterator[Piece]:
    """Yield what `unit`, image `number` of the batch behind `output`, gives to each of the arrays, in their order.

    padding: (*space) of what the unit keeps, where there is surely background: no tissue, and no doubt.
    """
    probability = _emptied(keep_pixels(grid, unit, output.probability[number]), padding)
    values: NDArray[Any]
    for result in results:
        if result.name == PROBABILITY:
            values = probability
        elif result.name == BINARY:
            values = label(probability, threshold)[None]
        elif result.name == UNCERTAINTY:
            values = _emptied(keep_pixels(grid, unit, _present(output.uncertainty)[number]), padding)
        else:
            stride = result.stride[-1]
            values = keep_map_pixels(grid, unit, output.attentions[result.level - 1][number], stride)[None]
        yield _piece(result, grid, unit, values)


def _emptied(values: NDArray[np.float32], padding: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Return `values` (C, *space) with 0 where padding is."""
    return values if padding is None else np.where(padding, np.float32(0), values)


def _piece(result: ResultArray, grid: Grid, unit: Unit, values: NDArray[Any]) -> Piece:
    """Return `values` (C, *space) with every axis of the array, and where they lie in it."""
    region = grid.region(unit, max(result.stride))
    lengths = tuple(part.stop - part.start for part in region)
    if "C" not in result.axes:
        return Piece(result.name, region, values[0].reshape(lengths))
    return Piece(result.name, (slice(0, len(values)), *region), values.reshape(len(values), *lengths))


def _present(values: NDArray[np.float32] | None) -> NDArray[np.float32]:
    if values is None:
        raise ValueError("these passes give no uncertainty")
    return values
