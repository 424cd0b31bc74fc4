"""The specification of a U-Net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from napari_skipseg.errors import SpecError
from napari_skipseg.networks.specs.skips import MOST_CHANNELS, SkipSpec, check_at_most


@dataclass(frozen=True)
class UNetSpec(SkipSpec):
    """A U-Net whose skips are gates (Ronneberger et al. 2015; SAT, Asgari Taghanaki et al. 2019).

    widths: channels per level, finest first; the last one is the bottom.
    """

    network: Literal["unet"] = "unet"
    widths: tuple[int, ...] = (32, 64, 128, 256)

    def __post_init__(self) -> None:
        if len(self.widths) < 2:
            raise SpecError("A U-Net needs at least two widths: one level and the bottom below it.")
        if min(self.widths) < 1:
            raise SpecError("Every width of a U-Net must be at least 1 channel.")
        check_at_most(MOST_CHANNELS, width=max(self.widths))
        super().__post_init__()

    @property
    def levels(self) -> int:
        """Number of long skips."""
        return len(self.widths) - 1
