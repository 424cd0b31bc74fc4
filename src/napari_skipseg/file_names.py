"""Names of files: compared as people read them (é is one name, however it is stored), and what Windows forbids."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PurePosixPath

FORBIDDEN = '/\\:*?"<>|'
"""Marks of paths, and what Windows allows in no name."""
_PORTS = {f"{port}{number}" for port in ("COM", "LPT") for number in "0123456789¹²³"}
_RESERVED = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | _PORTS
"""What Windows takes for a device, with any ending."""


def is_reserved(name: str) -> bool:
    """Return whether Windows takes a file of this name for a device, whatever its ending."""
    return name.partition(".")[0].rstrip().upper() in _RESERVED


def normalized_name(name: str) -> str:
    """Return `name` in Unicode's normal form C, in which names are compared.

    macOS and some file servers store "é" as "e" and an accent (form D), Windows and Linux as one character.
    """
    return unicodedata.normalize("NFC", name)


def find_inside(folder: Path, relative: str) -> Path | None:
    """Return what is called `relative` (with slashes) inside `folder`, names compared in normal form; None if missing.

    A name that is there exactly as given comes before one that only looks the same.
    """
    place = folder
    for part in PurePosixPath(relative).parts:
        exact = place / part
        if not os.path.lexists(exact):
            try:
                alike = sorted(each for each in place.iterdir() if normalized_name(each.name) == normalized_name(part))
            except OSError:
                return None
            if not alike:
                return None
            exact = alike[0]
        place = exact
    return place
