"""The chunk files of a sparse array: an OME-Zarr 0.5 with one level, whose files are whole or not there.

zarr itself renames a chunk that is not synced yet: after a power cut the file could be empty. Therefore this module
writes the files itself, exactly as zarr 3 would: bytes, compressed by zstd with a checksum.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from napari_skipseg.corrections.sparse_array import ChunkNumber, chunk_shape
from napari_skipseg.durable import is_draft, make_folders, sync_folder, write_durably, write_whole
from napari_skipseg.errors import FileError
from napari_skipseg.images.space import Space
from napari_skipseg.images.zarr.layout import ZARR_UNITS

ARRAY = "0"
"""Name of the array in its group."""

_CODEC: Any = Zstd(level=1, checksum=True)
_CHUNKS = "c"


class CorrectionChunkFiles:
    """The store at `path`, a folder with the ending .zarr."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path, self._shape, self._chunks = path, shape, chunk_shape(shape)

    def create(self, space: Space, attributes: Mapping[str, Any] | None = None) -> None:
        """Write the metadata if they are missing or different; existing chunks stay.

        space: where the array lies. attributes: of the group, besides its OME metadata.

        Raises:
            OSError: the metadata cannot be written.
        """
        make_folders(self.path / ARRAY)
        group = _group_metadata(space, attributes or {})
        for file, node in (
            (self.path / ARRAY / "zarr.json", _array_metadata(self._shape, space.axes)),
            (self.path / "zarr.json", group),
        ):
            content = json.dumps(node, indent=1).encode()
            if not file.is_file() or file.read_bytes() != content:
                write_durably(file, content)

    def chunk_numbers(self) -> Iterator[ChunkNumber]:
        """Yield the numbers of the chunks that have a file."""
        yield from _walk(self.path / ARRAY / _CHUNKS, len(self._chunks), ())

    def is_empty(self) -> bool:
        """Return whether no chunk has a file."""
        return next(self.chunk_numbers(), None) is None

    def remove_partial(self) -> None:
        """Remove the half-written files of a killed process; no other process may be writing now.

        Raises:
            OSError: a file cannot be removed.
        """
        for file in self.path.rglob(".*"):
            if is_draft(file.name):
                file.unlink()

    def read(self, number: ChunkNumber) -> NDArray[np.uint8]:
        """Return a chunk that has a file.

        Raises:
            FileError: the file is damaged.
        """
        file = self._file(number)
        try:
            values = np.frombuffer(_CODEC.decode(file.read_bytes()), np.uint8).reshape(self._chunks)
        except (OSError, RuntimeError, ValueError) as error:
            raise FileError(
                f"The corrections in '{file}' are damaged and cannot be read: check the disk; if you remove this file, "
                "all others stay."
            ) from error
        return values.copy()

    def write(self, number: ChunkNumber, values: NDArray[np.uint8]) -> None:
        """Write a chunk; the file of a chunk of zeros is removed. Only `sync` makes that survive a power cut.

        Raises:
            OSError: the chunk cannot be written; its file is unchanged.
        """
        file = self._file(number)
        if values.any():
            make_folders(file.parent)
            write_whole(file, _CODEC.encode(np.ascontiguousarray(values)), synced=True)
        else:
            file.unlink(missing_ok=True)

    def sync(self, places: Iterable[ChunkNumber]) -> None:
        """Sync the folders of these chunks to disk.

        Raises:
            OSError: the disk has a fault.
        """
        for folder in {self._file(number).parent for number in places}:
            sync_folder(folder)

    def write_new(self, number: ChunkNumber, values: NDArray[np.uint8]) -> None:
        """Write a chunk of a new store without a sync; the caller syncs the whole store at the end.

        Raises:
            OSError: the chunk cannot be written.
        """
        file = self._file(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_CODEC.encode(np.ascontiguousarray(values)))

    def _file(self, number: ChunkNumber) -> Path:
        return self.path.joinpath(ARRAY, _CHUNKS, *map(str, number))


def _walk(folder: Path, depth: int, above: ChunkNumber) -> Iterator[ChunkNumber]:
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    for entry in inside:
        if entry.name.isdigit() and depth > 1:
            yield from _walk(Path(entry.path), depth - 1, (*above, int(entry.name)))
        elif entry.name.isdigit():
            yield (*above, int(entry.name))


def _array_metadata(shape: tuple[int, ...], axes: str) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape(shape))}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [
            {"name": "bytes"},
            {"name": "zstd", "configuration": {"level": 1, "checksum": True}},
        ],
        "attributes": {},
        "dimension_names": list(axes.lower()),
    }


def _group_metadata(space: Space, attributes: Mapping[str, Any]) -> dict[str, Any]:
    axes = [{"name": axis.lower(), "type": "time" if axis == "T" else "space"} for axis in space.axes]
    for axis in axes:
        if axis["type"] == "space" and space.unit in ZARR_UNITS:
            axis["unit"] = ZARR_UNITS[space.unit]
    multiscale = {
        "name": "corrections",
        "axes": axes,
        "datasets": [
            {
                "path": ARRAY,
                "coordinateTransformations": [
                    {"type": "scale", "scale": [space.size_along(axis) for axis in space.axes]},
                    {"type": "translation", "translation": [space.origin_along(axis) for axis in space.axes]},
                ],
            }
        ],
    }
    ome = {"version": "0.5", "multiscales": [multiscale], "image-label": {}}
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome, **attributes}}
