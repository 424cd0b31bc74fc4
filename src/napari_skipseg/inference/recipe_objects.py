"""A recipe of a search for objects: in what, how, and what was measured; enough to repeat it. Loads without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.images.formats import Format
from napari_skipseg.inference.recipe import FORMAT_VERSION, LAYER, RecipeInput, check_head, check_keys
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
