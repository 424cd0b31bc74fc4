"""The interface of all backends, and their output."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

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
