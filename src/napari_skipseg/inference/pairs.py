"""Which prediction belongs to which truth, by the names of the files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.file_names import normal
from napari_skipseg.images.files import place_of
from napari_skipseg.images.slices import is_pattern, slice_names
from napari_skipseg.images.zarr_nodes import is_zarr
from napari_skipseg.inference.saving import plain_name

ENDINGS = (".tif", ".tiff", ".btf", ".png", ".bmp", ".jpg", ".jpeg")
OURS = ("_probability", "_binary")
"""What `save_prediction` adds to the name of the stack that was segmented."""


class Pair(NamedTuple):
    """A prediction and its truth; `name` tells them from others."""

    name: str
    prediction: Path
    truth: Path


def pair_files(predictions: Path, truths: Path, prefer: str = "_probability") -> list[Pair]:
    """Return the pairs that two files or two folders make, in the order of their names.

    A file and a folder with one file per slice are a pair, too. In folders NAME.tif, NAME_probability.tif or
    NAME_binary.tif belongs to the truth NAME.tif or NAME.png, whichever of its endings each has. Of the last two, which
    our own runs write together, the one that ends with `prefer` is taken. Attention maps, hidden files and files of
    other kinds are passed over.

    Raises:
        FileError: one of them does not exist, or a folder holds no image.
        InputError: a file and a folder that holds no slices, a file without its partner, or two that could be it.
    """
    for path in (predictions, truths):
        if not place_of(path).exists() and not is_pattern(path):
            raise FileError(f"'{path}' does not exist: check the name.")
    folders = [path for path in (predictions, truths) if path.is_dir() and not is_zarr(path)]
    if len(folders) < 2:
        if folders:
            _check_slices(folders[0], predictions, truths)
        return [Pair(truths.name, predictions, truths)]
    found, wanted = _images(predictions), _images(truths)
    pairs = []
    for name, files in wanted.items():
        truth = _the_one(files, name, truths)
        ours = [file for ending in (prefer, *OURS) for file in found.get(name + ending, [])]
        exact = found.get(name, [])
        if not ours and not exact:
            raise InputError(f"'{truth}' has no prediction in '{predictions}': it must be called {name}.tif or alike.")
        first = [file for file in ours if _key(file) == _key(ours[0])]
        pairs.append(Pair(truth.name, _the_one(exact + list(dict.fromkeys(first)), name, predictions), truth))
    _check_all_used(found, wanted, truths)
    return pairs


def _check_slices(folder: Path, predictions: Path, truths: Path) -> None:
    """Raise where a folder that is given beside a file does not hold the slices of one stack."""
    try:
        slice_names(folder)
    except SkipsegError as error:
        raise InputError(
            f"'{predictions}' and '{truths}' are a file and a folder: give two files or two folders; a folder beside a "
            f"file must hold its slices. ({error})"
        ) from error


def _images(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of a folder by their plain names, sorted."""
    images: dict[str, list[Path]] = {}
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise FileError(f"The folder '{folder}' cannot be read ({error.strerror}): check your permission.") from error
    for file in files:
        if file.suffix.lower() in ENDINGS and not file.name.startswith(".") and file.is_file():
            images.setdefault(_key(file), []).append(file)
    if not images:
        raise FileError(f"The folder '{folder}' holds no TIFF or PNG image: check the name.")
    return images


def _key(file: Path) -> str:
    """Return what a file is called where files are paired."""
    return normal(plain_name(file.name))


def _the_one(files: Sequence[Path], name: str, folder: Path) -> Path:
    if len(files) > 1:
        names = " and ".join(file.name for file in files)
        raise InputError(f"{names} in '{folder}' could both be '{name}': leave one of them there.")
    return files[0]


def _check_all_used(found: dict[str, list[Path]], wanted: dict[str, list[Path]], truths: Path) -> None:
    for name, files in found.items():
        stems = {name, *(name.removesuffix(ending) for ending in OURS), re.sub(r"_attention_[0-9]+$", "", name)}
        if not stems & wanted.keys():
            raise InputError(f"'{files[0]}' has no truth in '{truths}': it must be called {min(stems, key=len)}.tif.")
