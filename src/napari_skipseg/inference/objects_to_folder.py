"""Objects found in an image and written into a folder, with the recipe of that; a command, and a recipe repeated."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_skipseg.devices import versions
from napari_skipseg.images.formats import Format
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.write_faults import replacing
from napari_skipseg.inference.recipe import RECIPE_FILE, TIMES_FILE, describe_input, dict_to_json
from napari_skipseg.inference.recipe_objects import ObjectsRecipe, objects_recipe_to_dict
from napari_skipseg.inference.run_times import RunTimes
from napari_skipseg.inference.saving import check_replaceable
from napari_skipseg.objects.files import ObjectFiles, ProbabilityFile, iter_write_objects
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.objects.whole import ObjectsTarget
from napari_skipseg.progress import Progress

_FOUND_IN = ("_probability", "_binary")


@dataclass(frozen=True)
class ObjectsAsked:
    """What objects are asked for. image: whose grey values are measured. segmentation: the recipe that the probability
    came of, where that is known and lies nowhere else."""

    source: ProbabilityFile
    options: ObjectOptions
    image: Stack | None = None
    form: Format = "tiff"
    segmentation: dict[str, Any] | None = None


def describe_objects(asked: ObjectsAsked) -> dict[str, Any]:
    """Return the recipe of a search, for JSON.

    Raises:
        SkipsegError: one of the images cannot be read.
    """
    source = asked.source
    inputs = tuple(describe_input(stack) for stack in (source.stack, asked.image) if stack is not None)
    told = (source.class_names, source.labels, asked.options, asked.form, versions(), asked.segmentation)
    return objects_recipe_to_dict(ObjectsRecipe(inputs, *told))


def iter_objects_to_folder(asked: ObjectsAsked, folder: Path) -> Generator[Progress, None, ObjectFiles]:
    """Yield while objects are found and measured; return `<name>_objects.tif` (or .ome.zarr) and `<name>_objects.csv`.

    Recipe and times lie beside them as `<name>_objects_recipe.json` and `<name>_objects_times.json`. name: of the image
    that the probability is of.

    Raises:
        SkipsegError: as `iter_write_objects`; something that is not ours lies there.
    """
    times, source = RunTimes("preparing"), asked.source
    yield Progress(0, 1, "reading the image")
    recipe = describe_objects(asked)
    target = ObjectsTarget(folder, name_of_objects(source.stack.name), asked.form, recipe)
    sidecars = {name: folder / f"{target.name}_objects_{name}" for name in (RECIPE_FILE, TIMES_FILE)}
    check_replaceable([target.file, *sidecars.values()], asked.form)
    times.enter("objects")
    found = (source.class_names, asked.options, target, asked.image, source.labels)
    files = yield from iter_write_objects(source.stack, *found)
    for name, text in ((RECIPE_FILE, dict_to_json(recipe)), (TIMES_FILE, times.to_json(continued=False))):
        with replacing(sidecars[name]) as part:
            part.write_text(text, encoding="utf-8")
    return files


def name_of_objects(name: str) -> str:
    """Return the name of the image that a probability called `name` is of."""
    for ending in _FOUND_IN:
        name = name.removesuffix(ending)
    return name
