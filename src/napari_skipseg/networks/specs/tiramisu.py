"""The specification of the One Hundred Layers Tiramisu."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from napari_skipseg.errors import SpecError
from napari_skipseg.networks.specs.skips import MOST_CHANNELS, MOST_LAYERS, SkipSpec, check_at_most

MOST_BOTTLENECK = 64
"""How many times the growth a layer's first convolution may have."""


@dataclass(frozen=True)
class TiramisuSpec(SkipSpec):
    """A Tiramisu, FC-DenseNet (Jégou et al. 2017), in 2D or 3D; the defaults are FC-DenseNet103.

    width: channels of the first convolution. growth: channels that each layer of a dense block adds. layers: per dense
    block of the contracting path, mirrored by the expanding one. bottom_layers: of the block between them. dense_gates:
    a gate inside each dense block as well (SAT, figure 4), from its input to its last layer, where the level's skip is
    st, at, sat or reduce (the bottom block follows the deepest level). bottleneck: 0 for the paper's layer (batch norm,
    ReLU, 3-wide convolution), else DenseNet's: a 1-wide convolution to that many times the growth comes first.
    """

    network: Literal["tiramisu"] = "tiramisu"
    width: int = 48
    growth: int = 16
    layers: tuple[int, ...] = (4, 5, 7, 10, 12)
    bottom_layers: int = 15
    bottleneck: int = 0
    dense_gates: bool = True
    dropout: float = 0.2

    def __post_init__(self) -> None:
        if min(self.width, self.growth, self.bottom_layers, *self.layers, len(self.layers)) < 1:
            raise SpecError("A Tiramisu needs a width, a growth, and layers in every dense block, each at least 1.")
        if self.bottleneck < 0:
            raise SpecError("A Tiramisu's bottleneck is 0 (none) or a factor such as 4.")
        check_at_most(MOST_CHANNELS, width=self.width, growth=self.growth)
        check_at_most(MOST_LAYERS, number_of_layers=sum(self.layers) + self.bottom_layers)
        check_at_most(MOST_BOTTLENECK, bottleneck=self.bottleneck)
        super().__post_init__()

    @property
    def levels(self) -> int:
        """Number of long skips: one per contracting dense block."""
        return len(self.layers)
