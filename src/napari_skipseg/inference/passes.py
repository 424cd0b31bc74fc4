"""How often the network sees a tile: once, in mirrored and turned copies, with dropout on, or along all three axes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from napari_skipseg.devices import Device
from napari_skipseg.inference.backends import Backend, Pixels, TileOutput
from napari_skipseg.inference.copies import iter_copies, symmetries
from napari_skipseg.inference.dropout import Place, dropout_rate, iter_samples, make_dropout_backend
from napari_skipseg.inference.memory_share import ALONE, MemoryShare
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.planes import SLICES, count_batches, iter_planes, plane_shapes
from napari_skipseg.models.model import Model

BackendMaker = Callable[[Model, Device, tuple[int, ...]], Backend]


class Passes(NamedTuple):
    """What runs, how often per tile, and a generator that yields between the passes and returns the tiles' output.

    backends: one for each size that the network sees. run: takes images (N, C, *space), all of the tile's size, and the
    place of each; it yields `per_tile` - 1 times. With several passes the output has an uncertainty.
    """

    backends: tuple[Backend, ...]
    per_tile: int
    run: Callable[[Pixels, Sequence[Place]], Generator[None, None, TileOutput]]

    @property
    def backend(self) -> Backend:
        """The one that a recipe names; the others were made alike for other sizes, and each may fail by itself."""
        return self.backends[0]


def choose_passes(
    model: Model,
    device: Device,
    shape: tuple[int, ...],
    options: SegmentOptions,
    backend_maker: BackendMaker,
    *,
    batch: int = 1,
    precision: str | None = None,
    share: MemoryShare = ALONE,
) -> Passes:
    """Return the passes that the options ask for. Samples take torch, everything else what `backend_maker` makes.

    shape: of a tile in space; (Z, Y, X) too if a 2D network is to run along all three axes. batch: tiles, or with three
    planes eights of slices, that go through the network together. precision: in which samples are computed, None = the
    best there. share: of the computer's memory.

    Raises:
        InputError: samples of a model that has no dropout, with no rate given.
        ValueError: three planes of what is no volume, or for a 3D network.
    """
    if options.samples:
        rate = dropout_rate(model, options)
        dropout = make_dropout_backend(model, device, shape, rate, precision, share)
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


def iter_once(backend: Backend, images: Pixels, places: Sequence[Place]) -> Generator[None, None, TileOutput]:
    """Return the backend's output."""
    yield from ()
    return backend.run(images)


def _make(
    model: Model, device: Device, shapes: Iterable[tuple[int, ...]], backend_maker: BackendMaker, attention: bool
) -> dict[tuple[int, ...], Backend]:
    """Return one backend for each size, in the order in which they come; attention: whether maps are wanted."""
    backends = {shape: backend_maker(model, device, shape) for shape in dict.fromkeys(shapes)}
    for backend in backends.values():
        if hasattr(backend, "attention"):
            backend.attention = attention
    return backends
