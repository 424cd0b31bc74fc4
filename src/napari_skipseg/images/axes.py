"""Axes of files: their names in our letters, in the file's order; those of length 1 are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_skipseg.errors import InputError
from napari_skipseg.images.stack import AXES, check_axes

Named = Sequence[tuple[str, int]]
"""The name and the length of each axis in a file; "?" is an axis without a name."""


GIVE_AXES = "give the axes in the file's order (in a shell with --axes, such as --axes ZYX)"


@dataclass(frozen=True)
class FileAxes:
    """The axes of a file that an image has, in the file's order.

    names: one letter of "TCZYX" each. shape: their lengths. places: which of the file's axes they are.
    """

    names: str
    shape: tuple[int, ...]
    places: tuple[int, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """Which of these axes is the first, second, … of the stack: as in the file, or T, C, Z, Y, X.

        Z, Y and X have this order in each stack; if they have it in the file, T and C stay where they are too.
        """
        space = [axis for axis in self.names if axis in "ZYX"]
        if space == sorted(space, key=AXES.index):
            return tuple(range(len(self.names)))
        return tuple(self.names.index(axis) for axis in sorted(self.names, key=AXES.index))


def name_axes(path: Path, full: Named, axes: str | None) -> FileAxes:
    """Return the axes of a file in our letters, in any order.

    full: all axes of the file; I and Q (tifffile's words for pages of which nothing is known) become Z, or T if there
    is a Z already. axes: what a user says they are, in the file's order, in place of the names; axes of length 1 may be
    left out.

    Raises:
        InputError: the axes have no names, names that are not clear, or are different from what the user says.
    """
    kept = [place for place, (name, length) in enumerate(full) if length != 1 or name in "YX"]
    if max(len(kept), len(axes or "")) > len(AXES):
        raise InputError(
            f"'{path}' has {len(kept)} axes ({_lengths(full, kept)}), at most {len(AXES)} can be used (time, channel, "
            "z, y, x): save one part of it."
        )
    if axes is not None:
        places = _places_for(axes, full, kept)
        check_axes(axes, len(places), any_order=True)
        return FileAxes(axes, tuple(full[place][1] for place in places), places)
    names = [full[place][0] for place in kept]
    if "?" in names:
        raise InputError(f"'{path}' does not name its axes ({_lengths(full, kept)}): {GIVE_AXES}.")
    for number in reversed(range(len(names))):
        if names[number] in "IQ":
            names[number] = next((free for free in "ZT" if free not in names), names[number])
    found = "".join(names)
    try:
        check_axes(found, len(kept), any_order=True)
    except InputError as error:
        raise InputError(
            f"The axes of '{path}' ({found}: {_lengths(full, kept)}) are not clear: {GIVE_AXES}."
        ) from error
    return FileAxes(found, tuple(full[place][1] for place in kept), tuple(kept))


def _lengths(full: Named, kept: Sequence[int]) -> str:
    return " × ".join(str(full[place][1]) for place in kept)


def _places_for(axes: str, full: Named, kept: Sequence[int]) -> tuple[int, ...]:
    """Return which axes of the file a user has named; they may name axes of length 1 too."""
    if len(axes) == len(full):
        return tuple(range(len(full)))
    named = tuple(place for place, (name, _) in enumerate(full) if place in kept or name in axes)
    return named if len(axes) == len(named) else tuple(kept)
