"""What a recipe needs, found again: itself in a file, its model by its weights, its image by its voxels. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import permutations
from pathlib import Path

from napari_skipseg.errors import FileError, InputError, ModelError, SkipsegError
from napari_skipseg.images.files import is_there, read_recipe, read_stack
from napari_skipseg.images.formats import RESULT_FILE
from napari_skipseg.images.identity import identify
from napari_skipseg.images.mask import identify_mask
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.zarr.metadata import METADATA
from napari_skipseg.inference.recipes.recipe import (
    OBJECTS_OPERATION,
    ObjectsRecipe,
    Recipe,
    RecipeInput,
    objects_recipe_from_dict,
    read_json,
    recipe_from_dict,
)
from napari_skipseg.models.catalog import find_models, locate_model
from napari_skipseg.models.folder import read_description

_NAMED = re.compile(rf"(.+?)(?:_objects)?_recipe\.json|(.+?){RESULT_FILE.pattern}")
"""Names of recipes and of what bears one, by what stands before."""


def read_recipe_file(path: str | os.PathLike[str]) -> Recipe | ObjectsRecipe:
    """Return the recipe in a .json file, or the one that a result bears.

    Raises:
        FileError: there is none, it cannot be read, or it is not valid.
    """
    file, place = Path(path), f"'{path}'"
    if file.suffix.lower() == ".json" and file.name not in METADATA:
        try:
            return _recipe_of(read_json(file.read_bytes(), place), place)
        except OSError as error:
            raise FileError(f"{place} cannot be read ({error.strerror}): give a recipe that a run wrote.") from error
    values = read_recipe(file) if _may_contain_recipe(file) else None
    if values is None:
        raise FileError(f"{place} contains no recipe: give a result of SkipSeg's, or the _recipe.json beside it.")
    return _recipe_of(values, place)


def _may_contain_recipe(file: Path) -> bool:
    """Return whether a file is a TIFF or part of a store, the only ones with recipes, or cannot be opened at all."""
    try:
        with file.open("rb") as handle:
            return file.name in METADATA or handle.read(2) in (b"II", b"MM")
    except OSError:
        return True


def name_of_run(path: str | os.PathLike[str]) -> str:
    """Return the name of the results of a run; its recipe, or one of the results, lies at `path`; "" = unknown."""
    found = _NAMED.fullmatch(Path(path).name)
    return (found[1] or found[2]) if found else ""


def check_same_recipe(place: Path, inputs: tuple[str, ...], settings: object) -> None:
    """Raise if the results that lie beside the recipe at `place` are of other inputs, or were made with different
    options.

    inputs: the SHA-256 of the images. settings: the `SegmentRequest`; of objects their options and format. A file that
    is no recipe is ignored.

    Raises:
        FileError: they are.
    """
    if not place.is_file():
        return
    try:
        there = read_recipe_file(place)
    except SkipsegError:
        return
    made_with: object = (there.objects, there.form) if isinstance(there, ObjectsRecipe) else there.request
    if tuple(each.sha256 for each in there.inputs) != inputs or made_with != settings:
        raise FileError(
            f"The results of a different recipe lie there ('{place}'): give another folder for these (OUT_DIR), or "
            "remove those."
        )


def _recipe_of(values: object, place: str) -> Recipe | ObjectsRecipe:
    if isinstance(values, Mapping) and values.get("operation") == OBJECTS_OPERATION:
        return objects_recipe_from_dict(values, place)
    return recipe_from_dict(values, place)


def find_model_of_recipe(recipe: Recipe, named: str = "") -> Path:
    """Return the folder of the model that a recipe was made with: `named`, by its own name, or by its weights.

    Raises:
        ModelError: it is not here, or what bears its name has other weights.
    """
    name, sha256 = recipe.request.model, recipe.request.model_sha256
    if named:
        folder = locate_model(named)
        if read_description(folder).weights_sha256 != sha256:
            raise ModelError(
                f"'{named}' has different weights than the recipe's model '{name}' (SHA-256 {sha256[:12]}…): give this."
            )
        return folder
    known = _known_weights()
    mine = sorted(
        (folder for folder, weights in known.items() if weights == sha256), key=lambda each: each.name != name
    )
    if mine:
        return mine[0]
    others = [folder for folder in known if folder.name == name]
    if others:
        raise ModelError(
            f"The model '{name}' has other weights (SHA-256 {known[others[0]][:12]}…) than when the recipe was written "
            f"({sha256[:12]}…): give the folder of the old one with --model."
        )
    raise ModelError(f"The model '{name}' (SHA-256 {sha256[:12]}…) is not here: give its folder with --model.")


def _known_weights() -> dict[Path, str]:
    """Return the hash of every model's weights, of those that can be read."""
    found = {}
    for folder in find_models().values():
        try:
            found[folder] = read_description(folder).weights_sha256
        except SkipsegError:
            continue
    return found


def find_input(recorded: RecipeInput, near: Path) -> Stack:
    """Return the image that a recipe names, from where it was, or `near` the recipe or above it.

    Raises:
        FileError: it is gone, or holds something else now.
    """
    if not recorded.file:
        raise FileError(f"'{recorded.name}' was in memory only, and in no file: give the image with --input.")
    places = find_locations(recorded, near)
    if not places:
        raise FileError(
            f"'{recorded.file}' is no longer there: put it back, or say with --input where the image is now."
        )
    for place in places:
        stack = _read_as(place, recorded)
        if stack is not None:
            return stack
    raise FileError(
        f"'{places[0]}' contains a different image now than when the recipe was written: put the old one back, or give "
        "with --input the one to segment."
    )


def find_mask_of_recipe(recorded: RecipeInput, near: Path) -> Stack:
    """Return the labels of the mask that a recipe names, as `find_input`.

    Raises:
        FileError: it is gone, or holds something else now.
    """
    if not recorded.file:
        raise FileError(
            f"The mask '{recorded.name}' was in memory only, and in no file: save it, and segment with this file as "
            "mask."
        )
    for place in find_locations(recorded, near):
        labels = _read_as(place, recorded, identify_mask)
        if labels is not None:
            return labels
    raise FileError(
        f"'{recorded.file}' is no longer there, or contains a different mask than when the recipe was written: put the "
        "old one back."
    )


def find_locations(recorded: RecipeInput, near: Path) -> list[Path]:
    """Return where a file lies that is called like the one a recipe names: there, `near` the recipe or above it."""
    name = Path(recorded.file).name
    places = (Path(recorded.file), near / name, near.parent / name) if name else ()
    return [place for place in places if is_there(place)]


def _read_as(place: Path, recorded: RecipeInput, identity: Callable[[Stack], str] = identify) -> Stack | None:
    """Return the image at `place` as it was taken, None if it is a different one."""
    for axes in _possible_axes(recorded.space.axes):
        try:
            stack = read_stack(place, axes=axes, are_labels=identity is identify_mask)
        except InputError:  # the file has other axes, or names none
            continue
        is_alike = (stack.space.axes, stack.shape) == (recorded.space.axes, recorded.shape)
        if is_alike and identity(stack) == recorded.sha256:
            return replace(stack, space=recorded.space, name=recorded.name)
    return None


def _possible_axes(axes: str) -> Iterator[str | None]:
    """Yield what a user may have said of the axes of a file that was taken with `axes`: nothing, these, or another
    order of them, which was turned."""
    yield None
    yield axes
    yield from ("".join(order) for order in permutations(axes) if "".join(order) != axes)
