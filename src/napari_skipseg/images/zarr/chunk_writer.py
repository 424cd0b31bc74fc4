"""Write, read and check the chunks of our zarr arrays: each is a file that is whole or missing.

The files are the same that zarr 3 writes: the chunk in C order, little-endian, compressed by zstd with a checksum. zarr
itself does not report which files it wrote, and these must be brought to disk later; and it takes about 8 ns per voxel
in chunks of 64³, which this does not.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from napari_skipseg.devices import cores
from napari_skipseg.durable import write_whole
from napari_skipseg.images.zarr.pyramid import PyramidRegion

_CODEC: Any = Zstd(level=1, checksum=True)
_FEW = 4
"""Chunks up to which one thread is as fast as several."""
_THREADS = 8
"""Threads that compress, at most; zstd does not hold Python's lock."""


@cache
def _threads() -> ThreadPoolExecutor:
    """Return the threads that compress, the same for all writers of this process."""
    return ThreadPoolExecutor(min(_THREADS, len(cores())), "writing chunks")


WrittenChunk = tuple[int, ...]
"""The number of a chunk along each axis."""


class ChunkWriter:
    """Writes the chunks of the array in `folder`, which has its metadata. Threads may write different chunks."""

    def __init__(self, folder: Path, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.folder, self.shape, self.chunks = folder, shape, chunks
        self._stored = dtype.newbyteorder("<")
        self._prefix = f"{folder / 'c'}/"

    def write(self, region: PyramidRegion, values: NDArray[Any]) -> list[Path]:
        """Write the chunks of `region`, and return their files, which are not on disk until they are synced.

        Raises:
            OSError: the disk is full, or there is no permission.
            ValueError: `region` is not made of whole chunks.
        """
        whole = all(
            part.start % chunk == 0 and (part.stop % chunk == 0 or part.stop == length)
            for part, chunk, length in zip(region, self.chunks, self.shape, strict=True)
        )
        if not whole:
            raise ValueError(f"{region} is not made of whole chunks of {self.chunks} in {self.shape}")
        values = np.broadcast_to(values, [part.stop - part.start for part in region])
        places = list(self.places(region))

        def write(place: WrittenChunk) -> Path:
            inside = tuple(
                slice(number * chunk - part.start, (number + 1) * chunk - part.start)
                for number, chunk, part in zip(place, self.chunks, region, strict=True)
            )
            return self._write(place, values[inside])

        if len(places) <= _FEW or len(cores()) == 1:
            return [write(place) for place in places]
        return list(_threads().map(write, places))

    def _write(self, place: WrittenChunk, values: NDArray[Any]) -> Path:
        if values.shape != self.chunks:  # at the far ends; the rest of the chunk is the fill value
            whole = np.zeros(self.chunks, self._stored)
            whole[tuple(map(slice, values.shape))] = values
            values = whole
        content, file = _CODEC.encode(np.ascontiguousarray(values, self._stored)), self.file(place)
        try:
            write_whole(file, content)
        except FileNotFoundError:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, content)
        return file

    def read(self, region: PyramidRegion) -> NDArray[Any]:
        """Return the voxels of `region`; those of missing chunks are 0.

        Raises:
            OSError: a chunk cannot be read.
            RuntimeError, ValueError: a chunk is damaged.
        """
        values = np.zeros([part.stop - part.start for part in region], self._stored)

        def copy(place: WrittenChunk) -> None:
            chunk = self._decode(self.file(place))
            spans = zip(place, self.chunks, region, strict=True)
            inside = [(max(n * size, part.start), min((n + 1) * size, part.stop), n * size) for n, size, part in spans]
            into = tuple(slice(a - part.start, b - part.start) for (a, b, _), part in zip(inside, region, strict=True))
            if chunk is not None:
                values[into] = chunk[tuple(slice(a - start, b - start) for a, b, start in inside)]

        for place in self.places(region):
            copy(place)
        return values

    def _decode(self, file: Path) -> NDArray[Any] | None:
        """Return a whole chunk, None if there is none."""
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return None
        return np.frombuffer(_CODEC.decode(content), self._stored).reshape(self.chunks)

    def places(self, region: PyramidRegion) -> Iterator[WrittenChunk]:
        """Yield the chunks that `region` touches."""
        return product(
            *(
                range(part.start // chunk, -(-part.stop // chunk))
                for part, chunk in zip(region, self.chunks, strict=True)
            )
        )

    def file(self, place: WrittenChunk) -> Path:
        """Return the file of a chunk."""
        return Path(self._prefix + "/".join(map(str, place)))  # half the time of joining paths

    def files(self, region: PyramidRegion) -> list[Path]:
        """Return the files of the chunks that `region` touches."""
        return [self.file(place) for place in self.places(region)]

    def is_written(self, region: PyramidRegion) -> bool:
        """Return whether every chunk that `region` touches has a file, and none is empty as after a power cut."""
        return all(_size(file) > 0 for file in self.files(region))

    def is_sound(self, region: PyramidRegion) -> bool:
        """Return whether every chunk that `region` touches is there and can be decoded."""
        return all(self._is_sound(file) for file in self.files(region))

    def remove_damaged(self) -> int:
        """Remove the files of chunks that cannot be decoded, and return their number.

        Raises:
            OSError: one cannot be removed.
        """
        damaged = [
            file
            for file in (self.folder / "c").rglob("*")
            if file.name.isdecimal() and file.is_file() and not self._is_sound(file)
        ]
        for file in damaged:
            file.unlink()
        return len(damaged)

    def _is_sound(self, file: Path) -> bool:
        try:
            found = _CODEC.decode(file.read_bytes())
        except (OSError, RuntimeError, ValueError):
            return False
        return len(memoryview(found).cast("B")) == math.prod(self.chunks) * self._stored.itemsize


def _size(file: Path) -> int:
    try:
        found = os.stat(file)  # noqa: PTH116  # a third faster than Path.stat, and there may be millions
    except OSError:
        return 0
    return found.st_size
