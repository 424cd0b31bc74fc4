"""The chunks of a sparse array as an OME-Zarr 0.5 of one level, each in a file that is whole or not there.

zarr itself renames a chunk that is not on disk yet: after a power cut the file could be empty. So the files are written
here, and are what zarr 3 would write: bytes, compressed by zstd with a checksum.
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

    def create(self, space: Space, told: Mapping[str, Any] | None = None) -> None:
        """Write the metadata, where they are missing or others; chunks that are there stay.

        space: where the array lies. told: attributes of the group besides its OME metadata.

        Raises:
            OSError: nothing can be written.
        """
        make_folders(self.path / ARRAY)
        group = _group(space, told or {})
        for file, node in (
            (self.path / ARRAY / "zarr.json", _array(self._shape, space.axes)),
            (self.path / "zarr.json", group),
        ):
            content = json.dumps(node, indent=1).encode()
            if not file.is_file() or file.read_bytes() != content:
                write_durably(file, content)

    def places(self) -> Iterator[ChunkNumber]:
        """Yield the chunks that have a file."""
        yield from _walk(self.path / ARRAY / _CHUNKS, len(self._chunks), ())

    def is_empty(self) -> bool:
        """Return whether no chunk has a file."""
        return next(self.places(), None) is None

    def remove_partial(self) -> None:
        """Remove what a killed process left of files that it was writing; nobody must be writing now.

        Raises:
            OSError: one cannot be removed.
        """
        for file in self.path.rglob(".*"):
            if is_draft(file.name):
                file.unlink()

    def read(self, place: ChunkNumber) -> NDArray[np.uint8]:
        """Return a chunk, which has a file.

        Raises:
            FileError: it is damaged.
        """
        file = self._file(place)
        try:
            values = np.frombuffer(_CODEC.decode(file.read_bytes()), np.uint8).reshape(self._chunks)
        except (OSError, RuntimeError, ValueError) as error:
            raise FileError(
                f"The corrections in '{file}' are damaged and cannot be read: check the disk; if you remove this file, "
                "all others stay."
            ) from error
        return values.copy()

    def write(self, place: ChunkNumber, values: NDArray[np.uint8]) -> None:
        """Write a chunk; one of zeros has no file. After a power cut it may be as before, until `sync`.

        Raises:
            OSError: it cannot be written; its file is as it was before.
        """
        file = self._file(place)
        if values.any():
            make_folders(file.parent)
            write_whole(file, _CODEC.encode(np.ascontiguousarray(values)), synced=True)
        else:
            file.unlink(missing_ok=True)

    def sync(self, places: Iterable[ChunkNumber]) -> None:
        """Bring to disk which of these chunks have a file.

        Raises:
            OSError: the disk is at fault.
        """
        for folder in {self._file(place).parent for place in places}:
            sync_folder(folder)

    def write_new(self, place: ChunkNumber, values: NDArray[np.uint8]) -> None:
        """Write a chunk of a store that nobody reads yet, and that is of no use after a power cut.

        Raises:
            OSError: it cannot be written.
        """
        file = self._file(place)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_CODEC.encode(np.ascontiguousarray(values)))

    def _file(self, place: ChunkNumber) -> Path:
        return self.path.joinpath(ARRAY, _CHUNKS, *map(str, place))


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


def _array(shape: tuple[int, ...], axes: str) -> dict[str, Any]:
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


def _group(space: Space, told: Mapping[str, Any]) -> dict[str, Any]:
    multiscale = {
        "name": "corrections",
        "axes": [_axis(axis, space.unit) for axis in space.axes],
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
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome, **told}}


def _axis(axis: str, unit: str) -> dict[str, str]:
    told = {"name": axis.lower(), "type": "time" if axis == "T" else "space"}
    return told | {"unit": ZARR_UNITS[unit]} if axis in "ZYX" and unit in ZARR_UNITS else told
