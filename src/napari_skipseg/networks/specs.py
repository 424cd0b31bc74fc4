"""The networks' specifications: frozen values that load without torch; forms, flags and JSON derive from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from napari_skipseg.errors import SpecError
from napari_skipseg.networks.skip_spec import (
    ATTENDING,
    MAPPING,
    MOST_CHANNELS,
    MOST_LAYERS,
    SELECTING,
    SKIPS,
    SelectInit,
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
    contracting path, mirrored by the expanding one. projection: how the sides of a summed long skip get one width.
    norm: batch norm. block_order: `pre-activation` as in the paper, or `post-activation` as in the first ResNet (He et
    al. 2015): convolution, batch norm, ReLU, the last ReLU after the sum.
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


MOST_BOTTLENECK = 64
"""Largest factor of the growth for a layer's first convolution."""


@dataclass(frozen=True)
class TiramisuSpec(SkipSpec):
    """A Tiramisu, FC-DenseNet (Jégou et al. 2017), in 2D or 3D; the defaults are FC-DenseNet103.

    width: channels of the first convolution. growth: channels that each layer of a dense block adds. layers: per dense
    block of the contracting path, mirrored by the expanding one. bottom_layers: of the block between them. dense_gates:
    each dense block has a gate too, from its input to its last layer (SAT, figure 4). This holds for levels whose skip
    is st, at, sat or reduce; the bottom block has the skip of the deepest level. bottleneck: 0 for the paper's layer
    (batch norm, ReLU, 3-wide convolution), else DenseNet's: a 1-wide convolution to that many times the growth comes
    first.
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


MOST_KERNEL = 31
"""Largest side of a convolution's kernel."""


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


@dataclass(frozen=True)
class FixedStep:
    """An operation on all values of a tensor, without statistics of the image.

    gain, offset: of `scale_linear`, `gain * value + offset`; one number, or one for each channel. low, high: of `clip`.
    threshold: of `binarize`, which gives 1 above it. `softmax` is over the channels.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    kind: Literal["sigmoid", "softmax", "scale_linear", "clip", "binarize"]
    gain: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    low: float | None = None
    high: float | None = None
    threshold: float = 0.5


@dataclass(frozen=True)
class ImportedSpec(SkipSpec):
    """A network that somebody else made: a file that a runtime computes. It can be used, and not trained.

    runtime: what reads the file. file_bytes: its size. input_axes, output_axes: of its tensors, letters of "bczyx"
    without axes that they lack. output: number of the output tensor that is read. least, steps: along each axis of
    space the lengths that it takes are least + n · step; step 0 = this length only. halo: along each axis, pixels at
    the border that are not to be used. channels: numbers of the output channels that are the model's classes. before,
    after: operations around the network. voxel_bytes: memory for each voxel of a tile, as measured at import.
    out_channels is counted as of our own networks.
    """

    network: Literal["imported"] = "imported"
    skip: Skip = "none"
    runtime: Literal["onnx", "torchscript"] = "onnx"
    file_bytes: int = 1
    input_axes: str = "bcyx"
    output_axes: str = "bcyx"
    output: int = 0
    least: tuple[int, ...] = (1, 1)
    steps: tuple[int, ...] = (1, 1)
    halo: tuple[int, ...] = (0, 0)
    channels: tuple[int, ...] = (0,)
    before: tuple[FixedStep, ...] = ()
    after: tuple[FixedStep, ...] = ()
    voxel_bytes: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        space = "zyx"[-self.dimensions :]
        if any(sorted(set(axes) - {"b", "c"}) != sorted(space) for axes in (self.input_axes, self.output_axes)):
            raise SpecError(f"A network in {self.dimensions}D has the axes {space}, besides b and c.")
        if any(len(each) != self.dimensions for each in (self.least, self.steps, self.halo)):
            raise SpecError("An imported network needs a least length, a step and a halo for each axis.")
        if min(self.least) < 1 or min(self.steps) < 0 or min(self.halo) < 0 or not self.channels:
            raise SpecError("An imported network needs lengths of at least 1, and a class.")
        if any(2 * halo >= least for halo, least, step in zip(self.halo, self.least, self.steps, strict=True)):
            raise SpecError("An imported network has a halo that leaves nothing of its least tile.")
        if self.file_bytes < 1 or self.voxel_bytes < 1:
            raise SpecError("An imported network needs a file, and memory for its voxels.")

    @property
    def levels(self) -> int:
        """Number of long skips: none that can be seen from outside."""
        return 0

    @property
    def stride(self) -> int:
        """Pixels on whose multiples tiles begin: the largest step between lengths."""
        return max(1, *self.steps)


__all__ = [
    "ATTENDING",
    "MAPPING",
    "NETWORK_NAMES",
    "SELECTING",
    "SKIPS",
    "TABLE_1",
    "BlockName",
    "BlockOrder",
    "DI2INSpec",
    "FixedStep",
    "ImportedSpec",
    "NetworkSpec",
    "PixelHeadSpec",
    "ResidualFCNSpec",
    "SelectInit",
    "Skip",
    "SkipSpec",
    "Stage",
    "TiramisuSpec",
    "TrainableSpec",
    "UNetSpec",
    "VNetSpec",
    "first_fault",
    "spec_from_dict",
    "spec_to_dict",
]

MOST_ZOOM = 8
MOST_SCALE = 16
"""Largest scale of a filter, in pixels: a tile's margin has to be three times as wide."""
SCALES = {2: (1, 2, 4, 8, 16), 3: (1, 2, 4)}
"""Scales of the filters by dimensions. In 3D a filter is slow, and tiles are small."""
ZOOMS = {2: (1, 2, 4), 3: (1,)}
"""Sides of the blocks over which an image is averaged for the network, by dimensions. In 3D, tiles are too small."""


@dataclass(frozen=True)
class PixelHeadSpec:
    """Classes that are found pixel by pixel, from the features of a network and from filters of the image.

    sources: of each class of the model, the number (from 0) of the network's own class that it is; None = a class with
    a pixel head. hidden: units between the features and a class; 0 = a linear classifier. scales: of the filters, in
    pixels, powers of two. zooms: the network reads the image averaged over blocks of this side: 1, then powers of two.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    sources: tuple[int | None, ...]
    hidden: int = 0
    scales: tuple[int, ...] = SCALES[2]
    zooms: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        check_at_most(MOST_CHANNELS, hidden_units=self.hidden, classes=len(self.sources))
        own = [source for source in self.sources if source is not None]
        if self.hidden < 0 or len(set(own)) != len(own) or min(own, default=0) < 0 or not self.heads:
            raise SpecError("A pixel head needs classes of its own, and each class of the network at most once.")
        if any(scale < 1 or scale > MOST_SCALE or scale & (scale - 1) for scale in self.scales):
            raise SpecError(f"The scales of a pixel head are powers of two from 1 to {MOST_SCALE}.")
        if self.zooms[:1] != (1,) or any(zoom < 1 or zoom > MOST_ZOOM or zoom & (zoom - 1) for zoom in self.zooms):
            raise SpecError(f"The zooms of a pixel head are 1 and powers of two up to {MOST_ZOOM}.")

    @property
    def heads(self) -> int:
        """How many classes have a pixel head."""
        return self.sources.count(None)

    @property
    def strides(self) -> tuple[int, ...]:
        """Image pixels per pixel of the filters of each scale: above 2 pixels they are taken from block means."""
        return tuple(max(1, scale // 2) for scale in self.scales)

    def stride_over(self, stride: int) -> int:
        """Return the stride of a network with these heads, from that of the network without them: powers of two."""
        return max(stride * max(self.zooms), *self.strides, 1)


TrainableSpec = UNetSpec | ResidualFCNSpec | VNetSpec | TiramisuSpec | DI2INSpec
NetworkSpec = TrainableSpec | ImportedSpec
NETWORK_NAMES: tuple[str, ...] = tuple(spec.network for spec in get_args(TrainableSpec))
_KINDS = (*NETWORK_NAMES, ImportedSpec.network)
_ADAPTER: TypeAdapter[NetworkSpec] = TypeAdapter(Annotated[NetworkSpec, Field(discriminator="network")])


def spec_from_dict(values: dict[str, Any]) -> NetworkSpec:
    """Return the network specification that `values` (parsed JSON) describe.

    Raises:
        SpecError: an unknown network or key, a missing or impossible value.
    """
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        raise SpecError(f"The network settings are not valid: {first_fault(error)}.") from error


def spec_to_dict(spec: NetworkSpec) -> dict[str, Any]:
    """Return `spec` as values that JSON can hold; `spec_from_dict` gives the same spec back."""
    values: dict[str, Any] = _ADAPTER.dump_python(spec, mode="json")
    return values


def first_fault(error: ValidationError) -> str:
    """Return the first fault of a pydantic error in words: which setting, and why."""
    fault = error.errors()[0]
    *parents, name = fault["loc"] or ("the value",)
    place = ".".join(str(part) for part in (*parents, name) if part is name or part not in _KINDS)
    found, context = fault["input"], fault.get("ctx", {})
    match fault["type"]:
        case "literal_error":
            return f"{place} is {found!r}: choose {context['expected']}"
        case "union_tag_invalid":
            return f"{_choice(fault['loc'], context)} is {context['tag']!r}: choose one of {context['expected_tags']}"
        case "union_tag_not_found":
            return f"{_choice(fault['loc'], context)} is missing"
        case "unexpected_keyword_argument":
            return f"there is no setting called {place}: remove it, or correct its name"
        case "missing":
            return f"{place} is missing"
    return f"{place}: {fault['msg']}"


def _choice(parents: tuple[int | str, ...], context: dict[str, Any]) -> str:
    """Return the place of the setting that chooses among kinds, such as the network."""
    return ".".join([*map(str, parents), context["discriminator"].strip("'")])
