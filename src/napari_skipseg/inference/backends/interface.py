"""What every backend is and returns."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]


class TileOutput(NamedTuple):
    """Of one tile: probability (classes, *space) and one attention map (*space / stride) per gate, all in [0, 1].

    uncertainty: the standard deviation of probability over samples, in its shape; None where nothing was sampled.
    """

    probability: Pixels
    attentions: tuple[Pixels, ...]
    uncertainty: Pixels | None = None


class Backend(Protocol):
    """A network made ready for one device, precision and tile size."""

    @property
    def name(self) -> str:
        """What computes."""
        ...

    @property
    def precision(self) -> str:
        """The numbers it computes in: f32, bf16 or f16."""
        ...

    def run(self, image: Pixels) -> TileOutput:
        """Return the output for `image` (C, *space), float32 in standard units."""
        ...
