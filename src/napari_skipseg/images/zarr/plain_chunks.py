"""Chunks of plain arrays, read without the machinery of zarr, which takes several times as long as decoding them.

Plain is an array without shards and filters, in C order, whose chunks are uncompressed, or compressed by zstd, Blosc or
gzip: nearly all that are written. zarr itself reads all others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.blosc import Blosc
from numcodecs.gzip import GZip
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from napari_skipseg.images.zarr.keys import KeyForm
from napari_skipseg.images.zarr.metadata import Node

BLOSC_HEADER = 16
"""Bytes of the header of a Blosc block; its last four are the length of the block, the least byte first."""
_CODECS: dict[str, Any] = {"zstd": Zstd(), "blosc": Blosc(), "gzip": GZip()}


class PlainChunks:
    """The chunks of an array of `shape` that is stored as `stored`. codec: its name, "" for none.

    fill: the value of missing chunks. forms: of the names of files, tried one after the other.
    """

    def __init__(
        self, folder: Path, chunks: tuple[int, ...], stored: np.dtype[Any], codec: str, fill: Any,
        forms: Sequence[KeyForm],
    ) -> None:  # fmt: skip
        self._folder, self._chunks, self._stored = folder, chunks, stored
        self._name, self._codec, self._fill, self._forms = codec, _CODECS.get(codec), fill, forms

    def read(self, place: tuple[int, ...]) -> NDArray[Any]:
        """Return the whole chunk at `place`, also where it reaches beyond the array.

        Raises:
            Exception: the chunk is damaged or cut short, or cannot be read.
        """
        content = self._content(place)
        if content is None:
            return np.full(self._chunks, 0 if self._fill is None else self._fill, self._stored)
        if not content or (self._name == "blosc" and len(content) < blosc_length(content)):
            raise ValueError(f"the chunk {place} is cut short")
        decoded = content if self._codec is None else self._codec.decode(content)
        return np.frombuffer(decoded, self._stored).reshape(self._chunks)

    def stamp(self, place: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return what changes with the file of the chunk at `place`, None if it has none."""
        for form in self._forms:
            try:
                found = os.stat(f"{self._folder}/{form.key(place)}")  # noqa: PTH116  # a third of the time of a Path
            except OSError:
                continue
            return found.st_mtime_ns, found.st_size, found.st_ino
        return None

    def _content(self, place: tuple[int, ...]) -> bytes | None:
        for form in self._forms:
            try:
                return (self._folder / form.key(place)).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                continue
        return None


def blosc_length(block: bytes) -> int:
    """Return the length that a Blosc block says it has. Blosc does not check it, and reads memory after its end."""
    return max(BLOSC_HEADER, int.from_bytes(block[BLOSC_HEADER - 4 : BLOSC_HEADER], "little"))


def plain_chunks(node: Node, array: Any, forms: Sequence[KeyForm]) -> PlainChunks | None:
    """Return the chunks of the zarr `array` of a node if they are plain, else None."""
    metadata = node.array or {}
    found = _of_version_3(metadata) if metadata.get("zarr_format") == 3 else _of_version_2(metadata)
    if found is None or array.shards:
        return None
    codec, order = found
    stored = np.dtype(array.dtype).newbyteorder(order) if order else np.dtype(array.dtype)
    if stored.kind not in "buif":
        return None
    return PlainChunks(node.path, tuple(map(int, array.chunks)), stored, codec, array.fill_value, forms)


def _of_version_3(metadata: dict[str, Any]) -> tuple[str, str] | None:
    """Return the name of the codec ("" for none) and the byte order; None if the chunks are not plain."""
    codecs = metadata.get("codecs")
    if not isinstance(codecs, list) or not 1 <= len(codecs) <= 2 or metadata.get("storage_transformers"):
        return None
    names = [codec.get("name") if isinstance(codec, dict) else codec for codec in codecs]
    grid = metadata.get("chunk_grid")
    if names[0] != "bytes" or (names[1:] and names[1] not in _CODECS):
        return None
    if not isinstance(grid, dict) or grid.get("name") != "regular":
        return None
    settings = codecs[0].get("configuration") if isinstance(codecs[0], dict) else None
    endian = settings.get("endian") if isinstance(settings, dict) else None
    return str(names[1]) if names[1:] else "", ">" if endian == "big" else "<"


def _of_version_2(metadata: dict[str, Any]) -> tuple[str, str] | None:
    """Return the same for zarr 2, whose byte order is in the type itself."""
    compressor = metadata.get("compressor")
    name = compressor.get("id") if isinstance(compressor, dict) else ""
    if metadata.get("filters") or metadata.get("order", "C") != "C" or (name and name not in _CODECS):
        return None
    if compressor is not None and not name:
        return None
    order = str(metadata.get("dtype", ""))[:1]
    return str(name), order if order in "<>" else ""
