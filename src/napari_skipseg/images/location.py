"""Where an image lies, as one text: a file or folder, which of its images, and which files of a folder are slices.

`PATH#2` is image 2, counted from 0, of a file that holds several. `FOLDER#a.tif|b.tif` is a stack of these two files.
The text is what recipes, records and messages to the engine hold, and what a user may write in place of a path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_skipseg.errors import InputError

MARK = "#"
"""What stands between a path and the number of an image. A file whose name holds it is found first."""

BETWEEN = "|"
"""What stands between the names of slices: no file on Windows has it in its name."""

_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Location:
    """An image: `path` is its file or folder; `image` its number there; `slices` the files of the folder, in order.

    A number of None is the only or main image; no slices are all of them.
    """

    path: Path
    image: int | None = None
    slices: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.slices:
            return f"{self.path}{MARK}{BETWEEN.join(self.slices)}"
        return str(self.path) if self.image is None else f"{self.path}{MARK}{self.image}"

    def absolute(self) -> Location:
        """Return the location with an absolute path."""
        return Location(self.path.absolute(), self.image, self.slices)


def parse_location(text: str | os.PathLike[str]) -> Location:
    """Return the image that a text names; a path that exists is that path, whatever is in its name."""
    text = os.fspath(text)
    if MARK not in text or os.path.lexists(text):
        return Location(Path(text))
    places = [place for place, letter in enumerate(text) if letter == MARK]
    for place in places:
        names = tuple(text[place + 1 :].split(BETWEEN))
        if len(names) > 1 and Path(text[:place]).is_dir():
            return Location(Path(text[:place]), None, names)
    head, tail = text[: places[-1]], text[places[-1] + 1 :]
    if head and _NUMBER.fullmatch(tail):
        return Location(Path(head), int(tail))
    return Location(Path(text))


def location_of_files(paths: Sequence[str | os.PathLike[str]]) -> Location:
    """Return the location of a stack whose slices are these files, in this order.

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
            f"'{other}' lies in another folder than '{files[0]}': put the slices of a stack into one folder."
        )
    odd = next((file.name for file in files if BETWEEN in file.name), None)
    if odd is not None:
        raise InputError(f"'{odd}' has a '{BETWEEN}' in its name: rename the file.")
    return Location(files[0].parent, None, tuple(file.name for file in files))
