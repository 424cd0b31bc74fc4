"""Where results are written while a run goes on: memory, memory-mapped files for a viewer, or OME-Zarr."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.durable import write_durably
from napari_skipseg.errors import FileError
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.write_faults import telling_faults
from napari_skipseg.images.zarr_array import ZarrArray
from napari_skipseg.images.zarr_layout import OURS, Layout
from napari_skipseg.images.zarr_nodes import read_node
from napari_skipseg.images.zarr_writer import OmeZarrWriter, create_ome_zarr
from napari_skipseg.inference.grid import Grid, Region, Unit
from napari_skipseg.inference.outputs import Depth, to_uint8
from napari_skipseg.inference.plane_view import PlaneView
from napari_skipseg.inference.results import UNCERTAINTY, Piece, ResultArray


class Store(Protocol):
    """Takes the pieces of a run; they may come from another thread, one at a time."""

    def write(self, piece: Piece) -> None:
        """Write a piece.

        Raises:
            FileError: the disk is full or closed to us.
        """
        ...


class ArrayStore:
    """float32 arrays, in memory, or memory-mapped in files `<name>.npy` of a folder.

    Raises:
        FileError: there is no room for the files.
    """

    def __init__(self, results: tuple[ResultArray, ...], folder: Path | None = None) -> None:
        self.arrays = {result.name: _array(result.shape, folder, result.name) for result in results}

    def write(self, piece: Piece) -> None:
        """Write a piece."""
        self.arrays[piece.name][piece.region] = piece.values


def _array(shape: tuple[int, ...], folder: Path | None, name: str) -> NDArray[np.float32]:
    if folder is None:
        return np.zeros(shape, np.float32)
    file = folder / f"{name}.npy"
    try:
        mapped: NDArray[np.float32] = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
        _reserve(file)
    except OSError as error:
        raise FileError(
            f"There is no room for the results in {folder} ({error.strerror}): free some space, or segment less."
        ) from error
    return mapped


def _reserve(file: Path) -> None:
    """Take the file's space on the disk now: a memory map that finds the disk full later would kill the process."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


class ZarrStore:
    """OME-Zarr 0.5 stores `<prefix>_<name>.ome.zarr`; what is there already of the same layout is continued.

    open_writer: gives the writer of a store; `OmeZarrWriter` itself leaves one alone that others are writing to.

    Raises:
        FileError: something else is there, or nothing can be written.
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

    def write(self, piece: Piece) -> None:
        """Write a piece, which is whole chunks: each appears whole or not at all."""
        result = self._results[piece.name]
        values = to_uint8(piece.values) if _is_scaled(result, self._depth) else piece.values
        order = stored_order(result.axes)
        region = tuple(piece.region[axis] for axis in order)
        self.writers[piece.name].write(region, values.transpose(order))

    def holds(self, grid: Grid, unit: Unit) -> bool:
        """Return whether all that a unit gives is there, and no chunk of it is empty."""
        return all(self.writers[name].is_written(region) for name, region in self._regions(grid, unit))

    def is_sound(self, grid: Grid, unit: Unit) -> bool:
        """Return whether all that a unit gives is there and can be decoded."""
        return all(self.writers[name].is_sound(region) for name, region in self._regions(grid, unit))

    def files(self, grid: Grid, unit: Unit) -> list[Path]:
        """Return the files of all chunks that a unit gives."""
        return [file for name, region in self._regions(grid, unit) for file in self.writers[name].files(region)]

    def _regions(self, grid: Grid, unit: Unit) -> Iterator[tuple[str, Region]]:
        """Yield the region that a unit fills of each store, first of the probability, which is written last."""
        for name, result in reversed(self._results.items()):
            region = grid.region(unit, max(result.stride))
            whole = (slice(0, result.shape[0]), *region) if "C" in result.axes else region
            yield name, tuple(whole[axis] for axis in stored_order(result.axes))

    def take_unsynced(self) -> list[Path]:
        """Return the files that were written and that nobody took yet; they may not be on disk."""
        return [file for writer in self.writers.values() for file in writer.take_unsynced()]

    def sync(self) -> None:
        """Bring to disk what was written and what nobody took.

        Raises:
            FileError: the disk is at fault.
        """
        for writer in self.writers.values():
            writer.sync()

    def remove_damaged(self) -> int:
        """Return how many chunks could not be decoded; they are removed, to be written again.

        Raises:
            FileError: one cannot be removed.
        """
        return sum(writer.remove_damaged() for writer in self.writers.values())

    def plane_view(self, name: str) -> PlaneView:
        """Return the finest level of a result, its axes in the order of the result's own.

        Raises:
            FileError: it is damaged.
        """
        result, path = self._results[name], self.writers[name].path
        return PlaneView(ZarrArray(read_node(path / "0")), stored_order(result.axes), path.parent)


def tell_changes(path: Path, changes: Mapping[str, Any]) -> None:
    """Write into the recipe of the store at `path` what became otherwise in the run.

    Raises:
        FileError: nothing can be written, or there is no store of ours.
    """
    file = path / "zarr.json"
    with telling_faults(file):
        node = json.loads(file.read_bytes())
        node["attributes"][OURS]["recipe"].update(changes)
        write_durably(file, json.dumps(node, indent=2).encode())


def stored_order(axes: str) -> tuple[int, ...]:
    """Return which of `axes` comes where in OME-Zarr, whose order is T, C, Z, Y, X."""
    return tuple(sorted(range(len(axes)), key=lambda place: "TCZYX".index(axes[place])))


def stored_dtype(result: ResultArray, depth: Depth) -> str:
    """Return the type that a result is stored in."""
    return "uint8" if result.is_labels or _is_scaled(result, depth) else "float32"


def _is_scaled(result: ResultArray, depth: Depth) -> bool:
    """Return whether 0-255 are stored. An uncertainty never is: small ones would be rounded away."""
    return depth == "uint8" and not result.is_labels and result.name != UNCERTAINTY


def _layout(
    result: ResultArray, stack: Stack, facts: Mapping[str, Any], dtype: str, class_names: tuple[str, ...]
) -> Layout:
    order = stored_order(result.axes)
    size, origin = result.placed(stack)
    return Layout(
        tuple(result.shape[axis] for axis in order),
        "".join(result.axes[axis] for axis in order),
        dtype,
        size,
        stack.unit,
        origin,
        tuple(result.chunks[axis] for axis in order),
        "labels" if result.is_labels else "image",
        class_names if "C" in result.axes else None,
        {**facts, "layer": "labels"} if result.is_labels else facts,
    )
