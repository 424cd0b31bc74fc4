"""How a stack is to be segmented: one frozen value. Loads without torch; panel, flags and recipes derive from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from napari_skipseg.devices import DEVICES
from napari_skipseg.errors import InputError


@dataclass(frozen=True)
class SegmentOptions:
    """Options of a segmentation.

    threshold: probability above which a voxel belongs to a class. tile: longest side of a tile in voxels, 0 = chosen.
    flips: average over mirrored copies (2^dimensions passes). channel: which channel, where the image has several and
    the network takes one.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    device: str = "auto"
    threshold: float = 0.5
    tile: int = 0
    flips: bool = False
    channel: int | None = None
    attention: bool = True

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise InputError(f"'{self.device}' is no device: choose one of {', '.join(DEVICES)}.")
        if not 0 <= self.threshold <= 1:
            raise InputError(f"The threshold must lie between 0 and 1, not at {self.threshold}.")
        if self.tile < 0:
            raise InputError(f"A tile of {self.tile} voxels is impossible: give 0 (chosen for you) or 32 and more.")
