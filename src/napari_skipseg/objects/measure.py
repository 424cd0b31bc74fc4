"""Objects measured: size, outline, place, axes and grey values, in physical units, block by block.

The numbers are those of scikit-image's `regionprops`; the surface of a volume is that of its marching-cubes mesh.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.classes import ClassProbability
from napari_skipseg.objects.options import ObjectPlanes
from napari_skipseg.objects.outline import add_perimeter, add_surface, cube_areas
from napari_skipseg.objects.slabs import AROUND, LARGEST, Piece, Slab, Source, iter_read, plan_slabs
from napari_skipseg.objects.sums import (
    PlaceSums,
    ValueSums,
    add_places,
    add_values,
    grown,
    make_place_sums,
    make_value_sums,
)
from napari_skipseg.objects.table import Table
from napari_skipseg.progress import Progress, run_to_end


def measure_objects(
    labels: Stack,
    image: Stack | None = None,
    probability: ClassProbability | None = None,
    planes: ObjectPlanes = "volume",
) -> Table:
    """Return the measurements of all objects of a label image in memory; as `iter_measure`."""
    return run_to_end(iter_measure(labels, image, probability, planes))


def iter_measure(
    labels: Stack,
    image: Stack | None = None,
    probability: ClassProbability | None = None,
    planes: ObjectPlanes = "volume",
    largest: int = LARGEST,
) -> Generator[Progress, None, Table]:
    """Yield slab by slab; return one row for each label above 0: an object, however its voxels lie.

    In a volume: volume, surface, three axes; of slices ("slices", or an image without Z): area, perimeter (where
    voxels are square), two axes. Positions are those of the centre, the image's origin considered; bounding boxes are
    in voxels, the end not included. image: grey values to measure, channel by channel. probability: of which the mean
    is told. largest: voxels that a slab may have, of which two are in memory.

    Raises:
        InputError: labels that are no whole numbers, or an image of another shape.
    """
    if labels.data.dtype.kind not in "bui":
        raise InputError(f"'{labels.name}' holds {labels.data.dtype} values: objects are whole numbers, 0 = none.")
    sources = list(_sources(labels, image, probability))
    flat = planes == "slices" or labels.length("Z") == 1
    sums = _Sums(make_place_sums(0), [make_value_sums(0) for _ in sources], np.zeros(1))
    slabs = plan_slabs(labels, largest)
    for done, slab in enumerate(iter_read(labels, sources, slabs), start=1):
        for piece in slab.pieces():
            sums = _added(piece, labels, sums, flat)
        yield Progress(done, len(slabs), "measuring")
    return _table(labels, sums, [source.name for source in sources], flat)


def _added(piece: Piece, labels: Stack, sums: _Sums, flat: bool) -> _Sums:
    """Return the sums with those of a piece."""
    time, z, y = piece.slab
    inside = np.ascontiguousarray(piece.around[1:, AROUND:-AROUND, AROUND:-AROUND])
    sums = sums.grown(int(inside.max(initial=0)))
    add_places(inside, np.array([z.start, y.start, 0]), time, sums.places)
    for given, known in zip(piece.values, sums.values, strict=True):
        add_values(inside, given, known)
    if flat:
        add_perimeter(piece.around[1:], sums.outline)
    else:
        _add_surface_of(piece.around, piece.slab, labels, sums.outline)
    return sums


def _add_surface_of(around: NDArray[np.uint32], slab: Slab, labels: Stack, surface: NDArray[np.float64]) -> None:
    """Add the cubes that begin before a voxel of the slab; where the image ends, those behind it too."""
    last_z, last_y = slab.z.stop == labels.length("Z"), slab.y.stop == labels.length("Y")
    deep = np.pad(around, ((0, 1), (0, 0), (0, 0))) if last_z else around
    cubes = deep[:, 1 : deep.shape[1] - (1 if last_y else AROUND), 1:-1]
    add_surface(cubes, cube_areas(labels.voxel_size), surface)


class _Sums(NamedTuple):
    """All that is added up."""

    places: PlaceSums
    values: list[ValueSums]
    outline: NDArray[np.float64]

    def grown(self, label: int) -> _Sums:
        """Return the sums with room for a label."""
        if label < len(self.outline):
            return self
        room = max(label, 2 * len(self.outline))
        return _Sums(self.places.grown(room), [each.grown(room) for each in self.values], grown(self.outline, room))


def _sources(labels: Stack, image: Stack | None, probability: ClassProbability | None) -> Iterator[Source]:
    if image is not None:
        _check_fits(labels, image)
        channels = image.length("C")
        for channel in range(channels):
            yield Source("intensity" if channels == 1 else f"channel {channel} intensity", image, channel)
    if probability is not None:
        _check_fits(labels, probability.stack)
        yield Source("probability", probability, 0)


def _check_fits(labels: Stack, image: Stack) -> None:
    shapes = [tuple(stack.length(axis) for axis in "TZYX") for stack in (labels, image)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"'{image.name}' has {shapes[1]} voxels along T, Z, Y, X, the objects have {shapes[0]}: give their "
            "image, or save it with the names of its axes."
        )


def _table(labels: Stack, sums: _Sums, sources: list[str], flat: bool) -> Table:
    """Return the columns, from the sums of the labels that occur."""
    found = np.flatnonzero(sums.places.voxels)
    places = PlaceSums(*(column[found] for column in sums.places))
    sides, unit = labels.voxel_size, labels.unit
    columns: dict[str, NDArray[Any]] = {"label": found, "voxels": places.voxels}
    columns |= {"time": places.time} if "T" in labels.axes else {}
    if flat:
        columns[f"area ({unit}²)"] = places.voxels * sides[1] * sides[2]
        columns |= {f"perimeter ({unit})": sums.outline[found] * sides[2]} if sides[1] == sides[2] else {}
    else:
        columns[f"volume ({unit}³)"] = places.voxels * sides[0] * sides[1] * sides[2]
        columns[f"surface ({unit}²)"] = sums.outline[found]
    for axis, name in enumerate("zyx"):
        if name.upper() in labels.axes:
            middle = places.first[:, axis] / places.voxels
            columns[f"position {name} ({unit})"] = labels.origin[axis] + middle * sides[axis]
    for axis, name in enumerate("zyx"):
        if name.upper() in labels.axes:
            columns[f"bounding box {name} start"] = places.least[:, axis]
            columns[f"bounding box {name} end"] = places.most[:, axis] + 1
    columns |= _axes(places, sides, unit, flat)
    for name, values in zip(sources, sums.values, strict=True):
        columns |= _values(name, ValueSums(*(column[found] for column in values)), places.voxels)
    return Table(tuple(columns), tuple(columns.values()))


def _axes(
    places: PlaceSums, sides: tuple[float, float, float], unit: str, flat: bool
) -> dict[str, NDArray[np.float64]]:
    """Return the axes of the ellipsoid, or ellipse, with the second moments of each object."""
    kept = (1, 2) if flat else (0, 1, 2)
    means = places.first / places.voxels[:, None]
    moments = np.empty((len(means), len(kept), len(kept)))
    entry = {(0, 0): 0, (1, 1): 1, (2, 2): 2, (0, 1): 3, (0, 2): 4, (1, 2): 5}
    for row, one in enumerate(kept):
        for column, other in enumerate(kept):
            second = places.second[:, entry[min(one, other), max(one, other)]] / places.voxels
            moments[:, row, column] = (second - means[:, one] * means[:, other]) * sides[one] * sides[other]
    spread = np.clip(np.linalg.eigvalsh(moments), 0, None)
    lengths = np.sqrt(4 * (len(kept) + 2) * spread)[:, ::-1]
    names = ("major axis", "minor axis") if flat else ("major axis", "middle axis", "minor axis")
    return {f"{name} ({unit})": lengths[:, place] for place, name in enumerate(names)}


def _values(name: str, values: ValueSums, voxels: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    mean = values.total / voxels
    if name == "probability":
        return {"mean probability": mean}
    deviation = np.sqrt(np.clip(values.squares / voxels - mean**2, 0, None))
    return {f"{name} mean": mean, f"{name} sd": deviation, f"{name} min": values.least, f"{name} max": values.most}
