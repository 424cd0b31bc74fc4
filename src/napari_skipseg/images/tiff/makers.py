"""Pixel sizes in the private TIFF tags of makers of microscopes and cameras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from xml.etree import ElementTree

import tifffile

from napari_skipseg.images.calibration import AxisScale, number_of
from napari_skipseg.images.units import METRES, convert_length

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
