"""A recipe of a search for objects: in what, how, and what was measured; enough to repeat it. Loads without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.images.formats import Format
from napari_skipseg.inference.recipe import (
    FORMAT_VERSION,
    LAYER,
    RecipeInput,
    check_head,
    check_keys,
    version_differences,
)
from napari_skipseg.networks.specs import first_fault
from napari_skipseg.objects.options import ObjectOptions

OPERATION = "objects"
_HEAD = {"operation": OPERATION, "format_version": FORMAT_VERSION}


@dataclass(frozen=True)
class ObjectsRecipe:
    """All that decides the bytes of labels and of their measurements.

    inputs: the probability, or the labels, in which objects were found; then the image whose grey values were measured,
    where there was one. class_names: of the first input's channels, or of its labels 1, 2, …. labels: whether it holds
    these. segmentation: the recipe that the probability came of, where that was known. The rest is as in `Recipe`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    inputs: tuple[RecipeInput, ...]
    class_names: tuple[str, ...]
    labels: bool
    objects: ObjectOptions
    form: Format
    versions: dict[str, str]
    segmentation: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if len(self.inputs) not in (1, 2):
            raise InputError(f"Objects are found in one image, and not in {len(self.inputs)}.")


@cache
def _adapter() -> TypeAdapter[ObjectsRecipe]:
    return TypeAdapter(ObjectsRecipe)


def objects_recipe_to_dict(recipe: ObjectsRecipe) -> dict[str, Any]:
    """Return `recipe` as a mapping for JSON; `objects_recipe_from_dict` gives the same value back."""
    values = asdict(recipe)
    return _HEAD | {name: value for name, value in values.items() if name != "segmentation" or value is not None}


def objects_recipe_from_dict(values: Mapping[str, Any], place: str = "The recipe") -> ObjectsRecipe:
    """Return the recipe in what JSON held, or in the metadata of a file or layer, found at `place` (for messages).

    Raises:
        FileError: another format version, an unknown key, a missing or impossible value.
    """
    check_head(values, place, OPERATION)
    rest = {name: value for name, value in values.items() if name not in (*_HEAD, LAYER)}
    check_keys(rest, {each.name for each in fields(ObjectsRecipe)}, place)
    try:
        return _adapter().validate_python(rest)
    except ValidationError as error:
        raise FileError(f"{place} is not valid: {first_fault(error)}.") from error
    except SkipsegError as error:
        raise FileError(f"{place} is not valid: {error}") from error


def objects_differences(before: ObjectsRecipe, now: ObjectsRecipe) -> list[str]:
    """Return in what a search is otherwise than an earlier one, in words; names do not count, contents do."""
    (was, *old_images), (new, *new_images) = before.inputs, now.inputs
    found, options = [], asdict(now.objects)
    if "C" in was.axes and "C" not in new.axes:
        found.append("only the channel of its class was read")
        options["class_name"] = before.objects.class_name
    elif was.sha256 != new.sha256:
        found.append("other labels" if before.labels else "another probability")
    if (was.voxel_size, was.unit) != (new.voxel_size, new.unit):
        found.append(f"voxel size {_size_of(new)} (was {_size_of(was)})")
    if bool(old_images) != bool(new_images):
        found.append("grey values measured too" if new_images else "grey values not measured")
    elif [each.sha256 for each in old_images] != [each.sha256 for each in new_images]:
        found.append("grey values of another image")
    told = asdict(before.objects)
    others = [name for name, old in told.items() if options[name] != old]
    found += [f"{each.replace('_', ' ')} {_in_words(options[each])} (was {_in_words(told[each])})" for each in others]
    return found + version_differences(before.versions, now.versions)


def _in_words(value: object) -> str:
    return "none" if value == "" else str(value)


def _size_of(image: RecipeInput) -> str:
    return f"{' × '.join(f'{size:g}' for size in image.voxel_size)} {image.unit}"
