"""The specification of the residual FCN: stages of blocks, short and long skips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from napari_skipseg.errors import SpecError
from napari_skipseg.networks.specs.skips import (
    MOST_CHANNELS,
    MOST_LAYERS,
    Skip,
    SkipSpec,
    check_at_most,
    refuse_unknown_names,
)

BlockName = Literal["bottleneck", "basic", "simple"]
BlockOrder = Literal["pre-activation", "post-activation"]


@dataclass(frozen=True)
class Stage:
    """`repetition` blocks of inner width `width`; the first halves (or the last doubles) the resolution."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    block: BlockName
    width: int
    repetition: int

    def __post_init__(self) -> None:
        refuse_unknown_names(self)
        if self.width < 1 or self.repetition < 1:
            raise SpecError("A stage needs a width and a repetition of at least 1.")
        check_at_most(MOST_CHANNELS, width_of_a_stage=self.width)
        check_at_most(MOST_LAYERS, repetition=self.repetition)

    @property
    def out_width(self) -> int:
        """Channels that leave the stage: four times the inner width for the bottleneck."""
        return 4 * self.width if self.block == "bottleneck" else self.width


TABLE_1 = (
    Stage("simple", 32, 1),
    Stage("bottleneck", 32, 3),
    Stage("bottleneck", 64, 8),
    Stage("bottleneck", 128, 10),
)
"""The contracting stages of Table 1 of Drozdzal et al. 2016; the expanding ones mirror them."""


@dataclass(frozen=True)
class ResidualFCNSpec(SkipSpec):
    """The residual FCN of Drozdzal et al. 2016; the defaults are its Table 1 (11,451,745 trainable parameters).

    short_skips: the shortcut of every block. width: channels of the first and last convolution. stages: the
    contracting path, mirrored by the expanding one. projection: which side of a summed long skip is brought to the
    other's width. norm: batch norm. block_order: `pre-activation` as in the paper, or `post-activation` as in the
    first ResNet (He et al. 2015): convolution, batch norm, ReLU, the last ReLU behind the sum.
    """

    network: Literal["residual-fcn"] = "residual-fcn"
    skip: Skip = "sum"
    short_skips: bool = True
    width: int = 32
    stages: tuple[Stage, ...] = TABLE_1
    across: Stage = Stage("bottleneck", 256, 3)
    projection: Literal["skip-width", "narrow"] = "skip-width"
    norm: bool = True
    block_order: BlockOrder = "pre-activation"

    def __post_init__(self) -> None:
        if self.width < 1 or not self.stages:
            raise SpecError("The residual FCN needs a first width of at least 1 and at least one stage.")
        if self.across.repetition < 2:
            raise SpecError("The stage across needs 2 blocks or more: its first one halves, its last one doubles.")
        check_at_most(MOST_CHANNELS, width=self.width)
        blocks = self.across.repetition + sum(stage.repetition for stage in self.stages)
        check_at_most(MOST_LAYERS, number_of_blocks=blocks)
        super().__post_init__()

    @property
    def levels(self) -> int:
        """Number of long skips: one per contracting stage, and that of the first convolution."""
        return len(self.stages) + 1
