"""Decoded chunks, the last ones kept: neighbouring parts of an image need the same ones."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from numpy.typing import NDArray

KEPT_CHUNKS = 256 * 2**20
"""Bytes of decoded chunks that are kept; the last one always is."""

ChunkIndex = tuple[int, ...]


class CachedChunks(Protocol):
    """An array that is stored in chunks."""

    def decode(self, place: ChunkIndex) -> NDArray[Any]:
        """Return the chunk at `place`."""
        ...

    def is_stored(self, place: ChunkIndex) -> bool:
        """Return whether it has a file; one without may still be written."""
        ...


class ChunkCache:
    """Decoded chunks by their place. Threads that want the same chunk at once wait for one of them to decode it."""

    def __init__(self) -> None:
        self._chunks: OrderedDict[ChunkIndex, Future[NDArray[Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def read(
        self,
        chunks: CachedChunks,
        places: Sequence[ChunkIndex],
        use: Callable[[ChunkIndex, NDArray[Any]], None],
        size: int,
    ) -> None:
        """Call `use` with each of the chunks at `places`, which have `size` bytes; several are decoded at once.

        Raises:
            Exception: what decoding raises.
        """
        workers = min(len(places), os.cpu_count() or 1, max(1, KEPT_CHUNKS // max(1, size)))
        if workers <= 1:
            for place in places:
                use(place, self._get(chunks, place))
            return
        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(lambda place: use(place, self._get(chunks, place)), places):
                continue

    def _get(self, chunks: CachedChunks, place: ChunkIndex) -> NDArray[Any]:
        with self._lock:
            known = self._chunks.get(place)
            mine: Future[NDArray[Any]] = Future()
            if known is None:
                self._chunks[place] = mine
            else:
                self._chunks.move_to_end(place)
        if known is not None:
            return known.result()
        try:
            keep = chunks.is_stored(place)
            values = chunks.decode(place)
        except BaseException as error:
            self._forget(place)
            mine.set_exception(error)
            raise
        mine.set_result(values)
        if not keep:
            self._forget(place)
        self._drop_oldest()
        return values

    def _forget(self, place: ChunkIndex) -> None:
        with self._lock:
            self._chunks.pop(place, None)

    def _drop_oldest(self) -> None:
        with self._lock:
            done = {
                place: each.result().nbytes
                for place, each in self._chunks.items()
                if (each.done() and each.exception() is None)
            }
            total = sum(done.values())
            for place, size in list(done.items())[:-1]:
                if total <= KEPT_CHUNKS:
                    return
                total -= size
                del self._chunks[place]
