"""The position of an image in space: its axes, voxel size, unit and origin as one value; units of length."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import ClassVar

from pydantic import ConfigDict

from napari_skipseg.errors import InputError

METRES = {"pm": 1e-12, "Å": 1e-10, "nm": 1e-9, "µm": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0}
"""The units of length that a stack may have, in metres."""

EXACT_METRES = {unit: Decimal(str(metres)) for unit, metres in METRES.items()} | {
    "fm": Decimal("1e-15"),
    "thou": Decimal("25.4e-6"),
    "inch": Decimal("25.4e-3"),
    "dm": Decimal("0.1"),
    "foot": Decimal("0.3048"),
    "km": Decimal(1000),
}
"""All units of length that a file may have, in metres, as decimals: 0.05 µm are 50 nm, not 50.00000000000001."""

_SPELLINGS = {
    "fm": "fm femtometer femtometers femtometre femtometres",
    "pm": "pm picometer picometers picometre picometres",
    "Å": "å a ang angstrom angstroms angstroem ångström ångströms ångstrom ångstroms",
    "nm": "nm nanometer nanometers nanometre nanometres",
    # the last two are µ as read by a program that mistakes the encoding
    "µm": "µm µ um micron microns micrometer micrometers micrometre micrometres mikrometer âµm \ufffdm",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "dm": "dm decimeter decimeters decimetre decimetres",
    "m": "m meter meters metre metres",
    "km": "km kilometer kilometers kilometre kilometres",
    "thou": "thou mil mils",
    "inch": 'inch inches in "',
    "foot": "foot feet ft",
    "pixel": "pixel pixels pix px voxel voxels",
}


def _plain(name: str) -> str:
    """Return a unit's name as the table spells it: ImageJ writes \\\\u00B5m, others [µm]; µ has two code points."""
    unescaped = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), name)
    return unicodedata.normalize("NFKC", unescaped).strip(" \t\r\n\0[]().").casefold()


_UNITS = {_plain(name): unit for unit, names in _SPELLINGS.items() for name in names.split()}


def spelled_unit(name: str) -> str | None:
    """Return the unit that `name` spells, also one that only files have ("inch", "km"); None if it is unknown."""
    return _UNITS.get(_plain(name))


def find_unit(name: str | None) -> str | None:
    """Return the unit of a stack that `name` spells (micron, um and \\\\u00B5m spell µm), None if it is unknown."""
    unit = spelled_unit(name or "")
    return unit if unit in METRES or unit == "pixel" else None


def check_unit(name: str) -> str:
    """Return the unit that `name` spells.

    Raises:
        InputError: it is no unit of length.
    """
    unit = name if name in METRES else find_unit(name)
    if unit is None:
        raise InputError(f"'{name}' is not a unit of length: use one of {', '.join(METRES)} or pixel.")
    return unit


def convert_length(value: float, unit: str, into: str) -> float:
    """Return `value` in a different unit of length, exactly rounded: 0.05 µm are 50 nm."""
    if unit == into or not math.isfinite(value):
        return value
    return float(Decimal(repr(float(value))) * EXACT_METRES[unit] / EXACT_METRES[into])


AXES = "TCZYX"
"""The axes that an image may have: time, channel (RGB included), space; each once at most, Y and X always."""


@dataclass(frozen=True)
class Space:
    """The axes, voxel size and origin of an image. Lists, numpy numbers and all spellings of units ("um") are accepted.

    axes: one letter of `AXES` per dimension of the array, such as "ZYX" or "TCYX".
    voxel_size: (z, y, x) in `unit`; 1.0 if the image has no such axis or the size is not known.
    unit: a unit of length ("nm", "µm", ...), or "pixel" if the voxel size is not known.
    origin: (z, y, x) of the first voxel's centre in `unit`.

    Raises:
        InputError: the axes, the voxel size, the unit or the origin cannot be used.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    axes: str
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    unit: str = "pixel"
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        check_axes(self.axes, len(self.axes))
        size, origin = tuple(map(float, self.voxel_size)), tuple(map(float, self.origin))
        if len(size) != 3 or not all(math.isfinite(side) and side > 0 for side in size):
            raise InputError(f"The voxel size {size} is not usable: give three positive numbers.")
        if len(origin) != 3 or not all(map(math.isfinite, origin)):
            raise InputError(f"The origin {origin} is not usable: give three finite numbers.")
        object.__setattr__(self, "voxel_size", size)
        object.__setattr__(self, "unit", check_unit(self.unit))
        object.__setattr__(self, "origin", origin)

    @property
    def has_size(self) -> bool:
        """Whether the voxel size is known in a unit of length."""
        return self.unit in METRES

    @property
    def spatial_axes(self) -> str:
        """The axes of space: "YX" or "ZYX"."""
        return "".join(axis for axis in self.axes if axis in "ZYX")

    def size_along(self, axis: str) -> float:
        """Return the side of a voxel along Z, Y or X; 1.0 for time and channels."""
        return self.voxel_size["ZYX".index(axis)] if axis in "ZYX" else 1.0

    def origin_along(self, axis: str) -> float:
        """Return where the first voxel's centre lies along Z, Y or X; 0.0 for time and channels."""
        return self.origin["ZYX".index(axis)] if axis in "ZYX" else 0.0

    def with_axes(self, axes: str) -> Space:
        """Return the space of an array at the same place with these axes: fewer, more, or in a different order."""
        return replace(self, axes=axes)

    def without(self, axis: str) -> Space:
        """Return the space without an axis; unchanged if there is no such axis."""
        return replace(self, axes=self.axes.replace(axis, ""))

    def scaled(self, factors: Mapping[str, float]) -> Space:
        """Return the space of an array with voxels that are so many times as long, by axis, and the same corner.

        The centre of its first voxel is the centre of all voxels that it covers.
        """
        steps = [factors.get(axis, 1.0) for axis in "ZYX"]
        size = [side * step for side, step in zip(self.voxel_size, steps, strict=True)]
        places = zip(self.origin, self.voxel_size, steps, strict=True)
        origin = [first + side * (step - 1) / 2 for first, side, step in places]
        return replace(self, voxel_size=_triple(size), origin=_triple(origin))

    def shifted(self, voxels: Mapping[str, float]) -> Space:
        """Return the space of a part of the array that begins so many voxels from its first one, by axis."""
        places = zip("ZYX", self.origin, self.voxel_size, strict=True)
        return replace(self, origin=_triple([first + side * voxels.get(axis, 0) for axis, first, side in places]))

    def resized(self, voxel_size: tuple[float, float, float], unit: str) -> Space:
        """Return the space with a different voxel size, given by a user, and the same position of the first voxel.

        If one of the units is not known, the first voxel keeps its distance from 0 in voxels.
        """
        unit = check_unit(unit)
        known = self.has_size and unit in METRES
        places = [
            convert_length(place, self.unit, unit) if known else place / old * new
            for place, old, new in zip(self.origin, self.voxel_size, voxel_size, strict=True)
        ]
        return replace(self, voxel_size=voxel_size, unit=unit, origin=_triple(places))

    def voxel_size_in(self, unit: str) -> tuple[float, float, float]:
        """Return the voxel size (z, y, x) in a different unit of length, exactly rounded.

        Raises:
            ValueError: one of the two units is no unit of length.
        """
        if not self.has_size or unit not in METRES:
            raise ValueError(f"a size in {self.unit} cannot be converted to {unit}")
        return _triple([convert_length(side, self.unit, unit) for side in self.voxel_size])


@dataclass(frozen=True)
class GivenSpace:
    """Axes, voxel size and unit from the user, which override those of the file; None = as in the file.

    axes: letters of `AXES`, one per axis in the file's order. voxel_size: (z, y, x) in `unit`. unit: of `voxel_size`;
    given alone, of the file's own numbers.
    """

    axes: str | None = None
    voxel_size: tuple[float, float, float] | None = None
    unit: str | None = None


NOTHING_GIVEN = GivenSpace()


def _triple(values: list[float]) -> tuple[float, float, float]:
    z, y, x = values
    return z, y, x


def check_axes(axes: str, dimensions: int, any_order: bool = False) -> None:
    """Raise InputError, with the cure, if `axes` do not describe an array of `dimensions`.

    any_order: Z, Y and X may have any order, as in files; they are transposed when they are read.
    """
    unknown = sorted(set(axes) - set(AXES))
    if unknown:
        raise InputError(f"The axes '{axes}' have unknown letters ({', '.join(unknown)}): use {', '.join(AXES)}.")
    if len(set(axes)) != len(axes):
        raise InputError(f"The axes '{axes}' name an axis twice.")
    if len(axes) != dimensions:
        raise InputError(f"The axes '{axes}' name {len(axes)} dimensions, the image has {dimensions}.")
    if "Y" not in axes or "X" not in axes:
        raise InputError(f"The axes '{axes}' lack Y or X: an image needs both.")
    space = [axis for axis in axes if axis in "ZYX"]
    if not any_order and space != sorted(space, key="ZYX".index):
        raise InputError(f"The axes '{axes}' are in a different order than Z, Y, X: transpose the image.")
