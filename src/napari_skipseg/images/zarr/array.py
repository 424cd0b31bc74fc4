"""A zarr array that is read on demand, chunk by chunk."""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from napari_skipseg.devices import cores
from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.faults import read_errors_as_sentences
from napari_skipseg.images.stack import LazyArray
from napari_skipseg.images.zarr.chunk_files import ChunkPlaces, find_chunks, plain_chunks
from napari_skipseg.images.zarr.metadata import Node, check_harmless

ArrayIndex = tuple[int | slice, ...]


INDEX_ENTRY = 16
"""Bytes that the index of a shard has for each chunk in it."""

LARGEST_CHUNK = 2 * 2**30
"""Bytes of a chunk from which on an array is refused: each of its voxels costs that much memory. Blosc has no more."""

SMALL_CHUNK = 2**20
"""Bytes of a chunk up to which zarr, where it must, reads it each time, several at once."""


KEPT_CHUNKS = 256 * 2**20
"""Bytes of decoded chunks that are kept; the last one always is."""
KEPT_SMALL = 64 * 2**20
"""The same for chunks up to `SMALL_CHUNK`: tiles overlap, and checks look at the same slices several times."""
DECODED_TOGETHER = 2**22
"""Bytes that are to be decoded from which on several threads are worth their start."""


ChunkIndex = tuple[int, ...]


class ChunkCache:
    """Decoded chunks by place. If several threads need the same chunk at once, one decodes it and the others wait."""

    def __init__(self) -> None:
        self._chunks: OrderedDict[tuple[ChunkIndex, Any], Future[NDArray[Any]]] = OrderedDict()
        self._most = 1
        self._lock = threading.Lock()

    def read(
        self,
        chunks: ZarrArray,
        places: Sequence[ChunkIndex],
        use: Callable[[ChunkIndex, NDArray[Any]], None],
        size: int,
    ) -> None:
        """Call `use` with each of the chunks at `places`, which have `size` bytes; several are decoded at once.

        Raises:
            Exception: any error of the decoding.
        """
        kept = KEPT_SMALL if size <= SMALL_CHUNK else KEPT_CHUNKS
        self._most = max(1, kept // max(1, size))
        keys = [(place, chunks.stamp(place)) for place in places]
        with self._lock:
            known = [self._chunks.get(key) for key in keys]
        missing = []
        for key, found in zip(keys, known, strict=True):  # those at hand are not worth a thread
            if found is not None and found.done() and found.exception() is None:
                use(key[0], self._get(chunks, key))
            else:
                missing.append(key)
        workers = min(len(missing), len(cores()), self._most)
        if workers <= 1 or len(missing) * size < DECODED_TOGETHER:
            for key in missing:
                use(key[0], self._get(chunks, key))
            return
        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(lambda key: use(key[0], self._get(chunks, key)), missing):
                continue

    def _get(self, chunks: ZarrArray, key: tuple[ChunkIndex, Any]) -> NDArray[Any]:
        place, _ = key
        with self._lock:
            known = self._chunks.get(key)
            mine: Future[NDArray[Any]] = Future()
            if known is None:
                self._chunks[key] = mine
            else:
                self._chunks.move_to_end(key)
        if known is not None:
            return known.result()
        try:
            keep = chunks.is_stored(place)
            values = chunks.decode(place)
        except BaseException as error:
            self._forget(key)
            mine.set_exception(error)
            raise
        mine.set_result(values)
        if not keep:
            self._forget(key)
        self._drop_oldest()
        return values

    def _forget(self, key: tuple[ChunkIndex, Any]) -> None:
        with self._lock:
            self._chunks.pop(key, None)

    def _drop_oldest(self) -> None:
        with self._lock:
            while len(self._chunks) > self._most:  # whoever waits for a chunk has it in hand
                self._chunks.popitem(last=False)


class ZarrArray(LazyArray):
    """The voxels of a zarr array in native byte order; missing chunks have the fill value.

    Several threads may read at once. The last large chunks are kept, so that reading slice by slice does not decode a
    thick chunk several times.

    chunks: the shape of the parts that are stored as one. notes: for the user.

    Raises:
        FileError: its chunks are too large, have no voxels or are not where they should be; it contains no image.
        InputError: it contains complex numbers.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        places, self._array = _open(node)
        self._forms = (places.named, *places.others)
        self._places = tuple(range(self._array.ndim))
        self.shape: tuple[int, ...] = tuple(int(length) for length in self._array.shape)
        self.chunks: tuple[int, ...] = tuple(int(n) for n in self._array.shards or self._array.chunks)
        self.dtype = np.dtype(self._array.dtype).newbyteorder("=")
        self.notes: tuple[str, ...] = (places.note,) if places.note else ()
        self._decoded = tuple(int(n) for n in self._array.chunks)  # of a shard, only what is requested is decoded
        self._chunk_bytes = math.prod(self._decoded) * self.dtype.itemsize
        self._plain = plain_chunks(node, self._array, self._forms)
        self._cache = ChunkCache() if self._plain is not None or self._chunk_bytes > SMALL_CHUNK else None

    def keep_axes(self, places: tuple[int, ...]) -> ZarrArray:
        """Return the array with these of its axes, in this order; the others have length 1."""
        fewer = copy(self)
        fewer._places = tuple(self._places[place] for place in places)
        fewer.shape = tuple(self.shape[place] for place in places)
        fewer.chunks = tuple(self.chunks[place] for place in places)
        return fewer

    def written(self) -> Iterator[tuple[slice, ...]]:
        """Yield the part of every chunk that has a file, in order; all other voxels have the fill value.

        All are yielded if the fill value is not 0.

        Raises:
            FileError: the folder cannot be read, or is gone.
        """
        counts = [range(-(-n // chunk)) for n, chunk in zip(self.shape, self.chunks, strict=True)]
        places: Iterable[tuple[int, ...]] = product(*counts)
        if not self._array.fill_value:
            with read_errors_as_sentences(self._node.path, "The folder of"):
                stored = sorted(_stored_chunks(self._node.path, self._array.ndim))
            places = (tuple(chunk[place] for place in self._places) for chunk in stored)
        for place in places:
            if all(number in count for number, count in zip(place, counts, strict=True)):
                yield tuple(
                    slice(number * chunk, min(n, (number + 1) * chunk))
                    for number, chunk, n in zip(place, self.chunks, self.shape, strict=True)
                )

    def _read(self, index: ArrayIndex) -> NDArray[Any]:
        forward, turned = zip(*(_forward(part, n) for part, n in zip(index, self.shape, strict=True)), strict=True)
        whole: list[int | slice] = [0] * self._array.ndim
        for place, part in zip(self._places, forward, strict=True):
            whole[place] = part
        try:
            values = np.asarray(self._array[tuple(whole)]) if self._cache is None else self._read_kept(whole)
        except Exception as error:  # the codecs of a damaged chunk raise anything
            raise self._fault(whole, error) from error
        ends = [turn for part, turn in zip(forward, turned, strict=True) if isinstance(part, slice)]
        if any(ends):
            values = values[tuple(slice(None, None, -1 if turn else 1) for turn in ends)]
        return values.astype(self.dtype, copy=False)

    def _read_kept(self, index: list[int | slice]) -> NDArray[Any]:
        """Return the voxels at `index`, with steps above 0, from the kept chunks."""
        lengths = [int(length) for length in self._array.shape]
        wanted = [
            range(part, part + 1) if isinstance(part, int) else range(n)[part]
            for part, n in zip(index, lengths, strict=True)
        ]
        result = np.empty([len(part) for part in wanted], self.dtype)
        spans = [_span(part, n, size) for part, n, size in zip(index, lengths, self._decoded, strict=True)]

        def copy_chunk(place: tuple[int, ...], values: NDArray[Any]) -> None:
            parts = [_overlap(part, n * size, size) for part, n, size in zip(wanted, place, self._decoded, strict=True)]
            result[tuple(into for into, _ in parts)] = values[tuple(out_of for _, out_of in parts)]

        if self._cache is not None:
            self._cache.read(self, list(product(*spans)), copy_chunk, self._chunk_bytes)
        return result[tuple(0 if isinstance(part, int) else slice(None) for part in index)]

    def decode(self, place: tuple[int, ...]) -> NDArray[Any]:
        """Return the chunk at `place` with all axes; at the end of an axis, its part inside the array."""
        part = tuple(slice(n * size, (n + 1) * size) for n, size in zip(place, self._decoded, strict=True))
        if self._plain is not None:
            inside = zip(part, self._array.shape, strict=True)
            whole = self._plain.read(place)[tuple(slice(min(each.stop, n) - each.start) for each, n in inside)]
            return whole.astype(self.dtype, copy=False)
        return np.asarray(self._array[part]).astype(self.dtype, copy=False)

    def stamp(self, place: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return what changes with the file of the chunk at `place`, None if it has none or zarr reads it."""
        return None if self._plain is None else self._plain.stamp(place)

    def is_stored(self, place: tuple[int, ...]) -> bool:
        """Return whether the chunk at `place` has a file."""
        stored = self._array.shards or self._array.chunks
        numbers = [n * size // whole for n, size, whole in zip(place, self._decoded, stored, strict=True)]
        return any((self._node.path / form.key(numbers)).is_file() for form in self._forms)

    def _fault(self, index: list[int | slice], error: Exception) -> FileError:
        """Return the error for a part that cannot be read; it names the first chunk that cannot be read."""
        path = self._node.path
        if isinstance(error, MemoryError):
            return FileError(f"The part requested of '{path}' needs more memory than there is: read a smaller part.")
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


def _open(node: Node) -> tuple[ChunkPlaces, Any]:
    import zarr  # with its store 0.15 s, and the window opens without

    from napari_skipseg.images.zarr.whole_chunks import open_store

    check_harmless(node)
    if any(length == 0 for lengths in _chunk_lengths(node.array) for length in lengths):  # zarr divides by them
        raise FileError(f"'{node.path}' has chunks without voxels: it is damaged, export it again.")
    with read_errors_as_sentences(node.path, "The metadata of"):
        places = find_chunks(node, len((node.array or {})["shape"]))
        try:
            array = zarr.open_array(open_store(node, places.others), mode="r")
        except ValueError as error:
            if type(error).__name__ != "UnknownCodecError":  # zarr and numcodecs have one each, not in all versions
                raise
            raise FileError(
                f"'{node.path}' has a codec that is not known here ({error}): store it with blosc, gzip or zstd."
            ) from error
        dtype = np.dtype(array.dtype)
        if dtype.kind == "c":
            raise InputError(f"'{node.path}' contains complex numbers: save their magnitude.")
        if dtype.kind not in "buif" or not array.shape:
            raise FileError(
                f"'{node.path}' contains no image ({dtype} values): save it as 8-bit, 16-bit or float grey."
            )
        inside = math.prod(array.shards) // math.prod(array.chunks) if array.shards else 0
        needed = max(math.prod(array.chunks) * dtype.itemsize, inside * INDEX_ENTRY)
        if needed > min(LARGEST_CHUNK, psutil.virtual_memory().total // 4):
            raise FileError(
                f"'{node.path}' has chunks of {needed / 2**30:.3g} GiB, too large to be read in parts: store it in "
                "smaller chunks."
            )
    return places, array


def _chunk_lengths(metadata: Any) -> Iterator[list[Any]]:
    """Yield every shape of chunks in the metadata of an array, those within shards too."""
    if isinstance(metadata, dict):
        for key, value in metadata.items():
            if key in ("chunks", "chunk_shape") and isinstance(value, list):
                yield value
            elif key in ("chunk_grid", "configuration", "codecs"):
                yield from _chunk_lengths(value)
    elif isinstance(metadata, list):
        for value in metadata:
            yield from _chunk_lengths(value)


def _forward(part: int | slice, length: int) -> tuple[int | slice, bool]:
    """Return `part` with a step above 0, which zarr needs, and whether the result must be reversed."""
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


def _overlap(wanted: range, start: int, length: int) -> tuple[slice, slice]:
    """Return the `wanted` positions that lie in a chunk that begins at `start`, as slices of both."""
    first = max(0, -(-(start - wanted.start) // wanted.step))
    last = min(len(wanted), -(-(start + length - wanted.start) // wanted.step))
    if last <= first:  # the step is longer than the chunk
        return slice(0, 0), slice(0, 0)
    begin = wanted.start + first * wanted.step - start
    return slice(first, last), slice(begin, begin + (last - first - 1) * wanted.step + 1, wanted.step)
