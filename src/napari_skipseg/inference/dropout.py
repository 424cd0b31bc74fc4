"""torch with dropout, for samples (Monte Carlo dropout)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from napari_skipseg.devices import WHOLE_MEMORY, Device
from napari_skipseg.errors import InputError
from napari_skipseg.inference.backends.choose import choose_torch
from napari_skipseg.inference.backends.fallback import FallbackBackend
from napari_skipseg.inference.backends.interface import Backend, NetworkView, Pixels, TileOutput
from napari_skipseg.inference.backends.torch_backend import TorchBackend
from napari_skipseg.models.model import Model

CHANNEL_DROPOUT = (nn.Dropout2d, nn.Dropout3d)
DROPOUT = (nn.Dropout, *CHANNEL_DROPOUT)


class DropoutBackend(TorchBackend):
    """torch with dropout at `rate`, and batch norm in evaluation mode. (An exported network has no dropout.)

    The layers stay in evaluation mode, in which they change nothing; masks are applied after them, from generators of
    this backend, so that they do not depend on other random numbers, nor change these.

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

        The masks of an image depend only on the arguments and the device, not on the other images. Layers that drop
        whole channels drop the same ones in every tile of a sample, else there would be edges between tiles. Layers
        that drop single values draw new masks for each tile.
        """
        self._channels.manual_seed(_mix(seed, 0, sample))
        self._values = [torch.Generator(self._device).manual_seed(_mix(seed, 1, sample, *place)) for place in places]

    def run(self, images: Pixels) -> TileOutput:
        """Return the output for `images` (N, C, *space) with the masks drawn for them.

        Raises:
            ValueError: masks were drawn for a different number of images.
        """
        if len(images) != len(self._values):
            raise ValueError(f"masks were drawn for {len(self._values)} images, not for {len(images)}")
        return super().run(images)

    def _forward_view(self, images: Tensor, view: NetworkView) -> tuple[Tensor, ...]:
        if view.draw is not None:
            self.draw(*view.draw)
        return super()._forward_view(images, view)

    def _drop(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return `output` with a part set to 0 and the rest scaled up, like the layer in training."""
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
) -> FallbackBackend:
    """Return torch with dropout for tiles of `shape`; if it fails, f32 on the same device or the CPU takes over.

    precision: None = the best that the device computes in.

    Raises:
        InputError: the network has no dropout layers.
    """

    def make(place: Device, chosen: str | None, model: Model, shape: tuple[int, ...]) -> Backend:
        return DropoutBackend(model, place, rate, chosen)

    return FallbackBackend(choose_torch(device, make, WHOLE_MEMORY, precision), model, shape)


def _mix(seed: int, *numbers: int) -> int:
    mixed: int = np.random.SeedSequence(seed, spawn_key=numbers).generate_state(1, np.uint64)[0].item()
    return mixed >> 1  # every generator takes 63 bits
