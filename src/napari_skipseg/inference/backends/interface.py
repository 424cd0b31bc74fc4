"""The interface of all backends, their output, and the views of a tile: mirrored, turned or with dropout masks.

Loads without torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.float32]


class TileOutput(NamedTuple):
    """For N tiles: probability (N, classes, *space), and per gate an attention map (N, *space / stride), in [0, 1].

    attentions: empty if they are not computed. uncertainty: the standard deviation of the probability over passes;
    None for one pass.
    """

    probability: Pixels
    attentions: tuple[Pixels, ...]
    uncertainty: Pixels | None = None


class Backend(Protocol):
    """A network for one device, precision and tile size.

    A backend with a writable attribute `attention` returns attention maps only while it is True.
    """

    @property
    def name(self) -> str:
        """What computes."""
        ...

    @property
    def precision(self) -> str:
        """The type of its numbers: f32, bf16 or f16."""
        ...

    def run(self, images: Pixels) -> TileOutput:
        """Return the output for `images` (N, C, *space), float32 in standard units; any N of 1 and more."""
        ...


Y, X, Z = -2, -1, -3
"""Axes counted from the last, so that they are the same in images and in attention maps."""


class Symmetry(NamedTuple):
    """A way to see a tile: mirrored along `mirrored` axes, then with Y and X exchanged if `turned`."""

    mirrored: tuple[int, ...]
    turned: bool

    def apply(self, values: Pixels) -> Pixels:
        """Return the copy of `values` (..., *space), contiguous."""
        return np.ascontiguousarray(self._turn(np.flip(values, self.mirrored)))

    def undo(self, values: Pixels) -> Pixels:
        """Return a result for the copy as a result for the tile itself, as a view."""
        return np.flip(self._turn(values), self.mirrored)

    def apply_to_tensor(self, values: Tensor) -> Tensor:
        """Return the copy of `values` (..., *space) on its own device."""
        mirrored = values.flip(self.mirrored) if self.mirrored else values
        return mirrored.transpose(Y, X) if self.turned else mirrored

    def undo_on_tensor(self, values: Tensor) -> Tensor:
        """Return the result for the copy as the result for the tile itself, on its own device."""
        turned = values.transpose(Y, X) if self.turned else values
        return turned.flip(self.mirrored) if self.mirrored else turned

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the size of the copy of a tile of `shape`."""
        return (*shape[:-2], shape[X], shape[Y]) if self.turned else shape

    def _turn(self, values: Pixels) -> Pixels:
        return np.swapaxes(values, Y, X) if self.turned else values


class Draw(NamedTuple):
    """The seed, sample and places that decide the dropout masks of a batch. Equal draws have equal masks.

    places: of each image in the stack; for a part of a tile, followed by the number of the part.
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


FIRST_AXIS = 2
"""First axis of space in (N, C, *space)."""


def slice_batches(shape: tuple[int, ...], at_once: int) -> Iterator[tuple[int, tuple[slice, ...]]]:
    """Yield batches of slices of (N, C, Z, Y, X): the axis across the slices, and the part of the images."""
    for axis, length in enumerate(shape, start=FIRST_AXIS):
        for first in range(0, length, at_once):
            yield axis, (*(slice(None),) * axis, slice(first, first + at_once))
