"""What the values of corrections mean. Loads without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from napari_skipseg.errors import InputError

NOT_LOOKED_AT = 0
BACKGROUND = 1
FIRST_CLASS = 2
HIGHEST = 255
"""Corrections are bytes."""


@dataclass(frozen=True)
class CorrectionClass:
    """A class that can be painted: its name, its value (2 or more) and its colour as #rrggbb."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    value: int
    color: str

    def __post_init__(self) -> None:
        if not self.name.strip() or not FIRST_CLASS <= self.value <= HIGHEST:
            raise InputError(
                f"'{self.name}' with value {self.value} is no class: give a name, and a value from {FIRST_CLASS} to "
                f"{HIGHEST} (0 means not looked at, 1 background)."
            )
