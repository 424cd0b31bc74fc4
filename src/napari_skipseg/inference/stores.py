"""The stores for the results of a run: memory, memory-mapped files for a viewer, or OME-Zarr."""

from __future__ import annotations

import json
import math
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.durable import write_durably
from napari_skipseg.errors import FileError
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.images.formats import Depth
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import LazyArray, Stack
from napari_skipseg.images.views import CutArray
from napari_skipseg.images.zarr.array import ZarrArray
from napari_skipseg.images.zarr.layout import OURS, Layout
from napari_skipseg.images.zarr.metadata import read_node
from napari_skipseg.images.zarr.writer import OmeZarrWriter, create_ome_zarr
from napari_skipseg.inference.backends.interface import TileOutput
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.prediction import labels_of, to_uint8
from napari_skipseg.inference.tiling import TileGrid, TileRegion, TileUnit, keep_map_pixels, keep_pixels
from napari_skipseg.models.model import Model

PROBABILITY, BINARY, UNCERTAINTY = "probability", "binary", "uncertainty"
ATTENTION = "attention_"
"""Beginning of the names of attention maps; their level follows."""
LEAST_OF_TISSUE = np.float32(1 / 255)
"""Least probability of tissue in a run that leaves padding out: 1 in 8 bits, so that a stored 0 always means padding.
Cells lie where the probability of membrane is low, so nothing else tells padding from the inside of a cell."""


@dataclass(frozen=True)
class ResultArray:
    """One array of a run. axes: "C" first where it has classes, then those of the grid. stride: per axis of the grid.

    chunks: their shape; each unit writes whole ones. level: of an attention map, else 0. first: the voxel of the stack
    at which it begins, along the axes of the grid. crop: the part of it that was asked for, () = all of it.
    """

    name: str
    axes: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    chunks: tuple[int, ...]
    level: int = 0
    first: tuple[int, ...] = ()
    crop: tuple[slice, ...] = ()

    @property
    def is_labels(self) -> bool:
        """Whether its values are labels, not shares of 1."""
        return self.name == BINARY

    @property
    def begin(self) -> tuple[int, ...]:
        """The voxel of the stack at which its crop begins, along the axes of the grid."""
        count = len(self.stride)
        first, crop = self.first or (0,) * count, self.crop[-count:] or (slice(0, 0),) * count
        return tuple(place + side.start * step for place, side, step in zip(first, crop, self.stride, strict=True))

    def space_in(self, stack: Stack) -> Space:
        """Return its space, that of its crop if there is one: exactly over `stack`."""
        axes = self.axes.replace("C", "")
        begin, steps = (dict(zip(axes, each, strict=True)) for each in (self.begin, self.stride))
        return stack.space.with_axes(self.axes).shifted(begin).scaled(steps)


class ResultPiece(NamedTuple):
    """The part of an array from one unit: `values` for its `region`."""

    name: str
    region: TileRegion
    values: NDArray[Any]


def result_names(model: Model, options: SegmentOptions) -> list[str]:
    """Return the names of the arrays for the options, in the order of reports."""
    averaged = options.samples or options.average > 1 or options.planes != "xy"
    levels = len(model.description.spec.attention_strides) if options.attention and options.planes == "xy" else 0
    attentions = [f"{ATTENTION}{level}" for level in range(1, levels + 1)]
    return [PROBABILITY, BINARY, *([UNCERTAINTY] if averaged else []), *attentions]


def result_arrays_of(
    grid: TileGrid, model: Model, options: SegmentOptions, with_binary: bool
) -> tuple[ResultArray, ...]:
    """Return the arrays with the probability last: once it is written, all are. The viewer makes its own binary."""
    names = [name for name in result_names(model, options) if with_binary or name != BINARY]
    return tuple(_result(name, grid, model) for name in sorted(names, key=lambda name: name == PROBABILITY))


def _result(name: str, grid: TileGrid, model: Model) -> ResultArray:
    level = int(name.removeprefix(ATTENTION)) if name.startswith(ATTENTION) else 0
    stride = model.description.spec.attention_strides[level - 1] if level else 1
    steps = tuple(stride if axis in grid.seen else 1 for axis in grid.axes)
    classes = len(model.description.class_names)
    shape, chunks = grid.shape_of_level(stride), grid.chunks(stride)
    crop = grid.crop(stride) if grid.box else ()
    if classes == 1 or name not in (PROBABILITY, UNCERTAINTY):
        return ResultArray(name, grid.axes, shape, steps, chunks, level, grid.start, crop)
    crop = (slice(0, classes), *crop) if crop else ()
    return ResultArray(name, f"C{grid.axes}", (classes, *shape), steps, (1, *chunks), level, grid.start, crop)


def in_stored_order(results: tuple[ResultArray, ...]) -> list[ResultArray]:
    """Return the arrays in the order of reports: probability, binary, uncertainty, attention maps."""
    ranks = {PROBABILITY: 0, BINARY: 1, UNCERTAINTY: 2}
    return sorted(results, key=lambda result: (ranks.get(result.name, 3), result.level))


def result_pieces(
    results: tuple[ResultArray, ...],
    grid: TileGrid,
    unit: TileUnit,
    output: TileOutput,
    number: int,
    thresholds: tuple[float, ...],
    padding: NDArray[np.bool_] | None = None,
    outside: NDArray[np.bool_] | None = None,
) -> Iterator[ResultPiece]:
    """Yield the part of each array from `unit`, image `number` of the batch with this `output`, in their order.

    padding: (*space) of the kept part: certain background, without tissue. None in a run that does not leave padding
    out. outside: (*space) of the kept part: outside of the mask of the run, None in a run without a mask. There all
    results are 0.
    """
    if outside is not None:
        padding = outside if padding is None else padding | outside
    probability = keep_pixels(grid, unit, output.probability[number])
    probability = probability if padding is None else _emptied(np.maximum(probability, LEAST_OF_TISSUE), padding)
    values: NDArray[Any]
    for result in results:
        if result.name == PROBABILITY:
            values = probability
        elif result.name == BINARY:
            values = labels_of(probability, thresholds)[None]
        elif result.name == UNCERTAINTY:
            if output.uncertainty is None:
                raise ValueError("these passes have no uncertainty")
            values = _emptied(keep_pixels(grid, unit, output.uncertainty[number]), padding)
        else:
            stride = result.stride[-1]
            values = keep_map_pixels(grid, unit, output.attentions[result.level - 1][number], stride)[None]
            values = _emptied(values, None if outside is None else _all_outside(outside, stride))
        yield _piece(result, grid, unit, values)


def _emptied(values: NDArray[np.float32], padding: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Return `values` (C, *space) with 0 where padding is."""
    return values if padding is None else np.where(padding, np.float32(0), values)


def _all_outside(outside: NDArray[np.bool_], stride: int) -> NDArray[np.bool_]:
    """Return which pixels of a map with one pixel per `stride` voxels lie outside of a mask with all their voxels.

    A kept part begins on a pixel of the map.
    """
    for axis, length in enumerate(outside.shape):
        outside = np.logical_and.reduceat(outside, range(0, length, stride), axis)
    return outside


def _piece(result: ResultArray, grid: TileGrid, unit: TileUnit, values: NDArray[Any]) -> ResultPiece:
    """Return `values` (C, *space) with every axis of the array, and their region in it."""
    region = grid.region(unit, max(result.stride))
    lengths = tuple(part.stop - part.start for part in region)
    if "C" not in result.axes:
        return ResultPiece(result.name, region, values[0].reshape(lengths))
    return ResultPiece(result.name, (slice(0, len(values)), *region), values.reshape(len(values), *lengths))


RESULTS_IN_MEMORY = 256 * 2**20
"""Most bytes of a slab in memory; a larger one is in a file."""

StoreIndex = tuple[int | slice, ...]


class PlaneView(LazyArray):
    """A stored array with its axes in a different order; the last two axes are its planes.

    Its axis i is axis `order.index(i)` of the stored array. A slab of planes, as many as a chunk is high, is kept. So
    reading plane after plane, whole or in parts, decodes each chunk once, in the memory of a slab. If that is more than
    256 MiB, the slab is written row by row of chunks to an unnamed file in `folder`, which ends with this process.

    Raises:
        FileError: (on reading) a chunk is damaged, or there is no space for a slab.
    """

    def __init__(self, data: ZarrArray, order: tuple[int, ...], folder: Path) -> None:
        self._data, self._order, self._folder = data, order, folder
        self.shape = tuple(data.shape[order.index(axis)] for axis in range(len(order)))
        self.dtype = data.dtype
        self._in_slabs = math.prod(data.chunks[:-2]) > 1 and order[-2:] == (len(order) - 2, len(order) - 1)
        self._slab: NDArray[Any] | _SlabFile | None = None
        self._place: tuple[int, ...] = ()

    def _read(self, index: StoreIndex) -> Any:
        stored = tuple(index[axis] for axis in self._order)
        lead = tuple(part for part in stored[:-2] if isinstance(part, int))
        if self._in_slabs and len(lead) == len(stored) - 2:
            place = tuple(part // height * height for part, height in zip(lead, self._data.chunks, strict=False))
            inside = tuple(part - first for part, first in zip(lead, place, strict=True))
            return self._slab_at(place)[(*inside, stored[-2])][..., stored[-1]]
        values = self._data[stored]
        kept = [axis for axis in self._order if isinstance(index[axis], slice)]
        return values.transpose(np.argsort(kept)) if kept else values[()]

    def _slab_at(self, place: tuple[int, ...]) -> NDArray[Any] | _SlabFile:
        """Return all chunks with the plane at `place`."""
        if self._slab is None or self._place != place:
            self._slab = None  # before the next one takes memory
            sides = zip(place, self._data.chunks, self._data.shape, strict=False)
            region = tuple(slice(first, min(first + height, length)) for first, height, length in sides)
            counts = tuple(part.stop - part.start for part in region)
            size = math.prod((*counts, *self._data.shape[-2:])) * self.dtype.itemsize
            self._slab = (
                self._data[region] if size <= RESULTS_IN_MEMORY else _SlabFile(self._data, region, counts, self._folder)
            )
            self._place = place
        return self._slab


class _SlabFile:
    """The planes of a region, one after the other in a file."""

    def __init__(self, data: ZarrArray, region: tuple[slice, ...], counts: tuple[int, ...], folder: Path) -> None:
        self._counts, self._dtype = counts, data.dtype
        self._height, self._width = data.shape[-2:]
        with file_errors_as(folder / "slab"):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            weakref.finalize(self, self._file.close)
            for top in range(0, self._height, data.chunks[-2]):
                rows = data[(*region, slice(top, min(top + data.chunks[-2], self._height)))]
                for number, part in enumerate(rows.reshape(-1, *rows.shape[-2:])):
                    self._find(number, top)
                    self._file.write(np.ascontiguousarray(part).data)
            self._file.flush()

    def _find(self, plane: int, row: int) -> None:
        self._file.seek((plane * self._height + row) * self._width * self._dtype.itemsize)

    def __getitem__(self, key: StoreIndex) -> NDArray[Any]:
        """Return rows of one plane. key: the place of the plane, then the rows."""
        place, y = key[:-1], key[-1]
        wanted = range(self._height)[y] if isinstance(y, slice) else range(y, y + 1)
        low = min(wanted, default=0)
        found = np.empty((max(wanted, default=-1) + 1 - low, self._width), self._dtype)
        self._find(int(np.ravel_multi_index(cast(Any, place), self._counts)), low)
        self._file.readinto(found.data)
        rows: NDArray[Any] = found[[row - low for row in wanted]] if wanted.step != 1 else found
        return rows if isinstance(y, slice) else rows[0]


def within_crop(region: TileRegion, crop: tuple[slice, ...]) -> TileRegion:
    """Return the part of a region that lies in a crop, counted from the crop's first voxel."""
    found = []
    for part, cut in zip(region, crop, strict=True):
        low = min(max(part.start, cut.start), cut.stop) - cut.start
        found.append(slice(low, max(low, min(part.stop, cut.stop) - cut.start)))
    return tuple(found)


class Store(Protocol):
    """Writes the pieces of a run. They may come from several threads at once; no two have the same voxels."""

    def write(self, piece: ResultPiece) -> None:
        """Write a piece.

        Raises:
            FileError: the disk is full, or there is no permission.
        """
        ...


class ArrayStore:
    """float32 arrays, in memory, or memory-mapped in files `<name>.npy` of a folder.

    Raises:
        FileError: there is no space for the files.
    """

    def __init__(self, results: tuple[ResultArray, ...], folder: Path | None = None) -> None:
        self._crops = {result.name: result.crop for result in results}
        self.arrays = {
            result.name: _array(
                tuple(side.stop - side.start for side in result.crop) or result.shape, folder, result.name
            )
            for result in results
        }

    def write(self, piece: ResultPiece) -> None:
        """Write a piece, or what of it lies in the crop."""
        crop = self._crops[piece.name]
        if not crop:
            self.arrays[piece.name][piece.region] = piece.values
            return
        inside = within_crop(piece.region, crop)
        own = tuple(
            slice(side.start + cut.start - part.start, side.stop + cut.start - part.start)
            for side, cut, part in zip(inside, crop, piece.region, strict=True)
        )
        self.arrays[piece.name][inside] = piece.values[own]


def _array(shape: tuple[int, ...], folder: Path | None, name: str) -> NDArray[np.float32]:
    if folder is None:
        return np.zeros(shape, np.float32)
    file = folder / f"{name}.npy"
    try:
        mapped: NDArray[np.float32] = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
        if hasattr(os, "posix_fallocate"):  # writing to a memory map on a full disk would kill the process
            with file.open("r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
    except OSError as error:
        raise FileError(
            f"There is no space for the results in {folder} ({error.strerror}): free some space, or segment less."
        ) from error
    return mapped


class ZarrStore:
    """OME-Zarr 0.5 stores `<prefix>_<name>.ome.zarr`; existing ones of the same layout are continued.

    open_writer: opens the writer of a store; `OmeZarrWriter` itself is for stores that other processes have created.

    Raises:
        FileError: there is something different, or nothing can be written.
    """

    def __init__(
        self, results: tuple[ResultArray, ...], prefix: Path, stack: Stack, facts: Mapping[str, Any], depth: Depth,
        class_names: tuple[str, ...], open_writer: Callable[[Path, Layout], OmeZarrWriter] = create_ome_zarr,
    ) -> None:  # fmt: skip
        self._results = {result.name: result for result in results}
        self._depth = depth
        self.writers: dict[str, OmeZarrWriter] = {}
        for result in results:
            layout = _layout(result, stack, facts, stored_dtype(result, depth), class_names)
            self.writers[result.name] = open_writer(prefix.with_name(f"{prefix.name}_{result.name}.ome.zarr"), layout)

    def write(self, piece: ResultPiece) -> None:
        """Write a piece, which is whole chunks: each appears whole or not at all."""
        result = self._results[piece.name]
        values = to_uint8(piece.values) if _is_scaled(result, self._depth) else piece.values
        order = stored_order(result.axes)
        region = tuple(piece.region[axis] for axis in order)
        self.writers[piece.name].write(region, values.transpose(order))

    def is_complete(self, grid: TileGrid, unit: TileUnit) -> bool:
        """Return whether all chunks of a unit exist, and none is empty."""
        return all(self.writers[name].is_written(region) for name, region in self._regions(grid, unit))

    def is_sound(self, grid: TileGrid, unit: TileUnit) -> bool:
        """Return whether all chunks of a unit exist and can be decoded."""
        return all(self.writers[name].is_sound(region) for name, region in self._regions(grid, unit))

    def files(self, grid: TileGrid, unit: TileUnit) -> list[Path]:
        """Return the files of all chunks of a unit."""
        return [file for name, region in self._regions(grid, unit) for file in self.writers[name].files(region)]

    def leave_out(self, grid: TileGrid, unit: TileUnit) -> None:
        """Say that a unit was written before: its part of the pyramids is made at the end, from what is on disk.

        Raises:
            FileError: a chunk made from it cannot be removed.
        """
        for name, region in self._regions(grid, unit):
            self.writers[name].leave_out(region)

    def _regions(self, grid: TileGrid, unit: TileUnit) -> Iterator[tuple[str, TileRegion]]:
        """Yield each store's region of a unit; the probability, which is written last, comes first."""
        for name, result in reversed(self._results.items()):
            yield name, stored_region(result, grid, unit)

    def take_unsynced(self) -> list[Path]:
        """Return the files written since the last call; they may not be on disk."""
        return [file for writer in self.writers.values() for file in writer.take_unsynced()]

    def sync(self) -> None:
        """Bring to disk the written files that `take_unsynced` has not returned.

        Raises:
            FileError: the disk failed.
        """
        for writer in self.writers.values():
            writer.sync()

    def remove_damaged(self) -> int:
        """Remove the chunks that cannot be decoded, to be written again, and return their number.

        Raises:
            FileError: one cannot be removed.
        """
        return sum(writer.remove_damaged() for writer in self.writers.values())

    def plane_view(self, name: str) -> LazyArray:
        """Return the finest level of a result, its axes in the order of the result's own, and only its crop.

        Raises:
            FileError: it is damaged.
        """
        result, path = self._results[name], self.writers[name].path
        view = PlaneView(ZarrArray(read_node(path / "0")), stored_order(result.axes), path.parent)
        return CutArray(view, dict(enumerate(result.crop))) if result.crop else view


def describe_conversion(path: Path, changes: Mapping[str, Any]) -> None:
    """Write the changes during the run into the recipe of the store at `path`.

    Raises:
        FileError: nothing can be written, or there is no store of ours.
    """
    file = path / "zarr.json"
    with file_errors_as(file):
        node = json.loads(file.read_bytes())
        node["attributes"][OURS]["recipe"].update(changes)
        write_durably(file, json.dumps(node, indent=2).encode())


def stored_region(result: ResultArray, grid: TileGrid, unit: TileUnit) -> TileRegion:
    """Return the part of a stored result that a unit writes."""
    region = grid.region(unit, max(result.stride))
    whole = (slice(0, result.shape[0]), *region) if "C" in result.axes else region
    return tuple(whole[axis] for axis in stored_order(result.axes))


def stored_order(axes: str) -> tuple[int, ...]:
    """Return the numbers of `axes` in the order of OME-Zarr: T, C, Z, Y, X."""
    return tuple(sorted(range(len(axes)), key=lambda place: "TCZYX".index(axes[place])))


def stored_dtype(result: ResultArray, depth: Depth) -> str:
    """Return the type of a stored result."""
    return "uint8" if result.is_labels or _is_scaled(result, depth) else "float32"


def _is_scaled(result: ResultArray, depth: Depth) -> bool:
    """Return whether a result is stored as 0-255. An uncertainty is not: small values would be rounded to 0."""
    return depth == "uint8" and not result.is_labels and result.name != UNCERTAINTY


def _layout(
    result: ResultArray, stack: Stack, facts: Mapping[str, Any], dtype: str, class_names: tuple[str, ...]
) -> Layout:
    order = stored_order(result.axes)
    return Layout(
        tuple(result.shape[axis] for axis in order),
        result.space_in(stack).with_axes("".join(result.axes[axis] for axis in order)),
        dtype,
        tuple(result.chunks[axis] for axis in order),
        "labels" if result.is_labels else "image",
        class_names if "C" in result.axes else None,
        {**facts, "layer": "labels"} if result.is_labels else facts,
    )
