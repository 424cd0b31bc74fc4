"""The classes of corrections: their values, colours and names, and how a layer shows them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from napari_skipseg.corrections.coding import BACKGROUND, FIRST_CLASS, HIGHEST, NOT_LOOKED_AT, CorrectionClass
from napari_skipseg.errors import InputError
from napari_skipseg.widgets.result_looks import CLASS_COLORS

if TYPE_CHECKING:
    from napari.utils.colormaps import DirectLabelColormap

BACKGROUND_COLOR = "#ff5a5f"
UNNAMED_COLOR = "#ffffff"
ACCEPTED_COLOR = "#3f7bff"
"""Of all that was accepted, whatever it says there: in the colours of its classes it would hide the result below."""


def add_classes(classes: Sequence[CorrectionClass], names: Sequence[str]) -> tuple[CorrectionClass, ...]:
    """Return the classes with one more for each name that is not among them yet, each with a value of its own.

    Raises:
        InputError: there is no value left, or a name is empty.
    """
    grown = list(classes)
    for name in names:
        if name.casefold() in {each.name.casefold() for each in grown}:
            continue
        value = max([FIRST_CLASS - 1, *(each.value for each in grown)]) + 1
        if value > HIGHEST:
            raise InputError(f"There are {len(grown)} classes already: corrections hold no more.")
        used = {each.color for each in grown}
        free = [color for color in CLASS_COLORS if color not in used] or list(CLASS_COLORS)
        grown.append(CorrectionClass(name.strip(), value, free[0]))
    return tuple(grown)


def name_values(classes: Sequence[CorrectionClass], values: Iterable[int]) -> tuple[CorrectionClass, ...]:
    """Return the classes with one more for each value that none has yet, named after it."""
    missing = sorted({*values} - {NOT_LOOKED_AT, BACKGROUND, *(each.value for each in classes)})
    grown = list(classes)
    for value in missing:
        color = CLASS_COLORS[(value - FIRST_CLASS) % len(CLASS_COLORS)]
        grown.append(CorrectionClass(fresh_name(grown), value, color))
    return tuple(sorted(grown, key=lambda each: each.value))


def rename_class(classes: Sequence[CorrectionClass], value: int, name: str) -> tuple[CorrectionClass, ...]:
    """Return the classes with another name for one of them.

    Raises:
        InputError: the name is empty, or another class has it.
    """
    if name.strip().casefold() in {each.name.casefold() for each in classes if each.value != value}:
        raise InputError(f"Another class is called '{name.strip()}' already: give this one a name of its own.")
    return tuple(replace(each, name=name.strip()) if each.value == value else each for each in classes)


def recolor_class(classes: Sequence[CorrectionClass], value: int, color: str) -> tuple[CorrectionClass, ...]:
    """Return the classes with another colour for one of them."""
    return tuple(replace(each, color=color) if each.value == value else each for each in classes)


def fresh_name(classes: Sequence[CorrectionClass]) -> str:
    """Return a name that no class has: "class 2", …."""
    names = {each.name.casefold() for each in classes}
    number = len(classes) + 1
    while f"class {number}" in names:
        number += 1
    return f"class {number}"


def is_unnamed(name: str) -> bool:
    """Return whether a class is called as `fresh_name` calls one that nobody has named yet."""
    return re.fullmatch(r"class \d+", name.casefold()) is not None


def colormap_of(classes: Sequence[CorrectionClass]) -> DirectLabelColormap:
    """Return the colours of a layer that holds corrections."""
    from napari.utils.colormaps import DirectLabelColormap

    colors: dict[int | None, str] = {None: UNNAMED_COLOR, NOT_LOOKED_AT: "transparent", BACKGROUND: BACKGROUND_COLOR}
    colors.update({each.value: each.color for each in classes})
    return DirectLabelColormap(color_dict=colors)


def accepted_colormap() -> DirectLabelColormap:
    """Return the colours of a layer that holds what was accepted."""
    from napari.utils.colormaps import DirectLabelColormap

    return DirectLabelColormap(color_dict={None: ACCEPTED_COLOR, NOT_LOOKED_AT: "transparent"})
