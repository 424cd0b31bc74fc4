"""Write OME-Zarr 0.5: first all metadata, then the chunks, then the pyramid; a run can be resumed.

Chunks are plain zarr 3 chunks, one file each, compressed by zstd at its fastest level with its checksum: every zarr 3
reader supports it, and a flipped bit is detected. There are no shards: a shard has one writer, so a tile would have to
keep as much as a shard, and a killed run would lose that much.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Generator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.durable import draft_folder, is_draft, refuse_link, replace, sync, sync_folder, write_durably
from napari_skipseg.errors import FileError
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.images.stack import ArrayLike
from napari_skipseg.images.zarr.chunk_writer import ChunkWriter
from napari_skipseg.images.zarr.growing_pyramid import GrowingPyramid, chunks_above
from napari_skipseg.images.zarr.layout import OURS, Layout, attributes_of
from napari_skipseg.images.zarr.metadata import is_node, read_node
from napari_skipseg.images.zarr.pyramid import PyramidRegion, average, most_common, region_below, regions
from napari_skipseg.progress import Progress, run_to_end

PYRAMID_VOXELS = 2**22
"""Voxels of a level that are written at once; up to 8 times as many of the finer level are read for them."""


class OmeZarrWriter:
    """An OME-Zarr store that is being written; get one by `create_ome_zarr`. Threads may write different chunks.

    named: the path that messages name, if it is different from `path`. grows: coarser levels are written as soon as
    what they are made from is; only for the one process that writes the store. is_new: it has no chunks yet.
    """

    def __init__(
        self, path: Path, layout: Layout, named: Path | None = None, grows: bool = False, is_new: bool = False
    ) -> None:
        import zarr

        self.path, self.layout = path, layout
        self._named = named or path
        self.arrays = tuple(zarr.open_array(path / str(number), mode="r") for number in range(len(layout.levels)))
        self._chunks = tuple(
            ChunkWriter(path / str(number), array.shape, array.chunks, np.dtype(array.dtype))
            for number, array in enumerate(self.arrays)
        )
        self._pyramid = GrowingPyramid(layout, tuple(array.chunks for array in self.arrays), self._write_grown)
        self._grows = grows
        counts = [
            [-(-length // chunk) for length, chunk in zip(array.shape, array.chunks, strict=True)]
            for array in self.arrays
        ]
        # by level and chunk: whether there may be a file of it, and whether this process wrote it
        self._may_be = [np.full(count, not is_new) for count in counts]
        self._is_made = [np.zeros(count, np.bool_) for count in counts]
        self._unsynced: list[Path] = []
        self._noting = threading.Lock()

    def write(self, region: PyramidRegion, values: NDArray[Any]) -> None:
        """Write whole chunks of the finest level: each file appears whole or not at all.

        Coarser chunks that were made from older ones are removed first, and written when all they are made from is
        there, by this call or by `iter_pyramid`.

        Raises:
            FileError: the disk is full, or there is no permission.
            ValueError: `region` is not made of whole chunks.
        """
        self._remove_above(region)
        self._write(0, region, values)
        if self._grows:
            self._pyramid.add(region, np.broadcast_to(values, [part.stop - part.start for part in region]))

    def leave_out(self, region: PyramidRegion) -> None:
        """Say that a region was written before. What is made from it is removed, and left to `iter_pyramid`, which
        reads the region, and so finds out whether it is damaged.

        Raises:
            FileError: a chunk cannot be removed.
        """
        self._remove_above(region)
        self._pyramid.leave_out(region)

    def _remove_above(self, region: PyramidRegion) -> None:
        """Remove the coarser chunks that were made from a region, if there are any."""
        for number, level in enumerate(self.layout.levels[1:], start=1):
            places = chunks_above(region, level.factor, self.arrays[number].chunks)
            if not self._may_be[number][places].any():
                continue
            with file_errors_as(self._named):
                for place in product(*(range(side.start, side.stop) for side in places)):
                    self._chunks[number].file(place).unlink(missing_ok=True)
            self._may_be[number][places] = self._is_made[number][places] = False

    def _write_grown(self, level: int, region: PyramidRegion, values: NDArray[Any]) -> None:
        self._write(level, region, values)
        places = chunks_above(region, (1,) * len(region), self.arrays[level].chunks)
        self._may_be[level][places] = self._is_made[level][places] = True

    def _write(self, level: int, region: PyramidRegion, values: NDArray[Any]) -> None:
        with file_errors_as(self._named):
            self.note_unsynced(self._chunks[level].write(region, values))

    def note_unsynced(self, files: list[Path]) -> None:
        """Note files of the store that may not be on disk yet."""
        with self._noting:
            self._unsynced += files

    def take_unsynced(self) -> list[Path]:
        """Return the files written since the last call: until they are synced, a power cut may empty them."""
        with self._noting:
            taken, self._unsynced = self._unsynced, []
        return taken

    def sync(self) -> None:
        """Bring to disk the written files that `take_unsynced` has not returned.

        Raises:
            FileError: the disk failed.
        """
        with file_errors_as(self._named):
            sync(self.take_unsynced(), self.path)

    def is_written(self, region: PyramidRegion, level: int = 0) -> bool:
        """Return whether every chunk that `region` touches is there and not empty."""
        return self._chunks[level].is_written(region)

    def is_sound(self, region: PyramidRegion, level: int = 0) -> bool:
        """Return whether every chunk that `region` touches is there and can be decoded."""
        return self._chunks[level].is_sound(region)

    def files(self, region: PyramidRegion) -> list[Path]:
        """Return the files of the chunks of the finest level that `region` touches."""
        return self._chunks[0].files(region)

    def remove_damaged(self) -> int:
        """Remove the chunks of all levels that cannot be decoded, to be written again, and return their number.

        Raises:
            FileError: one cannot be removed.
        """
        with file_errors_as(self._named):
            removed = sum(chunks.remove_damaged() for chunks in self._chunks)
        for made in self._is_made:
            made[:] = False  # any of them may be gone
        return removed

    def is_complete(self) -> bool:
        """Return whether every chunk of the finest level is there."""
        return self.is_written(tuple(slice(0, length) for length in self.layout.shape))

    def iter_pyramid(self) -> Generator[Progress, None, None]:
        """Write the coarser levels, a few chunks at a time; existing chunks are kept.

        Raises:
            FileError: the finest level is not complete, the disk is full, or there is no permission.
        """
        if not self.is_complete():
            raise FileError(f"'{self.path}' is not finished: continue its run before its pyramid is made.")
        self._pyramid.clear()
        parts = [(number, region) for number in range(1, len(self.layout.levels)) for region in self.parts(number)]
        for done, (number, region) in enumerate(parts, start=1):
            places = chunks_above(region, (1,) * len(region), self.arrays[number].chunks)
            if not self._is_made[number][places].all():
                self.write_coarser(number, region)
            yield Progress(done, len(parts), f"pyramid, level {number}")

    def parts(self, level: int) -> list[PyramidRegion]:
        """Return the parts of a coarser level, of whole chunks, that processes can share."""
        return list(regions(self.layout.levels[level].shape, self.arrays[level].chunks, PYRAMID_VOXELS))

    def write_coarser(self, number: int, region: PyramidRegion) -> None:
        """Write one of the `parts` of a level from the next finer level, unless it is there already.

        Raises:
            FileError: the disk is full, there is no permission, or a chunk of the finer level is damaged.
        """
        if self.is_sound(region, number):
            self.note_unsynced(self._chunks[number].files(region))  # a process that was killed may have written them
            return
        finer, level = self.layout.levels[number - 1], self.layout.levels[number]
        steps = tuple(new // old for old, new in zip(finer.factor, level.factor, strict=True))
        below = region_below(region, steps, finer.shape)
        try:
            values = self._chunks[number - 1].read(below)
        except (RuntimeError, ValueError) as error:  # what the codec raises
            raise FileError(f"Level {number - 1} of '{self._named}' is damaged: run the same again.") from error
        reduce = most_common if self.layout.kind == "labels" else average
        self._write_grown(number, region, reduce(values, steps))


def create_ome_zarr(path: str | os.PathLike[str], layout: Layout, grows: bool = True) -> OmeZarrWriter:
    """Create an OME-Zarr 0.5 store with all its metadata and levels, but no voxels, and return its writer.

    grows: as in `OmeZarrWriter`.

    An existing store of exactly this layout (description included) is continued: `is_written` shows its chunks. An
    unfinished store can be opened like any other: missing voxels are 0.

    Raises:
        FileError: something else is there, or nothing can be written.
        InputError: the layout cannot be stored.
    """
    path = Path(path)
    with file_errors_as(path):
        refuse_link(path)
        with draft_folder(path.parent) as draft:
            store = draft / "store"
            _make_store(store, layout, _plain_name(path))
            metadata = [path / file.relative_to(store) for file in store.rglob("zarr.json")]
            is_new = not path.exists()
            if not is_new:
                _check_same(path, store)
                for file in path.rglob(".*"):  # parts of chunks that a killed process was writing
                    if is_draft(file.name):
                        file.unlink(missing_ok=True)
            else:
                replace(store, path)
    writer = OmeZarrWriter(path, layout, grows=grows, is_new=is_new)
    writer.note_unsynced(metadata)
    return writer


def _make_store(path: Path, layout: Layout, name: str) -> None:
    import zarr
    from zarr.codecs import ZstdCodec

    zarr.create_group(path, zarr_format=3, attributes=attributes_of(layout, name))
    for number, level in enumerate(layout.levels):
        zarr.create_array(
            path / str(number),
            shape=level.shape,
            chunks=layout.chunks_of(level),
            dtype=np.dtype(layout.dtype).newbyteorder("="),
            compressors=[ZstdCodec(level=1, checksum=True)],
            fill_value=0,
            dimension_names=tuple(layout.space.axes.lower()),
            zarr_format=3,
        )


def _plain_name(path: Path) -> str:
    return path.name.removesuffix(".zarr").removesuffix(".ome") or path.name


def _check_same(path: Path, draft: Path) -> None:
    """Raise if the store at `path` is different from `draft`; metadata that a power cut emptied are written again."""
    for wanted in sorted(draft.rglob("zarr.json")):
        found, content = path / wanted.relative_to(draft), wanted.read_bytes()
        if found.is_file() and not found.stat().st_size:
            write_durably(found, content)
        try:
            is_same = found.is_file() and json.loads(found.read_bytes()) == json.loads(content)
        except (ValueError, RecursionError):
            is_same = False
        if not is_same:
            raise FileError(f"'{path}' has different content already: choose a different name, or remove it.")


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

    The store appears under its name when it is whole and on disk, never before. A store that we wrote is replaced; any
    other file or folder with this name is kept.

    array: anything that can be sliced, with the layout's shape.

    Raises:
        FileError: the store cannot be written, or something else is there.
        InputError: the layout cannot be stored.
    """
    path = Path(path)
    if os.path.lexists(path) and not (not path.is_symlink() and is_node(path) and OURS in read_node(path).attributes):
        raise FileError(f"'{path}' is there already and not ours: choose a different name, or remove it.")
    if tuple(array.shape) != layout.shape:
        raise ValueError(f"an array of {array.shape} for a layout of {layout.shape}")
    with contextlib.ExitStack() as leaving:
        with file_errors_as(path):
            draft = leaving.enter_context(draft_folder(path.parent))
            store = draft / "store"
            _make_store(store, layout, _plain_name(path))
        writer = OmeZarrWriter(store, layout, named=path, grows=True, is_new=True)
        yield from _fill(writer, array)
        writer.note_unsynced(list(store.rglob("zarr.json")))
        writer.sync()
        with file_errors_as(path):
            if path.exists():
                replace(path, draft / "replaced")
            replace(store, path)
            sync_folder(path.parent)


def _fill(writer: OmeZarrWriter, array: ArrayLike) -> Generator[Progress, None, None]:
    parts = list(regions(writer.layout.shape, writer.arrays[0].chunks, PYRAMID_VOXELS))
    for done, region in enumerate(parts, start=1):
        writer.write(region, np.asarray(array[region], writer.layout.dtype))
        yield Progress(done, len(parts), "writing")
    yield from writer.iter_pyramid()
