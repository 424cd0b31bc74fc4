"""The scales of the axes of a TIFF: from OME-XML, ImageJ's description, the tags of a maker, or resolution tags."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import tifffile

from napari_skipseg.images.calibration import GIVE_SIZE, AxisScale, number_of
from napari_skipseg.images.space import METRES, convert_length, find_unit
from napari_skipseg.images.tiff.ome import read_ome

PRINT_SIZE = 1e-6
"""A resolution in inches or centimetres of at least so many metres per pixel counts as a print size.

72, 96, 300 and 1200 dpi are sizes of prints. 1 µm is 25,400 dpi, finer than any printer or scanner, so a finer
resolution comes from a microscope."""

PRINTERS = (72, 75, 96, 100, 120, 144, 150, 180, 200, 240, 300, 360, 400, 600, 720, 1200, 1440, 2400, 4800)
"""Usual dots per inch of printers, screens and scanners.

ImageJ keeps the unit inch or cm of images from programs that write it."""

SMALL_UNITS = ("pm", "Å", "nm", "µm")
"""Units in which slices may be 1 apart. ImageJ omits a spacing of 1, and also that of an uncalibrated stack."""

INCHES = ("in", "inch", "inches")
NO_UNIT, INCH = 1, 2
"""Values of the tag ResolutionUnit."""

UNIT_METRES = {INCH: 0.0254, 3: 0.01, 4: 1e-3, 5: 1e-6}
"""Metres of the units of the tag ResolutionUnit; beyond the standard's two tifffile knows mm and µm."""

LONGEST_HEAD = 2000
"""An OME-XML is recognised in so many first letters; tifffile recognises it by its end, which may be damaged."""

TiffScales = dict[str, AxisScale]


def read_scales(file: Any, series: Any) -> tuple[TiffScales, tuple[str, ...]]:
    """Return the scales of the axes of a series in an open TIFF, and notes on values that were not used.

    OME-XML comes first, then ImageJ's description, then the tags of the maker of a microscope, then resolution tags.
    """
    page = series.keyframe
    is_ome = file.is_ome and file.ome_metadata is not None
    found = read_ome(file.ome_metadata, (page.imagelength, page.imagewidth)) if is_ome else {}
    if any(scale.size is not None for scale in found.values()):
        return found, ()
    others, notes = _read_without_ome(file, page)
    if found:  # there is an origin but no size
        return {
            axis: replace(others.get(axis, place), start=place.start, start_unit=place.start_unit)
            for axis, place in found.items()
        }, ()
    if is_ome or "<OME " in file.pages.first.description[:LONGEST_HEAD]:
        damaged = "The OME-XML of the file is damaged, or describes an image of a different size"
        notes = (*notes, f"{damaged}: no voxel size was taken from it; {GIVE_SIZE}.")
    return others, notes


def _read_without_ome(file: Any, page: Any) -> tuple[TiffScales, tuple[str, ...]]:
    """Return the scales of ImageJ's description, of the tags of a maker or of resolution tags: the first that exist."""
    resolution = (_per_pixel(page.tags.valueof(283)), _per_pixel(page.tags.valueof(282)))
    if file.is_imagej and file.imagej_metadata is not None:
        return read_imagej(file.imagej_metadata, resolution)
    scales = read_maker(file, page)
    if scales:
        return scales, ()
    unit = int(page.tags.valueof(296, default=INCH))
    description = (
        tifffile.tifffile.shaped_description_metadata(page.shaped_description) if page.shaped_description else {}
    )
    return read_shaped(description, resolution, unit) or read_resolution(resolution, unit)


def read_shaped(
    description: Mapping[str, Any], resolution: tuple[float | None, float | None], unit: int
) -> tuple[TiffScales, tuple[str, ...]] | None:
    """Return the scales in the JSON that tifffile writes, None if it has none.

    It contains what a user hands over as metadata: the keys of ImageJ (unit, spacing) or of OME (PhysicalSizeX), also
    in files that are neither.

    resolution: pixels per unit along (y, x); unit: the tag ResolutionUnit.
    """
    sizes = {axis: number_of(description.get(f"PhysicalSize{axis}")) for axis in "XYZ"}
    if any(size is not None for size in sizes.values()):
        return {
            axis: AxisScale(size, str(description.get(f"PhysicalSize{axis}Unit", "µm"))) for axis, size in sizes.items()
        }, ()
    spacing = number_of(description.get("spacing"))
    if spacing is None and "unit" not in description:
        return None
    if unit == NO_UNIT:
        return read_imagej(description, resolution)
    scales, notes = read_resolution(resolution, unit)
    return {**scales, "Z": AxisScale(spacing, str(description.get("zunit") or description.get("unit") or ""))}, notes


def _per_pixel(rational: Any) -> float | None:
    """Return the value of a TIFF rational, None if there is none, NaN if it makes no sense."""
    if rational is None:
        return None
    if not isinstance(rational, tuple) or len(rational) != 2 or not all(part > 0 for part in rational):
        return math.nan
    return float(rational[0]) / float(rational[1])


def read_imagej(
    notes: Mapping[str, Any], resolution: tuple[float | None, float | None]
) -> tuple[TiffScales, tuple[str, ...]]:
    """Return the scales in ImageJ's description, and notes on values that were not used.

    ImageJ writes `yunit` and `zunit` if they differ from `unit`, and omits a spacing of 1.

    resolution: pixels per unit along (y, x); None if there is no tag, NaN if it makes no sense.
    """
    name = str(notes.get("unit") or "").strip()
    per_y, per_x = resolution
    spacing = number_of(notes.get("spacing"))
    if not name or find_unit(name) == "pixel":
        of_y, of_z = ("", "") if name else (str(notes.get("yunit") or ""), str(notes.get("zunit") or ""))
        return _without_unit(spacing, resolution, of_y, of_z), ()
    dots = {"cm": 2.54, **dict.fromkeys(INCHES, 1.0)}.get(name.casefold())
    if dots is not None and per_x is not None and spacing in (None, 1.0) and is_print_resolution(per_x * dots):
        return {}, (_print_note(per_x * dots),)
    units = [str(notes.get(f"{axis}unit") or "").strip() or name for axis in "xyz"]
    left_out: tuple[str, ...] = ()
    if spacing is None and find_unit(units[2]) in SMALL_UNITS:
        spacing = 1.0
        if (number_of(notes.get("slices")) or 0) > 1:
            one = f"1 {find_unit(units[2])}"
            left_out = (f"ImageJ wrote no distance of slices, which means {one}: if that is wrong, {GIVE_SIZE}.",)
    return {"X": _side(per_x, units[0]), "Y": _side(per_y, units[1]), "Z": AxisScale(spacing, units[2])}, left_out


def _without_unit(
    spacing: float | None, resolution: tuple[float | None, float | None], of_y: str, of_z: str
) -> TiffScales:
    """Return the numbers that ImageJ wrote without a unit of x: a printer's resolution is no scale.

    resolution: pixels per unit along (y, x). of_y, of_z: their units, "" = none.
    """
    per_y, per_x = resolution
    if per_x is None or not per_x > 0 or is_print_resolution(per_x):
        return {} if spacing is None else {"X": AxisScale(1.0), "Y": AxisScale(1.0), "Z": AxisScale(spacing)}
    x, y = _side(per_x, ""), _side(per_y, of_y)
    if spacing is None and x == y == AxisScale(1.0, ""):
        return {}
    return {"X": x, "Y": y, "Z": AxisScale(spacing, of_z)}


def read_resolution(resolution: tuple[float | None, float | None], unit: int) -> tuple[TiffScales, tuple[str, ...]]:
    """Return the scales of plain resolution tags, in nm; none, with a note, if they are a print size.

    Without a unit they give only the proportions of a pixel, which are needed if it is not square.

    resolution: pixels per unit along (y, x); unit: the tag ResolutionUnit.
    """
    metres = UNIT_METRES.get(unit)
    per_y, per_x = resolution
    if per_x is None or not per_x > 0:
        return {}, ()
    if unit == NO_UNIT and per_y is not None and per_y > 0 and per_y != per_x:
        return {"Y": AxisScale(float(f"{per_x / per_y:.7g}")), "X": AxisScale(1.0)}, ()
    if metres is None:
        return {}, ()
    if metres / per_x >= PRINT_SIZE:
        dpi = per_x * 0.0254 / metres
        return {}, (_print_note(dpi),) if dpi > 1 else ()
    nanometres = [None if per is None else float(f"{metres / per * 1e9:.7g}") for per in (per_y, per_x)]
    return {"Y": AxisScale(nanometres[0], "nm"), "X": AxisScale(nanometres[1], "nm")}, ()


def is_print_resolution(dpi: float) -> bool:
    """Return whether a resolution in dots per inch is usual for printers, screens or scanners."""
    return any(abs(dpi / known - 1) < 0.002 for known in PRINTERS)


def _print_note(dpi: float) -> str:
    return f"The file's resolution ({dpi:.4g} dpi) was taken for a print size, not for a voxel size: {GIVE_SIZE}."


def _side(per: float | None, unit: str) -> AxisScale:
    """Return the side of a pixel with the 7 digits of a TIFF rational: 1/0.004 is stored as a little less than 250."""
    if per is None or math.isnan(per):
        return AxisScale(per, unit)
    if unit.casefold() in INCHES:
        return AxisScale(float(f"{25400 / per:.7g}"), "µm")  # to 7 digits after the factor, not before
    return AxisScale(float(f"{1 / per:.7g}"), unit)


CZ_SEM, MICRO_MANAGER, TVIPS = 34118, 51123, 37706
FEI = (34682, 34680)
"""Tags of FEI and Thermo Fisher: of their SEMs and FIBs, and of the Titan."""

GATAN_UNITS, GATAN_SIZES = (65003, 65004, 65005), (65009, 65010, 65011)
"""Tags of Gatan's DigitalMicrograph, for x, y and z."""

MakerScales = dict[str, AxisScale]


def read_maker(file: Any, page: Any) -> MakerScales:
    """Return the scales in the maker's tags of an open `tifffile.TiffFile`, empty if there are none.

    FEI / Thermo Fisher (SEM, FIB, Titan), Zeiss (SEM, LSM), Gatan DigitalMicrograph, TVIPS, Olympus (SIS, FluoView),
    MetaMorph (STK, MetaSeries), Micro-Manager, Aperio and Leica (SCN). Sources for the places of the sizes: tifffile,
    Bio-Formats and RosettaSciIO.
    """
    for read in _READERS:
        with suppress(Exception):  # tifffile parses these tags here, and a damaged one makes it raise anything
            scales = read(file, page)
            if any(scale.size is not None for scale in scales.values()):
                return scales
    return {}


def _in_metres(x: Any, y: Any, z: Any = None) -> MakerScales:
    """Return sizes in metres as nm or µm, rounded to 10 digits: further ones are rounding errors."""
    found = {}
    for axis, value in (("X", x), ("Y", y), ("Z", z)):
        size = number_of(value)
        if size:  # 0 says that the size is not known
            unit = "nm" if abs(size) < METRES["µm"] else "µm"
            found[axis] = AxisScale(convert_length(float(f"{size:.10g}"), "m", unit), unit)
    return found


def _in_units(unit: Any, x: Any, y: Any, z: Any = None) -> MakerScales:
    named = str(unit or "")
    sizes = ((axis, number_of(value)) for axis, value in (("X", x), ("Y", y), ("Z", z)))
    return {axis: AxisScale(float(f"{size:.10g}"), named) for axis, size in sizes if size}


def _fei(_: Any, page: Any) -> MakerScales:
    for tag in FEI:
        metadata = page.tags.valueof(tag)
        if not isinstance(metadata, Mapping):
            continue
        for section in ("Scan", "EScan", "IScan"):
            if "PixelWidth" in metadata.get(section, {}):
                return _in_metres(metadata[section]["PixelWidth"], metadata[section].get("PixelHeight"))
        if "IRBeam" in metadata:
            beam, image = metadata["IRBeam"], metadata["Image"]
            return _in_metres(beam["HFW"] / image["ResolutionX"], beam["VFW"] / image["ResolutionY"])
    return {}


def _zeiss_sem(_: Any, page: Any) -> MakerScales:
    metadata = page.tags.valueof(CZ_SEM)
    if not isinstance(metadata, Mapping):
        return {}
    for name in ("ap_image_pixel_size", "ap_pixel_size"):
        found = metadata.get(name, ())
        if len(found) == 3:
            return _in_units(found[2], found[1], found[1])
    size = metadata[""][3] * 1024 / page.imagewidth  # it always is for a picture of 1024 pixels
    return _in_metres(size, size)


def _zeiss_lsm(file: Any, _: Any) -> MakerScales:
    metadata = file.lsm_metadata or {}
    return _in_metres(metadata.get("VoxelSizeX"), metadata.get("VoxelSizeY"), metadata.get("VoxelSizeZ"))


def _gatan(_: Any, page: Any) -> MakerScales:
    units = [str(page.tags.valueof(tag) or "") for tag in GATAN_UNITS]
    sizes = [number_of(page.tags.valueof(tag)) for tag in GATAN_SIZES]
    return {axis: AxisScale(size, unit) for axis, size, unit in zip("XYZ", sizes, units, strict=True) if size and unit}


def _tvips(_: Any, page: Any) -> MakerScales:
    metadata = page.tags.valueof(TVIPS) or {}
    sizes = [number_of(metadata.get(f"PixelSize{axis}")) for axis in "XY"]
    found = [float(f"{size:.7g}") if size else None for size in sizes]  # they are stored as float32
    return _in_units("nm", *found)


def _olympus_sis(file: Any, _: Any) -> MakerScales:
    metadata = file.sis_metadata or {}
    return _in_metres(metadata.get("pixelsizex"), metadata.get("pixelsizey"))


def _olympus_fluoview(file: Any, _: Any) -> MakerScales:
    found = {}
    for name, _length, _origin, size, unit, *_ in (file.fluoview_metadata or {}).get("Dimensions", ()):
        axis = str(name).strip().upper()
        if axis in ("X", "Y", "Z") and size:
            found[axis] = AxisScale(float(size), str(unit))
    return found


def _metamorph(file: Any, _: Any) -> MakerScales:
    metadata = file.stk_metadata or {}
    if metadata:
        steps = [abs(float(step)) for step in metadata.get("ZDistance", ()) if step]
        unit = metadata.get("CalibrationUnits") if metadata.get("SpatialCalibration") else None
        return (
            _in_units(unit, metadata["XCalibration"], metadata["YCalibration"], steps[0] if steps else None)
            if unit
            else {}
        )
    plane = (file.metaseries_metadata or {}).get("PlaneInfo", {})
    if not plane.get("spatial-calibration-state"):
        return {}
    sizes = (plane.get(f"spatial-calibration-{axis}") for axis in "xy")
    return _in_units(plane.get("spatial-calibration-units"), *sizes)


def _micro_manager(_: Any, page: Any) -> MakerScales:
    metadata = page.tags.valueof(MICRO_MANAGER)
    if not isinstance(metadata, Mapping):
        return {}
    metadata = {**metadata, **metadata.get("Summary", {})}
    size = metadata.get("PixelSizeUm") or metadata.get("PixelSize_um")
    return _in_units("µm", size, size, metadata.get("z-step_um"))


def _aperio(file: Any, page: Any) -> MakerScales:
    if not file.is_svs:
        return {}
    size = tifffile.tifffile.svs_description_metadata(page.description).get("MPP")
    return _in_units("µm", size, size)


def _leica_scn(file: Any, page: Any) -> MakerScales:
    if not file.is_scn:
        return {}
    for image in ElementTree.fromstring(file.scn_metadata).iter():
        views = [each for each in image if each.tag.endswith("}view")]
        for each in image.iter():
            size = (str(page.imagewidth), str(page.imagelength))
            if views and each.tag.endswith("}dimension") and (each.get("sizeX"), each.get("sizeY")) == size:
                width, height = (number_of(views[0].get(name)) or 0.0 for name in ("sizeX", "sizeY"))
                return _in_units("nm", width / page.imagewidth, height / page.imagelength)
    return {}


_READERS: tuple[Callable[[Any, Any], MakerScales], ...] = (
    _fei,
    _zeiss_sem,
    _zeiss_lsm,
    _gatan,
    _tvips,
    _olympus_sis,
    _olympus_fluoview,
    _metamorph,
    _micro_manager,
    _aperio,
    _leica_scn,
)
