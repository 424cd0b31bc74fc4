"""Objects found in an image and written into a folder, with the recipe of that; a command, and a recipe repeated."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari_skipseg.devices import versions
from napari_skipseg.durable import refuse_link, remove_place
from napari_skipseg.images.faults import file_errors_as
from napari_skipseg.images.formats import FORMAT_ENDINGS, UNFINISHED, Format
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.recipes.recipe import (
    RECIPE_FILE,
    TIMES_FILE,
    ObjectsRecipe,
    describe_input,
    dict_to_json,
    objects_recipe_to_dict,
)
from napari_skipseg.inference.run_folder import RunTimes
from napari_skipseg.inference.saving import check_length, check_replaceable, write_text
from napari_skipseg.locks import FolderLock
from napari_skipseg.objects.block_cache import holds_blocks, search_folder
from napari_skipseg.objects.classes import ClassImage
from napari_skipseg.objects.files import ObjectFiles, iter_write_objects
from napari_skipseg.objects.find_in_blocks import ObjectsTarget
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import Progress

_FOUND_IN = ("_probability", "_binary")


@dataclass(frozen=True)
class ObjectsRequest:
    """A request for objects. image: the one to measure grey values in. segmentation: the recipe that the probability
    came from, where that is known and lies nowhere else. name: what the results are called, "" = as the image is that
    the probability is of."""

    source: ClassImage
    options: ObjectOptions
    image: Stack | None = None
    form: Format = "tiff"
    segmentation: dict[str, Any] | None = None
    name: str = ""


def describe_found_objects(request: ObjectsRequest) -> dict[str, Any]:
    """Return the recipe of a search, for JSON.

    Raises:
        SkipsegError: one of the images cannot be read.
    """
    source = request.source
    inputs = tuple(describe_input(stack) for stack in (source.stack, request.image) if stack is not None)
    recipe = ObjectsRecipe(
        inputs,
        source.class_names,
        source.labels,
        objects=request.options,
        form=request.form,
        versions=versions(),
        segmentation=request.segmentation,
    )
    return objects_recipe_to_dict(recipe)


def iter_objects_to_folder(request: ObjectsRequest, folder: Path) -> Generator[Progress, None, ObjectFiles]:
    """Yield while objects are found and measured; return `<name>_objects.tif` (or .ome.zarr) and `<name>_objects.csv`.

    Recipe and times lie beside them as `<name>_objects_recipe.json` and `<name>_objects_times.json`. A file of the same
    objects in a different format is removed: the table would not describe it. name: of the image that the probability
    is of, where `request` names none. Stopped or killed, the same call continues after the last block that was found;
    blocks lie in `<name>_objects.unfinished` meanwhile.

    Raises:
        SkipsegError: as `iter_write_objects`; something that is not ours lies there, or another run is at work there.
    """
    times, source = RunTimes("preparing"), request.source
    yield Progress(0, 1, "reading the image")
    recipe = describe_found_objects(request)
    target = ObjectsTarget(folder, request.name or name_of_objects(source.stack.name), request.form, recipe)
    sidecars = {name: folder / f"{target.name}_objects_{name}" for name in (RECIPE_FILE, TIMES_FILE)}
    endings = [file.name[len(target.name) :] for file in (target.file, *sidecars.values())]
    check_length(folder, target.name, endings)
    check_replaceable([target.file, *sidecars.values()], request.form)
    check_other_forms(target)
    times.enter("objects")
    with keeping_blocks(target) as keeping:
        continued = keeping.kept is not None and holds_blocks(keeping.kept)
        files = yield from iter_write_objects(source, request.options, keeping, request.image)
    remove_other_forms(target)
    for name, text in ((RECIPE_FILE, dict_to_json(recipe)), (TIMES_FILE, times.to_json(continued))):
        write_text(sidecars[name], text)
    return files


@contextlib.contextmanager
def keeping_blocks(target: ObjectsTarget) -> Iterator[ObjectsTarget]:
    """Yield the target with blocks that are found kept in a folder that is ours alone, until all is done.

    Raises:
        FileError: another run is at work there, or nothing can be written.
    """
    place = target.folder / f"{target.name}_objects{UNFINISHED}"
    lock = FolderLock(place)
    with file_errors_as(place):
        refuse_link(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        lock.take()
    try:
        with search_folder(place) as kept:
            yield replace(target, kept=kept)
    finally:
        lock.release()


def check_other_forms(target: ObjectsTarget) -> None:
    """Raise if objects of the same name lie there in a different format, and are not ours.

    Raises:
        FileError: they do.
    """
    for other in _other_forms(target):
        check_replaceable([other.file], other.form)


def remove_other_forms(target: ObjectsTarget) -> None:
    """Remove objects of the same name in a different format.

    Raises:
        FileError: they cannot be removed.
    """
    for other in _other_forms(target):
        with file_errors_as(other.file):
            remove_place(other.file)


def _other_forms(target: ObjectsTarget) -> list[ObjectsTarget]:
    return [replace(target, form=form) for form in FORMAT_ENDINGS if form != target.form]


def name_of_objects(name: str) -> str:
    """Return the name of the image that a probability called `name` is of."""
    for ending in _FOUND_IN:
        name = name.removesuffix(ending)
    return name
