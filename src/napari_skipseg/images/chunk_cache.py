"""Decoded chunks, the last ones kept: neighbouring parts of an image need the same ones."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

KEPT = 128 * 2**20
"""Bytes of decoded chunks that are kept; the last one always is."""

Place = tuple[int, ...]


class ChunkCache:
    """Decoded chunks by their place. Threads that want the same chunk at once wait for one of them to decode it."""

    def __init__(self, decode: Callable[[Place], NDArray[Any]], is_stored: Callable[[Place], bool]) -> None:
        """decode: returns a chunk. is_stored: whether it has a file; a chunk without may still be written."""
        self._decode, self._is_stored = decode, is_stored
        self._chunks: OrderedDict[Place, Future[NDArray[Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, places: Sequence[Place], use: Callable[[Place, NDArray[Any]], None], size: int) -> None:
        """Call `use` with each of the chunks at `places`, which have `size` bytes; several are decoded at once.

        Raises:
            Exception: what decoding raises.
        """
        workers = min(len(places), os.cpu_count() or 1, max(1, KEPT // max(1, size)))
        if workers == 1:
            for place in places:
                use(place, self._get(place))
            return
        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(lambda place: use(place, self._get(place)), places):
                continue

    def _get(self, place: Place) -> NDArray[Any]:
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
            keep = self._is_stored(place)
            values = self._decode(place)
        except BaseException as error:
            self._forget(place)
            mine.set_exception(error)
            raise
        mine.set_result(values)
        if not keep:
            self._forget(place)
        self._drop_oldest()
        return values

    def _forget(self, place: Place) -> None:
        with self._lock:
            self._chunks.pop(place, None)

    def _drop_oldest(self) -> None:
        with self._lock:
            done = {place: each.result().nbytes for place, each in self._chunks.items() if _is_done(each)}
            total = sum(done.values())
            for place, size in list(done.items())[:-1]:
                if total <= KEPT:
                    return
                total -= size
                del self._chunks[place]


def _is_done(chunk: Future[NDArray[Any]]) -> bool:
    return chunk.done() and chunk.exception() is None
