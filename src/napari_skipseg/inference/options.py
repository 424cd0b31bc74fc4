"""How a stack is to be segmented: one frozen value. Loads without torch; panel, flags and recipes derive from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from pydantic import ConfigDict

from napari_skipseg.devices import DEVICES
from napari_skipseg.errors import InputError
from napari_skipseg.images.intensity.padding import PaddingRule

Planes = Literal["xy", "xyz"]
AVERAGES = (1, 4, 8)


@dataclass(frozen=True)
class SegmentOptions:
    """Options of a segmentation.

    threshold: probability above which a voxel belongs to a class. tile: longest side of a tile in voxels, 0 = chosen.
    average: over how many mirrored and turned copies of a tile, 1 = the tile alone. channel: which channel, where the
    image has several and the network takes one. planes: "xyz" runs a 2D network along all three axes of a volume and
    averages. rescale: bring the image to the voxel size that the model was trained at, tile by tile; results come back
    on the image's own grid. samples: passes with dropout on, for a mean and a standard deviation; 0 = one pass without.
    dropout: the rate in those passes, None = the one that the network was trained with; Drozdzal et al. 2016 took 0.2
    (figure 2d). seed: of those passes. padding: "auto" leaves out black frames, empty slices and other constant areas
    without tissue: they have no part in the grey-value statistics and become background. "none" takes them for tissue,
    such as resin or a lumen of one value. invert: feed the negative of the image to the network, whose training had
    dark and light the other way round.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    device: str = "auto"
    threshold: float = 0.5
    tile: int = 0
    average: int = 1
    channel: int | None = None
    planes: Planes = "xy"
    rescale: bool = False
    attention: bool = True
    samples: int = 0
    dropout: float | None = None
    seed: int = 0
    padding: PaddingRule = "auto"
    invert: bool = False

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise InputError(f"'{self.device}' is no device: choose one of {', '.join(DEVICES)}.")
        if not 0 <= self.threshold <= 1:
            raise InputError(f"The threshold must lie between 0 and 1, not at {self.threshold}.")
        if self.tile < 0:
            raise InputError(f"A tile of {self.tile} voxels is impossible: give 0 (chosen for you) or 32 and more.")
        if self.average not in AVERAGES:
            raise InputError(f"An average of {self.average} copies is none of ours: choose 1, 4 or 8.")
        if self.planes not in get_args(Planes):
            raise InputError(f"'{self.planes}' names no planes: choose one of {', '.join(get_args(Planes))}.")
        if self.padding not in get_args(PaddingRule):
            raise InputError(
                f"'{self.padding}' is no rule for padding: choose one of {', '.join(get_args(PaddingRule))}."
            )
        self._check_samples()

    def _check_samples(self) -> None:
        if self.samples < 0 or self.samples == 1:
            raise InputError(f"A mean and a deviation need 2 samples or more (0 = none), not {self.samples}.")
        if (self.samples > 0) + (self.average > 1) + (self.planes == "xyz") > 1:
            raise InputError(
                "Copies, Monte Carlo samples and three planes cannot be averaged together: choose one of them."
            )
        if self.dropout is not None and not self.samples:
            raise InputError(
                "A dropout rate acts in Monte Carlo samples only: ask for some, such as 10, or leave it out."
            )
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise InputError(f"A dropout rate must be at least 0 and less than 1, not {self.dropout}.")
        if self.seed < 0:
            raise InputError(f"The seed must be 0 or more, not {self.seed}.")
