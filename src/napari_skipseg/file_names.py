"""Names of files compared as people read them: é is one name, whether stored as one character or as two."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PurePosixPath


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
