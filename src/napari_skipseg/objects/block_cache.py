"""Found blocks on disk, and the folder of a search: each is found once, also after a stop or by several workers."""

from __future__ import annotations

import contextlib
import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.durable import refuse_link, sync
from napari_skipseg.errors import InputError
from napari_skipseg.images.faults import file_errors_as, replacing
from napari_skipseg.images.zarr.chunk_writer import ChunkWriter
from napari_skipseg.images.zarr.pyramid import PyramidRegion
from napari_skipseg.locks import LOCK_FILE
from napari_skipseg.objects.block_regions import BlockFaceContacts, BlockRegions, Face
from napari_skipseg.objects.blocks import BlockGrid, ObjectBlock
from napari_skipseg.objects.region_graph import RegionGraph
from napari_skipseg.objects.watershed import Edges, Nodes

LABELS = "labels"
"""The array of labels, each block's from 1 on."""
MADE_OF = "made_of.json"
"""The file of all that the regions depend on; written when the array is there."""
BLOCKS_FOLDER = "blocks"
"""The folder of found blocks, within the folder of an unfinished search."""
_ENDING = ".npz"
"""Of the regions of a block; written when its labels are there."""


class BlockCache:
    """A folder of blocks that are found, for one search; blocks of any other search are removed first.

    labels: an array (T, Z, Y, X) of uint32, in which each chunk has one writer.

    Raises:
        FileError: nothing can be written.
    """

    def __init__(self, folder: Path, grid: BlockGrid, made_of: Mapping[str, Any]) -> None:
        """Open the folder, or make it. made_of: all that the regions depend on, for JSON."""
        import zarr
        from zarr.codecs import ZstdCodec

        self._folder = folder
        facts = json.dumps({"shape": grid.shape, "block": grid.steps, **made_of}, sort_keys=True)
        known = None
        with contextlib.suppress(OSError, ValueError):
            known = (folder / MADE_OF).read_text(encoding="utf-8")
        with file_errors_as(folder):
            if known != facts:
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
                with replacing(folder / MADE_OF) as handle:  # last, as it says that the array is whole
                    handle.write(facts.encode())
        self.labels: Any = zarr.open_array(folder / LABELS, mode="r")
        self._chunks = ChunkWriter(folder / LABELS, grid.shape, self.labels.chunks, np.dtype(np.uint32))

    def numbers(self) -> set[int]:
        """Return the numbers of the blocks that are there."""
        return {int(file.stem) for file in self._folder.glob(f"*{_ENDING}")}

    def write(self, block: ObjectBlock, labels: NDArray[np.uint32], regions: BlockRegions) -> None:
        """Store a block.

        Raises:
            FileError: nothing can be written.
        """
        nodes, edges = regions.graph
        groups: dict[str, Any] = {"nodes": nodes, "edges": edges}
        groups |= {f"face {axis} {end}": face for (axis, end), face in regions.faces.items()}
        groups |= {f"contacts {axis}": contacts for axis, contacts in regions.contacts.items()}
        with file_errors_as(self._folder):
            # The labels are on disk before the archive appears: a block counts as found if its archive is there.
            sync(self._chunks.write(_region_of(block), labels), self._folder)
        with (
            replacing(self._file(block)) as handle,
            zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        ):
            for group, arrays in groups.items():
                for field, array in arrays._asdict().items():
                    with archive.open(f"{group} {field}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)

    def read(self, block: ObjectBlock) -> BlockRegions | None:
        """Return the regions of a block, None if its file or its labels are missing or damaged."""
        if not self._chunks.is_sound(_region_of(block)):
            return None
        groups: dict[str, dict[str, NDArray[Any]]] = {}
        try:
            with self._file(block).open("rb") as handle, np.load(handle) as arrays:
                for name in arrays.files:
                    group, field = name.rsplit(" ", 1)
                    groups.setdefault(group, {})[field] = arrays[name]
            graph = RegionGraph(Nodes(**groups.pop("nodes")), Edges(**groups.pop("edges")))
            faces, contacts = {}, {}
            for group, fields in groups.items():
                kind, axis, *end = group.split()
                if kind == "face":
                    faces[int(axis), int(end[0])] = Face(**fields)
                else:
                    contacts[int(axis)] = BlockFaceContacts(**fields)
        except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile, zlib.error):
            return None
        return BlockRegions(graph, faces, contacts)

    def _file(self, block: ObjectBlock) -> Path:
        return self._folder / f"{block.number}{_ENDING}"


def _region_of(block: ObjectBlock) -> PyramidRegion:
    space = (part for part in block.place if isinstance(part, slice))
    return (slice(block.time, block.time + 1), *space)


def holds_blocks(folder: Path) -> bool:
    """Return whether any found block is stored there."""
    return any(folder.glob(f"*{_ENDING}"))


@contextlib.contextmanager
def search_folder(place: Path) -> Iterator[Path]:
    """Make the folder `place` of a search, remove all there but found blocks, and yield the folder of these.

    `place` is removed at the end, also if the input is at fault or no block was found. After a stop, a kill or a full
    disk it stays, so that the search can be resumed.

    Raises:
        FileError: nothing can be written.
    """
    blocks = place / BLOCKS_FOLDER
    with file_errors_as(place):
        for folder in (place, blocks):
            refuse_link(folder)
        place.mkdir(parents=True, exist_ok=True)
        for other in place.iterdir():
            if other.name not in (BLOCKS_FOLDER, LOCK_FILE):
                _remove(other)
    is_over = False
    try:
        yield blocks
        is_over = True
    except InputError:
        is_over = True
        raise
    finally:
        if is_over or not holds_blocks(blocks):
            _remove(place)


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
