"""Axes of files: their names in our letters, those of length 1 left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from napari_skipseg.errors import InputError
from napari_skipseg.images.stack import AXES, check_axes

Named = Sequence[tuple[str, int]]


def name_axes(path: Path, full: Named, axes: str | None) -> tuple[str, tuple[int, ...]]:
    """Return the axes of a file in our letters, and their lengths.

    full: name and length of each axis in the file; I and Q (tifffile's words for pages of which nothing is known)
    become Z, or T where there is a Z already. axes: what a user says they are, in place of the names.

    Raises:
        InputError: the axes are not clear, or are other than the user says.
    """
    kept = [(name, length) for name, length in full if length != 1 or name in "YX"]
    if max(len(kept), len(axes or "")) > len(AXES):
        raise InputError(
            f"'{path}' has {len(kept)} axes ({_lengths(kept)}), at most {len(AXES)} can be used (time, channel, z, "
            "y, x): save one part of it."
        )
    if axes is not None:
        return axes, _shape_for(axes, full, kept)
    names = [name for name, _ in kept]
    for place in reversed(range(len(names))):
        if names[place] in "IQ":
            names[place] = next((free for free in "ZT" if free not in names), names[place])
    found = "".join(names)
    try:
        check_axes(found, len(kept))
    except InputError as error:
        raise InputError(
            f"The axes of '{path}' ({found}: {_lengths(kept)}) are not clear: say what they are, such as 'ZYX'."
        ) from error
    return found, tuple(length for _, length in kept)


def _lengths(kept: Named) -> str:
    return " × ".join(str(length) for _, length in kept)


def _shape_for(axes: str, full: Named, kept: Named) -> tuple[int, ...]:
    """Return the lengths of the axes that a user has named; they may name axes of length 1 too."""
    if len(axes) == len(full) != len(kept):
        check_axes(axes, len(full))
        return tuple(length for _, length in full)
    named = [(name, length) for name, length in full if (name, length) in kept or name in axes]
    if len(axes) == len(named) != len(kept):
        check_axes(axes, len(named))
        return tuple(length for _, length in named)
    check_axes(axes, len(kept))
    return tuple(length for _, length in kept)


def kept_places(full: Sequence[int], kept: Sequence[int]) -> tuple[int, ...]:
    """Return which axes of the shape `full` are those of the shape `kept`, which lacks some of length 1."""
    places: list[int] = []
    for place, length in enumerate(full):
        if len(places) < len(kept) and length == kept[len(places)]:
            places.append(place)
    return tuple(places)
