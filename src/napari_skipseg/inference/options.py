"""How a stack is to be segmented: one frozen value. Loads without torch; forms, flags and recipes derive from it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict

from napari_skipseg.devices import DEVICES
from napari_skipseg.errors import InputError
from napari_skipseg.images.box import box_from_text
from napari_skipseg.images.formats import Depth, Format
from napari_skipseg.images.intensity.padding import PaddingRule
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.option_fields import Option, check_options
from napari_skipseg.thresholds import DEFAULT_THRESHOLD

Planes = Literal["xy", "xyz"]
AVERAGES = (1, 4, 8)


@dataclass(frozen=True)
class SegmentOptions:
    """Options of a segmentation; each says beside its field what it is.

    dropout: None = the rate that the network was trained with; Drozdzal et al. 2016 took 0.2 (figure 2d). padding:
    "none" takes constant areas for tissue, such as resin or a lumen of one value.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    device: Annotated[
        str, Option("Device", "Where to compute: auto takes a GPU that works, else the processor.", choices=DEVICES)
    ] = "auto"
    threshold: Annotated[
        float | None,
        Option(
            "Threshold",
            "Probability above which a voxel belongs to a class; by default each class has the model's own.",
            least=0,
            most=1,
            unset="the model's own",
        ),
    ] = None
    tile: Annotated[
        int,
        Option(
            "Tile",
            "Longest side of a tile in voxels; smaller tiles need less memory; 0 = chosen for you.",
            least=0,
            unset="auto",
            step=32,
        ),
    ] = 0
    average: Annotated[
        int,
        Option(
            "Average",
            "Average the results of mirrored and turned copies of the image: a little better, and the uncertainty "
            "shows where the copies disagree. 4 copies are 4 times slower, 8 copies 8 times.",
            choices=AVERAGES,
            labels={1: "one pass", 4: "4 copies", 8: "8 copies"},
        ),
    ] = 1
    channel: Annotated[
        int | None, Option("Channel", "Which channel of an image with several, counted from 0.", least=0)
    ] = None
    planes: Annotated[
        Planes,
        Option(
            "Planes",
            "How a 2D model sees a volume: slice by slice in XY, or along all three axes, whose results are averaged. "
            "The latter suits voxels as deep as they are wide, is 3 times slower or more, and gives an uncertainty but "
            "no attention.",
            labels={"xy": "XY slices", "xyz": "all three axes"},
        ),
    ] = "xy"
    rescale: Annotated[
        bool,
        Option(
            "Rescale",
            "Bring the image to the model's voxel size, tile by tile; results come back on the image's own grid.",
        ),
    ] = False
    attention: Annotated[bool, Option("Attention", "Keep the attention maps of the network's gates too.")] = True
    samples: Annotated[
        int,
        Option(
            "Monte Carlo samples",
            "Passes with dropout on: the probability is their mean, the uncertainty their standard deviation. "
            "10 samples are 10 times slower or more: they run on torch. 0 = one pass without dropout.",
            least=0,
            unset="off",
            step=10,
        ),
    ] = 0
    dropout: Annotated[
        float | None,
        Option(
            "Dropout rate",
            "Share of the features that each sample leaves out; by default as in the training.",
            least=0,
            below=1,
            unset="as trained",
            step=0.05,
        ),
    ] = None
    seed: Annotated[int, Option("Seed", "Seed of the Monte Carlo samples.", least=0)] = 0
    padding: Annotated[
        PaddingRule,
        Option(
            "Constant areas",
            "auto: black frames, empty slices and other constant areas without tissue do not count in the grey values, "
            "and are background in the result. none: they are tissue, such as resin or a lumen of one value.",
            labels={"auto": "leave out", "none": "keep as tissue"},
        ),
    ] = "auto"
    invert: Annotated[
        bool,
        Option(
            "Invert contrast",
            "Give the negative of the image to the model, if dark and light are the other way round than in the images "
            "that it was trained on.",
        ),
    ] = False
    class_threshold: Annotated[
        tuple[str, ...],
        Option(
            "Threshold of a class",
            "Threshold of one class, such as mitochondrion=0.3; repeat for several.",
            metavar="NAME=VALUE",
        ),
    ] = ()
    box: Annotated[
        str,
        Option(
            "Box",
            "Segment only this part of the image, such as z=10:20,y=0:512,x=100:600 (from the first voxel up to before "
            "the last). What lies around it is read too, so the result is that of the whole image.",
            metavar="AXIS=FIRST:STOP",
        ),
    ] = ""
    mask: Annotated[
        str,
        Option(
            "Mask",
            "Segment only where this label image, of the shape of the image, is not 0: tiles that do not touch it are "
            "not computed.",
            metavar="FILE",
        ),
    ] = ""

    def __post_init__(self) -> None:
        check_options(self, InputError)
        fault = self.fault_together()
        if fault:
            raise InputError(fault)
        named_thresholds(self.class_threshold)
        if self.box:
            box_from_text(self.box)

    def with_thresholds(self, own: Mapping[str, float]) -> SegmentOptions:
        """Return these options with a threshold for every class of a model. own: the model's thresholds by class.

        Raises:
            InputError: the model has no class of a name that has a threshold.
        """
        named = named_thresholds(self.class_threshold)
        for name in named:
            if name not in own:
                raise InputError(f"There is no class '{name}' to give a threshold: the classes are {', '.join(own)}.")
        chosen = {
            name: named.get(name, value if self.threshold is None else self.threshold) for name, value in own.items()
        }
        return replace(self, **threshold_fields(chosen))

    def thresholds_of(self, class_names: Sequence[str]) -> tuple[float, ...]:
        """Return the threshold of each class, after `with_thresholds`."""
        named = named_thresholds(self.class_threshold)
        default = DEFAULT_THRESHOLD if self.threshold is None else self.threshold
        return tuple(named.get(name, default) for name in class_names)

    def fault_together(self) -> str:
        """Return what is wrong with options that exclude or need each other, "" if nothing is."""
        if self.samples == 1:
            return "A mean and a deviation need 2 samples or more (0 = none), not 1."
        if (self.samples > 0) + (self.average > 1) + (self.planes == "xyz") > 1:
            return "Copies, Monte Carlo samples and three planes cannot be averaged together: choose one of them."
        if self.dropout is not None and not self.samples:
            return "A dropout rate acts in Monte Carlo samples only: ask for some, such as 10, or leave it out."
        return ""


def named_thresholds(texts: Sequence[str]) -> dict[str, float]:
    """Return thresholds by class, from texts NAME=VALUE.

    Raises:
        InputError: a text has another form, a class is named twice, or a threshold is not between 0 and 1.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name or not 0 <= number <= 1:
            raise InputError(f"'{text}' is no threshold of a class: write NAME=VALUE, such as mitochondrion=0.3.")
        if name in found:
            raise InputError(f"The class '{name}' has two thresholds: give it one.")
        found[name] = number
    return found


def threshold_fields(thresholds: Mapping[str, float]) -> dict[str, Any]:
    """Return the two fields of `SegmentOptions` that say the threshold of each class: one number if all are equal."""
    values = set(thresholds.values())
    if len(values) == 1:
        return {"threshold": values.pop(), "class_threshold": ()}
    return {"threshold": None, "class_threshold": tuple(f"{name}={value:g}" for name, value in thresholds.items())}


@dataclass(frozen=True)
class SegmentRequest:
    """What is requested, whatever the input.

    model: its name or its folder; model_sha256: of its weights, which says which one it is. options: as requested, so
    that a device may be "auto" and a tile 0. depth, form: how results are stored. objects: how objects are found in the
    probability, None if they are not requested.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model: str
    model_sha256: str
    options: SegmentOptions = field(default_factory=SegmentOptions)
    depth: Depth = "uint8"
    form: Format = "tiff"
    objects: ObjectOptions | None = None


def request_hash(request: SegmentRequest, versions: Mapping[str, str]) -> str:
    """Return a SHA-256, in hexadecimal, of what is requested and of the `versions` of the software that computes it."""
    content = {**asdict(request), "versions": dict(versions)}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
