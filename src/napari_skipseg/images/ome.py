"""Physical truth in TIFF metadata: units, OME-XML in both directions, ImageJ's notes, resolution tags."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np

from napari_skipseg.errors import FileError, InputError

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
RECIPE = "napari-skipseg/recipe"
"""The namespace of the annotation that holds what was run."""

METRES = {"pm": 1e-12, "Å": 1e-10, "nm": 1e-9, "µm": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0}
"""The units of length that are understood, in metres."""

PRINT_SIZE = 1e-6
"""Metres per pixel from which on a resolution in inches or centimetres is taken for a print size.

72, 96, 300 and 1200 dpi say how large a program would print the image; 1 µm is 25,400 dpi, finer than any
printer or scanner, so what is finer still was written by a microscope."""

PIXEL_TYPES = {"bool": "bit", "float32": "float", "float64": "double"} | {
    f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32)
}
"""The types that OME-TIFF can hold, by their numpy names."""

_SPELLINGS = {
    "pm": "pm picometer picometers picometre picometres",
    "Å": "å angstrom angstroms ångström ångstroms",
    "nm": "nm nanometer nanometers nanometre nanometres",
    "µm": "µm um micron microns micrometer micrometers micrometre micrometres",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "m": "m meter meters metre metres",
    "pixel": "pixel pixels px voxel voxels",
}
_UNITS = {name.casefold(): unit for unit, names in _SPELLINGS.items() for name in names.split()}


@dataclass(frozen=True)
class Calibration:
    """Where the voxels lie: (z, y, x) sizes and the first voxel's centre, in `unit`.

    A z of None is not known.
    """

    voxel_size: tuple[float | None, float, float] = (None, 1.0, 1.0)
    unit: str = "pixel"
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def size_of(self, axes: str) -> tuple[float, float, float]:
        """Return (z, y, x) sizes of an image with such axes: an unknown z takes y's, or 1 where there is no Z."""
        z, y, x = self.voxel_size
        return (z or (y if "Z" in axes else 1.0), y, x)


def find_unit(name: str | None) -> str | None:
    """Return the unit that `name` spells (micron, um and \\\\u00B5m spell µm), None where unknown."""
    plain = (name or "").strip().replace("\\u00B5", "µ").replace("\\u00b5", "µ")
    return _UNITS.get(plain.casefold())


def check_unit(name: str) -> str:
    """Return the unit that `name` spells.

    Raises:
        InputError: it is no unit of length.
    """
    unit = find_unit(name)
    if unit is None:
        raise InputError(f"'{name}' is not a unit of length: use one of {', '.join(METRES)} or pixel.")
    return unit


def positive_number(value: Any) -> float | None:
    """Return `value` as a positive, finite number, None where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def convert_length(value: float, unit: str, into: str) -> float:
    """Return `value` in another unit; 12 digits, so that 0.05 µm are 50 nm."""
    return value if unit == into else float(f"{value * METRES[unit] / METRES[into]:.12g}")


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def read_ome(description: str, size: tuple[int, int]) -> Calibration:
    """Return what OME-XML says of the first image of `size` (y, x), in the unit of its x."""
    try:
        root = ElementTree.fromstring(description)
    except ElementTree.ParseError:
        return Calibration()
    wanted = {"SizeY": str(size[0]), "SizeX": str(size[1])}
    images = [e for e in root.iter() if _local(e) == "Pixels" and wanted.items() <= e.attrib.items()]
    if not images:
        return Calibration()
    pixels = images[0].attrib
    units = {axis: find_unit(pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "ZYX"}
    sizes = {axis: positive_number(pixels.get(f"PhysicalSize{axis}")) for axis in "ZYX"}
    unit, x = units["X"], sizes["X"]
    if x is None or unit is None:
        return Calibration()

    def same_unit(axis: str) -> float | None:
        value, its_unit = sizes[axis], units[axis]
        if value is None or its_unit is None or (its_unit != unit and "pixel" in (its_unit, unit)):
            return None
        return convert_length(value, its_unit, unit)

    return Calibration((same_unit("Z"), same_unit("Y") or x, x), unit, _origin(images[0], unit))


def _origin(pixels: ElementTree.Element, unit: str) -> tuple[float, float, float]:
    """Return the position of the first plane in `unit`, zeros where it is not given in a unit of length."""
    planes = (e.attrib for e in pixels if _local(e) == "Plane")
    first = next((p for p in planes if all(p.get(f"The{axis}", "0") == "0" for axis in "TCZ")), {})
    origin = []
    for axis in "ZYX":
        its_unit = find_unit(first.get(f"Position{axis}Unit"))
        try:
            place = float(first.get(f"Position{axis}", 0.0))
        except ValueError:
            place = 0.0
        known = its_unit is not None and math.isfinite(place) and (its_unit == unit or "pixel" not in (its_unit, unit))
        origin.append(convert_length(place, its_unit, unit) if known and its_unit is not None else 0.0)
    return (origin[0], origin[1], origin[2])


def read_imagej(notes: Mapping[str, Any], resolution: tuple[float | None, float | None]) -> Calibration:
    """Return what ImageJ's description says; `resolution` is pixels per unit along (y, x).

    ImageJ leaves a spacing of 1 out. Without a unit, spacing alone counts, relative to pixels; centimetres
    and inches are print sizes unless finer than 1 µm (`PRINT_SIZE`).
    """
    name = str(notes.get("unit", ""))
    unit, per_y, per_x = find_unit(name), resolution[0], resolution[1]
    spacing = positive_number(notes.get("spacing")) or 1.0
    if name.strip().casefold() in ("inch", "inches", "in"):
        unit, per_y, per_x = "cm", per_y and per_y / 2.54, per_x and per_x / 2.54
        spacing *= 2.54
    if unit in (None, "pixel") or per_x is None or (unit == "cm" and METRES["cm"] / per_x >= PRINT_SIZE):
        return Calibration((positive_number(notes.get("spacing")), 1.0, 1.0))
    x = _inverse(per_x)
    return Calibration((spacing, _inverse(per_y) if per_y else x, x), str(unit))


def read_resolution(resolution: tuple[float | None, float | None], tag: int) -> Calibration:
    """Return the voxel size that plain resolution tags give, in nm, or none where they tell a print size.

    resolution: pixels per unit along (y, x); tag: 2 for inches, 3 for centimetres.
    """
    metres = {2: 0.0254, 3: 0.01}.get(tag)
    per_y, per_x = resolution
    if metres is None or per_x is None or metres / per_x >= PRINT_SIZE:
        return Calibration()
    x = float(f"{metres / per_x * 1e9:.7g}")
    return Calibration((None, float(f"{metres / per_y * 1e9:.7g}") if per_y else x, x), "nm")


def _inverse(value: float) -> float:
    """Return 1/value with the 7 digits that a TIFF rational holds: 1/0.004 is stored as 250 - a little."""
    return float(f"{1 / value:.7g}")


def ome_xml(
    shape: Sequence[int],
    axes: str,
    dtype: np.dtype[Any],
    calibration: Calibration,
    channel_names: Sequence[str] | None,
    recipe: Mapping[str, Any] | None,
) -> bytes:
    """Return the OME-XML (ASCII) of one image whose pages follow each other in the order of its leading axes.

    A C behind X is stored as samples of each pixel.
    """
    length = dict(zip(axes, (int(n) for n in shape), strict=True))
    samples = length["C"] if axes.endswith("C") else 1
    leading = "".join(axis for axis in axes if axis in "TCZ" and not (axis == "C" and samples > 1))
    order = "XY" + leading[::-1] + "".join(axis for axis in "CZT" if axis not in leading)
    root = ElementTree.Element("OME", {"xmlns": NAMESPACE, "Creator": "napari-skipseg"})
    image = ElementTree.SubElement(root, "Image", {"ID": "Image:0"})
    attributes = {
        "ID": "Pixels:0",
        "DimensionOrder": order,
        "Type": PIXEL_TYPES[dtype.name],
        "BigEndian": "false",
    }
    attributes |= {"Interleaved": "true"} if samples > 1 else {}
    attributes |= {f"Size{axis}": str(length.get(axis, 1)) for axis in "XYCZT"} | _physical_sizes(calibration)
    pixels = ElementTree.SubElement(image, "Pixels", attributes)
    for number in range(length.get("C", 1) // samples):
        channel = {"ID": f"Channel:0:{number}", "SamplesPerPixel": str(samples)}
        if channel_names is not None and samples == 1:
            channel["Name"] = "".join(c for c in channel_names[number] if c.isprintable())
        ElementTree.SubElement(pixels, "Channel", channel)
    planes = math.prod(length[axis] for axis in leading)
    ElementTree.SubElement(pixels, "TiffData", {"IFD": "0", "PlaneCount": str(planes)})
    if any(calibration.origin):
        ElementTree.SubElement(pixels, "Plane", {"TheZ": "0", "TheT": "0", "TheC": "0", **_positions(calibration)})
    if recipe is not None:
        _annotate(root, image, recipe)
    text = ElementTree.tostring(root, "unicode").encode("ascii", "xmlcharrefreplace")
    return b'<?xml version="1.0" encoding="UTF-8"?>' + text


def _physical_sizes(calibration: Calibration) -> dict[str, str]:
    sizes = {axis: size for axis, size in zip("ZYX", calibration.voxel_size, strict=True) if size is not None}
    if calibration.unit == "pixel" and set(sizes.values()) == {1.0}:
        return {}
    return {
        key: value
        for axis in "XYZ"
        if axis in sizes
        for key, value in (
            (f"PhysicalSize{axis}", repr(float(sizes[axis]))),
            (f"PhysicalSize{axis}Unit", calibration.unit),
        )
    }


def _positions(calibration: Calibration) -> dict[str, str]:
    positions = {f"Position{a}": repr(float(p)) for a, p in zip("ZYX", calibration.origin, strict=True)}
    return positions | {f"Position{axis}Unit": calibration.unit for axis in "ZYX"}


def _annotate(root: ElementTree.Element, image: ElementTree.Element, recipe: Mapping[str, Any]) -> None:
    ElementTree.SubElement(image, "AnnotationRef", {"ID": "Annotation:0"})
    annotations = ElementTree.SubElement(root, "StructuredAnnotations")
    entry = ElementTree.SubElement(annotations, "MapAnnotation", {"ID": "Annotation:0", "Namespace": RECIPE})
    value = ElementTree.SubElement(entry, "Value")
    ElementTree.SubElement(value, "M", {"K": "recipe"}).text = json.dumps(recipe, sort_keys=True)


def find_recipe(description: str) -> dict[str, Any] | None:
    """Return the recipe in OME-XML, None where there is none.

    Raises:
        FileError: there is one, but it is damaged.
    """
    try:
        entries = [e for e in ElementTree.fromstring(description).iter() if e.get("Namespace") == RECIPE]
        texts = [e.text or "" for entry in entries for e in entry.iter() if e.get("K") == "recipe"]
        recipe = json.loads(texts[0]) if texts else None
    except (ElementTree.ParseError, json.JSONDecodeError) as error:
        raise FileError("The recipe in the file is damaged: run the segmentation again.") from error
    return recipe if isinstance(recipe, dict) else None
