"""A model over an image in memory, tile by tile: for scores, where no results are to be stored."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from napari_skipseg.devices import Device, cpu_title
from napari_skipseg.images.tiles import TilePlan, plan_tiles, reflected
from napari_skipseg.inference.backends import Backend, Choice, FallbackBackend, Pixels, TorchBackend, own_tile_of_cpu
from napari_skipseg.inference.tile_choice import choose_tile
from napari_skipseg.models.model import Model


class TileResult(NamedTuple):
    """What a tile gives of an image. keep: where it lies. probability: (classes, *keep). done, total: tiles."""

    keep: tuple[slice, ...]
    probability: Pixels
    done: int
    total: int


class WholeImages:
    """A model that runs over images of any size with the memory of a tile, in torch and one precision.

    Tiles are as large as the free memory of the device allows. If memory is short nevertheless, they are halved; if the
    device fails, the CPU goes on.
    """

    def __init__(self, model: Model, device: torch.device, precision: str) -> None:
        self._model = model
        on = Device(device.type, str(device), "")
        dimensions = model.description.spec.dimensions
        self._largest = (choose_tile(model, on, precision, 0, "xy").side,) * dimensions
        is_gpu = on.name != "cpu"
        make = partial(_make, on, precision)
        choices = [Choice(f"torch on {on.title}", "for scores", make, 1, is_gpu=is_gpu)]
        if is_gpu:
            cpu = Device("cpu", cpu_title(), "")
            make_on_cpu = partial(_make, cpu, "f32")
            choices.append(Choice(f"torch on {cpu.title}", "for scores", make_on_cpu, 1, own_tile_of_cpu(on)))
        self._backend = FallbackBackend(tuple(choices), model, self._largest)

    def count_tiles(self, shape: Sequence[int]) -> int:
        """Return the number of tiles that an image of `shape` (*space) takes."""
        return len(self._plan(shape))

    def _plan(self, shape: Sequence[int]) -> TilePlan:
        return plan_tiles(tuple(shape), self._largest, self._model.description.margin, self._model.network.stride)

    def iter_tiles(self, image: NDArray[np.floating]) -> Generator[TileResult, None, None]:
        """Yield the probabilities of `image` (C, *space), in standard units; each voxel belongs to one tile."""
        shape = image.shape[1:]
        plan = self._plan(shape)
        for number, tile in enumerate(plan):
            places = [
                reflected(length, start, size) for length, start, size in zip(shape, tile.start, tile.size, strict=True)
            ]
            pixels = image[np.ix_(np.arange(len(image)), *places)]
            output = self._backend.run(np.ascontiguousarray(pixels[None], np.float32))
            kept = output.probability[0][(slice(None), *tile.keep_in_read)]
            yield TileResult(tile.keep, kept, number + 1, len(plan))

    def iter_whole(self, image: NDArray[np.floating]) -> Generator[TileResult, None, Pixels]:
        """Yield as `iter_tiles`; return the probabilities (classes, *space) of the whole image."""
        whole = np.empty((len(self._model.description.classes), *image.shape[1:]), np.float32)
        for result in self.iter_tiles(image):
            whole[(slice(None), *result.keep)] = result.probability
            yield result
        return whole


def _make(device: Device, precision: str, model: Model, shape: tuple[int, ...]) -> Backend:
    return TorchBackend(model, device, precision)
