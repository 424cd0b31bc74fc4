"""The options of a search for objects. Forms, flags and recipes derive from its fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict

from napari_skipseg.errors import InputError
from napari_skipseg.images.box import box_from_text
from napari_skipseg.objects.contact_file import name_with_hash
from napari_skipseg.option_fields import Option, check_options
from napari_skipseg.thresholds import DEFAULT_THRESHOLD

Method = Literal["components", "watershed", "cells"]
Seeds = Literal["distance", "probability"]
Border = Literal["keep", "remove"]
ObjectPlanes = Literal["volume", "slices"]

THICK = 4.0
"""From this ratio of thickness to pixel width on, cells are better found slice by slice."""

FARTHEST_SEEDS = 64.0
"""The largest distance between seeds, in voxels of X: it must fit into the overlap of blocks."""


@dataclass(frozen=True)
class ObjectOptions:
    """Options of a search for objects.

    class_name: "" = the only or first class; for cells, the first boundary class. smallest, largest: 0 = no limit.
    contacts, mask: the file is read at once, and the name gets its hash, so recipes say what decided.

    Raises:
        InputError: impossible values; the mask is no label image, or 0 everywhere.
        FileError: `contacts` names no classifier, or the mask cannot be read.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    method: Annotated[
        Method,
        Option(
            "Method",
            "How objects are separated.",
            labels={
                "components": "Connected components",
                "watershed": "Watershed",
                "cells": "Cells between membranes",
            },
            notes={
                "components": "Connected voxels above the threshold are one object.",
                "watershed": "Touching objects are split where they are narrow or the probability is low.",
                "cells": "Each region that a boundary encloses is a cell; cells fill the image.",
            },
        ),
    ] = "components"
    class_name: Annotated[
        str,
        Option("Class", "The class whose objects are found; by default the only or first one.", flag="class"),
    ] = ""
    threshold: Annotated[
        float | None,
        Option(
            "Threshold",
            "Probability above which a voxel belongs to the class; by default that of its segmentation.",
            least=0,
            most=1,
            step=0.01,
        ),
    ] = None
    seeds: Annotated[
        Seeds,
        Option(
            "Seeds by",
            "Seeds are the highest points of this map: the distance to the edge, or the probability. An object grows "
            "from each of them.",
            labels={"distance": "distance to the edge", "probability": "probability"},
        ),
    ] = "distance"
    seed_distance: Annotated[
        float,
        Option(
            "Seed distance",
            "Seeds that are closer together than this, in voxels along X, become one. Raise it if objects fall into "
            "pieces; scale the image down if 64 is not enough.",
            least=0,
            most=FARTHEST_SEEDS,
            step=0.5,
        ),
    ] = 10.0
    merge: Annotated[
        float,
        Option(
            "Merge below",
            "Cells with a lower mean probability on the boundary between them are merged. Raise it if cells fall into "
            "pieces.",
            least=0,
            most=1,
            step=0.01,
        ),
    ] = 0.5
    contacts: Annotated[
        str,
        Option(
            "Contacts",
            "A classifier of contacts that edits taught (`edits classifier`): it decides which cells, or basins of a "
            "watershed, are one object, in place of seed distance and merge limit.",
            metavar="FILE",
        ),
    ] = ""
    smallest: Annotated[
        int, Option("Smallest object", "Leave out objects with fewer voxels; 0 = no lower limit.", least=0)
    ] = 0
    largest: Annotated[
        int, Option("Largest object", "Leave out objects with more voxels; 0 = no upper limit.", least=0)
    ] = 0
    fill_holes: Annotated[bool, Option("Fill holes", "Background that one object encloses becomes part of it.")] = False
    border: Annotated[
        Border,
        Option(
            "Border",
            "Whether objects that touch the border of the image, where they are cut off, are kept.",
            labels={"keep": "keep objects at the border", "remove": "leave out objects at the border"},
        ),
    ] = "keep"
    planes: Annotated[
        ObjectPlanes,
        Option(
            "Objects of",
            "Objects that go through the slices of the volume, or objects of each slice on its own.",
            labels={"volume": "the volume", "slices": "each slice"},
        ),
    ] = "volume"
    box: Annotated[
        str,
        Option(
            "Box",
            "Find objects only in this part of the image, such as z=10:20,y=0:512,x=100:600 (from the first voxel up "
            "to before the last). Its border cuts objects off, as that of an image does.",
            metavar="AXIS=FIRST:STOP",
        ),
    ] = ""
    mask: Annotated[
        str,
        Option(
            "Mask",
            "Find objects only where this label image, of the shape of the probability, is not 0. Its edge cuts "
            "objects off, as the border of an image does.",
            metavar="FILE",
        ),
    ] = ""

    @property
    def chosen_threshold(self) -> float:
        """The threshold, 0.5 if none was chosen."""
        return DEFAULT_THRESHOLD if self.threshold is None else self.threshold

    def __post_init__(self) -> None:
        check_options(self, InputError)
        if self.box:
            box_from_text(self.box)
        if self.contacts and self.method == "components":
            raise InputError("Connected components have no contacts to decide: choose the method cells or watershed.")
        if self.contacts:
            object.__setattr__(self, "contacts", name_with_hash(self.contacts))
        if self.mask:
            from napari_skipseg.images.mask import name_mask  # it loads what the help of a command does not need

            object.__setattr__(self, "mask", name_mask(self.mask))
        if self.largest and self.smallest > self.largest:
            raise InputError(
                f"No object has at least {self.smallest} and at most {self.largest} voxels: exchange the two sizes."
            )
