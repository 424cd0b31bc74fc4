"""OME-Zarr 0.5 out: the whole store with its metadata first, then chunk by chunk, then the pyramid; resumable.

Chunks are plain zarr 3 chunks, one file each, compressed by zstd at its quickest level with its checksum: every zarr 3
reader has it, and a flipped bit is found. There is no sharding: a shard has one writer, so a tile would have to keep
as much as a shard holds, and a killed run would lose that much. zarr writes a chunk beside its name and renames it
(since 3.1.3), so a file is whole or not there.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Generator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from napari_skipseg.errors import FileError
from napari_skipseg.images.pyramid import Region, average, most_common, region_below, regions
from napari_skipseg.images.stack import ArrayLike
from napari_skipseg.images.write_faults import telling_faults
from napari_skipseg.images.zarr_layout import OURS, Layout, attributes_of
from napari_skipseg.images.zarr_nodes import is_node, read_node
from napari_skipseg.progress import Progress, run_to_end

PART = ".part"
"""Ending of a store that is being written as a whole and is not finished."""

AT_ONCE = 2**22
"""Voxels of a level that are written at once; up to 8 times as many of the finer one are read for them."""


class OmeZarrWriter:
    """An OME-Zarr store that is being written; get one by `create_ome_zarr`. Threads may write different chunks."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout
        self._named = path.with_name(path.name.removesuffix(PART))
        kept = {"write_empty_chunks": True}  # a chunk of zeros is a file too: there is no other mark of what is done
        self.arrays = tuple(
            zarr.open_array(path / str(number), mode="r+").with_config(kept) for number in range(len(layout.levels))
        )

    def write(self, region: Region, values: NDArray[Any]) -> None:
        """Write whole chunks of the finest level: each file appears whole or not at all.

        Raises:
            FileError: the disk is full or closed to us.
            ValueError: `region` is not made of whole chunks.
        """
        self._write(0, region, values)

    def _write(self, level: int, region: Region, values: NDArray[Any]) -> None:
        array = self.arrays[level]
        whole = all(
            part.start % chunk == 0 and (part.stop % chunk == 0 or part.stop == length)
            for part, chunk, length in zip(region, array.chunks, array.shape, strict=True)
        )
        if not whole:
            raise ValueError(f"{region} is not made of whole chunks of {array.chunks} in {array.shape}")
        with telling_faults(self._named):
            array[region] = values

    def is_written(self, region: Region, level: int = 0) -> bool:
        """Return whether every chunk that `region` touches is there."""
        array = self.arrays[level]
        folder = self.path / str(level)
        numbers = [
            range(part.start // chunk, -(-part.stop // chunk)) for part, chunk in zip(region, array.chunks, strict=True)
        ]
        return all((folder / array.metadata.encode_chunk_key(place)).is_file() for place in product(*numbers))

    def is_complete(self) -> bool:
        """Return whether every chunk of the finest level is there."""
        return self.is_written(tuple(slice(0, length) for length in self.layout.shape))

    def iter_pyramid(self) -> Generator[Progress, None, None]:
        """Write the coarser levels from the finest, a few chunks at a time; those that are there are left alone.

        Raises:
            FileError: the finest level is not complete, or the disk is full or closed to us.
        """
        if not self.is_complete():
            raise FileError(f"'{self.path}' is not finished: continue its run before its pyramid is made.")
        parts = [(number, region) for number in range(1, len(self.layout.levels)) for region in self.parts(number)]
        for done, (number, region) in enumerate(parts, start=1):
            self.write_coarser(number, region)
            yield Progress(done, len(parts), f"pyramid, level {number}")

    def parts(self, level: int) -> list[Region]:
        """Return what of a coarser level is made at once: whole chunks, so that processes may share them out."""
        return list(regions(self.layout.levels[level].shape, self.arrays[level].chunks, AT_ONCE))

    def write_coarser(self, number: int, region: Region) -> None:
        """Write one of the `parts` of a level from the next finer one, which is whole there; leave it where it is.

        Raises:
            FileError: the disk is full or closed to us.
        """
        if self.is_written(region, number):
            return
        finer, level = self.layout.levels[number - 1], self.layout.levels[number]
        steps = tuple(new // old for old, new in zip(finer.factor, level.factor, strict=True))
        with telling_faults(self._named):
            values = np.asarray(self.arrays[number - 1][region_below(region, steps, finer.shape)])
        reduce = most_common if self.layout.kind == "labels" else average
        self._write(number, region, reduce(values, steps))


def create_ome_zarr(path: str | os.PathLike[str], layout: Layout) -> OmeZarrWriter:
    """Return the writer of an OME-Zarr 0.5 store, made with all its metadata and levels, and no voxel yet.

    A store of exactly this layout (description included) that is there already is continued: `is_written` tells what
    it has. A store that is not finished can be opened like any other: what is missing is 0.

    Raises:
        FileError: something else is there, or nothing can be written.
        InputError: the layout cannot be stored.
    """
    path = Path(path)
    with telling_faults(path):
        draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            store = draft / "store"
            _make_store(store, layout, _plain_name(path))
            if path.exists():
                _check_same(path, store)
                _remove_partial(path)
            else:
                store.rename(path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return OmeZarrWriter(path, layout)


def _make_store(path: Path, layout: Layout, name: str) -> None:
    zarr.create_group(path, zarr_format=3, attributes=attributes_of(layout, name))
    for number, level in enumerate(layout.levels):
        zarr.create_array(
            path / str(number),
            shape=level.shape,
            chunks=layout.chunks_of(level),
            dtype=np.dtype(layout.dtype).newbyteorder("="),
            compressors=[ZstdCodec(level=1, checksum=True)],
            fill_value=0,
            dimension_names=tuple(layout.axes.lower()),
            zarr_format=3,
        )


def _plain_name(path: Path) -> str:
    return path.name.removesuffix(PART).removesuffix(".zarr").removesuffix(".ome") or path.name


def _check_same(path: Path, draft: Path) -> None:
    for wanted in sorted(draft.rglob("zarr.json")):
        found = path / wanted.relative_to(draft)
        if not found.is_file() or json.loads(found.read_bytes()) != json.loads(wanted.read_bytes()):
            raise FileError(f"'{path}' holds something else already: choose another name, or remove it.")


def _remove_partial(path: Path) -> None:
    """Remove what a killed process left of chunks that it was writing."""
    for file in path.rglob("*.partial"):
        file.unlink(missing_ok=True)


def write_ome_zarr(path: str | os.PathLike[str], array: ArrayLike, layout: Layout) -> None:
    """Write a whole array and its pyramid; memory holds a few chunks. As `iter_write_ome_zarr`.

    Raises:
        FileError, InputError: as `iter_write_ome_zarr`.
    """
    run_to_end(iter_write_ome_zarr(path, array, layout))


def iter_write_ome_zarr(
    path: str | os.PathLike[str], array: ArrayLike, layout: Layout
) -> Generator[Progress, None, None]:
    """Write a whole array and its pyramid, a few chunks at a time; yield after each part.

    The store appears under its name when it is whole, never before; until then it is `<name>.part`. A store that we
    wrote is replaced; anything else of that name is left alone.

    array: anything that can be sliced, with the layout's shape.

    Raises:
        FileError: the store cannot be written, or something else is there.
        InputError: the layout cannot be stored.
    """
    path = Path(path)
    part = path.with_name(path.name + PART)
    for place in (path, part):
        if place.exists() and not (is_node(place) and OURS in read_node(place).attributes):
            raise FileError(f"'{place}' is there already and not ours: choose another name, or remove it.")
    if tuple(array.shape) != layout.shape:
        raise ValueError(f"an array of {array.shape} for a layout of {layout.shape}")
    try:
        shutil.rmtree(part, ignore_errors=True)
        yield from _fill(create_ome_zarr(part, layout), array)
        with telling_faults(path):
            if path.exists():
                shutil.rmtree(path)
            part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fill(writer: OmeZarrWriter, array: ArrayLike) -> Generator[Progress, None, None]:
    parts = list(regions(writer.layout.shape, writer.arrays[0].chunks, AT_ONCE))
    for done, region in enumerate(parts, start=1):
        writer.write(region, np.asarray(array[region], writer.layout.dtype))
        yield Progress(done, len(parts), "writing")
    yield from writer.iter_pyramid()
