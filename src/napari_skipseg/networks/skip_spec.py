"""What the specifications of all networks share: the kind of each long skip, the channels, and their checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args, get_origin, get_type_hints

from pydantic import ConfigDict

from napari_skipseg.errors import SpecError

Skip = Literal["none", "sum", "org", "st", "at", "sat", "additive", "reduce"]
"""What passes a long skip connection: nothing; its features, summed; its features, concatenated (`org`); selected
features (`st`); one attention map of all features (`at`); one attention map of the selected features (`sat`); the
features times an attention map that the expanding path controls (`additive`, Attention U-Net); a 1×1 convolution to
one channel, the plain baseline of the attention map (`reduce`)."""

SKIPS: tuple[Skip, ...] = ("none", "sum", "org", "st", "at", "sat", "additive", "reduce")
SELECTING: tuple[Skip, ...] = ("st", "sat")
MAPPING: tuple[Skip, ...] = ("at", "sat", "reduce")
"""Skips that pass maps instead of features."""
ATTENDING: tuple[Skip, ...] = ("at", "sat", "additive")
"""Skips that make an attention map."""
SelectInit = Literal["glorot", "ones", "uniform01"]

MOST_CHANNELS = 4096
"""Most channels of an image, of classes and of a layer that a specification may name."""
MOST_LEVELS = 12
"""Most long skips: the deepest level of so many has 1/4096 of the image's resolution."""
MOST_LAYERS = 256
"""Most convolutions, blocks or layers of the contracting path. Limits how long it takes to build a model from a
stranger."""


def refuse_unknown_names(settings: object) -> None:
    """Check the fields of `settings` that have named choices; pydantic does so for parsed JSON only.

    Raises:
        SpecError: a field has none of its choices.
    """
    for name, hint in get_type_hints(type(settings)).items():
        if get_origin(hint) is Literal and getattr(settings, name) not in get_args(hint):
            raise _unknown(name, getattr(settings, name), get_args(hint))


def _unknown(name: str, value: object, choices: tuple[object, ...]) -> SpecError:
    *first, last = map(repr, choices)
    return SpecError(f"{name} is {value!r}: choose {', '.join(first) + ' or ' if first else ''}{last}.")


def check_at_most(most: int, **settings: int) -> None:
    """Check that no setting is above the most that is allowed.

    Raises:
        SpecError: one is larger.
    """
    for name, value in settings.items():
        if value > most:
            shown = f"{value}" if value < 10**12 else "larger than 10^12"
            raise SpecError(f"{name.replace('_', ' ')} is {shown}, and at most {most} is allowed: choose less.")


@dataclass(frozen=True)
class SkipSpec(ABC):
    """The options that all specifications share.

    skip: of every level. level_skips: one skip for each level, finest first, if levels differ; then `skip` is not used.
    select_init, gate_norm, gate_maps: of the gates (see `networks.gates`); with gate_maps > 1 so many maps pass instead
    of the paper's one. dropout: rate.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    dimensions: Literal[2, 3] = 2
    in_channels: int = 1
    out_channels: int = 1
    skip: Skip = "sat"
    level_skips: tuple[Skip, ...] = ()
    select_init: SelectInit = "uniform01"
    gate_norm: bool = True
    gate_maps: int = 1
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(
                value, list
            ):  # a list may be given, but JSON is read as tuples: equal specs must compare equal
                object.__setattr__(self, name, tuple(value))
        refuse_unknown_names(self)
        check_at_most(MOST_LEVELS, number_of_levels=self.levels)
        check_at_most(
            MOST_CHANNELS, in_channels=self.in_channels, out_channels=self.out_channels, gate_maps=self.gate_maps
        )
        for skip in self.level_skips:
            if skip not in SKIPS:
                raise _unknown("level_skips", skip, SKIPS)
        if self.in_channels < 1 or self.out_channels < 1:
            raise SpecError("A network needs at least one input and one output channel.")
        if not 0 <= self.dropout < 1:
            raise SpecError(f"Dropout must lie in [0, 1), not {self.dropout}.")
        if self.level_skips and len(self.level_skips) != self.levels:
            raise SpecError(
                f"This network has {self.levels} long skips and level_skips names {len(self.level_skips)}: name one "
                "per level, finest first, or leave it empty."
            )
        if self.gate_maps < 1:
            raise SpecError("A gate passes at least one map: set gate_maps to 1 or more.")
        if self.gate_maps > 1 and not any(skip in MAPPING for skip in self.skips):
            raise SpecError(
                f"gate_maps is {self.gate_maps}, but no long skip has a gate that makes maps: set skip to one of "
                f"{', '.join(MAPPING)}, or gate_maps to 1."
            )

    @property
    @abstractmethod
    def levels(self) -> int:
        """Number of long skips; each level has half the resolution of the finer one above it."""

    @property
    def skips(self) -> tuple[Skip, ...]:
        """The kind of each long skip, finest level first."""
        return self.level_skips or (self.skip,) * self.levels

    @property
    def stride(self) -> int:
        """Image pixels per pixel of the deepest level."""
        return int(2**self.levels)

    @property
    def attention_strides(self) -> tuple[int, ...]:
        """Image pixels per pixel of each attention map of a long skip, finest level first."""
        return tuple(
            int(2**level)
            for level, skip in enumerate(self.skips)
            if skip in ATTENDING
            for _ in range(self.gate_maps if skip in MAPPING else 1)
        )
