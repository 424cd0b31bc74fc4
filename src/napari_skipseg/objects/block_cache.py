"""Blocks whose parts are found, on disk: each is found once, whoever does it, and whenever they are all gathered."""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from napari_skipseg.durable import sync
from napari_skipseg.images.faults import file_errors_as, replacing
from napari_skipseg.images.zarr.chunk_writer import ChunkWriter
from napari_skipseg.images.zarr.pyramid import PyramidRegion
from napari_skipseg.objects.block_regions import BlockFaceContacts, BlockRegions, Face
from napari_skipseg.objects.blocks import BlockGrid, ObjectBlock
from napari_skipseg.objects.graph import RegionGraph
from napari_skipseg.objects.watershed import Edges, Nodes

LABELS = "labels"
"""The array of labels, each block's from 1 on."""
MADE_OF = "made_of.json"
"""What all there depends on; written when the array is there."""
_ENDING = ".npz"
"""Of a block's parts; written when its labels are there."""


class BlockCache:
    """A folder of blocks that are found, for one search: what lies there of another one is removed first.

    labels: an array (T, Z, Y, X) of uint32, whose chunks have one writer each.

    Raises:
        FileError: nothing can be written.
    """

    def __init__(self, folder: Path, grid: BlockGrid, made_of: Mapping[str, Any]) -> None:
        """Open what is there. made_of: what the parts depend on, for JSON."""
        self._folder = folder
        facts = json.dumps({"shape": grid.shape, "block": grid.steps, **made_of}, sort_keys=True)
        with file_errors_as(folder):
            if not _is_made_of(folder, facts):
                _create(folder, grid, facts)
        self.labels: Any = zarr.open_array(folder / LABELS, mode="r")
        self._chunks = ChunkWriter(folder / LABELS, grid.shape, self.labels.chunks, np.dtype(np.uint32))

    def numbers(self) -> set[int]:
        """Return the numbers of the blocks that are there."""
        return {int(file.stem) for file in self._folder.glob(f"*{_ENDING}")}

    def write(self, block: ObjectBlock, labels: NDArray[np.uint32], parts: BlockRegions) -> None:
        """Keep what was found in a block; it counts when both are there, so its labels are on disk first.

        Raises:
            FileError: nothing can be written.
        """
        with file_errors_as(self._folder):
            sync(self._chunks.write(_region_of(block), labels), self._folder)
        with (
            replacing(self._file(block)) as handle,
            zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        ):
            for name, array in _named(parts).items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    def read(self, block: ObjectBlock) -> BlockRegions | None:
        """Return what is known of a block, None if its file, or its labels, are missing or damaged."""
        if not self._chunks.is_sound(_region_of(block)):
            return None
        try:
            with self._file(block).open("rb") as handle, np.load(handle) as arrays:
                return _from_named({name: arrays[name] for name in arrays.files})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    def _file(self, block: ObjectBlock) -> Path:
        return self._folder / f"{block.number}{_ENDING}"


def _region_of(block: ObjectBlock) -> PyramidRegion:
    space = (part for part in block.place if isinstance(part, slice))
    return (slice(block.time, block.time + 1), *space)


def holds_blocks(folder: Path) -> bool:
    """Return whether any block is found there."""
    return any(folder.glob(f"*{_ENDING}"))


def _is_made_of(folder: Path, facts: str) -> bool:
    try:
        return (folder / MADE_OF).read_text(encoding="utf-8") == facts
    except (OSError, ValueError):
        return False


def _create(folder: Path, grid: BlockGrid, facts: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    zarr.create_array(
        folder / LABELS,
        shape=grid.shape,
        chunks=(1, *grid.chunk),
        dtype=np.uint32,
        compressors=[ZstdCodec(level=1, checksum=True)],
    )
    sync([folder / LABELS / "zarr.json"], folder)
    with replacing(folder / MADE_OF) as handle:
        handle.write(facts.encode())


def _named(parts: BlockRegions) -> dict[str, NDArray[Any]]:
    """Return all arrays of parts, each with its name in a file."""
    nodes, edges = parts.graph
    named: dict[str, NDArray[Any]] = {f"nodes {name}": array for name, array in nodes._asdict().items()}
    named |= {f"edges {name}": array for name, array in edges._asdict().items()}
    for (axis, end), face in parts.faces.items():
        named |= {f"face {axis} {end} {name}": array for name, array in face._asdict().items()}
    for axis, seam in parts.seams.items():
        named |= {f"seam {axis} {name}": array for name, array in seam._asdict().items()}
    return named


def _from_named(named: Mapping[str, NDArray[Any]]) -> BlockRegions:
    """Return parts as `_named` took them apart."""
    groups: dict[str, dict[str, NDArray[Any]]] = {}
    for name, array in named.items():
        group, field = name.rsplit(" ", 1)
        groups.setdefault(group, {})[field] = array
    graph = RegionGraph(Nodes(**groups.pop("nodes")), Edges(**groups.pop("edges")))
    faces, seams = {}, {}
    for group, fields in groups.items():
        kind, axis, *end = group.split()
        if kind == "face":
            faces[int(axis), int(end[0])] = Face(**fields)
        else:
            seams[int(axis)] = BlockFaceContacts(**fields)
    return BlockRegions(graph, faces, seams)
