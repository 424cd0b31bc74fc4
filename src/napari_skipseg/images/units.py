"""Units of length: their spellings in files, their lengths, and exact conversion between them."""

from __future__ import annotations

import math
import re
import unicodedata
from decimal import Decimal

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
