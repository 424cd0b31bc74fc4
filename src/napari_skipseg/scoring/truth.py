"""Checks that two files, a prediction and its truth, have the same voxels, by their axes, shapes and voxel sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from napari_skipseg.errors import InputError
from napari_skipseg.images.files import read_recipe, read_stack
from napari_skipseg.images.stack import Stack

_SAME_SIZE = 0.01
"""Relative difference of voxel sizes that is taken for rounding."""


def read_both(prediction: Path, truth: Path) -> tuple[Stack, Stack]:
    """Return two images with axes of ZYX and equal shapes, of which no voxel is read yet.

    If the shapes are equal, an image with different axes than Z, Y and X takes those of the other one: a stack of 3 or
    4 slices without axes in its file is read as colours.

    Raises:
        SkipsegError: one of them cannot be read, has different axes or a different shape.
    """
    found, true = read_stack(prediction), read_stack(truth, are_labels=True)
    found, true = _alike(found, true), _alike(true, found)
    _check(found, true)
    return found, true


def note_voxels(found: Stack, true: Stack) -> list[str]:
    """Return a note if a prediction and its truth have different voxel sizes."""
    mine, other = found.space, true.space
    if not (mine.has_size and other.has_size):
        return []
    sides = [
        (side, of_truth)
        for axis, side, of_truth in zip("ZYX", mine.voxel_size, other.voxel_size_in(mine.unit), strict=True)
        if axis in mine.axes
    ]
    if all(abs(side - of_truth) <= _SAME_SIZE * side for side, of_truth in sides):
        return []
    of_both = [" × ".join(f"{side:.4g}" for side in each) for each in zip(*sides, strict=True)]
    return [
        f"The voxels of the prediction have {of_both[0]} {mine.unit}, those of the truth {of_both[1]}: check that both "
        "show the same image."
    ]


def check_truth_shape(image: Stack, truth: Path) -> None:
    """Raise if a file cannot be the truth of objects in `image`, of any channel.

    Raises:
        SkipsegError: it cannot be read, has different axes or a different shape.
    """
    true = read_stack(truth, are_labels=True)
    one = _without_channels(image)
    _check(one, _alike(true, one))


class _Shape:
    """The shape of an image without its channels; no voxel is read."""

    def __init__(self, image: Stack) -> None:
        lengths = zip(image.space.axes, image.shape, strict=True)
        self.shape = tuple(length for axis, length in lengths if axis != "C")
        self.dtype = image.data.dtype

    def __getitem__(self, key: object) -> object:
        raise ValueError("only the shape is known")


def read_image_of(probability: Stack, image: Path) -> Stack:
    """Return the image of a probability; if it has the same shape but different axes than ZYX, with the probability's
    axes.

    Raises:
        SkipsegError: it cannot be read.
    """
    return _alike(read_stack(image), _without_channels(probability))


def _without_channels(image: Stack) -> Stack:
    return image if "C" not in image.space.axes else replace(image, data=_Shape(image), space=image.space.without("C"))


def _alike(stack: Stack, other: Stack) -> Stack:
    is_clear = _is_of_space(stack) or not _is_of_space(other)
    return (
        stack
        if is_clear or stack.shape != other.shape
        else replace(stack, space=stack.space.with_axes(other.space.axes))
    )


def _is_of_space(stack: Stack) -> bool:
    return set(stack.space.axes) <= set("ZYX")


def _check(found: Stack, true: Stack) -> None:
    for stack in (found, true):
        if not _is_of_space(stack):
            if stack.file and len((read_recipe(stack.file) or {}).get("classes", ())) > 1:
                raise InputError(
                    f"'{stack.file}' contains a probability of each of several classes: score the _binary file of the "
                    "same run, with --class NAME=VALUE."
                )
            raise InputError(
                f"'{stack.file}' has axes {stack.space.axes}: scores take a slice (YX) or a stack (ZYX); where C are "
                "slices, save it as ImageJ TIFF or OME-TIFF with a Z axis."
            )
    if found.shape != true.shape:
        raise InputError(
            f"The prediction's shape {found.shape} is not the truth's {true.shape} ('{found.file}' against "
            f"'{true.file}'): give the labels of this image."
        )
