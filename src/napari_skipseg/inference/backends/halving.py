"""What a backend does where memory is short: half the batch, then half the tile; what comes out has the same shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from napari_skipseg.devices import MEMORY_FAULTS
from napari_skipseg.errors import SkipsegError
from napari_skipseg.images.tiles import Tile, TilePlan, plan_tiles
from napari_skipseg.inference.backends.interface import Backend, Pixels, TileOutput
from napari_skipseg.inference.backends.torch_backend import release_memory
from napari_skipseg.models.model import Model

ALL = slice(None)


class OutOfMemoryError(SkipsegError):
    """The device has no memory for the smallest of tiles."""


@dataclass(frozen=True)
class Choice:
    """A backend that could be made: what and where it is, why it stands at its place, and what makes it.

    at_once: most images that it is given at a time, None = any number. A CPU gains nothing from several, and one by one
    they come out the same to the last bit, whatever lies beside them.
    """

    title: str
    reason: str
    make: Callable[[Model, tuple[int, ...]], Backend]
    at_once: int | None = None


class HalvingBackend:
    """The backend of `choice`. Where memory is short it is given fewer images at once, then smaller tiles to stitch.

    What was found to fit is kept for the next run. A sentence for each step is appended to `notes`.

    Raises:
        OutOfMemoryError: (by `run` too) there is no memory for a tile of one stride and its margins.
    """

    def __init__(self, choice: Choice, model: Model, shape: tuple[int, ...], notes: list[str]) -> None:
        self._choice, self._model, self._notes = choice, model, notes
        self._shape = self._tile = shape
        self._batch = choice.at_once
        self._backend: Backend | None = None
        backend = self._prepared()
        self.name, self.precision = backend.name, backend.precision

    def run(self, images: Pixels) -> TileOutput:
        """Return the output for `images` (N, C, *space)."""
        outputs: list[TileOutput] = []
        done = 0
        while done < len(images):
            part = images[done : done + (self._batch or len(images))]
            try:
                outputs.append(self._run(part))
                done += len(part)
                continue
            except Exception as error:
                self._halve(len(part), error)
            release_memory()
        return outputs[0] if len(outputs) == 1 else _joined(outputs)

    def _run(self, images: Pixels) -> TileOutput:
        backend, network = self._prepared(), self._model.network
        if self._tile == self._shape:
            return backend.run(images)
        tiles = self._plan(images.shape[2:], self._tile)
        return run_in_parts(backend, images, tiles, network.attention_strides)

    def _prepared(self) -> Backend:
        """Return the backend for the present tile; where there is no memory to make it, for a smaller one."""
        while self._backend is None:
            try:
                self._backend = self._choice.make(self._model, self._tile)
            except Exception as error:
                self._halve(1, error)
            release_memory()
        return self._backend

    def _halve(self, count: int, error: Exception) -> None:
        """Take half of `count` images from now on, or half the tile where it is one; raise what that cannot mend."""
        if not is_out_of_memory(error):
            raise error
        if count > 1:
            self._batch = count // 2
            what = (
                "one tile at a time goes on there" if self._batch == 1 else f"{self._batch} tiles at a time go on there"
            )
        else:
            self._tile = self._smaller(error)
            self._backend = None
            what = f"tiles of {_said(self._tile)} go on there"
        self._notes.append(f"{self._choice.title} ran out of memory; {what}.")

    def _smaller(self, error: Exception) -> tuple[int, ...]:
        half = halved(self._tile, self._model.description.margin, self._model.network.stride)
        if half == self._tile:
            raise OutOfMemoryError(
                f"There is not enough memory for a tile of {_said(half)} voxels ({self._choice.title}), and a smaller "
                "one is of no use: close other programs and try again."
            ) from error
        return self._plan(self._shape, half).size

    def _plan(self, shape: tuple[int, ...], largest: tuple[int, ...]) -> TilePlan:
        return plan_tiles(shape, largest, self._model.description.margin, self._model.network.stride)


def halved(tile: tuple[int, ...], margin: int, stride: int) -> tuple[int, ...]:
    """Return a tile that keeps half as much along each long axis, a stride at least; `tile` where that is all it has.

    Along an axis less than half as long as the longest nothing is halved.
    """
    margins = 2 * _up(margin, stride)
    return tuple(
        margins + _up(-(-(length - margins) // 2), stride)
        if 2 * length >= max(tile) and length > margins + stride
        else length
        for length in tile
    )


def run_in_parts(backend: Backend, images: Pixels, tiles: Sequence[Tile], strides: Sequence[int]) -> TileOutput:
    """Return the output for `images` (N, C, *space), run in `tiles` and stitched. strides: of the attention maps."""
    shape = images.shape[2:]
    last = tiles[-1]
    beyond = [(0, start + size - length) for start, size, length in zip(last.start, last.size, shape, strict=True)]
    padded = np.pad(images, [(0, 0), (0, 0), *beyond], mode="reflect") if any(far for _, far in beyond) else images
    probability: Pixels = np.empty(0, np.float32)
    attentions: tuple[Pixels, ...] = ()
    for number, tile in enumerate(tiles):
        read = (slice(start, start + size) for start, size in zip(tile.start, tile.size, strict=True))
        output = backend.run(np.ascontiguousarray(padded[(ALL, ALL, *read)]))
        if number == 0:
            probability = np.empty((*output.probability.shape[:2], *shape), np.float32)
            levels = (tuple(-(-length // stride) for length in shape) for stride in strides)
            attentions = tuple(np.empty((len(images), *level), np.float32) for level in levels)
        probability[(ALL, ALL, *tile.keep)] = output.probability[(ALL, ALL, *tile.keep_in_read)]
        for whole, part, stride in zip(attentions, output.attentions, strides, strict=True):
            whole[(ALL, *tile.keep_of_level(stride))] = part[(ALL, *tile.keep_in_read_of_level(stride))]
    return TileOutput(probability, attentions)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that memory is short, on any device."""
    if isinstance(error, MemoryError | OutOfMemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(fault in str(error).lower() for fault in MEMORY_FAULTS)


def _joined(outputs: Sequence[TileOutput]) -> TileOutput:
    attentions = zip(*(output.attentions for output in outputs), strict=True)
    return TileOutput(
        np.concatenate([output.probability for output in outputs]),
        tuple(np.concatenate(maps) for maps in attentions),
    )


def _said(tile: tuple[int, ...]) -> str:
    return " × ".join(map(str, tile))


def _up(length: int, stride: int) -> int:
    return -(-length // stride) * stride
