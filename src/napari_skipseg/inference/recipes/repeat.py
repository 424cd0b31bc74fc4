"""A recipe repeated: its model and image found again by their content, and what was chosen for them taken again."""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from napari_skipseg.devices import Device, best_precision, choose_device, has_openvino, versions
from napari_skipseg.errors import DeviceError, FileError, InputError
from napari_skipseg.gpus import driving_versions
from napari_skipseg.images.files import read_recipe, read_stack
from napari_skipseg.images.identity import identify
from napari_skipseg.images.mask import cut_to_results
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.backends import openvino_backend
from napari_skipseg.inference.backends.choose import TORCH
from napari_skipseg.inference.backends.openvino_backend import OpenVINOBackend
from napari_skipseg.inference.backends.warm import open_model
from napari_skipseg.inference.objects_to_folder import (
    ObjectsRequest,
    check_other_forms,
    iter_objects_to_folder,
    keeping_blocks,
    name_of_objects,
    remove_other_forms,
)
from napari_skipseg.inference.predict import select_channel
from napari_skipseg.inference.prediction import Focus, file_name
from napari_skipseg.inference.recipes.lookup import (
    check_same_recipe,
    find_input,
    find_mask_of_recipe,
    find_model_of_recipe,
)
from napari_skipseg.inference.recipes.recipe import (
    RECIPE_FILE,
    ObjectsRecipe,
    Recipe,
    choices_of_recipe,
    version_warning,
)
from napari_skipseg.inference.run_spec import RunSpec
from napari_skipseg.inference.saving import check_replaceable
from napari_skipseg.inference.stores import PROBABILITY
from napari_skipseg.inference.to_folder import FolderTarget, iter_segment
from napari_skipseg.models.model import Model
from napari_skipseg.objects.classes import ClassImage, records_padding, thresholds_in
from napari_skipseg.objects.files import read_probability, read_tissue
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.progress import Progress


@dataclass(frozen=True)
class PreparedSearch:
    """A search to do again, and what is different here, one sentence each."""

    request: ObjectsRequest
    warnings: tuple[str, ...]

    @property
    def title(self) -> str:
        """What is done, for a bar."""
        return f"finding objects in {self.request.source.stack.name}"


def prepare_objects(recipe: ObjectsRecipe, given: Stack | None, near: Path) -> PreparedSearch:
    """Return what a recipe says, ready to be run. given: a different probability than the recipe's.

    Raises:
        SkipsegError: an image is gone or has changed.
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
    if is_same:  # the segmentation that the probability came of says whether there is padding
        known = recipe.segmentation or (stack.file and read_recipe(stack.file)) or {}
        tissue = read_tissue(stack.file, stack, known) if recipe.labels and stack.file else None
        source = ClassImage(
            stack, recipe.class_names, recipe.labels, records_padding(known), tissue, thresholds_in(known)
        )
    else:
        read = read_probability(stack.file) if stack.file else ClassImage(stack, (), recipe.labels)
        source = replace(read, stack=stack, class_names=read.class_names or recipe.class_names)
    segmentation = recipe.segmentation if is_same else None
    return PreparedSearch(ObjectsRequest(source, recipe.objects, image, recipe.form, segmentation), tuple(warnings))


def iter_repeat_objects(repeat: PreparedSearch, folder: Path, name: str = "") -> Generator[Progress, None, list[Path]]:
    """Yield as the search proceeds; return the files written to `folder`. name: as in `ObjectsRequest`.

    Raises:
        SkipsegError: as `iter_objects_to_folder`; results of a different recipe lie there.
    """
    name = name or name_of_objects(repeat.request.source.stack.name)
    stacks = [stack for stack in (repeat.request.source.stack, repeat.request.image) if stack is not None]
    settings = (repeat.request.options, repeat.request.form)
    check_same_recipe(folder / f"{name}_objects_{RECIPE_FILE}", tuple(map(identify, stacks)), settings)
    files = yield from iter_objects_to_folder(replace(repeat.request, name=name), folder)
    return [files.labels, files.table]


AGAIN = "again"
"""The folder beside a recipe that its results go to if none is named."""


@dataclass(frozen=True)
class PreparedRun:
    """A run to repeat: its image and model, and the choices that are pinned for it.

    warnings: what is different here, one sentence each. mask: its labels, None if the run has none.
    """

    recipe: Recipe
    stack: Stack
    model: Model
    pinned: dict[str, Any]
    warnings: tuple[str, ...]
    mask: Stack | None = None

    @property
    def title(self) -> str:
        """What is done, for a bar."""
        return f"segmenting {self.stack.name}"


def prepare_repeat(
    recipe: Recipe | ObjectsRecipe, image: Stack | None = None, near: str | os.PathLike[str] = ".", model: str = ""
) -> PreparedRun | PreparedSearch:
    """Return what a recipe says, of a segmentation or of objects, ready to be run.

    image: a different one from the recipe's. near: the folder that the recipe lies in. model: where its model lies, if
    not among those that are known.

    Raises:
        SkipsegError: model or image are gone or others now.
    """
    if isinstance(recipe, ObjectsRecipe):
        if model:
            raise InputError("A recipe of objects has no model: leave it out.")
        return prepare_objects(recipe, image, Path(near))
    folder = find_model_of_recipe(recipe, model)
    images, masks = (recipe.inputs[:1], recipe.inputs[1:]) if recipe.request.options.mask else (recipe.inputs, ())
    if image is None:
        if len(images) != 1 or len(masks) > 1:
            raise FileError(f"The recipe names {len(recipe.inputs)} inputs: give one with --input.")
        stack, is_same = find_input(recipe.inputs[0], Path(near)), True
    else:
        stack, is_same = image, identify(image) in [each.sha256 for each in images]
    pinned, warnings = pin_backend(recipe, is_same)
    labels = find_mask_of_recipe(masks[0], Path(near)) if masks else None
    return PreparedRun(recipe, stack, open_model(folder), pinned, tuple(warnings), labels)


def iter_repeat(
    repeat: PreparedRun | PreparedSearch, folder: Path, restart: bool = False, name: str = ""
) -> Generator[Progress, Focus | None, list[Path]]:
    """Yield as the run proceeds; return the files written to `folder`. name: what they are called, "" = as the image.

    Raises:
        SkipsegError: as `iter_segment`, or as `iter_objects_to_folder`; results of a different recipe lie there.
    """
    if isinstance(repeat, PreparedSearch):
        return (yield from iter_repeat_objects(repeat, folder, name))
    request = repeat.recipe.request
    name = name or file_name(repeat.stack.name)
    masks = () if repeat.mask is None else (repeat.recipe.inputs[1].sha256,)
    check_same_recipe(folder / f"{name}_{RECIPE_FILE}", (identify(repeat.stack), *masks), request)
    target = FolderTarget(folder, name, request.depth, request.form, restart, request.objects)
    spec = RunSpec(repeat.stack, repeat.model, request.options, pinned=repeat.pinned, mask=repeat.mask)
    files = yield from iter_segment(spec, target)
    if request.objects is not None:
        files += yield from _iter_objects(repeat, target, request.objects)
    return files


def _iter_objects(
    repeat: PreparedRun, target: FolderTarget, options: ObjectOptions
) -> Generator[Progress, Focus | None, list[Path]]:
    """Yield while objects are found in the probability and measured there and in the image; return the files."""
    from napari_skipseg.objects.files import iter_write_objects
    from napari_skipseg.objects.find_in_blocks import ObjectsTarget

    probability = target.file(PROBABILITY)
    segmentation = {**(read_recipe(probability) or {}), "layer": "labels"}
    place = ObjectsTarget(target.folder, target.name, target.form, segmentation)
    check_replaceable([place.file], target.form)
    check_other_forms(place)
    asked = repeat.recipe.request.options
    image = cut_to_results(select_channel(repeat.stack, repeat.model, asked), asked.box, repeat.mask)
    names = repeat.model.description.class_names
    source = ClassImage(
        read_stack(probability), names, False, records_padding(segmentation), thresholds=thresholds_in(segmentation)
    )
    with keeping_blocks(place) as keeping:
        found = yield from iter_write_objects(source, options, keeping, image)
    remove_other_forms(place)
    return [found.labels, found.table]


def pin_backend(recipe: Recipe, is_same: bool) -> tuple[dict[str, Any], list[str]]:
    """Return what of a recipe's choices can be taken again here, and in sentences what cannot.

    is_same: whether the image is the recipe's, so that its grey values are known.
    """
    pinned: dict[str, Any] = dict(choices_of_recipe(recipe))
    warnings = []
    if is_same:
        pinned["normalization"] = asdict(recipe.normalization)
        pinned["findings"] = recipe.findings
    try:
        device = choose_device(recipe.device)
    except DeviceError:
        warnings.append(
            f"There is no {recipe.device} device here: the run takes what there is, and its bytes may differ."
        )
        pinned["device"] = recipe.request.options.device
        device = choose_device(recipe.request.options.device)
    if not recipe.request.options.samples and not _can_compute(recipe, device):
        warnings.append(
            f"{recipe.backend} in {recipe.precision} is not available here: the run takes what is fastest, and its "
            "bytes may differ."
        )
        pinned = {name: value for name, value in pinned.items() if name not in ("backend", "precision")}
    if recipe.notes:
        failed = f"In the run of the recipe something failed midway, so that the bytes may differ: {recipe.notes[-1]}"
        warnings.insert(0, failed)
    return pinned, [*version_warning(recipe.versions, versions() | driving_versions(device.name)), *warnings]


def _can_compute(recipe: Recipe, device: Device) -> bool:
    """Return whether the recipe's backend is here and computes in its precision."""
    if recipe.backend == OpenVINOBackend.name:
        return has_openvino() and recipe.precision in ("f32", openvino_backend.compiled_precision().name)
    return recipe.backend == TORCH and recipe.precision in ("f32", best_precision(device.name).name)
