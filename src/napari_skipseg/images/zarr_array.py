"""A zarr array, read where it is looked at, chunk by chunk."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.axes import kept_places
from napari_skipseg.images.stack import LazyArray
from napari_skipseg.images.tiff import refusing
from napari_skipseg.images.zarr_nodes import Node, check_harmless
from napari_skipseg.images.zarr_store import open_store

Index = tuple[int | slice, ...]


class ZarrArray(LazyArray):
    """The voxels of a zarr array in native byte order, those of missing chunks its fill value.

    Several threads may read at once. chunks: the shape of the parts that are stored, and read, as one.
    """

    def __init__(self, node: Node) -> None:
        self._node, self._array = node, _open(node)
        self._places = tuple(range(self._array.ndim))
        self.shape: tuple[int, ...] = tuple(int(length) for length in self._array.shape)
        self.chunks: tuple[int, ...] = tuple(int(n) for n in self._array.shards or self._array.chunks)
        self.dtype = np.dtype(self._array.dtype).newbyteorder("=")

    def without_single(self, shape: tuple[int, ...]) -> ZarrArray:
        """Return the array with `shape`, which lacks some of its axes of length 1."""
        fewer = ZarrArray.__new__(ZarrArray)
        fewer._node, fewer._array, fewer.dtype = self._node, self._array, self.dtype
        fewer._places = kept_places(self.shape, shape)
        fewer.shape = shape
        fewer.chunks = tuple(self.chunks[place] for place in fewer._places)
        return fewer

    def written(self) -> Iterator[tuple[slice, ...]]:
        """Yield the part of every chunk whose file is there, in order; of others all voxels have the fill value.

        All of them are yielded where the fill value is not 0.

        Raises:
            FileError: the folder cannot be read, or is gone.
        """
        counts = [range(-(-n // chunk)) for n, chunk in zip(self.shape, self.chunks, strict=True)]
        places: Iterable[tuple[int, ...]] = product(*counts)
        if not self._array.fill_value:
            with refusing(self._node.path, "The folder of"):
                stored = sorted(_stored_chunks(self._node.path, self._array.ndim))
            places = (tuple(chunk[place] for place in self._places) for chunk in stored)
        for place in places:
            if all(number in count for number, count in zip(place, counts, strict=True)):
                yield tuple(
                    slice(number * chunk, min(n, (number + 1) * chunk))
                    for number, chunk, n in zip(place, self.chunks, self.shape, strict=True)
                )

    def _read(self, index: Index) -> NDArray[Any]:
        forward, turned = zip(*(_forward(part, n) for part, n in zip(index, self.shape, strict=True)), strict=True)
        whole: list[int | slice] = [0] * self._array.ndim
        for place, part in zip(self._places, forward, strict=True):
            whole[place] = part
        try:
            values = np.asarray(self._array[tuple(whole)])
        except Exception as error:  # the codecs of a damaged chunk raise anything
            raise self._fault(whole, error) from error
        ends = [turn for part, turn in zip(forward, turned, strict=True) if isinstance(part, slice)]
        if any(ends):
            values = values[tuple(slice(None, None, -1 if turn else 1) for turn in ends)]
        return values.astype(self.dtype, copy=False)

    def _fault(self, index: list[int | slice], error: Exception) -> FileError:
        """Return the sentence for a part that cannot be read: the first chunk of it that fails by itself."""
        path = self._node.path
        if isinstance(error, MemoryError):
            return FileError(f"The part asked for of '{path}' needs more memory than there is: read a smaller part.")
        chunks = tuple(self._array.shards or self._array.chunks)
        spans = [_span(part, length, n) for part, length, n in zip(index, self._array.shape, chunks, strict=True)]
        for place in product(*spans):
            corner = tuple(number * n for number, n in zip(place, chunks, strict=True))
            try:
                self._array[tuple(slice(start, start + n) for start, n in zip(corner, chunks, strict=True))]
            except PermissionError:
                return FileError(f"Chunk {self._key(place)} of '{path}' may not be read: ask its owner for permission.")
            except Exception:
                return FileError(
                    f"Chunk {self._key(place)} of '{path}' is damaged and cannot be read: copy or export it again."
                )
        return FileError(f"A part of '{path}' cannot be read ({error}): try again, or copy it to this machine.")

    def _key(self, place: tuple[int, ...]) -> str:
        return str(self._array.metadata.encode_chunk_key(place))


def _stored_chunks(folder: Path, dimensions: int) -> Iterator[tuple[int, ...]]:
    """Yield the number along each axis of every chunk with a file in `folder`; keys are c/0/1, 0/1 or 0.1."""
    for parent, _, names in os.walk(folder, onerror=_raise):
        for name in names:
            parts = (Path(parent) / name).relative_to(folder).as_posix().replace(".", "/").split("/")
            numbers = parts[1:] if parts[0] == "c" else parts
            if len(numbers) == dimensions and all(part.isdecimal() for part in numbers):
                yield tuple(map(int, numbers))


def _raise(error: OSError) -> None:
    raise error


def _open(node: Node) -> Any:
    check_harmless(node)
    with refusing(node.path, "The metadata of"):
        array = zarr.open_array(open_store(node), mode="r")
        dtype = np.dtype(array.dtype)
        if dtype.kind == "c":
            raise InputError(f"'{node.path}' holds complex numbers: save their magnitude.")
        if dtype.kind not in "buif" or not array.shape:
            raise FileError(f"'{node.path}' holds no image ({dtype} values): save it as 8-bit, 16-bit or float grey.")
    return array


def _forward(part: int | slice, length: int) -> tuple[int | slice, bool]:
    """Return `part` as zarr takes it, its step above 0, and whether what it gives must be turned round."""
    if isinstance(part, int):
        return part, False
    places = range(length)[part]
    if places.step > 0:
        return slice(places.start, max(places.start, places.stop), places.step), False
    return (slice(places[-1], places[0] + 1, -places.step) if places else slice(0, 0)), True


def _span(part: int | slice, length: int, chunk: int) -> range:
    """Return the numbers of the chunks along one axis that `part` touches."""
    places = range(part, part + 1) if isinstance(part, int) else range(length)[part]
    return range(places[0] // chunk, math.ceil((places[-1] + 1) / chunk)) if places else range(0)
