"""Objects as a model for IMOD: the outlines of each object in each slice, or a point in its middle."""

from __future__ import annotations

import colorsys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_skipseg.errors import InputError
from napari_skipseg.exports.labels import ObjectCounts, ObjectLabels
from napari_skipseg.extras import import_extra
from napari_skipseg.images.space import convert_length
from napari_skipseg.progress import Progress

MOST_POINTS = 20_000_000
"""Points of outlines, at most: 240 MB, as the library holds the whole model in memory."""
_UNITS = {"nm": -9, "µm": -6, "mm": -3, "Å": -10, "pm": -12}
"""IMOD's numbers of units of length; 0 = pixels."""
_GOLDEN = 0.618034
"""Steps of the hue, so that objects with numbers close together have different colours."""

_Contours = dict[int, list[NDArray[np.float32]]]


def check_imod() -> None:
    """Raise if no model can be written.

    Raises:
        InputError: imodmodel is not installed.
    """
    import_extra("imodmodel", "imod", "IMOD models")


def iter_outlines(labels: ObjectLabels) -> Generator[Progress, None, _Contours]:
    """Yield slice by slice; return the outlines (x, y, z) of each object in IMOD's pixels, whose corners are whole.

    Raises:
        InputError: there are more than `MOST_POINTS` points.
    """
    from scipy import ndimage
    from skimage.measure import find_contours

    found: _Contours = {}
    points = 0
    depth, height, width = labels.shape
    for z in range(depth):
        yield Progress(z, depth, "outlining objects")
        plane = labels.read((z, 0, 0), (z + 1, height, width))[0]
        values, places = np.unique(plane, return_inverse=True)
        numbered = places.reshape(plane.shape) + int(values[0] != 0)
        names = values[values > 0]
        for number, box in enumerate(ndimage.find_objects(numbered), start=1):
            if box is None:
                continue
            mask = np.pad(numbered[box] == number, 1)
            for outline in find_contours(mask, 0.5):
                y, x = (outline[:, axis] - 1 + box[axis].start + 0.5 for axis in (0, 1))
                contour = np.stack([x[:-1], y[:-1], np.full(len(outline) - 1, z)], axis=1).astype(np.float32)
                found.setdefault(int(names[number - 1]), []).append(contour)
                points += len(contour)
        if points > MOST_POINTS:
            raise InputError(
                f"The outlines have more than {MOST_POINTS:,} points, too many for one IMOD model: choose some objects "
                "with --objects, or write a point for each with --imod points."
            )
    return found


def middles(counts: ObjectCounts) -> _Contours:
    """Return a point in the middle of each object, in IMOD's pixels."""
    means = counts.places / counts.voxels[:, None]
    points = np.stack([means[:, 2] + 0.5, means[:, 1] + 0.5, means[:, 0]], axis=1).astype(np.float32)
    return {int(label): [point[None]] for label, point in zip(counts.labels, points, strict=True)}


def write_imod(path: Path, contours: _Contours, labels: ObjectLabels, are_points: bool) -> None:
    """Write a model with an object for each label, which is its name.

    Raises:
        OSError: it cannot be written.
    """
    imod = import_extra("imodmodel.models", "imod", "IMOD models")
    deep, _, wide = labels.space.voxel_size
    unit = labels.space.unit if labels.space.unit in _UNITS else "nm"
    size = convert_length(wide, labels.space.unit, unit) if labels.space.has_size else 1.0
    depth, height, width = labels.shape
    header = imod.ModelHeader(
        name=labels.name[:127],
        xmax=width,
        ymax=height,
        zmax=depth,
        zscale=deep / wide,
        pixelsize=size,
        units=_UNITS[unit] if labels.space.has_size else 0,
    )
    objects = [_object(imod, label, parts, are_points) for label, parts in sorted(contours.items())]
    imod.ImodModel(header=header, objects=objects).to_file(path)


def _object(imod: Any, label: int, parts: list[NDArray[np.float32]], are_points: bool) -> Any:
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN % 1.0, 0.7, 1.0)
    header = imod.ObjectHeader(name=str(label), red=red, green=green, blue=blue)
    header.flags.open, header.flags.scattered = False, are_points
    header.pdrawsize = 5 if are_points else 0
    made = imod.Object(header=header, contours=[imod.Contour(points=part) for part in parts])
    made.update_sizes()
    return made
