"""OME-XML: of a file or a companion, checked before tifffile builds its pages; its scales; and what we write."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from napari_skipseg.errors import FileError
from napari_skipseg.images.calibration import AxisScale, number_of
from napari_skipseg.images.choice import ImageInfo
from napari_skipseg.images.set_files import find_beside, printable_name
from napari_skipseg.images.space import Space

COMPANION = ".ome"
"""The ending of an OME-XML in a file of its own, such as em.companion.ome."""

LARGEST_TEXT = 256 * 2**20
"""Largest OME-XML that is read, in bytes."""

_PARTS = 300_000
"""Elements and attributes of an OME-XML together that are always allowed: opening it takes 1 s and 170 MB."""

BYTES_PER_PART = 1000
"""A set of files with so many bytes per element and attribute may have more than `_PARTS` of them."""

BYTES_PER_PLANE = 64
"""Least bytes of a plane of a TIFF, for its list of tags; so the size of a file limits the number of its planes."""

FEW_PLANES = 1000
"""Planes that any file may claim, because so short a list costs nothing."""

_TYPES = {"bit": "bool", "float": "float32", "double": "float64", "complex": "complex64"}


@dataclass(frozen=True)
class OmeImage:
    """An <Image>. files: names of the files of its planes, "" = the file that contains or names the OME-XML."""

    info: ImageInfo
    element: ElementTree.Element
    files: tuple[str, ...]


@dataclass(frozen=True)
class OmeSet:
    """All images of an OME-XML.

    metadata_file: the file that describes the images, if this text does not. is_elsewhere: the text is from that file.
    """

    root: ElementTree.Element
    images: tuple[OmeImage, ...]
    metadata_file: str = ""
    is_elsewhere: bool = False

    def text_of(self, image: OmeImage) -> str:
        """Return an OME-XML with all elements except the other images."""
        root = ElementTree.Element(self.root.tag, dict(self.root.attrib))
        for element in self.root:
            if local_name(element) != "Image":
                root.append(element)
            elif element is image.element:
                root.append(copy.copy(element))
        return ElementTree.tostring(root, "unicode")


def is_companion(path: Path) -> bool:
    """Return whether `path` has the ending of an OME-XML in a separate file."""
    return path.suffix.lower() == COMPANION and path.is_file()


def read_companion(path: Path) -> str:
    """Return the OME-XML in a companion file.

    Raises:
        FileError: it is too large, or no text.
    """
    if path.stat().st_size > LARGEST_TEXT:
        raise FileError(f"'{path}' has over {LARGEST_TEXT // 2**20} MiB of metadata: export the images again.")
    content = path.read_bytes()
    check_text(path, content)
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise FileError(f"'{path}' is no OME-XML: give the image file, or export it again.") from error
    if local_name(root) != "OME":
        raise FileError(f"'{path}' is no OME-XML: give the image file, or export it again.")
    return ElementTree.tostring(root, "unicode")


def check_text(path: Path, text: str | bytes) -> None:
    """Raise for an XML with entities, or with too many elements and attributes; build none of them.

    A broken text is accepted: reading it raises the error.

    Raises:
        FileError: it is unsafe or too large.
    """
    if len(text) > LARGEST_TEXT:
        raise FileError(f"'{path}' has over {LARGEST_TEXT // 2**20} MiB of metadata: export it again.")
    most, count, parser = None, 0, expat.ParserCreate()

    def start(name: str, attributes: list[str]) -> None:
        nonlocal count, most
        count += 1 + len(attributes) // 2
        if count > _PARTS:
            most = most or max(_PARTS, _bytes_beside(path) // BYTES_PER_PART)
            if count > most:
                raise FileError(f"'{path}' has over {most} pieces of metadata: it is damaged, export it again.")

    def refuse(*_: object) -> None:
        raise FileError(f"'{path}' has OME-XML with entities, which is unsafe: export it again.")

    parser.ordered_attributes = True
    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text, True)
    except (expat.ExpatError, LookupError, ValueError):
        return


def _bytes_beside(path: Path) -> int:
    """Return the total size of the files in the folder of `path`."""
    total = 0
    for entry in os.scandir(path.parent):
        if entry.is_file(follow_symlinks=False):
            total += entry.stat(follow_symlinks=False).st_size
    return total


def parse_set(path: Path, text: str) -> OmeSet | None:
    """Return the images in the OME-XML of the file `path`, None if the text is broken.

    Raises:
        FileError: it is unsafe, too large, or names files in other places.
    """
    check_text(path, text)
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return None
    binary = next((element for element in root if local_name(element) == "BinaryOnly"), None)
    if binary is not None:
        return OmeSet(root, (), binary.get("MetadataFile", ""))
    found: list[OmeImage] = []
    for element in root:
        if local_name(element) == "Image":
            pixels = next((each for each in element if local_name(each) == "Pixels"), None)
            if pixels is not None:
                files = tuple(dict.fromkeys(_files(path, pixels, root.get("UUID"))))
                found.append(OmeImage(_describe(len(found), element, pixels), element, files))
    return OmeSet(root, tuple(found))


def _describe(number: int, element: ElementTree.Element, pixels: ElementTree.Element) -> ImageInfo:
    order = pixels.get("DimensionOrder", "XYZCT")[::-1]
    lengths = {axis: max(0, int(pixels.get(f"Size{axis}", "1"))) for axis in "TCZYX"}
    samples = max((int(c.get("SamplesPerPixel") or 1) for c in pixels if local_name(c) == "Channel"), default=1)
    if samples > 1 and samples <= lengths["C"]:
        lengths["C"] //= samples
    axes = [axis for axis in order if axis in lengths]
    named = [(axis, lengths[axis]) for axis in axes if axis in "YX" or lengths[axis] != 1]
    named += [("S", samples)] if samples > 1 else []
    kind = pixels.get("Type", "")
    return ImageInfo(
        number,
        printable_name(element.get("Name", "")),
        "".join(axis for axis, _ in named),
        tuple(length for _, length in named),
        _TYPES.get(kind, printable_name(kind)),
    )


def _files(path: Path, pixels: ElementTree.Element, own: str | None) -> Iterator[str]:
    """Yield the name of the file of each <TiffData>, "" for `path` itself. own: the name of `path` in the text."""
    for data in pixels:
        if local_name(data) == "TiffData":
            uuid = next((each for each in data if local_name(each) == "UUID"), None)
            name = "" if uuid is None or (own and uuid.text == own) else uuid.get("FileName", "")
            yield "" if name.lower() == path.name.lower() else name


def check_claims(path: Path, found: OmeSet, image: OmeImage) -> None:
    """Raise if an image claims more planes than its files can have, or has files that must not be opened.

    tifffile makes a list of all planes according to the lengths, and of all in each <TiffData>. path: a file of the
    set.

    Raises:
        FileError: there are too many planes, or a file is missing, in a different place or no regular file.
    """
    files = {find_beside(path, name) for name in image.files if name} | {path}
    most = max(FEW_PLANES, sum(file.stat().st_size for file in files) // BYTES_PER_PLANE)
    claimed = sum(_claimed(each) for each in image.element.iter())
    steps = max((_steps(each) for each in found.root.iter()), default=0.0)
    if not max(claimed, steps) <= most:
        raise too_many_planes(path)


def check_own_planes(path: Path, found: OmeSet) -> None:
    """Raise if the images in the file `path` together claim more planes than it can have.

    Raises:
        FileError: they do.
    """
    own = [image.element for image in found.images if set(image.files) <= {""}]
    claimed = sum(_claimed(each) for element in own for each in element.iter())
    if claimed > max(FEW_PLANES, path.stat().st_size // BYTES_PER_PLANE):
        raise too_many_planes(path)


def too_many_planes(path: Path) -> FileError:
    """Return the error for a file that claims more planes than its size allows."""
    return FileError(f"'{path}' claims more planes than a file of its size can hold: it is damaged, export it again.")


def _claimed(element: ElementTree.Element) -> int:
    """Return the number of planes that an element claims."""
    attributes = element.attrib
    if local_name(element) == "Pixels":
        return math.prod(max(0, int(attributes.get(f"Size{axis}", "1"))) for axis in "TCZ")
    if local_name(element) == "TiffData":
        return max(0, int(attributes.get("PlaneCount", attributes.get("NumPlanes", "0"))))
    return 0


def _steps(element: ElementTree.Element) -> float:
    """Return the number of steps of an axis in an annotation, of which tifffile makes an array."""
    if not local_name(element).startswith("ModuloAlong") or "Start" not in element.attrib:
        return 0.0
    start, end, step = (float(element.get(key, "1")) for key in ("Start", "End", "Step"))
    return abs((end - start) / step) if step else math.inf


def local_name(element: ElementTree.Element) -> str:
    """Return the name of an element without its namespace."""
    return element.tag.rpartition("}")[2]


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
