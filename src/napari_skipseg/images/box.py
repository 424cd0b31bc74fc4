"""A box of an image: a range of voxels along some of its axes, as text and as slices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

from napari_skipseg.errors import InputError
from napari_skipseg.images.stack import Stack

_RANGE = re.compile(r"\s*([tzyx])\s*=\s*(\d+)\s*:\s*(\d+)\s*", re.IGNORECASE)

NamedBox = dict[str, slice]
"""By axis, of "TZYX"; an axis that is left out counts as a whole."""


def iter_boxes(shape: Sequence[int], sides: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Yield boxes of these sides that fill an array, in C order; the last ones along an axis may be smaller."""
    ranges = zip(shape, sides, strict=True)
    yield from product(
        *([slice(start, min(start + side, length)) for start in range(0, length, side)] for length, side in ranges)
    )


def box_from_text(text: str) -> NamedBox:
    """Return the box that a text names, such as "z=10:20,y=0:512,x=100:600": from the first voxel up to before the
    last.

    Raises:
        InputError: the text has another form, names an axis twice, or the box is empty.
    """
    box: NamedBox = {}
    for part in text.split(","):
        found = _RANGE.fullmatch(part)
        if found is None:
            raise InputError(
                f"'{text}' is no box: write the range of each axis as FIRST:STOP in voxels, such as z=10:20,y=0:512."
            )
        axis, first, stop = found[1].upper(), int(found[2]), int(found[3])
        if axis in box:
            raise InputError(f"The box '{text}' names {axis} twice: give each axis one range.")
        if stop <= first:
            raise InputError(f"The box '{text}' is empty along {axis}: its end must be larger than its start.")
        box[axis] = slice(first, stop)
    return {axis: box[axis] for axis in "TZYX" if axis in box}


def box_to_text(box: Mapping[str, slice]) -> str:
    """Return a box as the text that `box_from_text` reads; "" if it names no axis."""
    return ",".join(f"{axis.lower()}={box[axis].start}:{box[axis].stop}" for axis in "TZYX" if axis in box)


def cut_to_box(stack: Stack, box: Mapping[str, slice]) -> Stack:
    """Return the part of a stack in a box, as a lazy view at the same place in the world.

    Raises:
        InputError: as `box_within`.
    """
    from napari_skipseg.images.views import CutArray  # it loads zarr, which the help of the command line does not need

    inside = box_within(box, stack)
    parts = {number: inside[axis] for number, axis in enumerate(stack.space.axes) if axis in inside}
    begin = {axis: side.start for axis, side in inside.items()}
    return replace(stack, data=CutArray(stack.data, parts), space=stack.space.shifted(begin), file="", slice_names=())


def box_within(box: Mapping[str, slice], stack: Stack) -> NamedBox:
    """Return the part of a box that lies in a stack, with each axis of the stack but C.

    Raises:
        InputError: the box lies outside of the stack, or names an axis that the stack lacks.
    """
    inside: NamedBox = {}
    for axis in stack.space.axes.replace("C", ""):
        length = stack.length(axis)
        side = box.get(axis, slice(0, length))
        if side.start >= length:
            raise InputError(
                f"The box {box_to_text(box)} lies outside of '{stack.name}', which has {length} voxels along {axis}: "
                "draw or write a box that overlaps the image."
            )
        inside[axis] = slice(side.start, min(side.stop, length))
    missing = [axis for axis in box if axis not in stack.space.axes and (box[axis].start, box[axis].stop) != (0, 1)]
    if missing:
        raise InputError(f"'{stack.name}' has no axis {missing[0]}: leave {missing[0].lower()} out of the box.")
    return inside


def describe_cut(text: str, stack: Stack) -> str:
    """Return in a sentence how a box that reaches beyond a stack was cut to it, "" if it lies inside or is "".

    Raises:
        InputError: as `box_from_text` and `box_within`.
    """
    if not text:
        return ""
    box = box_from_text(text)
    inside = {axis: side for axis, side in box_within(box, stack).items() if axis in box}
    beyond = [axis for axis in inside if inside[axis] != box[axis]]
    if not beyond:
        return ""
    lengths = " and ".join(f"{stack.length(axis)} voxels along {axis}" for axis in beyond)
    return f"The box {box_to_text(box)} was cut to {box_to_text(inside)}: '{stack.name}' has {lengths}."
