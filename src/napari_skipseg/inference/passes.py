"""How often the network sees a tile, and what becomes of it: once, mirrored in every way, or with dropout on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import partial
from itertools import chain, combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.devices import Device
from napari_skipseg.inference.backends import Backend, Pixels, TileOutput
from napari_skipseg.inference.dropout import DropoutBackend, Place, dropout_rate, iter_samples
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.models.model import Model

BackendMaker = Callable[[Model, Device, tuple[int, ...]], Backend]


class Passes(NamedTuple):
    """What runs, how often per tile, and a generator that yields between the passes and returns the tile's output."""

    backend: Backend
    per_tile: int
    run: Callable[[Pixels, Place], Generator[None, None, TileOutput]]


def choose_passes(
    model: Model, device: Device, shape: tuple[int, ...], options: SegmentOptions, backend_maker: BackendMaker
) -> Passes:
    """Return the passes that the options ask for. Samples take torch, everything else what `backend_maker` makes.

    Raises:
        InputError: samples of a model that has no dropout, with no rate given.
    """
    if options.samples:
        dropout = DropoutBackend(model, device, dropout_rate(model, options))
        return Passes(dropout, options.samples, partial(iter_samples, dropout, options.samples, options.seed))
    backend = backend_maker(model, device, shape)
    if options.flips:
        return Passes(backend, 2 ** len(shape), partial(iter_flips, backend))
    return Passes(backend, 1, partial(iter_once, backend))


def iter_once(backend: Backend, image: Pixels, place: Place) -> Generator[None, None, TileOutput]:
    """Return the backend's output."""
    yield from ()
    return backend.run(image)


def iter_flips(backend: Backend, image: Pixels, place: Place) -> Generator[None, None, TileOutput]:
    """Yield between passes; return the mean over all mirrored copies of the image."""
    total: list[NDArray[np.float64]] = []
    count = 0
    for axes in _subsets(range(1, image.ndim)):
        if count:
            yield
        flipped = backend.run(np.ascontiguousarray(np.flip(image, axes)))
        back = [np.flip(flipped.probability, axes)]
        back += [np.flip(attention, tuple(axis - 1 for axis in axes)) for attention in flipped.attentions]
        total = [t + b for t, b in zip(total, back, strict=True)] if total else [b.astype(np.float64) for b in back]
        count += 1
    mean = [(values / count).astype(np.float32) for values in total]
    return TileOutput(mean[0], tuple(mean[1:]))


def _subsets(items: range) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(items, size) for size in range(len(items) + 1))
