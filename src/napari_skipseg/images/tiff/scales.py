"""What a TIFF says of its axes: OME-XML, ImageJ's notes, the tags of a microscope's maker, or resolution tags."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from napari_skipseg.images.calibration import GIVE_SIZE, AxisScale, number_of
from napari_skipseg.images.tiff.makers import read_maker
from napari_skipseg.images.tiff.ome import read_ome
from napari_skipseg.images.units import find_unit

PRINT_SIZE = 1e-6
"""Metres per pixel from which on a resolution in inches or centimetres is taken for a print size.

72, 96, 300 and 1200 dpi say how large a program would print the image; 1 µm is 25,400 dpi, finer than any
printer or scanner, so what is finer still was written by a microscope."""

PRINTERS = (72, 75, 96, 100, 120, 144, 150, 180, 200, 240, 300, 360, 400, 600, 720, 1200, 1440, 2400, 4800)
"""Dots per inch that printers, screens and scanners have.

ImageJ gives its images the unit inch or cm if they came from a program that wrote these."""

SMALL_UNITS = ("pm", "Å", "nm", "µm")
"""Units of which 1 may be the distance of slices; ImageJ leaves out a spacing of 1, that of no calibration too."""

INCHES = ("in", "inch", "inches")
INCH, CENTIMETRE = 2, 3
"""The values of the tag ResolutionUnit."""

Scales = dict[str, AxisScale]


def read_scales(file: Any, series: Any) -> tuple[Scales, tuple[str, ...]]:
    """Return what an open TIFF says of the axes of a series, and notes on what of it was not taken.

    OME-XML counts first, then ImageJ's notes, then the tags of the maker of a microscope, then resolution tags.
    """
    page = series.keyframe
    if file.is_ome and file.ome_metadata is not None:
        return read_ome(file.ome_metadata, (page.imagelength, page.imagewidth)), ()
    resolution = (_per_pixel(page.tags.valueof(283)), _per_pixel(page.tags.valueof(282)))
    if file.is_imagej and file.imagej_metadata is not None:
        return read_imagej(file.imagej_metadata, resolution)
    scales = read_maker(file, page)
    return (scales, ()) if scales else read_resolution(resolution, int(page.tags.valueof(296, default=INCH)))


def _per_pixel(rational: Any) -> float | None:
    """Return the value of a TIFF rational, None if there is none, NaN if it makes no sense."""
    if rational is None:
        return None
    if not isinstance(rational, tuple) or len(rational) != 2 or not all(part > 0 for part in rational):
        return math.nan
    return float(rational[0]) / float(rational[1])


def read_imagej(
    notes: Mapping[str, Any], resolution: tuple[float | None, float | None]
) -> tuple[Scales, tuple[str, ...]]:
    """Return what ImageJ's description says of the axes, and notes on what was not taken.

    ImageJ writes `yunit` and `zunit` if they are different from `unit`, and leaves a spacing of 1 out.

    resolution: pixels per unit along (y, x); None if there is no tag, NaN if it makes no sense.
    """
    name = str(notes.get("unit") or "").strip()
    per_y, per_x = resolution
    spacing = number_of(notes.get("spacing"))
    if not name or find_unit(name) == "pixel":
        return _without_unit(spacing, per_y, per_x), ()
    dots = {"cm": 2.54, **dict.fromkeys(INCHES, 1.0)}.get(name.casefold())
    if dots is not None and per_x is not None and spacing in (None, 1.0) and is_of_printers(per_x * dots):
        return {}, (_print_note(per_x * dots),)
    units = [str(notes.get(f"{axis}unit") or "").strip() or name for axis in "xyz"]
    left_out: tuple[str, ...] = ()
    if spacing is None and find_unit(units[2]) in SMALL_UNITS:
        spacing = 1.0
        if _has_slices(notes):
            one = f"1 {find_unit(units[2])}"
            left_out = (f"ImageJ wrote no distance of slices, which means {one}: if that is wrong, {GIVE_SIZE}.",)
    return {"X": _side(per_x, units[0]), "Y": _side(per_y, units[1]), "Z": AxisScale(spacing, units[2])}, left_out


def _has_slices(notes: Mapping[str, Any]) -> bool:
    slices = number_of(notes.get("slices"))
    return slices is not None and slices > 1


def _without_unit(spacing: float | None, per_y: float | None, per_x: float | None) -> Scales:
    """Return the numbers that ImageJ wrote without a unit: a resolution that printers have says nothing."""
    if per_x is None or not per_x > 0 or is_of_printers(per_x):
        return {} if spacing is None else {"X": AxisScale(1.0), "Y": AxisScale(1.0), "Z": AxisScale(spacing)}
    x, y = _side(per_x, ""), _side(per_y, "")
    return {} if spacing is None and x == y == AxisScale(1.0, "") else {"X": x, "Y": y, "Z": AxisScale(spacing)}


def read_resolution(resolution: tuple[float | None, float | None], unit: int) -> tuple[Scales, tuple[str, ...]]:
    """Return what plain resolution tags say of the axes, in nm: nothing if they tell a print size, with a note.

    resolution: pixels per unit along (y, x); unit: the tag ResolutionUnit.
    """
    metres = {INCH: 0.0254, CENTIMETRE: 0.01}.get(unit)
    per_y, per_x = resolution
    if metres is None or per_x is None or not per_x > 0:
        return {}, ()
    if metres / per_x >= PRINT_SIZE:
        dpi = per_x * 0.0254 / metres
        return {}, (_print_note(dpi),) if dpi > 1 else ()
    nanometres = [None if per is None else float(f"{metres / per * 1e9:.7g}") for per in (per_y, per_x)]
    return {"Y": AxisScale(nanometres[0], "nm"), "X": AxisScale(nanometres[1], "nm")}, ()


def is_of_printers(dpi: float) -> bool:
    """Return whether printers, screens or scanners have such a resolution, by dots per inch."""
    return any(abs(dpi / known - 1) < 0.002 for known in PRINTERS)


def _print_note(dpi: float) -> str:
    return f"The file's resolution ({dpi:.4g} dpi) was taken for a print size, not for a voxel size: {GIVE_SIZE}."


def _side(per: float | None, unit: str) -> AxisScale:
    """Return the side of a pixel, with the 7 digits that a TIFF rational holds: 1/0.004 is stored as 250 - a little."""
    if per is None or math.isnan(per):
        return AxisScale(per, unit)
    if unit.casefold() in INCHES:
        return AxisScale(float(f"{25400 / per:.7g}"), "µm")  # to 7 digits after the factor, not before
    return AxisScale(float(f"{1 / per:.7g}"), unit)
