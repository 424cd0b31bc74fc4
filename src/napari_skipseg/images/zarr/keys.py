"""The file names of a zarr array's chunks: those in its metadata, or the real ones."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from napari_skipseg.errors import FileError
from napari_skipseg.images.faults import read_errors_as_sentences
from napari_skipseg.images.zarr.metadata import Node

MOST_ENTRIES = 20_000
"""Most entries of a folder that are read to find chunks."""

_NUMBERS = re.compile(r"(?:c[./])?(\d+(?:[./]\d+)*)")


@dataclass(frozen=True)
class KeyForm:
    """A form of chunk names: c/0/1, c.0.1, 0/1 or 0.1. prefix: "c" or "". separator: "/" or "."."""

    prefix: str
    separator: str

    def key(self, numbers: Sequence[int | str]) -> str:
        """Return the name of the chunk with such a number along each axis."""
        parts = [str(number) for number in numbers]
        return self.separator.join([self.prefix, *parts] if self.prefix else parts)

    def rename(self, key: str) -> str:
        """Return the name of a chunk in this form, from its name `key` in any form."""
        found = _NUMBERS.fullmatch(key)
        return key if found is None else self.key(re.split(r"[./]", found[1]))


FORMS = tuple(KeyForm(prefix, separator) for prefix in ("c", "") for separator in "/.")
"""All forms of names that zarr 2 and 3 know."""


@dataclass(frozen=True)
class ChunkPlaces:
    """The form of chunk names in the metadata, other forms in use, and a note on these for the user, "" = none."""

    named: KeyForm
    others: tuple[KeyForm, ...] = ()
    note: str = ""


def find_chunks(node: Node, dimensions: int) -> ChunkPlaces:
    """Return the forms of the chunk names of an array.

    Old programs wrote nested chunks (0/0/0) without an entry in `.zarray`, which means 0.0.0 by default; their images
    would be read as zeros.

    Raises:
        FileError: there are files of chunks, but none has a name of any form.
    """
    named = _named_form(node)
    if dimensions == 0:
        return ChunkPlaces(named)
    with read_errors_as_sentences(node.path, "The folder of"):
        found = [form for form in FORMS if _holds(node.path, form, dimensions)]
        others = tuple(form for form in found if form != named and (dimensions > 1 or form.prefix != named.prefix))
        if others:
            return ChunkPlaces(
                named,
                others,
                f"The chunks of the image are named like {others[0].key('0' * dimensions)}, and not as in its metadata "
                f"({named.key('0' * dimensions)}): they were read where they are.",
            )
        if named in found:
            return ChunkPlaces(named)
        stray = next(_stray_chunks(node.path), None)
    if stray is not None:
        raise FileError(
            f"The chunks of '{node.path}' are not where its metadata say ('{named.key('0' * dimensions)}' and so on, "
            f"but there is '{stray}'): export it again."
        )
    return ChunkPlaces(named, note="The image has no chunks: all its voxels have the fill value of its metadata.")


def _named_form(node: Node) -> KeyForm:
    metadata = node.array or {}
    if metadata.get("zarr_format") != 3:
        return KeyForm("", "/" if metadata.get("dimension_separator") == "/" else ".")
    encoding = metadata.get("chunk_key_encoding")
    name, options = (encoding.get("name"), encoding.get("configuration")) if isinstance(encoding, dict) else ("", None)
    separator = options.get("separator") if isinstance(options, dict) else None
    if name == "v2":
        return KeyForm("", "/" if separator == "/" else ".")
    return KeyForm("c", "." if separator == "." else "/")


def _holds(folder: Path, form: KeyForm, dimensions: int) -> bool:
    """Return whether there is the file of a chunk with a name of such a form."""
    levels = [r"\d+"] * dimensions
    parts = [form.prefix, *levels] if form.prefix else levels
    wanted = [re.escape(form.separator).join(parts)] if form.separator == "." else parts
    return _has_file(folder, [re.compile(part) for part in wanted])


def _has_file(folder: Path, names: list[re.Pattern[str]]) -> bool:
    """Return whether there is a file below `folder` with these parts of its path."""
    with os.scandir(folder) as entries:
        for entry in islice(entries, MOST_ENTRIES):
            if names[0].fullmatch(entry.name) is None:
                continue
            if len(names) == 1 and entry.is_file():
                return True
            if len(names) > 1 and entry.is_dir() and _has_file(Path(entry.path), names[1:]):
                return True
    return False


def _stray_chunks(folder: Path) -> Iterator[str]:
    """Yield the files below `folder` with names of numbers, like those of chunks."""
    looked_at = 0
    for parent, _, names in os.walk(folder):
        looked_at += len(names)
        for name in names:
            if _NUMBERS.fullmatch(name):
                yield (Path(parent) / name).relative_to(folder).as_posix()
        if looked_at > MOST_ENTRIES:
            return
