"""The choice of the image in a file of several: the only one, the main one, or the one that a user names."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from napari_skipseg.errors import InputError

MARK = "#"
"""Separates a path and the number of an image. If a file with this character in its name exists, it is meant."""

_BETWEEN = "|"
"""Separates the names of slices; file names on Windows cannot contain it."""

_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Location:
    """An image: `path` is its file or folder; `image` its number there; `slices` the files of the folder, in order.

    image = None: the only or main image. slices = (): all slices.
    """

    path: Path
    image: int | None = None
    slices: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.slices:
            return f"{self.path}{MARK}{_BETWEEN.join(self.slices)}"
        return str(self.path) if self.image is None else f"{self.path}{MARK}{self.image}"

    def absolute(self) -> Location:
        """Return the location with an absolute path."""
        return Location(self.path.absolute(), self.image, self.slices)


def parse_location(text: str | os.PathLike[str]) -> Location:
    """Return the image that a text names; a path that exists is a plain path, even if its name contains `MARK`."""
    text = os.fspath(text)
    if MARK not in text or os.path.lexists(text):
        return Location(Path(text))
    places = [place for place, letter in enumerate(text) if letter == MARK]
    for place in places:
        names = tuple(text[place + 1 :].split(_BETWEEN))
        if len(names) > 1 and Path(text[:place]).is_dir():
            return Location(Path(text[:place]), None, names)
    head, tail = text[: places[-1]], text[places[-1] + 1 :]
    if head and _NUMBER.fullmatch(tail):
        return Location(Path(head), int(tail))
    return Location(Path(text))


def location_of_files(paths: Sequence[str | os.PathLike[str]]) -> Location:
    """Return the location of a stack that has these files as slices, in this order.

    Raises:
        InputError: there are none, they lie in several folders, or a name cannot be written into a location.
    """
    files = [Path(path).absolute() for path in paths]
    if not files:
        raise InputError("A stack of files needs at least one file.")
    if len(files) == 1:
        return Location(files[0])
    other = next((file for file in files if file.parent != files[0].parent), None)
    if other is not None:
        raise InputError(
            f"'{other}' lies in a different folder than '{files[0]}': put the slices of a stack into one folder."
        )
    odd = next((file.name for file in files if _BETWEEN in file.name), None)
    if odd is not None:
        raise InputError(f"'{odd}' has a '{_BETWEEN}' in its name: rename the file.")
    return Location(files[0].parent, None, tuple(file.name for file in files))


MOST_LISTED = 12
"""Images of a file that a message lists."""

MOST_BESIDE = 3
"""Most single pages beside a stack that count as its thumbnail, label and macro image."""

_BESIDE = re.compile(r"\b(label|macro|map|thumbnail|overview|preview)\b", re.IGNORECASE)
"""Names of the pictures that slide scanners and microscopes put beside an image."""


@dataclass(frozen=True)
class ImageInfo:
    """An image of a file, before any of its voxels is read.

    number: counted from 0. name: in the file, "" = none. axes, shape: without axes of length 1 except Y and X.
    is_beside: the file itself marks it as a thumbnail, label, macro image or smaller copy.
    """

    number: int
    name: str
    axes: str
    shape: tuple[int, ...]
    dtype: str
    is_beside: bool = False

    @property
    def plane(self) -> tuple[int, int]:
        """Lengths along Y and X."""
        lengths = dict(zip(self.axes, self.shape, strict=True))
        return lengths.get("Y", 1), lengths.get("X", 1)

    @property
    def planes(self) -> int:
        """The number of YX planes; the samples of a pixel (axis S) belong to one plane."""
        return math.prod(length for axis, length in zip(self.axes, self.shape, strict=True) if axis not in "YXS")

    def describe(self) -> str:
        """Return number, name, shape and type in words."""
        name = f" {self.name}," if self.name else ""
        return f"{self.number}:{name} {' × '.join(map(str, self.shape))} {self.dtype}"


class SeveralImagesError(InputError):
    """A file contains several images of equal standing, and none was chosen. images: all of them."""

    images: tuple[ImageInfo, ...] = ()


@dataclass(frozen=True)
class ImageChoice:
    """The number of an image, and a sentence on the other images in the file ("" = there are none)."""

    number: int
    note: str = ""


def list_in_words(images: Sequence[ImageInfo]) -> str:
    """Return number, name and shape of each image."""
    shown = "; ".join(image.describe() for image in images[:MOST_LISTED])
    more = len(images) - MOST_LISTED
    return f"{shown}; and {more} more" if more > 0 else shown


def find_number(path: Path, images: Sequence[ImageInfo], wanted: str) -> int:
    """Return the number of the image that a user names by its number or by its name in the file.

    Raises:
        InputError: there is no such image, or several have this name.
    """
    if _NUMBER.fullmatch(wanted):
        return int(wanted)
    named = [image.number for image in images if image.name == wanted]
    if len(named) == 1:
        return named[0]
    why = f"{len(named)} images have this name" if named else "no image has this name"
    raise InputError(f"Image '{wanted}' is not clear in '{path}' ({list_in_words(images)}), as {why}: give its number.")


def check_number(path: Path, images: Sequence[ImageInfo], number: int) -> None:
    """Check that a file has an image of this number.

    Raises:
        InputError: it has none.
    """
    if not 0 <= number < len(images):
        raise InputError(
            f"Image {number} does not exist: '{path}' contains {len(images)} image{'s' * (len(images) != 1)} "
            f"({list_in_words(images)})."
        )


def refuse_several(path: Path, images: Sequence[ImageInfo], example: str = "") -> NoReturn:
    """Raise an error that lists the images of a file and explains how to choose one. example: the name of one.

    Raises:
        SeveralImagesError: always.
    """
    number = images[min(1, len(images) - 1)].number
    error = SeveralImagesError(
        f"'{path}' contains {len(images)} images ({list_in_words(images)}): name the one you want, such as "
        f"'{example or Location(path, number)}' (segment also takes --image {number} or its name, or --all-images, and "
        f"Python image={number})."
    )
    error.images = tuple(images)
    raise error


def choose_image(path: Path, images: Sequence[ImageInfo], number: int | None) -> ImageChoice:
    """Choose image `number`, or the only one, or the main one beside thumbnails, labels and macro images.

    Raises:
        InputError: there is no such image.
        SeveralImagesError: no number is given, and several images have equal standing.
    """
    if number is not None:
        check_number(path, images, number)
        return ImageChoice(number)
    main = main_image(images)
    if main is None:
        refuse_several(path, images)
    return ImageChoice(main.number, note_beside(path, main, images))


def main_image(images: Sequence[ImageInfo]) -> ImageInfo | None:
    """Return the image of which all others are small pictures, None if several are of equal rank."""
    if len(images) == 1:
        return images[0]
    marked = [image for image in images if image.is_beside]
    mains = [image for image in images if not image.is_beside] or list(images)
    if len(mains) > 1 and not marked:
        named = [image for image in mains if _BESIDE.search(image.name)]
        others = [image for image in mains if image not in named]
        if len(others) == 1 and all(image.plane != others[0].plane for image in named):
            mains = others
    if len(mains) == 1:
        return mains[0]
    stacks = [image for image in mains if image.planes > 1]
    single = [image for image in mains if image.planes == 1]
    if len(stacks) == 1 and len(single) <= MOST_BESIDE and all(each.plane != stacks[0].plane for each in single):
        return stacks[0]
    return None


def note_beside(path: Path, main: ImageInfo, images: Sequence[ImageInfo]) -> str:
    """Return a sentence on the images that are left out, "" if there are none."""
    others = [image for image in images if image.number != main.number]
    if not others:
        return ""
    one, address = len(others) == 1, Location(Path(path.name), others[0].number)
    return (
        f"'{path.name}' also contains {len(others)} other image{'' if one else 's'} ({list_in_words(others)}), which "
        f"{'is' if one else 'are'} left out: '{address}' names {'it' if one else 'the first of them'}."
    )
