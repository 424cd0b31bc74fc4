"""Mirrored and turned copies of a tile, whose results are turned back and averaged."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, combinations
from typing import NamedTuple

import numpy as np

from napari_skipseg.inference.averaging import iter_average
from napari_skipseg.inference.backends import Backend, Pixels, TileOutput
from napari_skipseg.inference.dropout import Place

Y, X, Z = -2, -1, -3
"""Axes counted from the last, so that they are the same ones in images and in attention maps."""


class Symmetry(NamedTuple):
    """A way to see a tile: mirrored along `mirrored` axes, and then, where `turned`, with Y and X exchanged."""

    mirrored: tuple[int, ...]
    turned: bool

    def apply(self, values: Pixels) -> Pixels:
        """Return the copy of `values` (..., *space), contiguous."""
        return np.ascontiguousarray(self._turn(np.flip(values, self.mirrored)))

    def undo(self, values: Pixels) -> Pixels:
        """Return a view of what belongs to the copy, as it belongs to the tile itself."""
        return np.flip(self._turn(values), self.mirrored)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the size of the copy of a tile of `shape`."""
        return (*shape[:-2], shape[X], shape[Y]) if self.turned else shape

    def _turn(self, values: Pixels) -> Pixels:
        return np.swapaxes(values, Y, X) if self.turned else values


def symmetries(average: int, dimensions: int) -> tuple[Symmetry, ...]:
    """Return `average` (1, 4 or 8) ways to see a tile, the tile as it is first.

    4 mirror Y and X. 8 are all of the square in 2D, and mirror Z too in 3D, where Z is often sampled otherwise.
    """
    mirrors = (Y, X, Z) if average == 8 and dimensions == 3 else (Y, X) if average > 1 else ()
    turns = (False, True) if average == 8 and dimensions == 2 else (False,)
    return tuple(Symmetry(axes, turned) for turned in turns for axes in _subsets(mirrors))


def iter_copies(
    backends: Mapping[tuple[int, ...], Backend], ways: Sequence[Symmetry], images: Pixels, places: Sequence[Place]
) -> Generator[None, None, TileOutput]:
    """Yield between copies; return the mean over them, each turned back, with the deviation over them.

    images: (N, C, *space). backends: one for each size that the copies have.
    """
    return (yield from iter_average([partial(_run_copy, backends, way, images) for way in ways]))


def _run_copy(backends: Mapping[tuple[int, ...], Backend], way: Symmetry, images: Pixels) -> TileOutput:
    output = backends[way.shape(images.shape[2:])].run(way.apply(images))
    return TileOutput(way.undo(output.probability), tuple(way.undo(values) for values in output.attentions))


def _subsets(items: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(items, size) for size in range(len(items) + 1))
