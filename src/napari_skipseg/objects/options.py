"""How objects are to be found in a probability: one frozen value. Panel, flags and recipes derive from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from pydantic import ConfigDict

from napari_skipseg.errors import InputError

Method = Literal["components", "watershed", "cells"]
Seeds = Literal["distance", "probability"]
Border = Literal["keep", "remove"]
ObjectPlanes = Literal["volume", "slices"]

THICK = 4.0
"""Slices that are so many times as thick as their pixels are wide have cells that are better found slice by slice."""

FARTHEST_SEEDS = 64.0
"""The largest distance between seeds, in voxels of X: it must fit into what blocks of a large volume share."""


@dataclass(frozen=True)
class ObjectOptions:
    """Options of a search for objects.

    method: "components" are connected parts above the threshold; "watershed" also parts them where they are narrow, or
    where the probability is low; "cells" are the basins that boundaries such as membranes enclose, and fill the image.
    class_name: the class whose objects are found; "" = the only or first one, for cells the boundary's. threshold:
    probability above which a voxel belongs to the class. seeds: what parts objects ("watershed"), or what cells grow
    from ("cells"): the distance to their edge or the probability. seed_distance: seeds of one connected part that lie
    closer, in voxels of X, are one. merge: neighbouring cells whose boundary has a lower mean probability are one.
    smallest, largest: voxels of an object, 0 = no limit. fill_holes: background that one object encloses becomes part
    of it. border: whether objects that touch the image's border stay. planes: objects of the volume, or of each slice.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    method: Method = "components"
    class_name: str = ""
    threshold: float = 0.5
    seeds: Seeds = "distance"
    seed_distance: float = 10.0
    merge: float = 0.5
    smallest: int = 0
    largest: int = 0
    fill_holes: bool = False
    border: Border = "keep"
    planes: ObjectPlanes = "volume"

    def __post_init__(self) -> None:
        _check_choice("method", self.method, get_args(Method))
        _check_choice("kind of seeds", self.seeds, get_args(Seeds))
        _check_choice("way with the border", self.border, get_args(Border))
        _check_choice("choice of planes", self.planes, get_args(ObjectPlanes))
        _check_share("threshold", self.threshold)
        _check_share("boundary probability to merge below", self.merge)
        if not (math.isfinite(self.seed_distance) and 0 <= self.seed_distance <= FARTHEST_SEEDS):
            raise InputError(
                f"The distance between seeds must be 0 to {FARTHEST_SEEDS:g} voxels, not {self.seed_distance}: scale "
                "the image down where objects are larger."
            )
        if self.smallest < 0 or self.largest < 0:
            raise InputError("An object cannot have fewer than 0 voxels: give sizes of 0 (no limit) or more.")
        if self.largest and self.smallest > self.largest:
            raise InputError(
                f"No object has at least {self.smallest} and at most {self.largest} voxels: exchange the two sizes."
            )


def _check_choice(what: str, chosen: str, choices: tuple[str, ...]) -> None:
    if chosen not in choices:
        raise InputError(f"'{chosen}' is no {what}: choose one of {', '.join(choices)}.")


def _check_share(what: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"The {what} must lie between 0 and 1, not at {value}.")
