"""Mirrored and turned copies of a tile, whose results are turned back and averaged."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, combinations

from napari_skipseg.inference.averaging import iter_average, iter_on_device
from napari_skipseg.inference.backends import Backend, Pixels, TileOutput
from napari_skipseg.inference.backends.views import Symmetry, View, X, Y, Z
from napari_skipseg.inference.dropout import Place


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
    averaged = yield from iter_on_device(backends[images.shape[2:]], images, [View(way) for way in ways])
    if averaged is not None:
        return averaged
    return (yield from iter_average([partial(_run_copy, backends, way, images) for way in ways]))


def _run_copy(backends: Mapping[tuple[int, ...], Backend], way: Symmetry, images: Pixels) -> TileOutput:
    output = backends[way.shape(images.shape[2:])].run(way.apply(images))
    return TileOutput(way.undo(output.probability), tuple(way.undo(values) for values in output.attentions))


def _subsets(items: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(items, size) for size in range(len(items) + 1))
