"""The image in a file as a `Stack`: with named axes in the usual order, and calibrated voxels.

A reader describes its file as a `FileImage`, and passes the metadata of its format as `AxisScale`s, which `calibrate`
checks. So all formats have the same units, the same treatment of implausible numbers, and the same notes for the user.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from napari_skipseg.errors import InputError
from napari_skipseg.images.space import (
    AXES,
    EXACT_METRES,
    METRES,
    NOTHING_GIVEN,
    GivenSpace,
    Space,
    convert_length,
    spelled_unit,
)
from napari_skipseg.images.stack import GIVE_AXES, ArrayLike, FileAxes, Named, Stack, name_axes
from napari_skipseg.images.views import TurnedArray

_KEPT = ("pm", "Å", "nm", "µm", "mm")
"""Units that a stack keeps from its file; other units become nm, µm or mm, depending on the size of a pixel."""

_SMALLEST, _LARGEST = Decimal("1e-13"), Decimal("1e4")
"""Smallest and largest plausible side of a voxel in metres; other numbers are damaged or placeholders."""

_MOST = 1e9
"""How many times a size without a known unit may be larger or smaller than 1."""

MOST_OBLONG = 1000.0
"""Largest plausible ratio of the sides of a pixel; if it is larger, one of the numbers is likely damaged."""

THINNEST, THICKEST = 1 / 30, 1000.0
"""Sizes of z in pixels that make a wrong unit likely: with it, sections of 12 pixels would have 12,000 or 1/80."""

GIVE_SIZE = "give the voxel size (in a shell with --voxel-size Z Y X --unit nm)"
GIVE_UNIT = "give the unit (in a shell with --unit, such as nm)"


@dataclass(frozen=True)
class AxisScale:
    """The scale of one axis in the metadata of a file.

    size: the distance between two voxels, None if the file has none. It may be negative, 0 or NaN.
    unit: of the size, in the file's spelling; None if the file has none.
    start: the position of the first voxel's centre.
    start_unit: of the start, if it differs from that of the size.
    """

    size: float | None = None
    unit: str | None = None
    start: float = 0.0
    start_unit: str | None = None


@dataclass(frozen=True)
class Calibration:
    """The voxel size, unit and origin of an image, and notes for the user."""

    space: Space
    notes: tuple[str, ...] = ()


def number_of(value: Any) -> float | None:
    """Return `value` as a number, NaN if it is no number, None if it is missing.

    A comma is read as a decimal point, because programs write one on computers set to German, French and so on.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str) and "." not in value and value.count(",") == 1:
        value = value.replace(",", ".")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


@dataclass(frozen=True)
class _UsableScale:
    """One axis with checked size and unit. size: positive, None = unknown. unit: "" = not named, "?" = not known."""

    size: float | None
    unit: str
    start: float
    spelled: str = ""
    usable: bool = True


def calibrate(scales: Mapping[str, AxisScale], axes: str, unit: str | None = None) -> Calibration:
    """Return the calibration of an image in the unit of its x, from the metadata of X, Y and Z.

    - Sizes in several units become those of x, exactly. Units that are too large for a microscope (cm, m, inch) become
      nm, µm or mm.
    - A negative size counts by its absolute value.
    - A size of x or y that makes no sense (0, NaN, 1e30) leaves the whole voxel size unknown: 1 pixel.
    - If the unit is spelled in an unknown way, only the proportions are kept: x is 1 pixel. If none is named, the
      numbers are kept, in pixels.
    - Sizes that differ so much that a unit is likely wrong are kept, and noted.
    - If x or y is missing, it takes the other's size; if z is missing, it takes y's. No given size is replaced.

    The notes report all that was not taken from the file unchanged.

    axes: of the image, as in `Space`; without Z in it, a missing z is 1.
    unit: replaces the unit in the file, for the file's own numbers.
    """
    notes: list[str] = []
    x, y = (_usable_scale(letter, scales.get(letter, AxisScale()), notes) for letter in "XY")
    z = _usable_scale("Z", scales.get("Z", AxisScale()), notes if "Z" in axes else [])
    if unit is not None:
        x, y, z = _with_known_unit(x, y, z)
    unknown = Space(axes, unit=unit or "pixel")
    if not (x.usable and y.usable):
        return Calibration(unknown, (*notes, f"So the voxel size is not known: {GIVE_SIZE}."))
    if x.size is None and y.size is None:
        if z.size is not None and "Z" in axes:
            notes.append(f"The file gives the size of z ({_size_in_words(z)}) but not of x and y: {GIVE_SIZE}.")
        return Calibration(unknown, tuple(notes))
    x, y = _fill(x, y, "x", "y", notes), _fill(y, x, "y", "x", notes)
    if unit is None:
        x, y, z = _share_units(x, y, z, notes)
    if not _are_alike(y, x):
        notes.append(
            f"The sizes of y ({_size_in_words(y)}) and x ({_size_in_words(x)}) cannot be compared: {GIVE_SIZE}."
        )
        return Calibration(unknown, tuple(notes))
    z = _fill_z(z, x, y, axes, notes)
    _note_odd(y, x, "y", 1 / MOST_OBLONG, MOST_OBLONG, notes)
    if "Z" in axes:
        _note_odd(z, x, "z", THINNEST, THICKEST, notes)
    if unit is not None:
        return Calibration(replace(_in_one_unit(axes, x, y, z, x.unit), unit=unit), tuple(notes))
    found = _in_one_unit(axes, x, y, z, _small_unit(x))
    numbers = " ".join(f"{1.0 if axis.size is None else axis.size:g}" for axis in (z, y, x))
    if x.unit == "?":
        notes.append(
            f"'{x.spelled}' is not a known unit, so of the voxel size {numbers} only the proportions were kept: "
            f"{GIVE_UNIT}."
        )
    elif not x.spelled and set(found.voxel_size) != {1.0}:
        notes.append(f"The file names no unit for its voxel size {numbers}: {GIVE_UNIT}.")
    return Calibration(found, tuple(notes))


def _usable_scale(letter: str, scale: AxisScale, notes: list[str]) -> _UsableScale:
    """Return the usable part of the scale of an axis; add a note on the rest."""
    spelled = str(scale.unit or "").strip()
    unit = (spelled_unit(spelled) or "?") if spelled else ""
    unit, spelled = ("", spelled) if unit == "pixel" else (unit, unit if _is_length(unit) else spelled)
    start = scale.start if math.isfinite(scale.start) else 0.0
    if scale.start_unit is not None:
        own = spelled_unit(scale.start_unit) or "?"
        start = _start_in(_UsableScale(None, "" if own == "pixel" else own, start), unit)
    if scale.size is None:
        return _UsableScale(None, unit, start, spelled)
    size = abs(float(scale.size))
    if math.isnan(size):
        notes.append(f"The size of {letter.lower()} in the file is no number, which makes no sense.")
        return _UsableScale(None, unit, start, spelled, usable=False)
    if not _makes_sense(size, unit):
        notes.append(
            f"The file gives {scale.size:g} {spelled}".rstrip() + f" as the size of {letter.lower()}, which makes no "
            "sense."
        )
        return _UsableScale(None, unit, start, spelled, usable=False)
    if scale.size < 0:
        notes.append(
            f"The file gives {scale.size:g} {spelled}".rstrip() + f" as the size of {letter.lower()}: its absolute "
            "value was taken."
        )
    return _UsableScale(size, unit, start, spelled)


def _makes_sense(size: float, unit: str) -> bool:
    if not math.isfinite(size) or size == 0:
        return False
    if _is_length(unit):
        return _SMALLEST <= Decimal(repr(float(size))) * EXACT_METRES[unit] <= _LARGEST
    return 1 / _MOST <= size <= _MOST


def _is_length(unit: str) -> bool:
    return unit in EXACT_METRES


def _size_in_words(axis: _UsableScale) -> str:
    return f"{axis.size:g} {axis.spelled}".rstrip()


def _with_known_unit(
    x: _UsableScale, y: _UsableScale, z: _UsableScale
) -> tuple[_UsableScale, _UsableScale, _UsableScale]:
    """Return the axes for a unit that the user gives: an axis without a known unit takes that of the others."""
    known = next((axis.unit for axis in (x, y, z) if _is_length(axis.unit)), "")
    found = [axis if _is_length(axis.unit) else replace(axis, unit=known) for axis in (x, y, z)]
    return found[0], found[1], found[2]


def _fill(axis: _UsableScale, other: _UsableScale, name: str, others: str, notes: list[str]) -> _UsableScale:
    """Return an axis with the size of the `other` if it has none: pixels are square then."""
    if axis.size is not None:
        return axis
    notes.append(f"The file does not give the size of {name}; that of {others} was taken ({_size_in_words(other)}).")
    return replace(other, start=_start_in(axis, other.unit))


def _start_in(axis: _UsableScale, unit: str) -> float:
    """Return where an axis begins, in a different unit; 0 if that is not known."""
    if axis.unit == unit:
        return axis.start
    return convert_length(axis.start, axis.unit, unit) if _is_length(axis.unit) and _is_length(unit) else 0.0


def _share_units(
    x: _UsableScale, y: _UsableScale, z: _UsableScale, notes: list[str]
) -> tuple[_UsableScale, _UsableScale, _UsableScale]:
    """Return the axes; those without a unit have the unit of an axis that has one."""
    named = next((axis for axis in (x, y, z) if axis.unit and axis.size is not None), None)
    found = []
    for name, axis in (("x", x), ("y", y), ("z", z)):
        if named is None or axis.size is None or axis.spelled:
            found.append(axis)
            continue
        notes.append(
            f"The file names no unit for the size of {name} ({_size_in_words(axis)}): {named.spelled} was taken."
        )
        found.append(replace(axis, unit=named.unit, spelled=named.spelled))
    return found[0], found[1], found[2]


def _are_alike(axis: _UsableScale, x: _UsableScale) -> bool:
    """Return whether the sizes of two axes can be compared."""
    if _is_length(axis.unit) and _is_length(x.unit):
        return True
    return axis.unit == x.unit and (x.unit != "?" or axis.spelled == x.spelled)


def _ratio(axis: _UsableScale, x: _UsableScale) -> float:
    """Return the size of an axis in sizes of x; both are known, and alike."""
    size, of_x = axis.size or 0.0, x.size or 1.0
    return (convert_length(size, axis.unit, x.unit) if _is_length(x.unit) else size) / of_x


def _note_odd(axis: _UsableScale, x: _UsableScale, name: str, least: float, most: float, notes: list[str]) -> None:
    """Note a size that is less than `least` or at least `most` times that of x."""
    if axis.size is not None and not least <= (ratio := _ratio(axis, x)) < most:
        notes.append(
            f"The file gives {_size_in_words(axis)} as the size of {name}, which is {ratio:.3g} times that of x "
            f"({_size_in_words(x)}): if that is wrong, {GIVE_SIZE}."
        )


def _fill_z(z: _UsableScale, x: _UsableScale, y: _UsableScale, axes: str, notes: list[str]) -> _UsableScale:
    """Return z with the size of y if its own is not known; 1 if the image has no z."""
    if z.size is not None and _are_alike(z, x):
        return z
    if "Z" not in axes:
        return replace(x, size=None, start=_start_in(z, x.unit))
    reason = "The size of z is not known"
    if z.size is not None:
        reason = f"The size of z ({_size_in_words(z)}) cannot be compared with that of x ({_size_in_words(x)})"
    notes.append(f"{reason}; that of y was taken ({_size_in_words(y)}): {GIVE_SIZE}.")
    return replace(y, start=_start_in(z, y.unit))


def _small_unit(x: _UsableScale) -> str:
    """Return the unit of the result: that of x, or one of microscopy if that is too large."""
    if not _is_length(x.unit) or x.unit in _KEPT:
        return x.unit
    metres = convert_length(float(x.size or 1.0), x.unit, "m")
    return "nm" if metres < METRES["µm"] else "µm" if metres < METRES["mm"] else "mm"


def _in_one_unit(axes: str, x: _UsableScale, y: _UsableScale, z: _UsableScale, unit: str) -> Space:
    """Return all sizes and starts in `unit`; in pixels if it is no length: x has 1 if its unit has an unknown name."""
    placed = (z, y, x)
    if _is_length(unit):
        sizes = [1.0 if axis.size is None else convert_length(axis.size, axis.unit, unit) for axis in placed]
        starts = [convert_length(axis.start, axis.unit, unit) for axis in placed]
    else:
        by = float(x.size or 1.0) if unit == "?" else 1.0
        sizes = [1.0 if axis.size is None else axis.size / by for axis in placed]
        starts = [axis.start / by for axis in placed]
        unit = "pixel"
    return Space(axes, (sizes[0], sizes[1], sizes[2]), unit, (starts[0], starts[1], starts[2]))


@dataclass(frozen=True)
class FileImage:
    """One image of a file and its metadata, in the file's order.

    axes: name and length of each axis ("?" has no name).
    scales: one for each axis.
    others: scales of X, Y and Z that belong to no axis, such as the thickness of a single slice.
    backwards: the axes along which positions decrease; they are reversed, so that voxel sizes are positive.
    open: returns the voxels with the axes that are kept, in the file's order.
    """

    path: Path
    name: str
    axes: Named
    open: Callable[[FileAxes], ArrayLike]
    scales: tuple[AxisScale, ...] = ()
    others: Mapping[str, AxisScale] = field(default_factory=dict)
    backwards: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()


def stack_from_file_image(
    image: FileImage,
    given: GivenSpace = NOTHING_GIVEN,
) -> Stack:
    """Return the image as a stack; values from the user override those of the file.

    Raises:
        InputError: the axes, the voxel size or the unit cannot be used.
    """
    given = given if given.axes is None else replace(given, axes=given.axes.upper())
    found = name_axes(image.path, image.axes, given.axes)
    order = found.order
    names = "".join(found.names[number] for number in order)
    scales = _scales_of(image, found)
    notes = list(image.notes)
    if given.voxel_size is not None:
        known = calibrate(scales, names).space
        calibration = Calibration(known.resized(given.voxel_size, given.unit or known.unit))
    else:
        calibration = calibrate(scales, names, given.unit)
        found_space = calibration.space
        is_made_up = found_space.has_size and set(found_space.voxel_size) == {1.0}
        if given.unit is not None and is_made_up and not calibrate(scales, names).space.has_size:
            raise InputError(
                f"'{image.path}' has no voxel size, so with the unit alone each voxel would be 1 {given.unit} long "
                "along z, y and x: give the sizes too (in a shell with --voxel-size Z Y X)."
            )
    said = "".join(image.axes[place][0] for place in found.places)
    if given.axes is not None and said != given.axes and set(said) <= set(AXES):
        notes.append(f"The file names its axes {said}; they were taken for {given.axes}, as given.")
    if given.axes is None and sum(name in "IQ" for name in said) > 1:
        notes.append(f"The file does not name all of its axes: they were taken for {found.names} ({GIVE_AXES}).")
    backwards = tuple(
        axis
        for axis, number in enumerate(order)
        if found.places[number] in image.backwards and found.names[number] in "ZYX"
    )
    if names != found.names:
        notes.append(f"The file has its axes in the order {found.names}; they were turned into {names}.")
    if backwards:
        turned = ", ".join(names[axis].lower() for axis in backwards)
        notes.append(
            f"The file has a negative scale along {turned}: the image was turned round there, so that it lies as the "
            "file says."
        )
    data = image.open(found)
    if names != found.names or backwards:
        data = TurnedArray(data, order, backwards)
    return Stack(data, calibration.space, image.name, notes=(*notes, *calibration.notes))


def _scales_of(image: FileImage, found: FileAxes) -> dict[str, AxisScale]:
    """Return the file's scales of X, Y and Z. A scale belongs to an axis of the file, even if the user renames it."""
    scales = dict(image.others)
    if not image.scales:
        return scales
    for place, (name, _) in enumerate(image.axes):
        if place not in found.places and name in "ZYX":
            scales[name] = image.scales[place]
    for letter, place in zip(found.names, found.places, strict=True):
        if letter in "ZYX" and image.scales[place] != AxisScale():
            scales[letter] = image.scales[place]
    return scales
