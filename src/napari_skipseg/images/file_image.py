"""An image as a reader finds it in a file, made into a `Stack`: axes named and turned, voxels calibrated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from napari_skipseg.errors import InputError
from napari_skipseg.images.calibration import METRES, AxisScale, calibrate
from napari_skipseg.images.stack import AXES, GIVE_AXES, ArrayLike, FileAxes, Named, Stack, name_axes
from napari_skipseg.images.views import TurnedArray


@dataclass(frozen=True)
class FileImage:
    """What a file holds and says of one image, in the file's order.

    axes: name and length of each axis ("?" has no name).
    scales: what the file says of each of them.
    others: what it says of X, Y and Z apart from that, such as the thickness of a single slice.
    backwards: the axes along which positions decrease; they are turned round, so that voxel sizes are positive.
    open: gives the voxels with the axes that are kept, in the file's order.
    """

    path: Path
    name: str
    axes: Named
    open: Callable[[FileAxes], ArrayLike]
    scales: tuple[AxisScale, ...] = ()
    others: Mapping[str, AxisScale] = field(default_factory=dict)
    backwards: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()


def stack_of(
    image: FileImage,
    axes: str | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    unit: str | None = None,
) -> Stack:
    """Return the image as a stack; what the user says (axes, voxel_size, unit) counts more than the file.

    Raises:
        InputError: the axes, the voxel size or the unit cannot be used.
    """
    found = name_axes(image.path, image.axes, axes)
    scales = _scales_of(image, found)
    notes = list(image.notes)
    if voxel_size is not None:
        known = calibrate(scales, found.names)
        calibration = replace(known.resized(voxel_size, unit or known.unit), notes=())
    else:
        calibration = calibrate(scales, found.names, unit)
        if unit in METRES and set(calibration.voxel_size) == {1.0} and calibrate(scales, found.names).unit == "pixel":
            raise InputError(
                f"'{image.path}' says no voxel size, so with the unit alone each voxel would be 1 {unit} long along z, "
                "y and x: give the sizes too (in a shell with --voxel-size Z Y X)."
            )
    said = "".join(image.axes[place][0] for place in found.places)
    if axes is not None and said != axes and set(said) <= set(AXES):
        notes.append(f"The file names its axes {said}; they were taken for {axes}, as given.")
    if axes is None and sum(name in "IQ" for name in said) > 1:
        notes.append(f"The file does not name all of its axes: they were taken for {found.names} ({GIVE_AXES}).")
    order = found.order
    backwards = tuple(
        axis
        for axis, number in enumerate(order)
        if found.places[number] in image.backwards and found.names[number] in "ZYX"
    )
    names = "".join(found.names[number] for number in order)
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
    return Stack(
        data,
        names,
        calibration.voxel_size,
        calibration.unit,
        calibration.origin,
        image.name,
        notes=(*notes, *calibration.notes),
    )


def _scales_of(image: FileImage, found: FileAxes) -> dict[str, AxisScale]:
    """Return what the file says of X, Y and Z: a scale belongs to an axis of the file, whatever the user calls it."""
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
