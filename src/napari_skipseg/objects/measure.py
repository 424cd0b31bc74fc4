"""Measurements of objects, block by block: size, outline, place, axes and grey values, in physical units.

The numbers are those of scikit-image's `regionprops`; the surface of a volume is that of its marching-cubes mesh.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.images.stack import Stack
from napari_skipseg.objects.classes import ClassProbability
from napari_skipseg.objects.options import ObjectPlanes
from napari_skipseg.objects.slabs import AROUND, LARGEST_SLAB, SlabPiece, SlabSource, iter_read_slabs, plan_slabs
from napari_skipseg.objects.table import ObjectTable
from napari_skipseg.progress import Progress, run_to_end
from napari_skipseg.scores.table import compiled

_FAR = np.iinfo(np.int64).max


class PlaceSums(NamedTuple):
    """At each label: voxels, sums of (z, y, x), sums of zz, yy, xx, zy, zx, yx, first and last place along each axis.

    time: the time of the object.
    """

    voxels: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    least: NDArray[np.int64]
    most: NDArray[np.int64]
    time: NDArray[np.int64]

    def grown(self, labels: int) -> PlaceSums:
        """Return the sums with room for labels up to `labels`."""
        return self if labels < len(self.voxels) else PlaceSums(*map(_overwritten, make_place_sums(labels), self))


class ValueSums(NamedTuple):
    """At each label: sum, sum of squares, least and largest of some values."""

    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    least: NDArray[np.float64]
    most: NDArray[np.float64]

    def grown(self, labels: int) -> ValueSums:
        """Return the sums with room for labels up to `labels`."""
        return self if labels < len(self.total) else ValueSums(*map(_overwritten, make_value_sums(labels), self))


def make_place_sums(labels: int) -> PlaceSums:
    """Return empty sums for labels up to `labels`."""
    room = labels + 1
    return PlaceSums(
        np.zeros(room, np.int64),
        np.zeros((room, 3), np.int64),
        np.zeros((room, 6), np.int64),
        np.full((room, 3), _FAR),
        np.full((room, 3), -1, np.int64),
        np.zeros(room, np.int64),
    )


def make_value_sums(labels: int) -> ValueSums:
    """Return empty sums for labels up to `labels`."""
    room = labels + 1
    return ValueSums(np.zeros(room), np.zeros(room), np.full(room, np.inf), np.full(room, -np.inf))


def _overwritten(new: NDArray[Any], old: NDArray[Any]) -> NDArray[Any]:
    """Return `new` with its beginning replaced by `old`."""
    new[: len(old)] = old
    return new


@compiled
def add_places(labels: NDArray[np.uint32], start: NDArray[np.int64], time: int, sums: PlaceSums) -> None:
    """Add the voxels of a block that begins at `start`, run by run along x."""
    depth, rows, columns = labels.shape
    for k in range(depth):
        z = start[0] + k
        for j in range(rows):
            y = start[1] + j
            end = 0
            while end < columns:
                begin, label = end, labels[k, j, end]
                end += 1
                while end < columns and labels[k, j, end] == label:
                    end += 1
                if label == 0:
                    continue
                count, low, high = end - begin, start[2] + begin, start[2] + end - 1
                along = count * (low + high) // 2
                sums.voxels[label] += count
                sums.time[label] = time
                first, second, least, most = sums.first[label], sums.second[label], sums.least[label], sums.most[label]
                first[0] += count * z
                first[1] += count * y
                first[2] += along
                second[0] += count * z * z
                second[1] += count * y * y
                second[2] += _squares(high) - _squares(low - 1)
                second[3] += count * z * y
                second[4] += z * along
                second[5] += y * along
                least[0], most[0] = min(least[0], z), max(most[0], z)
                least[1], most[1] = min(least[1], y), max(most[1], y)
                least[2], most[2] = min(least[2], low), max(most[2], high)


@compiled
def _squares(last: int) -> int:
    """Return 0² + 1² + … + last²."""
    return last * (last + 1) * (2 * last + 1) // 6


@compiled
def add_values(labels: NDArray[np.uint32], values: NDArray[Any], sums: ValueSums) -> None:
    """Add the values of a block's voxels in the order of memory."""
    flat, given = labels.reshape(-1), values.reshape(-1)
    place = 0
    while place < flat.size:
        label = flat[place]
        if label == 0:
            place += 1
            continue
        total, squares, least, most = sums.total[label], sums.squares[label], sums.least[label], sums.most[label]
        while place < flat.size and flat[place] == label:
            value = float(given[place])
            total += value
            squares += value * value
            least, most = min(least, value), max(most, value)
            place += 1
        sums.total[label], sums.squares[label], sums.least[label], sums.most[label] = total, squares, least, most


@cache
def cube_areas(spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return the area of the mesh in a cube of 8 voxels for each of the 256 ways to fill it; bit 4z + 2y + x."""
    from skimage.measure import marching_cubes, mesh_surface_area

    areas = np.zeros(256)
    for filling in range(1, 255):
        corners = ((filling >> np.arange(8)) & 1).reshape(2, 2, 2).astype(np.float32)
        corners_of_mesh, faces, _, _ = marching_cubes(corners, 0.5, spacing=spacing)
        areas[filling] = mesh_surface_area(corners_of_mesh, faces)
    return areas


@compiled
def add_surface(labels: NDArray[np.uint32], areas: NDArray[np.float64], surface: NDArray[np.float64]) -> None:
    """Add the surface in all cubes of 8 voxels of `labels` to `surface`, at each label's number."""
    depth, rows, columns = labels.shape
    corners = np.empty(8, np.uint32)
    for z in range(depth - 1):
        for y in range(rows - 1):
            for x in range(columns - 1):
                same = True
                for corner in range(8):
                    corners[corner] = labels[z + (corner >> 2), y + ((corner >> 1) & 1), x + (corner & 1)]
                    same = same and corners[corner] == corners[0]
                if same:
                    continue
                for corner in range(8):
                    label = corners[corner]
                    filling = 0
                    first = True
                    for other in range(8):
                        if corners[other] == label:
                            filling |= 1 << other
                            first = first and other >= corner
                    if label > 0 and first:
                        surface[label] += areas[filling]


_PERIMETERS = np.zeros(50)
"""Length of the outline at a pixel of an edge: at 1, + 2 for each neighbour of that edge by a side, + 10 by a corner
(Benkrid and Crookes 2000, as scikit-image)."""
_PERIMETERS[[5, 7, 15, 17, 25, 27]] = 1
_PERIMETERS[[21, 33]] = np.sqrt(2)
_PERIMETERS[[13, 23]] = (1 + np.sqrt(2)) / 2


@compiled
def add_perimeter(labels: NDArray[np.uint32], weights: NDArray[np.float64], perimeter: NDArray[np.float64]) -> None:
    """Add the perimeter in each slice, in pixels, at each label's number; 2 pixels around the slice do not count."""
    depth, rows, columns = labels.shape
    edge = np.zeros((rows, columns), np.bool_)
    for z in range(depth):
        plane = labels[z]
        for y in range(1, rows - 1):
            for x in range(1, columns - 1):
                label = plane[y, x]
                edge[y, x] = label > 0 and (
                    plane[y - 1, x] != label
                    or plane[y + 1, x] != label
                    or plane[y, x - 1] != label
                    or plane[y, x + 1] != label
                )
        for y in range(2, rows - 2):
            for x in range(2, columns - 2):
                if not edge[y, x]:
                    continue
                label = plane[y, x]
                kind = 1
                for down in (-1, 0, 1):
                    for right in (-1, 0, 1):
                        near = edge[y + down, x + right] and plane[y + down, x + right] == label
                        if near and (down != 0 or right != 0):
                            kind += 10 if down != 0 and right != 0 else 2
                perimeter[label] += weights[kind]


def measure_objects(
    labels: Stack,
    image: Stack | None = None,
    probability: ClassProbability | None = None,
    planes: ObjectPlanes = "volume",
) -> ObjectTable:
    """Return the measurements of all objects of a label image in memory; as `iter_measure`."""
    return run_to_end(iter_measure(labels, image, probability, planes))


def iter_measure(
    labels: Stack,
    image: Stack | None = None,
    probability: ClassProbability | None = None,
    planes: ObjectPlanes = "volume",
    largest: int = LARGEST_SLAB,
) -> Generator[Progress, None, ObjectTable]:
    """Yield slab by slab; return one row for each label above 0, also if its voxels are not connected.

    In a volume: volume, surface, three axes; of slices ("slices", or an image without Z): area, perimeter (where
    voxels are square), two axes. Positions are those of the centre, from the image's origin; bounding boxes are in
    voxels, the end not included. image: grey values to measure, channel by channel. probability: its mean is measured.
    largest: voxels of a slab; two slabs are in memory.

    Raises:
        InputError: labels that are no whole numbers, or an image of a different shape.
    """
    if labels.data.dtype.kind not in "bui":
        raise InputError(f"'{labels.name}' contains {labels.data.dtype} values: objects are whole numbers, 0 = none.")
    sources: list[SlabSource] = []
    if image is not None:
        _check_fits(labels, image)
        channels = range(image.length("C"))
        names = ["intensity"] if len(channels) == 1 else [f"channel {channel} intensity" for channel in channels]
        sources += [SlabSource(name, image, channel) for name, channel in zip(names, channels, strict=True)]
    if probability is not None:
        _check_fits(labels, probability.stack)
        sources.append(SlabSource("probability", probability, 0))
    flat = planes == "slices" or labels.length("Z") == 1
    sums = _Sums(make_place_sums(0), [make_value_sums(0) for _ in sources], np.zeros(1))
    slabs = plan_slabs(labels, largest)
    for done, slab in enumerate(iter_read_slabs(labels, sources, slabs), start=1):
        for piece in slab.pieces():
            sums = sums.grown(int(piece.around.max(initial=0)))
            sums.add(piece, labels, flat)
        yield Progress(done, len(slabs), "measuring")
    return _table(labels, sums, [source.name for source in sources], flat)


class _Sums(NamedTuple):
    """All that is added up."""

    places: PlaceSums
    values: list[ValueSums]
    outline: NDArray[np.float64]

    def grown(self, label: int) -> _Sums:
        """Return the sums with room for a label."""
        if label < len(self.outline):
            return self
        room = max(label, 2 * len(self.outline))  # doubled, so that it seldom grows
        outline = _overwritten(np.zeros(room + 1), self.outline)
        return _Sums(self.places.grown(room), [each.grown(room) for each in self.values], outline)

    def add(self, piece: SlabPiece, labels: Stack, flat: bool) -> None:
        """Add a piece of a slab. flat: outlines are perimeters in the plane, else surfaces."""
        (time, z, y), around = piece.slab, piece.around
        inside = np.ascontiguousarray(around[1:, AROUND:-AROUND, AROUND:-AROUND])
        add_places(inside, np.array([z.start, y.start, 0]), time, self.places)
        for given, known in zip(piece.values, self.values, strict=True):
            add_values(inside, given, known)
        if flat:
            add_perimeter(around[1:], _PERIMETERS, self.outline)
            return
        # The cubes that begin before a voxel of the slab; at the end of the image those behind it too.
        last_z, last_y = z.stop == labels.length("Z"), y.stop == labels.length("Y")
        deep = np.pad(around, ((0, 1), (0, 0), (0, 0))) if last_z else around
        cubes = deep[:, 1 : deep.shape[1] - (1 if last_y else AROUND), 1:-1]
        add_surface(cubes, cube_areas(labels.space.voxel_size), self.outline)


def _check_fits(labels: Stack, image: Stack) -> None:
    shapes = [tuple(stack.length(axis) for axis in "TZYX") for stack in (labels, image)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"'{image.name}' has {shapes[1]} voxels along T, Z, Y, X, the objects have {shapes[0]}: give their "
            "image, or save it with the names of its axes."
        )


def _table(labels: Stack, sums: _Sums, sources: list[str], flat: bool) -> ObjectTable:
    """Return the columns, from the sums of the labels that occur."""
    found = np.flatnonzero(sums.places.voxels)
    places = PlaceSums(*(column[found] for column in sums.places))
    sides, unit = labels.space.voxel_size, labels.space.unit
    columns: dict[str, NDArray[Any]] = {"label": found, "voxels": places.voxels}
    columns |= {"time": places.time} if "T" in labels.space.axes else {}
    if flat:
        columns[f"area ({unit}²)"] = places.voxels * sides[1] * sides[2]
        columns |= {f"perimeter ({unit})": sums.outline[found] * sides[2]} if sides[1] == sides[2] else {}
    else:
        columns[f"volume ({unit}³)"] = places.voxels * sides[0] * sides[1] * sides[2]
        columns[f"surface ({unit}²)"] = sums.outline[found]
    for axis, name in enumerate("zyx"):
        if name.upper() in labels.space.axes:
            middle = places.first[:, axis] / places.voxels
            columns[f"position {name} ({unit})"] = labels.space.origin[axis] + middle * sides[axis]
    for axis, name in enumerate("zyx"):
        if name.upper() in labels.space.axes:
            columns[f"bounding box {name} start"] = places.least[:, axis]
            columns[f"bounding box {name} end"] = places.most[:, axis] + 1
    columns |= _axes(places, sides, unit, flat)
    for name, values in zip(sources, sums.values, strict=True):
        total, squares, least, most = (column[found] for column in values)
        mean = total / places.voxels
        if name == "probability":
            columns["mean probability"] = mean
            continue
        columns[f"{name} mean"] = mean
        columns[f"{name} sd"] = np.sqrt(np.clip(squares / places.voxels - mean**2, 0, None))
        columns |= {f"{name} min": least, f"{name} max": most}
    return ObjectTable(tuple(columns), tuple(columns.values()))


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
