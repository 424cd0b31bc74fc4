"""Lazy views: an array with its axes turned, or its grey values inverted, as it is read."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_skipseg.images.stack import ArrayLike, LazyArray


class TurnedArray(LazyArray):
    """An array with its axes in another order, some of them running backwards.

    Its axis i is axis `order[i]` of `data`; the axes in `backwards` (numbers of its own) begin at the other end.
    """

    def __init__(self, data: ArrayLike, order: tuple[int, ...], backwards: tuple[int, ...] = ()) -> None:
        self._data, self._order, self._backwards = data, order, frozenset(backwards)
        self.shape = tuple(int(data.shape[axis]) for axis in order)
        self.dtype = data.dtype
        chunks = getattr(data, "chunks", None)
        if chunks is not None:
            self.chunks = tuple(chunks[axis] for axis in order)  # the viewer reads chunk by chunk

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        behind: list[int | slice] = [0] * len(index)
        for axis, (part, length) in enumerate(zip(index, self.shape, strict=True)):
            behind[self._order[axis]] = _mirrored(part, length) if axis in self._backwards else part
        values = self._data[tuple(behind)]
        kept = [self._order[axis] for axis, part in enumerate(index) if isinstance(part, slice)]
        return np.asarray(values).transpose(np.argsort(np.argsort(kept))) if kept else values


class InvertedArray(LazyArray):
    """Grey values counted down from `top`: what is stored as 0 is `top`."""

    def __init__(self, data: ArrayLike, top: int | bool) -> None:
        self._data, self.shape = data, tuple(int(length) for length in data.shape)
        self.dtype = np.dtype(data.dtype)
        self._top = self.dtype.type(top)

    def _read(self, index: tuple[int | slice, ...]) -> Any:
        values = np.asarray(self._data[index])
        return np.logical_not(values)[()] if self.dtype.kind == "b" else (self._top - values)[()]


def _mirrored(part: int | slice, length: int) -> int | slice:
    """Return `part` of an axis that is counted from its other end."""
    if isinstance(part, int):
        return length - 1 - part
    places = range(length - 1, -1, -1)[part]
    if not places:
        return slice(0, 0)
    return slice(places.start, places.stop if places.stop >= 0 else None, places.step)
