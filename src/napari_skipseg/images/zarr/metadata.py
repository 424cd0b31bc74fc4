"""The metadata of the folders of a zarr store, read as JSON and checked before any voxel is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from napari_skipseg.errors import FileError
from napari_skipseg.images.faults import read_errors_as_sentences

METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
"""Files that make a folder a part of a zarr store: zarr 3, then zarr 2."""

LARGEST_METADATA = 64 * 2**20
"""Most bytes of metadata that are read."""


@dataclass(frozen=True)
class Node:
    """A group or an array of a zarr store. `array` contains the array's own metadata, None for a group."""

    path: Path
    attributes: dict[str, Any]
    array: dict[str, Any] | None

    @cached_property
    def ome(self) -> dict[str, Any]:
        """The OME-Zarr metadata of the group: under "ome" from 0.5 on, else at the top."""
        found = self.attributes.get("ome", self.attributes)
        return found if isinstance(found, dict) else {}

    def children(self) -> Iterator[Path]:
        """Yield the folders inside that are groups or arrays, by name."""
        yield from sorted(place for place in self.path.iterdir() if is_node(place))


def is_node(path: Path) -> bool:
    """Return whether `path` is a folder with zarr metadata."""
    return any((path / name).is_file() for name in METADATA)


def is_zarr(path: Path) -> bool:
    """Return whether `path` is in a zarr store, or has the ending of one."""
    return is_node(path) or (path.suffix.lower() == ".zarr" and not path.is_file())


def store_root(path: Path) -> Path:
    """Return the outermost folder of the store that contains the node `path`."""
    root = path.absolute()
    while root.parent != root and is_node(root.parent):  # the root of a drive is its own parent
        root = root.parent
    return root


def read_node(path: Path) -> Node:
    """Return the folder `path` with its metadata.

    Raises:
        FileError: there is no such folder, it is no part of a zarr store, or its metadata are damaged.
    """
    with read_errors_as_sentences(path, "The metadata of"):
        if not path.exists():
            raise FileNotFoundError(path)
        if not is_node(path):
            raise FileError(f"'{path}' is a folder without zarr metadata: give the folder that contains them.")
        if (path / "zarr.json").is_file():
            contents = _read_json(path / "zarr.json")
            array = contents if contents.get("node_type") == "array" else None
            return Node(path, _dictionary(contents.get("attributes", {})), array)
        attributes = _read_json(path / ".zattrs") if (path / ".zattrs").is_file() else {}
        return Node(path, attributes, _read_json(path / ".zarray") if (path / ".zarray").is_file() else None)


def _read_json(file: Path) -> dict[str, Any]:
    if file.stat().st_size > LARGEST_METADATA:
        raise FileError(
            f"'{file}' has over {LARGEST_METADATA // 2**20} MiB of metadata: it is damaged, export it again."
        )
    return _dictionary(json.loads(file.read_bytes()))


def _dictionary(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("metadata must be a JSON object")
    return value


def check_harmless(node: Node) -> None:
    """Raise for an array with codecs that could run code, or with Python objects as values.

    numcodecs' pickle filter runs any code that a chunk contains.

    Raises:
        FileError: it has such codecs or values.
    """
    metadata = node.array or {}
    names = [
        str(name).lower() for key in ("codecs", "filters", "compressor") for name in _codec_names(metadata.get(key))
    ]
    objects = str(metadata.get("dtype", "")).lstrip("<>|=")[:1] == "O"
    if objects or any("pickle" in name for name in names):
        raise FileError(f"'{node.path}' contains Python objects, which may run code when read: save numbers.")


def _codec_names(codecs: Any) -> Iterator[str]:
    if isinstance(codecs, dict):
        yield from (str(codecs[key]) for key in ("id", "name") if key in codecs)
        yield from _codec_names(list(codecs.values()))
    elif isinstance(codecs, list):
        for part in codecs:
            yield from _codec_names(part)
