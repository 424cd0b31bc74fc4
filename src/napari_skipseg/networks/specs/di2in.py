"""The specification of DI2IN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from napari_skipseg.errors import SpecError
from napari_skipseg.networks.specs.skips import MOST_CHANNELS, SkipSpec, check_at_most


@dataclass(frozen=True)
class DI2INSpec(SkipSpec):
    """DI2IN, the Deep Image-to-Image Network (Yang et al. 2017), as the SAT paper counts it, in 3D or 2D.

    widths: channels of the contracting levels; the expanding stage of a level has half its width. In 3D with one
    channel the defaults have 2,353,089 (`org`) and 2,063,053 (`sat`) trainable parameters, the paper's numbers, which
    leave no room for batch norm in the gates.
    """

    network: Literal["di2in"] = "di2in"
    dimensions: Literal[2, 3] = 3
    widths: tuple[int, ...] = (16, 32, 64, 128)
    gate_norm: bool = False

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 2:
            raise SpecError("DI2IN needs at least two widths of at least 2 channels.")
        check_at_most(MOST_CHANNELS, width=max(self.widths))
        super().__post_init__()

    @property
    def levels(self) -> int:
        """Number of long skips."""
        return len(self.widths)
