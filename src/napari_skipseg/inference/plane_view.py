"""A stored array looked at plane by plane, each of its chunks read once however many planes it holds."""

from __future__ import annotations

import math
import tempfile
import weakref
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.stack import LazyArray
from napari_skipseg.images.write_faults import telling_faults
from napari_skipseg.images.zarr_array import ZarrArray

IN_MEMORY = 256 * 2**20
"""Bytes of a slab that are kept in memory; a larger one lies in a file."""

Index = tuple[int | slice, ...]


class PlaneView(LazyArray):
    """An array whose axis i is axis `order.index(i)` of the one behind it; the last two are its planes.

    Planes are kept by the slab: as many as a chunk is high. So whoever asks for one after the other, whole or in
    parts, reads each chunk once, in the memory of a slab; where that has more than 256 MiB, in the memory of a row of
    its chunks: then it is unpacked into a file without a name in `folder`, gone with this process.

    Raises:
        FileError: (where it is read) a chunk is damaged, or there is no room for a slab.
    """

    def __init__(self, data: ZarrArray, order: tuple[int, ...], folder: Path) -> None:
        self._data, self._order, self._folder = data, order, folder
        self.shape = tuple(data.shape[order.index(axis)] for axis in range(len(order)))
        self.dtype = data.dtype
        self._in_slabs = math.prod(data.chunks[:-2]) > 1 and order[-2:] == (len(order) - 2, len(order) - 1)
        self._slab: NDArray[Any] | _SlabFile | None = None
        self._place: tuple[int, ...] = ()

    def _read(self, index: Index) -> Any:
        stored = tuple(index[axis] for axis in self._order)
        lead = tuple(part for part in stored[:-2] if isinstance(part, int))
        if self._in_slabs and len(lead) == len(stored) - 2:
            place = tuple(part // height * height for part, height in zip(lead, self._data.chunks, strict=False))
            inside = tuple(part - first for part, first in zip(lead, place, strict=True))
            return self._slab_at(place)[(*inside, stored[-2])][..., stored[-1]]
        values = self._data[stored]
        kept = [axis for axis in self._order if isinstance(index[axis], slice)]
        return values.transpose(np.argsort(kept)) if kept else values[()]

    def _slab_at(self, place: tuple[int, ...]) -> NDArray[Any] | _SlabFile:
        """Return all chunks that hold the plane at `place`."""
        if self._slab is None or self._place != place:
            self._slab = None  # before the next one takes memory
            sides = zip(place, self._data.chunks, self._data.shape, strict=False)
            region = tuple(slice(first, min(first + height, length)) for first, height, length in sides)
            counts = tuple(part.stop - part.start for part in region)
            size = math.prod((*counts, *self._data.shape[-2:])) * self.dtype.itemsize
            self._slab = (
                self._data[region] if size <= IN_MEMORY else _SlabFile(self._data, region, counts, self._folder)
            )
            self._place = place
        return self._slab


class _SlabFile:
    """The planes of a region, one behind the other in a file."""

    def __init__(self, data: ZarrArray, region: tuple[slice, ...], counts: tuple[int, ...], folder: Path) -> None:
        self._counts, self._dtype = counts, data.dtype
        self._height, self._width = data.shape[-2:]
        with telling_faults(folder / "slab"):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            weakref.finalize(self, self._file.close)
            for top in range(0, self._height, data.chunks[-2]):
                rows = data[(*region, slice(top, min(top + data.chunks[-2], self._height)))]
                for number, part in enumerate(rows.reshape(-1, *rows.shape[-2:])):
                    self._find(number, top)
                    self._file.write(np.ascontiguousarray(part).data)
            self._file.flush()

    def _find(self, plane: int, row: int) -> None:
        self._file.seek((plane * self._height + row) * self._width * self._dtype.itemsize)

    def __getitem__(self, key: Index) -> NDArray[Any]:
        """Return the rows of one plane that the last part of `key` names, after the place of the plane."""
        place, y = key[:-1], key[-1]
        wanted = range(self._height)[y] if isinstance(y, slice) else range(y, y + 1)
        low = min(wanted, default=0)
        found = np.empty((max(wanted, default=-1) + 1 - low, self._width), self._dtype)
        self._find(int(np.ravel_multi_index(cast(Any, place), self._counts)), low)
        self._file.readinto(found.data)
        rows: NDArray[Any] = found[[row - low for row in wanted]] if wanted.step != 1 else found
        return rows if isinstance(y, slice) else rows[0]
