"""The networks' specifications: frozen values that load without torch; forms, flags and JSON derive from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from napari_skipseg.errors import SpecError

Skip = Literal["none", "sum", "org", "st", "at", "sat"]
"""What crosses a long skip connection: nothing; its features, summed; its features, concatenated (`org`); selected
features (`st`); one attention map of all features (`at`); one attention map of the selected features (`sat`)."""

GATES: tuple[Skip, ...] = ("org", "st", "at", "sat")
ATTENDING: tuple[Skip, ...] = ("at", "sat")
SelectInit = Literal["glorot", "ones", "uniform01"]
BlockName = Literal["bottleneck", "basic", "simple"]


@dataclass(frozen=True)
class UNetSpec:
    """A U-Net whose skips are gates (Ronneberger et al. 2015; SAT, Asgari Taghanaki et al. 2019)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    network: Literal["unet"] = "unet"
    dimensions: Literal[2, 3] = 2
    in_channels: int = 1
    out_channels: int = 1
    skip: Skip = "sat"
    widths: tuple[int, ...] = (32, 64, 128, 256)
    select_init: SelectInit = "uniform01"
    gate_norm: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_common(self)
        if self.skip not in GATES:
            raise SpecError(f"A U-Net's skip is one of {', '.join(GATES)}; '{self.skip}' is not.")
        if len(self.widths) < 2:
            raise SpecError("A U-Net needs at least two widths: one level and the bottom below it.")
        if min(self.widths) < 1:
            raise SpecError("Every width of a U-Net must be at least 1 channel.")

    @property
    def stride(self) -> int:
        """Image pixels per pixel of the deepest level."""
        return int(2 ** (len(self.widths) - 1))


@dataclass(frozen=True)
class Stage:
    """`repetition` blocks of inner width `width`; the first halves (or the last doubles) the resolution."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    block: BlockName
    width: int
    repetition: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.repetition < 1:
            raise SpecError("A stage needs a width and a repetition of at least 1.")

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
class ResidualFCNSpec:
    """The residual FCN of Drozdzal et al. 2016; the defaults are its Table 1 (11,451,745 trainable parameters)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    network: Literal["residual-fcn"] = "residual-fcn"
    dimensions: Literal[2, 3] = 2
    in_channels: int = 1
    out_channels: int = 1
    skip: Skip = "sum"
    short_skips: bool = True
    width: int = 32
    stages: tuple[Stage, ...] = TABLE_1
    across: Stage = Stage("bottleneck", 256, 3)
    projection: Literal["skip-width", "narrow"] = "skip-width"
    norm: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_common(self)
        if self.skip not in ("none", "sum", "org"):
            raise SpecError(f"The residual FCN's long skips are none, sum or org; '{self.skip}' is not.")
        if self.width < 1 or not self.stages:
            raise SpecError("The residual FCN needs a first width of at least 1 and at least one stage.")
        if self.across.repetition < 2:
            raise SpecError("The stage across needs 2 blocks or more: its first one halves, its last one doubles.")

    @property
    def stride(self) -> int:
        """Image pixels per pixel of the deepest level, the inside of the stage across."""
        return int(2 ** (len(self.stages) + 1))


NetworkSpec = UNetSpec | ResidualFCNSpec
_ADAPTER: TypeAdapter[NetworkSpec] = TypeAdapter(Annotated[NetworkSpec, Field(discriminator="network")])
NETWORK_NAMES = ("unet", "residual-fcn")


def _check_common(spec: NetworkSpec) -> None:
    if spec.dimensions not in (2, 3):
        raise SpecError(f"A network has 2 or 3 dimensions, not {spec.dimensions}.")
    if spec.in_channels < 1 or spec.out_channels < 1:
        raise SpecError("A network needs at least one input and one output channel.")
    if not 0 <= spec.dropout < 1:
        raise SpecError(f"Dropout must lie in [0, 1), not {spec.dropout}.")


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
    """Return the first fault of a pydantic error in words: which key, and why."""
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"]) or "the value"
    return f"{place}: {fault['msg']}"
