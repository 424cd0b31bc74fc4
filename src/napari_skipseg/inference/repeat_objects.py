"""A search for objects repeated: its images found again by their content, or another one in their place."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

from napari_skipseg.devices import versions
from napari_skipseg.images.identity import identify
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.objects_to_folder import ObjectsAsked, iter_objects_to_folder, name_of_objects
from napari_skipseg.inference.recipe import RECIPE_FILE, version_warning
from napari_skipseg.inference.recipe_objects import ObjectsRecipe
from napari_skipseg.inference.recipe_sources import check_same_recipe, find_input
from napari_skipseg.objects.files import ProbabilityFile, read_probability
from napari_skipseg.progress import Progress


@dataclass(frozen=True)
class ObjectsRepeat:
    """A search to do again, and what is different here, one sentence each."""

    asked: ObjectsAsked
    warnings: tuple[str, ...]

    @property
    def title(self) -> str:
        """What is done, for a bar."""
        return f"finding objects in {self.asked.source.stack.name}"


def prepare_objects(recipe: ObjectsRecipe, given: Stack | None, near: Path) -> ObjectsRepeat:
    """Return what a recipe says, ready to be run. given: another probability than the recipe's.

    Raises:
        SkipsegError: an image is gone or another one now.
    """
    warnings = version_warning(recipe.versions, versions())
    is_same = given is None or identify(given) == recipe.inputs[0].sha256
    stack = find_input(recipe.inputs[0], near) if given is None else given
    image = None
    if is_same and len(recipe.inputs) > 1:
        image = find_input(recipe.inputs[1], near)
    elif len(recipe.inputs) > 1:
        warnings.append(
            f"The grey values of '{recipe.inputs[1].name}' are not measured, as that is the image of another "
            "probability: use the command objects with --image for them."
        )
    source = ProbabilityFile(stack, recipe.class_names, recipe.labels) if is_same else _other(stack, recipe)
    segmentation = recipe.segmentation if is_same else None
    return ObjectsRepeat(ObjectsAsked(source, recipe.objects, image, recipe.form, segmentation), tuple(warnings))


def _other(stack: Stack, recipe: ObjectsRecipe) -> ProbabilityFile:
    """Return another probability: its classes as its file says them, else the recipe's."""
    told = read_probability(stack.file) if stack.file else ProbabilityFile(stack, (), recipe.labels)
    return ProbabilityFile(stack, told.class_names or recipe.class_names, told.labels)


def iter_repeat_objects(repeat: ObjectsRepeat, folder: Path, name: str = "") -> Generator[Progress, None, list[Path]]:
    """Yield as the search goes on; return the files written to `folder`. name: as in `ObjectsAsked`.

    Raises:
        SkipsegError: as `iter_objects_to_folder`; results of another recipe lie there.
    """
    name = name or name_of_objects(repeat.asked.source.stack.name)
    stacks = [stack for stack in (repeat.asked.source.stack, repeat.asked.image) if stack is not None]
    told = (repeat.asked.options, repeat.asked.form)
    check_same_recipe(folder / f"{name}_objects_{RECIPE_FILE}", tuple(map(identify, stacks)), told)
    files = yield from iter_objects_to_folder(replace(repeat.asked, name=name), folder)
    return [files.labels, files.table]
