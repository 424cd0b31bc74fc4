"""The ways in which a network may see a batch of tiles: mirrored and turned, or with dropout masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from napari_skipseg.inference.backends.interface import Pixels

Y, X, Z = -2, -1, -3
"""Axes counted from the last, so that they are the same ones in images and in attention maps."""


class Symmetry(NamedTuple):
    """A way to see a tile: mirrored along `mirrored` axes, then with Y and X exchanged if `turned`."""

    mirrored: tuple[int, ...]
    turned: bool

    def apply(self, values: Pixels) -> Pixels:
        """Return the copy of `values` (..., *space), contiguous."""
        return np.ascontiguousarray(self._turn(np.flip(values, self.mirrored)))

    def undo(self, values: Pixels) -> Pixels:
        """Return a view of what belongs to the copy, as it belongs to the tile itself."""
        return np.flip(self._turn(values), self.mirrored)

    def apply_to_tensor(self, values: Tensor) -> Tensor:
        """Return the copy of `values` (..., *space) on its own device."""
        mirrored = torch.flip(values, self.mirrored) if self.mirrored else values
        return mirrored.transpose(Y, X) if self.turned else mirrored

    def undo_on_tensor(self, values: Tensor) -> Tensor:
        """Return the result for the copy as the result for the tile itself, on its own device."""
        turned = values.transpose(Y, X) if self.turned else values
        return torch.flip(turned, self.mirrored) if self.mirrored else turned

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the size of the copy of a tile of `shape`."""
        return (*shape[:-2], shape[X], shape[Y]) if self.turned else shape

    def _turn(self, values: Pixels) -> Pixels:
        return np.swapaxes(values, Y, X) if self.turned else values


class Draw(NamedTuple):
    """Which dropout masks the images of a batch get: those of this seed, sample and place. Equal draws, equal masks.

    places: of each image in the stack. A part of a tile has the number of the part behind its place.
    """

    seed: int
    sample: int
    places: tuple[tuple[int, ...], ...]

    def of_images(self, images: slice) -> Draw:
        """Return the draw for some of the images."""
        return self._replace(places=self.places[images])

    def of_part(self, number: int) -> Draw:
        """Return the draw for part `number` of each tile."""
        return self._replace(places=tuple((*place, number) for place in self.places))


AS_IT_IS = Symmetry((), False)


@dataclass(frozen=True)
class NetworkView:
    """One way to see a batch. draw: None if there is no dropout."""

    symmetry: Symmetry = AS_IT_IS
    draw: Draw | None = None

    def of_images(self, images: slice) -> NetworkView:
        """Return the view of some of the images."""
        return NetworkView(self.symmetry, None if self.draw is None else self.draw.of_images(images))
