"""The chunks of a zarr array as files: their names, those in its metadata or the real ones, and how they are read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.blosc import Blosc
from numcodecs.gzip import GZip
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from napari_skipseg.errors import FileError
from napari_skipseg.images.faults import read_errors_as_sentences
from napari_skipseg.images.zarr.metadata import Node

MOST_ENTRIES = 20_000
"""Most entries of a folder that are read to find chunks."""

_NUMBERS = re.compile(r"(?:c[./])?(\d+(?:[./]\d+)*)")


@dataclass(frozen=True)
class KeyForm:
    """A form of chunk names: c/0/1, c.0.1, 0/1 or 0.1. prefix: "c" or "". separator: "/" or "."."""

    prefix: str
    separator: str

    def key(self, numbers: Sequence[int | str]) -> str:
        """Return the name of the chunk with such a number along each axis."""
        parts = [str(number) for number in numbers]
        return self.separator.join([self.prefix, *parts] if self.prefix else parts)

    def rename(self, key: str) -> str:
        """Return the name of a chunk in this form, from its name `key` in any form."""
        found = _NUMBERS.fullmatch(key)
        return key if found is None else self.key(re.split(r"[./]", found[1]))


FORMS = tuple(KeyForm(prefix, separator) for prefix in ("c", "") for separator in "/.")
"""All forms of names that zarr 2 and 3 know."""


@dataclass(frozen=True)
class ChunkPlaces:
    """The form of chunk names in the metadata, other forms in use, and a note on these for the user, "" = none."""

    named: KeyForm
    others: tuple[KeyForm, ...] = ()
    note: str = ""


def find_chunks(node: Node, dimensions: int) -> ChunkPlaces:
    """Return the forms of the chunk names of an array.

    Old programs wrote nested chunks (0/0/0) without an entry in `.zarray`, which means 0.0.0 by default; their images
    would be read as zeros.

    Raises:
        FileError: there are files of chunks, but none has a name of any form.
    """
    named = _named_form(node)
    if dimensions == 0:
        return ChunkPlaces(named)
    with read_errors_as_sentences(node.path, "The folder of"):
        found = [form for form in FORMS if _holds(node.path, form, dimensions)]
        others = tuple(form for form in found if form != named and (dimensions > 1 or form.prefix != named.prefix))
        if others:
            return ChunkPlaces(
                named,
                others,
                f"The chunks of the image are named like {others[0].key('0' * dimensions)}, and not as in its metadata "
                f"({named.key('0' * dimensions)}): they were read where they are.",
            )
        if named in found:
            return ChunkPlaces(named)
        stray = next(_stray_chunks(node.path), None)
    if stray is not None:
        raise FileError(
            f"The chunks of '{node.path}' are not where its metadata say ('{named.key('0' * dimensions)}' and so on, "
            f"but there is '{stray}'): export it again."
        )
    return ChunkPlaces(named, note="The image has no chunks: all its voxels have the fill value of its metadata.")


def _named_form(node: Node) -> KeyForm:
    metadata = node.array or {}
    if metadata.get("zarr_format") != 3:
        return KeyForm("", "/" if metadata.get("dimension_separator") == "/" else ".")
    encoding = metadata.get("chunk_key_encoding")
    name, options = (encoding.get("name"), encoding.get("configuration")) if isinstance(encoding, dict) else ("", None)
    separator = options.get("separator") if isinstance(options, dict) else None
    if name == "v2":
        return KeyForm("", "/" if separator == "/" else ".")
    return KeyForm("c", "." if separator == "." else "/")


def _holds(folder: Path, form: KeyForm, dimensions: int) -> bool:
    """Return whether there is the file of a chunk with a name of such a form."""
    levels = [r"\d+"] * dimensions
    parts = [form.prefix, *levels] if form.prefix else levels
    wanted = [re.escape(form.separator).join(parts)] if form.separator == "." else parts
    return _has_file(folder, [re.compile(part) for part in wanted])


def _has_file(folder: Path, names: list[re.Pattern[str]]) -> bool:
    """Return whether there is a file below `folder` with these parts of its path."""
    with os.scandir(folder) as entries:
        for entry in islice(entries, MOST_ENTRIES):
            if names[0].fullmatch(entry.name) is None:
                continue
            if len(names) == 1 and entry.is_file():
                return True
            if len(names) > 1 and entry.is_dir() and _has_file(Path(entry.path), names[1:]):
                return True
    return False


def _stray_chunks(folder: Path) -> Iterator[str]:
    """Yield the files below `folder` with names of numbers, like those of chunks."""
    looked_at = 0
    for parent, _, names in os.walk(folder):
        looked_at += len(names)
        for name in names:
            if _NUMBERS.fullmatch(name):
                yield (Path(parent) / name).relative_to(folder).as_posix()
        if looked_at > MOST_ENTRIES:
            return


BLOSC_HEADER = 16
"""Bytes of the header of a Blosc block; its last four are the length of the block, the least byte first."""
_CODECS: dict[str, Any] = {"zstd": Zstd(), "blosc": Blosc(), "gzip": GZip()}


class PlainChunks:
    """The chunks of a plain array of the type `stored`, read without the machinery of zarr: a fraction of its time.

    Plain is an array without shards and filters, in C order, whose chunks are uncompressed, or compressed by zstd,
    Blosc or gzip: nearly all that are written. zarr itself reads all others.

    codec: its name, "" for none. fill: the value of missing chunks. forms: of the names of files, tried in this order.
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
