"""Predictions and truths paired by the names of their files, and checked to have the same voxels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.file_names import normalized_name
from napari_skipseg.images.files import location_of_image, read_recipe, read_stack
from napari_skipseg.images.formats import RESULT
from napari_skipseg.images.slices import is_pattern, slice_names
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.zarr.metadata import is_zarr
from napari_skipseg.inference.saving import plain_name

_ENDINGS = (".tif", ".tiff", ".btf", ".png", ".bmp", ".jpg", ".jpeg")
SCORED = ("_probability", "_binary", "_objects")
"""What our own runs add to the name of an image, of results that can be scored."""
_OURS = re.compile(rf"_{RESULT}$")

ImagesByName = dict[str, list[Path]]
"""The images in a folder, by their names without endings."""


class Pair(NamedTuple):
    """A prediction and its truth; `name` identifies them."""

    name: str
    prediction: Path
    truth: Path


def pair_files(predictions: Path, truths: Path, prefer: Sequence[str] = SCORED) -> list[Pair]:
    """Return the pairs that two files or two folders make, in the order of the truths' names.

    A file and a folder with one file per slice are a pair, too. In folders, TIFF, pictures and OME-Zarr are paired by
    their names without endings: the prediction NAME or NAME_probability, NAME_binary, NAME_objects, as our runs write
    them, belongs to the truth NAME, or, if there is none, to the only NAME_WORD, such as NAME_membranes. Of several
    results of one image the first is taken whose ending is in `prefer`. Names that differ only by capital letters are
    the same if no name is exactly so. The images that our results were made of are neither predictions nor truths.
    Uncertainty, attention maps, hidden files and files of other kinds are passed over.

    Raises:
        FileError: one of them does not exist, or a folder has no image.
        InputError: a file and a folder without slices, a file without its partner, or two that could be it.
    """
    for path in (predictions, truths):
        if not location_of_image(path).exists() and not is_pattern(path):
            raise FileError(f"'{path}' does not exist: check the name.")
    folders = [path for path in (predictions, truths) if path.is_dir() and not is_zarr(path)]
    if len(folders) == 1:
        try:
            slice_names(folders[0])
        except SkipsegError as error:
            raise InputError(
                f"'{predictions}' and '{truths}' are a file and a folder: give two files or two folders; a folder "
                f"beside a file must hold its slices. ({error})"
            ) from error
    if len(folders) < 2:
        return [Pair(truths.name, predictions, truths)]
    found, wanted = _images_by_name(predictions), _images_by_name(truths)
    segmented = _segmented_images(file for name, files in found.items() if _OURS.search(name) for file in files)
    found, wanted = _without(found, segmented), _without(wanted, segmented)
    results: dict[str, dict[str, list[Path]]] = {name: {} for name in wanted}  # by truth, then by ending
    for name, files in found.items():
        named = _truth_name(name, files[0], wanted, truths)
        ending = _OURS.search(name) if name.casefold() != named.casefold() else None
        results[named].setdefault(ending[0] if ending else "", []).extend(files)
    pairs = []
    for name, files in wanted.items():
        truth, of_image = _only_one(files, name, truths), results[name]
        ours: list[Path] = next((of_image[ending] for ending in (*prefer, *SCORED) if ending in of_image), [])
        candidates = of_image.get("", []) + ours
        if not candidates:
            raise InputError(f"'{truth}' has no prediction in '{predictions}': it must be called {name}.tif or alike.")
        pairs.append(Pair(truth.name, _only_one(candidates, name, predictions), truth))
    return pairs


def _images_by_name(folder: Path) -> ImagesByName:
    """Return the images in a folder by their names without endings, sorted."""
    images: ImagesByName = {}
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise FileError(f"The folder '{folder}' cannot be read ({error.strerror}): check your permission.") from error
    for file in files:
        is_image = file.is_file() and file.suffix.lower() in _ENDINGS
        if not file.name.startswith(".") and (is_image or (file.is_dir() and is_zarr(file))):
            images.setdefault(normalized_name(plain_name(file.name)), []).append(file)
    if not images:
        raise FileError(f"The folder '{folder}' contains no TIFF, PNG or OME-Zarr image: check the name.")
    return images


def _segmented_images(results: Iterable[Path]) -> set[Path]:
    """Return the images that our own `results` were made of, as their recipes say."""
    segmented = set()
    for file in results:
        try:
            recipe = read_recipe(file) or {}
        except SkipsegError:
            continue  # a damaged file is named when it is scored
        segmented |= {Path(each["file"]).resolve() for each in recipe.get("inputs", ()) if each.get("file")}
    return segmented


def _without(images: ImagesByName, segmented: set[Path]) -> ImagesByName:
    """Return `images` without those that were segmented; a probability in which objects were found stays."""
    kept = {
        name: [file for file in files if _OURS.search(name) or file.resolve() not in segmented]
        for name, files in images.items()
    }
    return {name: files for name, files in kept.items() if files}


def _truth_name(name: str, file: Path, truths: ImagesByName, folder: Path) -> str:
    """Return the name of the truth of a prediction.

    Raises:
        InputError: there is none, or there are several.
    """
    names = (name, _OURS.sub("", name))
    by_small = {each.casefold(): each for each in truths}
    exact = [each for each in names if each in truths]
    exact += [by_small[each.casefold()] for each in names if each.casefold() in by_small]
    # letters alone: a number behind the name is that of a different image
    longer = re.compile(re.escape(names[1]) + r"_[^\W\d]+", re.IGNORECASE)
    found = exact[:1] or [each for each in truths if longer.fullmatch(each)]
    if len(found) > 1:
        called = " and ".join(truths[each][0].name for each in found)
        raise InputError(f"{called} in '{folder}' could both be the truth of '{file}': leave one of them there.")
    if not found:
        raise InputError(f"'{file}' has no truth in '{folder}': it must be called {names[1]}.tif.")
    return found[0]


def _only_one(files: Sequence[Path], name: str, folder: Path) -> Path:
    if len(files) > 1:
        names = " and ".join(file.name for file in files)
        raise InputError(f"{names} in '{folder}' could both be '{name}': leave one of them there.")
    return files[0]


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
