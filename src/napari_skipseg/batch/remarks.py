"""What a batch says of a file besides its state: how many objects it has and how large, and what its voxels are."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_skipseg.errors import FileError
from napari_skipseg.images.stack import Stack

if TYPE_CHECKING:
    from napari_skipseg.inference.options import SegmentOptions
    from napari_skipseg.models.description import ModelDescription

_SIZE = re.compile(r"(?:volume|area) \((.+)\)")
"""How the column of sizes is called in the table of objects."""
NO_SIZE = "Its voxel size is not known: sizes are in pixels."
OTHER_SIZE = "Its voxels are {} and {} was trained at {}: it was segmented without rescaling."


@dataclass(frozen=True)
class ObjectSizes:
    """How many objects were found in a file, and their mean size, None if there is no object. unit: such as "nm³"."""

    count: int
    mean: float | None
    unit: str


def read_sizes(table: Path) -> ObjectSizes:
    """Return the number of objects in a table that `Table.write_csv` wrote, and their mean size, row by row.

    Raises:
        FileError: it cannot be read, or is no table of objects.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as handle:
            rows = csv.reader(handle)
            names = next(rows)
            column, unit = next((n, found[1]) for n, name in enumerate(names) if (found := _SIZE.fullmatch(name)))
            sizes = [float(row[column]) for row in rows]
    except (OSError, ValueError, IndexError, StopIteration) as error:
        raise FileError(f"The measurements '{table}' cannot be read: start the batch again.") from error
    return ObjectSizes(len(sizes), math.fsum(sizes) / len(sizes) if sizes else None, unit)


def describe_voxels(stack: Stack) -> str:
    """Return the voxel size of an image along its axes of space, such as "50 × 4 × 4 nm"; "" if it is not known."""
    if not stack.space.has_size:
        return ""
    sides = [stack.space.size_along(axis) for axis in stack.space.spatial_axes]
    return _in_words(sides, stack.space.unit)


def remarks_on(stack: Stack, description: ModelDescription, options: SegmentOptions) -> tuple[str, ...]:
    """Return what a user should know of an image's voxels, one sentence each."""
    from napari_skipseg.inference.scale import network_scale, trained_voxel_size

    if not stack.space.has_size:
        return (NO_SIZE,)
    seen = "ZYX" if options.planes == "xyz" else "ZYX"[-description.spec.dimensions :]
    trained = trained_voxel_size(description, stack.space.unit, seen)
    if (
        options.rescale
        or trained is None
        or all(factor == 1 for factor in network_scale(stack, description, seen).values())
    ):
        return ()
    here, there = (
        _in_words([size["ZYX".index(axis)] for axis in seen], stack.space.unit)
        for size in (stack.space.voxel_size, trained)
    )
    return (OTHER_SIZE.format(here, description.name, there),)


def _in_words(sides: list[float], unit: str) -> str:
    numbers = [f"{side:.4g}" for side in sides]
    return f"{numbers[0] if len(set(numbers)) == 1 else ' × '.join(numbers)} {unit}"
