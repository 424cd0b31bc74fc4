"""Numbers of things, in words that agree with them."""

from __future__ import annotations


def counted(number: int, one: str, several: str = "") -> str:
    """Return so many of a thing: 1 file, 2,000 files. several: the plural, if it is not `one` + s."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"
