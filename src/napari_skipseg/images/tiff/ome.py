"""OME-XML: the scales in that of a file, and the OME-XML of files that we write."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np

from napari_skipseg.errors import FileError
from napari_skipseg.images.calibration import AxisScale, number_of
from napari_skipseg.images.space import Space

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
RECIPE = "napari-skipseg/recipe"
"""The namespace of the annotation with the recipe."""

PIXEL_TYPES = {"bool": "bit", "float32": "float", "float64": "double"} | {
    f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32)
}
"""The types that OME-TIFF supports, by their numpy names."""


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def read_ome(description: str, size: tuple[int, int]) -> dict[str, AxisScale]:
    """Return the scales of X, Y and Z in OME-XML, of its first image of `size` (y, x)."""
    try:
        root = ElementTree.fromstring(description)
    except ElementTree.ParseError:
        return {}
    wanted = {"SizeY": str(size[0]), "SizeX": str(size[1])}
    images = [e for e in root.iter() if _local(e) == "Pixels" and wanted.items() <= e.attrib.items()]
    if not images:
        return {}
    pixels = images[0].attrib
    planes = (e.attrib for e in images[0] if _local(e) == "Plane")
    first = next((p for p in planes if all(p.get(f"The{axis}", "0") == "0" for axis in "TCZ")), {})
    return {
        axis: AxisScale(
            number_of(pixels.get(f"PhysicalSize{axis}")),
            pixels.get(f"PhysicalSize{axis}Unit", "µm"),
            number_of(first.get(f"Position{axis}")) or 0.0,
            first.get(f"Position{axis}Unit", "reference frame"),
        )
        for axis in "XYZ"
    }


def ome_xml(
    shape: Sequence[int],
    space: Space,
    dtype: np.dtype[Any],
    channel_names: Sequence[str] | None,
    recipe: Mapping[str, Any] | None,
    title: str = "",
) -> bytes:
    """Return the OME-XML (ASCII) of one image with its pages in the order of its leading axes.

    If C is the last axis, it is stored as samples of each pixel. title: the name of the image, "" = none.
    """
    axes = space.axes
    length = dict(zip(axes, (int(n) for n in shape), strict=True))
    samples = length["C"] if axes.endswith("C") else 1
    leading = "".join(axis for axis in axes if axis in "TCZ" and not (axis == "C" and samples > 1))
    order = "XY" + leading[::-1] + "".join(axis for axis in "CZT" if axis not in leading)
    root = ElementTree.Element("OME", {"xmlns": NAMESPACE, "Creator": "napari-skipseg"})
    named = {"Name": "".join(letter for letter in title if letter.isprintable())} if title else {}
    image = ElementTree.SubElement(root, "Image", {"ID": "Image:0", **named})
    attributes = {
        "ID": "Pixels:0",
        "DimensionOrder": order,
        "Type": PIXEL_TYPES[dtype.name],
        "BigEndian": "false",
    }
    attributes |= {"Interleaved": "true"} if samples > 1 else {}
    attributes |= {f"Size{axis}": str(length.get(axis, 1)) for axis in "XYCZT"} | _physical_sizes(space)
    pixels = ElementTree.SubElement(image, "Pixels", attributes)
    for number in range(length.get("C", 1) // samples):
        channel = {"ID": f"Channel:0:{number}", "SamplesPerPixel": str(samples)}
        if channel_names is not None and samples == 1:
            channel["Name"] = "".join(c for c in channel_names[number] if c.isprintable())
        ElementTree.SubElement(pixels, "Channel", channel)
    planes = math.prod(length[axis] for axis in leading)
    ElementTree.SubElement(pixels, "TiffData", {"IFD": "0", "PlaneCount": str(planes)})
    if any(space.origin):
        positions = {f"Position{axis}": repr(space.origin_along(axis)) for axis in "ZYX"}
        positions |= {f"Position{axis}Unit": space.unit for axis in "ZYX"}
        ElementTree.SubElement(pixels, "Plane", {"TheZ": "0", "TheT": "0", "TheC": "0", **positions})
    if recipe is not None:
        ElementTree.SubElement(image, "AnnotationRef", {"ID": "Annotation:0"})
        annotations = ElementTree.SubElement(root, "StructuredAnnotations")
        entry = ElementTree.SubElement(annotations, "MapAnnotation", {"ID": "Annotation:0", "Namespace": RECIPE})
        value = ElementTree.SubElement(entry, "Value")
        ElementTree.SubElement(value, "M", {"K": "recipe"}).text = json.dumps(recipe, sort_keys=True)
    text = ElementTree.tostring(root, "unicode").encode("ascii", "xmlcharrefreplace")
    return b'<?xml version="1.0" encoding="UTF-8"?>' + text


def _physical_sizes(space: Space) -> dict[str, str]:
    if not space.has_size and set(space.voxel_size) == {1.0}:
        return {}
    return {
        key: value
        for axis in "XYZ"
        for key, value in (
            (f"PhysicalSize{axis}", repr(space.size_along(axis))),
            (f"PhysicalSize{axis}Unit", space.unit),
        )
    }


def find_recipe(description: str) -> dict[str, Any] | None:
    """Return the recipe in OME-XML, None if there is none.

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
