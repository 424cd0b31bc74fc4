"""A pyramid that grows while its finest level is written: nothing is read back, and little is left to do at the end.

What is written is reduced at once, and waits in memory until a coarser chunk is whole. That chunk is written by whoever
brought its last part, and is reduced in its turn. So a chunk has one writer, and is newer than all it is made from.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.images.zarr.layout import Layout
from napari_skipseg.images.zarr.pyramid import PyramidRegion, average, most_common

MOST_WAITING = 128 * 2**20
"""Bytes of coarser chunks that wait for parts. Beyond, no more are begun; they are made at the end, from files.

A volume of 8 GiB in planes of 2048² and chunks of 64³ has 85 MiB of them at the most."""

CoarseChunk = tuple[int, ...]
"""A level from 1 on, and the number of a chunk of it along each axis."""


class _Waiting:
    """A chunk that is not whole: its region, its values so far, where parts begin, and how many voxels are missing."""

    def __init__(self, region: PyramidRegion, dtype: np.dtype[Any]) -> None:
        self.region = region
        self.values = np.empty([part.stop - part.start for part in region], dtype)
        self.missing = self.values.size
        self.parts: set[tuple[int, ...]] = set()


class GrowingPyramid:
    """The coarser levels of a layout, made from what `add` is given. Threads may add at once.

    chunks: their shape, by level. write: writes the chunk of a region of a level.
    """

    def __init__(
        self,
        layout: Layout,
        chunks: tuple[tuple[int, ...], ...],
        write: Callable[[int, PyramidRegion, NDArray[Any]], None],
    ) -> None:
        self._shapes = tuple(level.shape for level in layout.levels)
        factors = [level.factor for level in layout.levels]
        self._steps = [(), *(_divided(new, old) for old, new in pairwise(factors))]
        self._chunks, self._write = chunks, write
        self._reduce = most_common if layout.kind == "labels" else average
        self._waiting: dict[CoarseChunk, _Waiting] = {}
        self._bytes = 0
        self._left_out = [np.zeros(_counts(*pair), np.bool_) for pair in zip(self._shapes, chunks, strict=True)]
        self._lock = threading.Lock()

    def add(self, region: PyramidRegion, values: NDArray[Any], level: int = 0) -> None:
        """Take the `values` of a region of a level, whole chunks that are written; write coarser chunks that are whole.

        Raises:
            OSError: as `write`.
        """
        if level + 1 == len(self._shapes):
            return
        steps, above = self._steps[level + 1], self._above(region, level)
        if not self._is_even(region, level):
            self._leave_out(level + 1, above)
            return
        if self._find_left_out(level + 1, above).all():
            return
        reduced = self._reduce(values, steps)
        part = tuple(slice(side.start // step, -(-side.stop // step)) for side, step in zip(region, steps, strict=True))
        for place in product(*(range(side.start, side.stop) for side in above)):
            self._put((level + 1, *place), part, reduced)

    def leave_out(self, region: PyramidRegion) -> None:
        """Leave out all chunks that are made from a region of the finest level, which was written before."""
        if len(self._shapes) > 1:
            self._leave_out(1, self._above(region, 0))

    def clear(self) -> None:
        """Forget all that waits; what is added from now on is left out."""
        with self._lock:
            self._waiting, self._bytes = {}, 0
            for left_out in self._left_out:
                left_out[:] = True

    def _put(self, chunk: CoarseChunk, part: PyramidRegion, reduced: NDArray[Any]) -> None:
        """Copy what lies in a chunk of the `reduced` values of `part`; write the chunk if it is whole now."""
        with self._lock:
            waiting = self._begun(chunk, reduced.dtype)
        if waiting is None:
            return
        both = [
            slice(max(mine.start, own.start), min(mine.stop, own.stop))
            for mine, own in zip(part, waiting.region, strict=True)
        ]
        into, out_of = (
            tuple(
                slice(each.start - side.start, each.stop - side.start) for each, side in zip(both, sides, strict=True)
            )
            for sides in (waiting.region, part)
        )
        waiting.values[into] = reduced[out_of]  # no other thread has this part
        begin = tuple(each.start for each in both)
        with self._lock:
            if begin in waiting.parts:  # written again
                return
            waiting.parts.add(begin)
            waiting.missing -= math.prod(each.stop - each.start for each in both)
            if waiting.missing or self._waiting.pop(chunk, None) is None:
                return
            self._bytes -= waiting.values.nbytes
        self._write(chunk[0], waiting.region, waiting.values)
        self.add(waiting.region, waiting.values, chunk[0])

    def _begun(self, chunk: CoarseChunk, dtype: np.dtype[Any]) -> _Waiting | None:
        """Return a chunk that waits, begun now if there is room; None if it is left out. Needs the lock."""
        known = self._waiting.get(chunk)
        level, place = chunk[0], chunk[1:]
        if known is not None or self._left_out[level][place]:
            return known
        region = tuple(
            slice(number * size, min((number + 1) * size, length))
            for number, size, length in zip(place, self._chunks[level], self._shapes[level], strict=True)
        )
        size = math.prod(side.stop - side.start for side in region) * dtype.itemsize
        if self._bytes + size > MOST_WAITING:
            self._drop(level, tuple(slice(number, number + 1) for number in place))
            return None
        self._bytes += size
        self._waiting[chunk] = _Waiting(region, dtype)
        return self._waiting[chunk]

    def _leave_out(self, level: int, places: PyramidRegion) -> None:
        with self._lock:
            self._drop(level, places)

    def _drop(self, level: int, places: PyramidRegion) -> None:
        """Leave out chunks of a level, and all that are made from them. Needs the lock."""
        while level < len(self._shapes) and not self._left_out[level][places].all():
            self._left_out[level][places] = True
            for place in product(*(range(side.start, side.stop) for side in places)):
                gone = self._waiting.pop((level, *place), None)
                self._bytes -= 0 if gone is None else gone.values.nbytes
            sizes = zip(places, self._chunks[level], self._shapes[level], strict=True)
            region = tuple(slice(side.start * n, min(side.stop * n, length)) for side, n, length in sizes)
            if level + 1 < len(self._shapes):
                places = self._above(region, level)
            level += 1

    def _find_left_out(self, level: int, places: PyramidRegion) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self._left_out[level][places]
        return found

    def _above(self, region: PyramidRegion, level: int) -> PyramidRegion:
        """Return the numbers of the chunks of the next level that are made from a region of `level`."""
        return chunks_above(region, self._steps[level + 1], self._chunks[level + 1])

    def _is_even(self, region: PyramidRegion, level: int) -> bool:
        """Return whether no block of voxels that becomes one lies in two regions like this one."""
        sides = zip(region, self._steps[level + 1], self._shapes[level], strict=True)
        return all(
            side.start % step == 0 and (side.stop % step == 0 or side.stop == length) for side, step, length in sides
        )


def chunks_above(region: PyramidRegion, steps: tuple[int, ...], chunks: tuple[int, ...]) -> PyramidRegion:
    """Return the numbers of the chunks of a coarser level, `steps` as coarse, that are made from a region."""
    return tuple(
        slice(side.start // (step * chunk), -(-side.stop // (step * chunk)))
        for side, step, chunk in zip(region, steps, chunks, strict=True)
    )


def _counts(shape: tuple[int, ...], chunks: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-length // chunk) for length, chunk in zip(shape, chunks, strict=True))


def _divided(new: tuple[int, ...], old: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(one // other for one, other in zip(new, old, strict=True))
