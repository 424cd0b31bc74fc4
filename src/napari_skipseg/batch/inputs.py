"""The input files of a batch: all images in a folder or that match a pattern. An OME-Zarr is one image, no folder."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from napari_skipseg.batch.settings import BatchSettings
from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.file_names import find_inside, normalized_name
from napari_skipseg.images import mrc, pictures
from napari_skipseg.images.choice import MARK, Location, parse_location
from napari_skipseg.images.files import (
    files_of_image,
    images_to_read,
    list_images,
    location_of_image,
    read_recipe,
    read_stack,
)
from napari_skipseg.images.formats import RESULT_FILE, UNFINISHED
from napari_skipseg.images.slices import TIFF_ENDINGS, holds_slices, slice_names
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.zarr.metadata import is_zarr
from napari_skipseg.inference.saving import plain_name
from napari_skipseg.wording import counted

SETTINGS_FILE = "batch.json"
RECORDS = "records"
"""Beside the settings, this marks the folder of a run: nothing in it is an input."""
LEAST_SLICES = 8
"""So many numbered images of one size in a folder may be the slices of a stack."""
MICROSCOPE_ENDINGS = (".lsm", ".stk")
"""Endings of TIFFs of microscopes."""
BATCH_ENDINGS = (*TIFF_ENDINGS, *MICROSCOPE_ENDINGS, *pictures.PICTURE_ENDINGS, *mrc.MRC_ENDINGS)
"""Endings of images; a file with a different ending is an image if it begins like a TIFF."""
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WILD = re.compile(r"[*?\[]")
_PARTS = re.compile(r"(\*\*/|\*\*|\*|\?|\[[^\]/]+\])")


class BatchInput(NamedTuple):
    """One input. file: its absolute path. relative: its path within the inputs, with slashes. name: the beginning of
    the names of its results, different for all inputs in a folder. title: its name within a file of several images.
    """

    file: str
    relative: str
    name: str
    title: str = ""

    @property
    def folder(self) -> str:
        """The subfolder of the inputs, and so of the results; "" = the top folder."""
        parent = str(PurePosixPath(self.relative).parent)
        return "" if parent == "." else parent


class BatchInputs(NamedTuple):
    """The inputs. others, ours: numbers of files that were left out because they are no images, or results of SkipSeg.
    hint: a sentence if different inputs may be intended, else ""."""

    entries: tuple[BatchInput, ...]
    others: int
    ours: int
    hint: str = ""


def find_inputs(settings: BatchSettings) -> BatchInputs:
    """Return the images of `settings`, sorted by path, and the numbers of files that were left out.

    Hidden files, results of SkipSeg (files with a recipe) and folders of runs are left out. A damaged image is an
    input, so that its failure is reported. Links to folders are not followed.

    Raises:
        FileError: there is no such folder, it cannot be read, or it contains no image.
        InputError: the output lies in an input or among the inputs.
    """
    given = os.path.expanduser(settings.inputs)  # noqa: PTH111 - it may be an address
    place, named = location_of_image(given).absolute(), parse_location(given)
    if named.image is not None:
        _check_output(settings, place.parent)
        location = str(Location(place, named.image))
        return BatchInputs(
            (_entry_of_image(place.parent, place.name, location, _titles(place).get(location, "")),), 0, 0
        )
    if settings.as_stack and (place.is_file() or _is_store(place)):
        raise InputError(f"'{settings.inputs}' is no folder of slices: leave out --as-stack.")
    if place.is_dir() and not _is_store(place):
        base, pattern = place, ""
    elif place.exists() or place.is_symlink():
        _check_output(settings, place.parent)
        return BatchInputs(_named(place.parent, [place.name]), 0, 0)
    else:
        base, pattern = _split(settings.inputs, place)
    _check_output(settings, base)
    return _find_stacks(settings, base, pattern) if settings.as_stack else _find(settings, base, pattern)


def _split(inputs: str, place: Path) -> tuple[Path, str]:
    """Return the folder to search for inputs, and the pattern of their paths in it.

    A part of the path with brackets is no pattern if a folder with exactly this name exists.
    """
    base = Path(place.anchor)
    for number, part in enumerate(place.parts[1:], start=1):
        folder = find_inside(base, part)
        if folder is not None and folder.is_dir():
            base = folder
        elif WILD.search(part):
            return base, "/".join(place.parts[number:])
        elif any(WILD.search(each) for each in place.parts[number:]):
            raise FileError(f"The folder '{base / part}' does not exist: check the name.")
        else:
            break
    raise FileError(f"'{inputs}' does not exist: check the name.")


def _find(settings: BatchSettings, base: Path, pattern: str) -> BatchInputs:
    expression = _expression(pattern)
    found: list[str] = []
    others = ours = 0
    for file in _walk(base, settings.recursive or "/" in pattern or "**" in pattern):
        relative = file.relative_to(base).as_posix()
        if not expression.fullmatch(normalized_name(relative)):
            continue
        if not _is_image(file):
            others += 1
        elif _is_ours(file):
            ours += 1
        else:
            found.append(relative)
    if not found:
        left = f", only {counted(others + ours, 'other file')}" if others + ours else ""
        cure = "check the name, or look into its folders too."
        if not pattern and not settings.recursive and any(holds_slices(folder) for folder in _folders(base, False)):
            cure = (
                "its folders do. Look into them too (in a shell with --recursive), or take each folder as one stack of "
                "slices (in a shell with --as-stack)."
            )
        raise FileError(f"'{settings.inputs}' contains no image{left}: {cure}")
    entries = _named(base, found)
    return BatchInputs(entries, others, ours, _hint_at_slices(entries))


def _hint_at_slices(entries: Sequence[BatchInput]) -> str:
    """Return a sentence if the images of a folder may be the slices of one stack: many, numbered and of one size."""
    folders: dict[Path, list[Path]] = {}
    for entry in entries:
        folders.setdefault(Path(entry.file).parent, []).append(Path(entry.file))
    for folder, files in folders.items():
        if len(files) >= LEAST_SLICES and _may_be_slices(folder, files):
            return (
                f"'{folder}' contains {len(files)} numbered images of one size: if they are the slices of one stack, "
                "take each folder as a stack (in a shell with --as-stack)."
            )
    return ""


def _may_be_slices(folder: Path, files: Sequence[Path]) -> bool:
    """Return whether the names are those of slices, and the first and the last file are planes of the same size."""
    try:
        if set(slice_names(folder)) != {file.name for file in files}:
            return False
        first, last = read_stack(files[0]), read_stack(files[-1])
    except SkipsegError:
        return False
    return first.shape == last.shape and not set("TZ") & set(first.space.axes)


def _find_stacks(settings: BatchSettings, base: Path, pattern: str) -> BatchInputs:
    """Return the folders with one file per slice as the images; `base` itself may be one."""
    expression = _expression(pattern)
    root = base.parent if not pattern and holds_slices(base) else base
    folders = [] if root == base else [base]
    for folder in _folders(base, settings.recursive or "/" in pattern or "**" in pattern):
        if expression.fullmatch(normalized_name(folder.relative_to(base).as_posix())) and holds_slices(folder):
            folders.append(folder)
    if not folders:
        raise FileError(
            f"'{settings.inputs}' contains no folder with slices: check the name, or look into its folders too."
        )
    entries = tuple(BatchInput(str(folder), folder.relative_to(root).as_posix(), folder.name) for folder in folders)
    return BatchInputs(entries, 0, 0)


def _folders(folder: Path, recursive: bool) -> Iterator[Path]:
    """Yield the folders in a folder, sorted, without stores, folders of runs, hidden ones and links."""
    for place in _places(folder):
        path = Path(place.path)
        if place.name.startswith(".") or not _is_folder(place) or place.is_symlink() or _is_store(path) or is_run(path):
            continue
        yield path
        if recursive:
            yield from _folders(path, recursive)


def _check_output(settings: BatchSettings, base: Path) -> None:
    output, place = Path(settings.output).expanduser().resolve(), base.resolve()
    for folder in (output, *output.parents):
        if _is_store(folder):
            raise InputError(
                f"The output '{settings.output}' lies in an image ('{folder}'): choose a folder elsewhere."
            )
    if not settings.inside and (output == place or place in output.parents):
        raise InputError(
            f"The output '{settings.output}' lies among the inputs: choose a folder elsewhere, or allow it (in a shell "
            "with --inside)."
        )


def _walk(folder: Path, recursive: bool) -> Iterator[Path]:
    """Yield files and OME-Zarr stores, sorted."""
    for place in _places(folder):
        path = Path(place.path)
        if place.name.startswith("."):
            continue
        if not _is_folder(place) or _is_store(path):
            yield path
        elif recursive and not place.is_symlink() and not is_run(path):
            yield from _walk(path, recursive)


def _places(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(folder), key=lambda place: place.name)
    except OSError as error:
        raise FileError(f"The folder '{folder}' cannot be read ({error.strerror}): check your permission.") from error


def _is_folder(place: os.DirEntry[str]) -> bool:
    try:
        return place.is_dir()
    except OSError:
        return False


def _is_store(path: Path) -> bool:
    try:
        return is_zarr(path)
    except OSError:
        return False


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run, finished or not: nothing in it is an input."""
    return folder.name.endswith(UNFINISHED) or ((folder / SETTINGS_FILE).is_file() and (folder / RECORDS).is_dir())


def _is_image(file: Path) -> bool:
    if file.is_dir() or file.suffix.lower() in BATCH_ENDINGS:
        return file.is_file() or file.is_dir() or file.is_symlink()  # reading anything else, such as a pipe, may block
    try:
        if not file.is_file():
            return False
        with file.open("rb") as handle:
            return handle.read(4) in TIFF_STARTS
    except OSError:
        return False


def _is_ours(file: Path) -> bool:
    if not RESULT_FILE.search(file.name):
        return False
    try:
        return read_recipe(file) is not None
    except SkipsegError:
        return False


def read_input(settings: BatchSettings, entry: BatchInput) -> Stack:
    """Return an image with the axes of `settings`, if it has as many dimensions; else with its own axes.

    Raises:
        FileError, InputError: as `images.files.read_stack`.
    """
    read = partial(read_stack, entry.file, voxel_size=settings.voxel_size, unit=settings.unit or None)
    if not settings.axes:
        return read(axes=None)
    try:
        return read(axes=settings.axes)
    except InputError as error:
        try:
            plain = read(axes=None)
        except InputError:
            raise error from None
        if len(plain.shape) == len(settings.axes):
            raise
        return plain


def _named(base: Path, found: list[str]) -> tuple[BatchInput, ...]:
    """Return the entries, one for each image of a file; if names of results clash, use the whole names of the files.

    An OME-TIFF that is a part of the image of an earlier one is no entry.
    """
    entries: list[BatchInput] = []
    seen: set[Path] = set()
    for relative in found:
        file = base / relative
        if file in seen:
            continue
        locations = images_to_read(file)
        if len(locations) > 1:
            titles = _titles(file)
            entries += [_entry_of_image(base, relative, each, titles.get(each, "")) for each in locations]
            continue
        seen |= {file.parent / name for name in files_of_image(file)}
        entries.append(BatchInput(str(file), relative, plain_name(file.name)))
    return _without_clashes(entries)


def _titles(file: Path) -> dict[str, str]:
    """Return the names of the images in a file by location; none for an OME-Zarr, where the location shows the name."""
    try:
        return {} if is_zarr(file) else {str(Location(file, image.number)): image.name for image in list_images(file)}
    except SkipsegError:
        return {}


def _entry_of_image(base: Path, relative: str, location: str, title: str) -> BatchInput:
    """Return the entry of one image of a file; its number, or its path in a store, is appended to its names."""
    named = parse_location(location)
    inside = Path(location).relative_to(base / relative).as_posix() if named.image is None else str(named.image)
    which = inside.replace("/", "_")
    return BatchInput(
        location, f"{relative}{MARK}{which}", f"{plain_name(PurePosixPath(relative).name)}_{which}", title
    )


def _without_clashes(entries: list[BatchInput]) -> tuple[BatchInput, ...]:
    while True:
        counts = Counter(_result(entry.relative, entry.name) for entry in entries)
        renamed = [
            entry._replace(name=PurePosixPath(entry.relative).name)
            if counts[_result(entry.relative, entry.name)] > 1
            else entry
            for entry in entries
        ]
        if renamed == entries:
            return tuple(entries)
        entries = renamed


def _result(relative: str, name: str) -> str:
    """Return a key of the results that also differs on file systems where A and a, or both forms of é, are the same."""
    return normalized_name(str(PurePosixPath(relative).with_name(name))).casefold()


def _expression(pattern: str) -> re.Pattern[str]:
    """Return a pattern of paths as a regular expression: * and ? match within a folder, ** any folders, "" anything."""
    known = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    expression = ""
    for part in _PARTS.split(normalized_name(pattern) or "**"):
        if _PARTS.fullmatch(part) and part not in known:
            inside = part[1:-1].replace("\\", r"\\").replace("[", r"\[")
            expression += f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
        else:
            expression += known.get(part) or re.escape(part)
    return re.compile(expression, re.DOTALL)
