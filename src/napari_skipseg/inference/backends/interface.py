"""What every backend is and returns."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]


class TileOutput(NamedTuple):
    """Of N tiles: probability (N, classes, *space) and per gate an attention map (N, *space / stride), in [0, 1].

    attentions: empty if they are not wanted. uncertainty: the standard deviation of probability over passes, in its
    shape; None if there was one pass.
    """

    probability: Pixels
    attentions: tuple[Pixels, ...]
    uncertainty: Pixels | None = None


class Backend(Protocol):
    """A network made ready for one device, precision and tile size.

    A backend that has a writable attribute `attention` returns attention maps only while it is True.
    """

    @property
    def name(self) -> str:
        """What computes."""
        ...

    @property
    def precision(self) -> str:
        """The numbers it computes in: f32, bf16 or f16."""
        ...

    def run(self, images: Pixels) -> TileOutput:
        """Return the output for `images` (N, C, *space), float32 in standard units; any N of 1 and more."""
        ...
