"""The specification of a V-Net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from napari_skipseg.errors import SpecError
from napari_skipseg.networks.specs.skips import MOST_CHANNELS, MOST_LAYERS, SkipSpec, check_at_most

MOST_KERNEL = 31
"""Side of a convolution's kernel."""


@dataclass(frozen=True)
class VNetSpec(SkipSpec):
    """A V-Net (Milletari et al. 2016) in 2D or 3D whose skips are gates; the defaults are the paper's layout.

    widths: channels of the contracting stages, the last one the bottom; the expanding stage of a level has twice its
    width. convolutions: of kernel side `kernel`, per stage; the expanding path mirrors them.
    """

    network: Literal["vnet"] = "vnet"
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    convolutions: tuple[int, ...] = (1, 2, 3, 3, 3)
    kernel: int = 5

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise SpecError("A V-Net needs at least two widths of at least 1 channel: one level and the bottom.")
        if len(self.convolutions) != len(self.widths) or min(self.convolutions) < 1:
            raise SpecError("A V-Net needs as many convolutions (each at least 1) as widths: one number per stage.")
        check_at_most(MOST_CHANNELS, width=max(self.widths))
        check_at_most(MOST_LAYERS, number_of_convolutions=sum(self.convolutions))
        check_at_most(MOST_KERNEL, kernel=self.kernel)
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise SpecError(f"A V-Net's kernel is odd, such as 5, not {self.kernel}.")
        super().__post_init__()

    @property
    def levels(self) -> int:
        """Number of long skips."""
        return len(self.widths) - 1
