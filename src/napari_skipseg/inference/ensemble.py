"""Averages over mirrored and turned copies of a tile, over dropout samples, and over three directions.

Loads without torch; the backend that samples is in `inference.dropout`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, combinations
from math import prod
from types import EllipsisType
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from napari_skipseg.devices import Device
from napari_skipseg.errors import InputError
from napari_skipseg.inference.backends.choose import BackendMaker
from napari_skipseg.inference.backends.fallback import notes_of
from napari_skipseg.inference.backends.interface import (
    FIRST_AXIS,
    Backend,
    Draw,
    NetworkView,
    Pixels,
    Symmetry,
    TileOutput,
    X,
    Y,
    Z,
    slice_batches,
)
from napari_skipseg.inference.memory import SLICES
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.models.model import Model

TileCorner = tuple[int, int]
"""The number of a tile's part of the stack (such as a slice), and the number of the tile in that part."""


def dropout_rate(model: Model, options: SegmentOptions) -> float:
    """Return the dropout rate of samples: that of the options, else that of the model's training.

    Raises:
        InputError: none is given and the model was trained without dropout, so that all samples would be the same.
    """
    if options.dropout is not None:
        return options.dropout
    trained = model.description.spec.dropout
    if not trained:
        raise InputError(
            f"{model.description.name} was trained without dropout, so its samples would be all the same: give a "
            "dropout rate, such as 0.2 (in a shell with --dropout 0.2)."
        )
    return trained


class SamplingBackend(Backend, Protocol):
    """A backend with dropout; its masks are chosen before each run."""

    def draw(self, seed: int, sample: int, places: Sequence[tuple[int, ...]]) -> None:
        """Choose the masks of the next run, for one image at each place."""
        ...


def iter_samples(
    backend: SamplingBackend, samples: int, seed: int, images: Pixels, places: Sequence[TileCorner]
) -> Generator[None, None, TileOutput]:
    """Yield between samples; return their mean and deviation. images: (N, C, *space), each with its place."""
    numbers = range(1, samples + 1)
    views = [NetworkView(draw=Draw(seed, sample, tuple(places))) for sample in numbers]
    averaged = yield from iter_on_device(backend, images, views)
    if averaged is not None:
        return averaged

    def run(sample: int) -> TileOutput:
        backend.draw(seed, sample, places)
        return backend.run(images)

    return (yield from iter_average([partial(run, sample) for sample in numbers]))


ViewPart = EllipsisType | tuple[slice, ...]
"""A part of an array: all of it, or slices."""
_BLOCK = 2**15
"""Values that are averaged together. Their arrays stay in the cache of a core: measured on 1056² values, 20 passes take
58 ns a voxel in whole arrays and 24 in blocks of 2¹⁴ to 2¹⁷."""


@runtime_checkable
class AveragingBackend(Backend, Protocol):
    """A backend that may average over views or planes on its device, which saves copies and processor time."""

    @property
    def averages(self) -> bool:
        """Whether it averages now."""
        ...

    def iter_average(self, images: Pixels, views: Sequence[NetworkView]) -> Generator[None, None, TileOutput | None]:
        """Yield between views; return the mean with the deviation, None if the device could not."""
        ...

    def iter_planes(self, volumes: Pixels, at_once: int) -> Generator[None, None, TileOutput | None]:
        """Yield between batches of slices; return the mean over three directions, None if the device could not."""
        ...


class RunningMean:
    """The mean of arrays of one `shape` that are added one after another, whole or in parts, and not kept."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean = np.zeros(shape, np.float32)

    def add(self, values: Pixels, count: int, part: ViewPart = ...) -> None:
        """Add `values` to the mean of `part` as the `count`-th there, from 1 on."""
        mean = self.mean[part]
        for block in _blocks(mean.shape):
            _approach(mean[block], values[block], count)


class RunningAverage(RunningMean):
    """The mean with the standard deviation beside it (Welford 1962).

    The deviation is that of the arrays themselves (divided by their number), so that of probabilities lies in [0, 0.5].
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self._squares = np.zeros(shape, np.float32)

    def deviation(self, count: int) -> Pixels:
        """Return the standard deviation, in the mean's shape, once `count` arrays were added to every part."""
        variance = self._squares / count
        return np.sqrt(variance, out=variance)

    def add(self, values: Pixels, count: int, part: ViewPart = ...) -> None:
        """Add `values` to mean and deviation of `part` as the `count`-th there, from 1 on."""
        mean, squares = self.mean[part], self._squares[part]
        for block in _blocks(mean.shape):
            away = _approach(mean[block], values[block], count)
            if count > 1:  # the first is the mean itself
                away *= away
                away *= (count - 1) / count
                into = squares[block]
                into += away


def _approach(mean: Pixels, values: Pixels, count: int) -> Pixels:
    """Move `mean` towards `values`; return their earlier difference."""
    away: Pixels = values - mean
    mean += away / count
    return away


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice | int, ...]]:
    """Yield blocks of an array of `shape`, cut along its first axes, of about `_BLOCK` values each."""
    depth = next((depth for depth in range(len(shape)) if prod(shape[depth + 1 :]) <= _BLOCK), 0)
    if not shape:
        yield ()
        return
    rows = max(1, _BLOCK // max(1, prod(shape[depth + 1 :])))
    for lead in np.ndindex(*shape[:depth]):
        for first in range(0, shape[depth], rows):
            yield (*lead, slice(first, first + rows))


def iter_on_device(
    backend: Backend, images: Pixels, views: Sequence[NetworkView]
) -> Generator[None, None, TileOutput | None]:
    """Yield between views; return the mean over them if `backend` averages on its device, else None."""
    if isinstance(backend, AveragingBackend) and backend.averages:
        return (yield from backend.iter_average(images, views))
    return None


def iter_average(passes: Sequence[Callable[[], TileOutput]]) -> Generator[None, None, TileOutput]:
    """Yield between passes, one or more; return the mean of their outputs, with the deviation of their probability."""
    output = passes[0]()
    probability = RunningAverage(output.probability.shape)
    attentions = [RunningMean(values.shape) for values in output.attentions]
    for count in range(1, len(passes) + 1):
        if count > 1:
            yield
            output = passes[count - 1]()
        probability.add(output.probability, count)
        for running, values in zip(attentions, output.attentions, strict=True):
            running.add(values, count)
    return TileOutput(
        probability.mean, tuple(running.mean for running in attentions), probability.deviation(len(passes))
    )


def symmetries(average: int, dimensions: int) -> tuple[Symmetry, ...]:
    """Return `average` (1, 4 or 8) symmetries of a tile, the identity first.

    4 mirror Y and X. 8 are all symmetries of the square in 2D; in 3D they mirror Z too, which often has a different
    voxel size.
    """
    mirrors = (Y, X, Z) if average == 8 and dimensions == 3 else (Y, X) if average > 1 else ()
    turns = (False, True) if average == 8 and dimensions == 2 else (False,)
    return tuple(Symmetry(axes, turned) for turned in turns for axes in _subsets(mirrors))


def iter_copies(
    backends: Mapping[tuple[int, ...], Backend], ways: Sequence[Symmetry], images: Pixels, places: Sequence[TileCorner]
) -> Generator[None, None, TileOutput]:
    """Yield between copies; return the mean over them, each turned back, with the deviation over them.

    images: (N, C, *space). backends: one for each size that the copies have.
    """
    averaged = yield from iter_on_device(backends[images.shape[2:]], images, [NetworkView(way) for way in ways])
    if averaged is not None:
        return averaged
    return (yield from iter_average([partial(_run_copy, backends, way, images) for way in ways]))


def _run_copy(backends: Mapping[tuple[int, ...], Backend], way: Symmetry, images: Pixels) -> TileOutput:
    output = backends[way.shape(images.shape[2:])].run(way.apply(images))
    return TileOutput(way.undo(output.probability), tuple(way.undo(values) for values in output.attentions))


def _subsets(items: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(items, size) for size in range(len(items) + 1))


def plane_shapes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the sizes of the slices across each axis of a volume (Z, Y, X): those in XY, XZ and YZ."""
    return tuple(shape[:axis] + shape[axis + 1 :] for axis in range(len(shape)))


def count_batches(shape: tuple[int, ...], at_once: int = SLICES) -> int:
    """Return the number of runs of a network for all slices of a volume of `shape` in three directions."""
    return sum(1 for _ in slice_batches(shape, at_once))


def iter_planes(
    backends: Mapping[tuple[int, ...], Backend], images: Pixels, places: Sequence[TileCorner], at_once: int = SLICES
) -> Generator[None, None, TileOutput]:
    """Yield between batches of slices; return the mean over the three directions, with the deviation over them.

    images: volumes (N, C, Z, Y, X). backends: a 2D one for each of `plane_shapes`. at_once: slices of a volume that go
    through the network together. Attention maps are left out: those of different directions have different grids.
    """
    space = images.shape[FIRST_AXIS:]
    first = backends[plane_shapes(space)[0]]
    if isinstance(first, AveragingBackend) and first.averages:
        averaged = yield from first.iter_planes(images, at_once)
        if averaged is not None:
            return averaged
    for number, (axis, part) in enumerate(slice_batches(space, at_once)):
        if number:
            yield
        probability = _run_slices(backends, images[part], axis)
        if not number:
            average = RunningAverage((*probability.shape[:FIRST_AXIS], *space))
        average.add(probability, axis - FIRST_AXIS + 1, part)
    return TileOutput(average.mean, (), average.deviation(len(space)))


def _run_slices(backends: Mapping[tuple[int, ...], Backend], images: Pixels, axis: int) -> Pixels:
    """Return the probability (N, classes, *space) of `images` (N, C, *space), seen slice by slice across `axis`."""
    slices = np.moveaxis(images, axis, 1)  # (N, slices, C, *plane)
    batch = np.ascontiguousarray(slices.reshape(-1, *slices.shape[2:]))
    probability = backends[batch.shape[FIRST_AXIS:]].run(batch).probability
    return np.moveaxis(probability.reshape(*slices.shape[:2], *probability.shape[1:]), 1, axis)


class Passes(NamedTuple):
    """The backends, the passes per tile, and a generator that yields between passes and returns the tiles' output.

    backends: one for each size of image. run: takes images (N, C, *space), all of the tile's size, and the place of
    each; it yields `per_tile` - 1 times. With several passes the output has an uncertainty.
    """

    backends: tuple[Backend, ...]
    per_tile: int
    run: Callable[[Pixels, Sequence[TileCorner]], Generator[None, None, TileOutput]]

    @property
    def backend(self) -> Backend:
        """The backend in the recipe; the others are the same for different sizes, but each may fail by itself."""
        return self.backends[0]

    @property
    def notes(self) -> list[str]:
        """A sentence for each backend that failed before another took over."""
        return [note for backend in self.backends for note in notes_of(backend)]


def choose_passes(
    model: Model,
    device: Device,
    shape: tuple[int, ...],
    options: SegmentOptions,
    backend_maker: BackendMaker,
    *,
    batch: int = 1,
    precision: str | None = None,
) -> Passes:
    """Return the passes for the options. Samples are computed by torch, all others by the backend of `backend_maker`.

    shape: of a tile in space; (Z, Y, X) also for a 2D network along all three axes. batch: number of tiles, or with
    three planes of eights of slices, per run of the network. precision: of samples, None = the best one.

    Raises:
        InputError: samples of a model without dropout, and no rate is given.
        ValueError: three planes of a tile that is no volume, or for a 3D network.
    """
    if options.samples:
        from napari_skipseg.inference.dropout import make_dropout_backend

        rate = dropout_rate(model, options)
        dropout = make_dropout_backend(model, device, shape, rate, precision)
        dropout.attention = options.attention
        return Passes((dropout,), options.samples, partial(iter_samples, dropout, options.samples, options.seed))
    if options.planes == "xyz":
        if len(shape) != 3 or model.description.spec.dimensions != 2:
            raise ValueError(f"three planes take a 2D network and a 3D tile, not {model.description.name} and {shape}")
        backends = _make(model, device, plane_shapes(shape), backend_maker, attention=False)
        slices = SLICES * batch
        run = partial(iter_planes, backends, at_once=slices)
        return Passes(tuple(backends.values()), count_batches(shape, slices), run)
    ways = symmetries(options.average, len(shape))
    backends = _make(model, device, (way.shape(shape) for way in ways), backend_maker, options.attention)
    if len(ways) == 1:
        backend = backends[shape]
        return Passes((backend,), 1, partial(iter_once, backend))
    return Passes(tuple(backends.values()), len(ways), partial(iter_copies, backends, ways))


def iter_once(backend: Backend, images: Pixels, places: Sequence[TileCorner]) -> Generator[None, None, TileOutput]:
    """Return the backend's output."""
    yield from ()
    return backend.run(images)


def _make(
    model: Model, device: Device, shapes: Iterable[tuple[int, ...]], backend_maker: BackendMaker, attention: bool
) -> dict[tuple[int, ...], Backend]:
    """Return one backend for each size, in their order. attention: whether maps are computed."""
    backends = {shape: backend_maker(model, device, shape) for shape in dict.fromkeys(shapes)}
    for backend in backends.values():
        if hasattr(backend, "attention"):
            backend.attention = attention
    return backends
