"""Monte Carlo dropout: several passes with dropout on give a mean and say how sure the network is of it.

Drozdzal et al. 2016 average such passes at test time (figure 2d, table 2; rate 0.2) and do not say how many. Batch norm
keeps its trained statistics here: those of a single tile would make the result depend on the tiling.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from napari_skipseg.devices import Device
from napari_skipseg.errors import InputError
from napari_skipseg.inference.averaging import iter_average, iter_on_device
from napari_skipseg.inference.backends import Backend, FallbackBackend, Pixels, TileOutput, TorchBackend, choose_torch
from napari_skipseg.inference.backends.views import Draw, View
from napari_skipseg.inference.memory_share import ALONE, MemoryShare
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.models.model import Model

CHANNEL_DROPOUT = (nn.Dropout2d, nn.Dropout3d)
DROPOUT = (nn.Dropout, *CHANNEL_DROPOUT)

Place = tuple[int, int]
"""Of a tile: the number of its part of the stack (a slice, say), and its own in that part."""


def dropout_rate(model: Model, options: SegmentOptions) -> float:
    """Return the rate at which samples drop: the options' one, else that of the model's training.

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
    """A backend with dropout on, whose masks are chosen before each run."""

    def draw(self, seed: int, sample: int, places: Sequence[tuple[int, ...]]) -> None:
        """Choose the masks of the next run, for one image at each place."""
        ...


class DropoutBackend(TorchBackend):
    """torch with dropout on, at `rate`, and batch norm in evaluation. (An exported network has no dropout any more.)

    The layers stay in evaluation mode, in which they let everything pass; masks are drawn behind them, from generators
    of the backend's own, so that nothing else that draws random numbers is disturbed, or disturbs.

    Raises:
        InputError: the network has no dropout layers.
    """

    def __init__(self, model: Model, device: Device, rate: float, precision: str | None = None) -> None:
        super().__init__(model, device, precision)
        self._kept = 1 - rate
        self._channels = torch.Generator(self._device)
        self._values: list[torch.Generator] = []  # one for each image
        layers = [module for module in self._network.modules() if isinstance(module, DROPOUT)]
        if not layers:
            raise InputError(f"{model.description.name} has no dropout layers: segment without samples.")
        for layer in layers:
            layer.register_forward_hook(self._drop)

    def draw(self, seed: int, sample: int, places: Sequence[tuple[int, ...]]) -> None:
        """Choose the masks of the next run, for one image at each place.

        An image's are the same ones whenever the arguments are the same on the same device, whatever runs beside it.
        What drops whole channels drops the same ones in every tile of a sample: another choice would show as an edge
        between tiles. What drops single values draws anew in each tile.
        """
        self._channels.manual_seed(_mix(seed, 0, sample))
        self._values = [torch.Generator(self._device).manual_seed(_mix(seed, 1, sample, *place)) for place in places]

    def run(self, images: Pixels) -> TileOutput:
        """Return the output for `images` (N, C, *space) with the masks drawn for them.

        Raises:
            ValueError: masks were drawn for another number of images.
        """
        if len(images) != len(self._values):
            raise ValueError(f"masks were drawn for {len(self._values)} images, not for {len(images)}")
        return super().run(images)

    def _see_view(self, images: Tensor, view: View) -> tuple[Tensor, ...]:
        if view.draw is not None:
            self.draw(*view.draw)
        return super()._see_view(images, view)

    def _drop(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return `output` with part of it set to 0 and the rest scaled up, as the layer does in training."""
        if isinstance(layer, CHANNEL_DROPOUT):
            mask = output.new_empty((1, output.shape[1], *(1,) * (output.ndim - 2)))
            mask.bernoulli_(self._kept, generator=self._channels)
        else:
            mask = torch.empty_like(output)
            for number, generator in enumerate(self._values):
                mask[number : number + 1].bernoulli_(self._kept, generator=generator)
        return output * mask.div_(self._kept)


def make_dropout_backend(
    model: Model,
    device: Device,
    shape: tuple[int, ...],
    rate: float,
    precision: str | None = None,
    share: MemoryShare = ALONE,
) -> FallbackBackend:
    """Return torch with dropout on for tiles of `shape`; if it fails, f32 on the same device or the CPU takes over.

    precision: None = the best that the device computes in. share: of the computer's memory.

    Raises:
        InputError: the network has no dropout layers.
    """

    def make(place: Device, chosen: str | None, model: Model, shape: tuple[int, ...]) -> Backend:
        return DropoutBackend(model, place, rate, chosen)

    return FallbackBackend(choose_torch(device, make, share, precision), model, shape)


def _mix(seed: int, *numbers: int) -> int:
    mixed: int = np.random.SeedSequence(seed, spawn_key=numbers).generate_state(1, np.uint64)[0].item()
    return mixed >> 1  # every generator takes 63 bits


def iter_samples(
    backend: SamplingBackend, samples: int, seed: int, images: Pixels, places: Sequence[Place]
) -> Generator[None, None, TileOutput]:
    """Yield between samples; return their mean, with their deviation. images: (N, C, *space), each with its place."""
    numbers = range(1, samples + 1)
    views = [View(draw=Draw(seed, sample, tuple(places))) for sample in numbers]
    averaged = yield from iter_on_device(backend, images, views)
    if averaged is not None:
        return averaged

    def run(sample: int) -> TileOutput:
        backend.draw(seed, sample, places)
        return backend.run(images)

    return (yield from iter_average([partial(run, sample) for sample in numbers]))
