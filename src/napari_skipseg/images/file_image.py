"""The image in a file as a `Stack`: with named axes in the usual order, and calibrated voxels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from napari_skipseg.errors import InputError
from napari_skipseg.images.calibration import AxisScale, Calibration, calibrate
from napari_skipseg.images.space import AXES, NOTHING_GIVEN, GivenSpace
from napari_skipseg.images.stack import GIVE_AXES, ArrayLike, FileAxes, Named, Stack, name_axes
from napari_skipseg.images.views import TurnedArray


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
