"""OME-Zarr 0.5 out: the whole store with its metadata first, then chunk by chunk, then the pyramid; resumable.

Chunks are plain zarr 3 chunks, one file each, compressed by zstd with its checksum: it halves membranes and labels at
several hundred MB/s, every zarr 3 reader has it, and a flipped bit is found. Without sharding: a shard has one
writer, so tiles would have to be as large as shards, and a killed run would lose a whole one.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.ome import check_unit
from napari_skipseg.images.ome_zarr import OURS
from napari_skipseg.images.pyramid import (
    PyramidLevel,
    Region,
    average,
    most_common,
    plan_levels,
    region_below,
    regions,
)
from napari_skipseg.images.stack import ArrayLike, Stack
from napari_skipseg.images.write_faults import telling_faults
from napari_skipseg.images.zarr_metadata import attributes_of
from napari_skipseg.images.zarr_nodes import is_node, read_node
from napari_skipseg.progress import Progress, run_to_end

Kind = Literal["image", "labels"]

CHUNK = 2**20
"""Bytes of a default chunk, uncompressed."""

MANY_CHUNKS = 20_000
"""Default chunks grow, up to 16 times, while there would be more of them than this."""

AT_ONCE = 2**23
"""Voxels of a level that are written at once; up to 8 times as many of the finer one are read for them."""


@dataclass(frozen=True)
class Layout:
    """What a store is for: shape and axes (in the order TCZYX), place, kind of values, chunks, and what was run.

    chunks: one length per axis; what a tile keeps should be whole chunks. Default: planes of about 1 MiB, right for
    results that are made slice by slice; results of 3D tiles should give their own.
    kind: "labels" are reduced to the most common value of a block, an "image" to its mean.
    """

    shape: tuple[int, ...]
    axes: str
    dtype: str
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    unit: str = "pixel"
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    chunks: tuple[int, ...] | None = None
    kind: Kind = "image"
    channel_names: tuple[str, ...] | None = None
    description: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        Stack(_Shape(self.shape, self.dtype), self.axes, self.voxel_size, check_unit(self.unit), self.origin)
        if list(self.axes) != sorted(self.axes, key="TCZYX".index):
            raise InputError(f"OME-Zarr has its axes in the order T, C, Z, Y, X, not '{self.axes}': transpose.")
        if np.dtype(self.dtype).kind not in "buif":
            raise InputError(f"OME-Zarr is not written with {self.dtype} values: convert them to numbers.")
        if self.kind == "labels" and np.dtype(self.dtype).kind == "f":
            raise InputError(f"Labels are whole numbers, not {self.dtype}: convert them.")
        channels = dict(zip(self.axes, self.shape, strict=True)).get("C", 1)
        if self.channel_names is not None and len(self.channel_names) != channels:
            raise InputError(f"There are {len(self.channel_names)} names for {channels} channels: give one for each.")
        if self.chunks is not None and (len(self.chunks) != len(self.shape) or min(self.chunks) < 1):
            raise ValueError(f"chunks {self.chunks} do not fit the shape {self.shape}")

    @property
    def levels(self) -> tuple[PyramidLevel, ...]:
        """The levels of the pyramid, the finest first."""
        return plan_levels(self.shape, self.axes, self.voxel_size)

    def chunks_of(self, level: PyramidLevel) -> tuple[int, ...]:
        """Return the shape of the chunks of a level."""
        wanted = self.chunks or default_chunks(self.shape, self.axes, np.dtype(self.dtype).itemsize)
        return tuple(min(chunk, length) for chunk, length in zip(wanted, level.shape, strict=True))


@dataclass(frozen=True)
class _Shape:
    """An array of which only shape and type are known."""

    shape: tuple[int, ...]
    dtype: Any

    def __getitem__(self, key: Any) -> Any:
        raise IndexError("it has no voxels")


def default_chunks(shape: tuple[int, ...], axes: str, itemsize: int) -> tuple[int, ...]:
    """Return one-slice chunks of about 1 MiB, of up to 16 MiB where there would be more than 20,000 files."""
    side = 2 ** (int(math.log2(CHUNK // itemsize)) // 2)
    planes = math.prod(n for n, axis in zip(shape, axes, strict=True) if axis not in "YX")
    area = math.prod(n for n, axis in zip(shape, axes, strict=True) if axis in "YX")
    for _ in range(2):
        if planes * -(-area // side**2) > MANY_CHUNKS:
            side *= 2
    return tuple(min(side, n) if axis in "YX" else 1 for n, axis in zip(shape, axes, strict=True))


class OmeZarrWriter:
    """An OME-Zarr store that is being written; get one by `create_ome_zarr`. Threads may write different chunks."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout
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
        with telling_faults(self.path):
            array[region] = values

    def is_written(self, region: Region, level: int = 0) -> bool:
        """Return whether every chunk that `region` touches is there."""
        array = self.arrays[level]
        numbers = [
            range(part.start // chunk, -(-part.stop // chunk)) for part, chunk in zip(region, array.chunks, strict=True)
        ]
        folder = self.path / str(level)
        return all(
            (folder / array.metadata.encode_chunk_key(place)).is_file()
            for place in np.stack(np.meshgrid(*numbers, indexing="ij"), -1).reshape(-1, len(numbers)).tolist()
        )

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
        levels, reduce = self.layout.levels, most_common if self.layout.kind == "labels" else average
        parts = [
            (number, region)
            for number in range(1, len(levels))
            for region in regions(levels[number].shape, self.arrays[number].chunks, AT_ONCE)
        ]
        for done, (number, region) in enumerate(parts, start=1):
            if not self.is_written(region, number):
                finer, level = levels[number - 1], levels[number]
                steps = tuple(new // old for old, new in zip(finer.factor, level.factor, strict=True))
                with telling_faults(self.path):
                    values = np.asarray(self.arrays[number - 1][region_below(region, steps, finer.shape)])
                self._write(number, region, reduce(values, steps))
            yield Progress(done, len(parts), f"pyramid, level {number}")


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
            _make_store(store, layout)
            if path.exists():
                _check_same(path, store)
                _remove_partial(path)
            else:
                store.rename(path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return OmeZarrWriter(path, layout)


def _make_store(path: Path, layout: Layout) -> None:
    zarr.create_group(path, zarr_format=3, attributes=attributes_of(layout))
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

    The store appears under its name when it is whole; until then it is `<name>.part`, from which a write of the same
    layout goes on. A store that we wrote is replaced; anything else of that name is left alone.

    Raises:
        FileError: the store cannot be written, or something else is there.
        InputError: the layout cannot be stored.
    """
    path = Path(path)
    if path.exists() and not (is_node(path) and OURS in read_node(path).attributes):
        raise FileError(f"'{path}' is there already and not ours: choose another name, or remove it.")
    writer = create_ome_zarr(path.with_name(path.name + ".part"), layout)
    parts = list(regions(layout.shape, writer.arrays[0].chunks, AT_ONCE))
    for done, region in enumerate(parts, start=1):
        if not writer.is_written(region):
            writer.write(region, np.asarray(array[region]))
        yield Progress(done, len(parts), "writing")
    yield from writer.iter_pyramid()
    with telling_faults(path):
        if path.exists():
            shutil.rmtree(path)
        writer.path.rename(path)
