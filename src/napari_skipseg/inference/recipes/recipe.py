"""A recipe: the request, the input and the choices of a run; enough to repeat it.

It contains no times and no results, so that the same run on the same machine writes the same recipe. It is one JSON
object in the layers' metadata, in the files' own metadata, and beside them as `<name>_recipe.json`. Loads without
torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, ClassVar

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from napari_skipseg.devices import DEVICES
from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.images.formats import Format
from napari_skipseg.images.identity import identify
from napari_skipseg.images.intensity.normalize import Normalization
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.inference.options import SegmentRequest
from napari_skipseg.networks.specs import first_fault
from napari_skipseg.objects.options import ObjectOptions

_FORMAT_VERSION = 1
MOST_AT_ONCE = 32
"""Tiles that go into one run of the network, at the most."""
OPERATION = "segment"
RECIPE_FILE, TIMES_FILE = "recipe.json", "times.json"
"""What is written beside `<name>_probability.tif`, behind the same `<name>_`."""
LAYER = "layer"
"""The key that a file of labels has besides, so that viewers show it as such."""
BACKENDS = ("torch", "openvino")
"""What computes, by its name."""
PRECISIONS = ("f32", "bf16", "f16")
"""What is computed in."""
CHOSEN_DEVICES = tuple(device for device in DEVICES if device != "auto")
"""What is computed on."""
_HEAD = {"operation": OPERATION, "format_version": _FORMAT_VERSION}
_CHOSEN = ("side", "batch", "backend", "precision", "device")
"""What was chosen for a run by what there was, and is taken again by one that repeats it."""
PINNED = ("normalization", "findings", *_CHOSEN)
"""What is taken again where the image is the same too."""
_COMPARED = ("tile", "batch", "backend", "precision", "device")
_STRICT = ConfigDict(extra="forbid")
_NO_LETTERS = re.compile("[\ud800-\udfff]")
"""What Python reads bytes of a file's name as that are no UTF-8; JSON can say it, as UTF-8 cannot."""


@dataclass(frozen=True)
class RecipeInput:
    """One image that was read: where from, which one by its content (`images.identity`), and how it was taken.

    file: an absolute path, "" if the image was only in memory. title: what the file calls it, such as "Pos1". The
    rest is as in `Stack`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    file: str
    sha256: str
    shape: tuple[int, ...]
    dtype: str
    space: Space
    title: str = ""


def describe_input(stack: Stack) -> RecipeInput:
    """Return what a recipe says of an image; of a large one a sample of blocks is read.

    Raises:
        FileError, InputError: the voxels cannot be read or are no numbers.
    """
    dtype = np.dtype(stack.data.dtype).name
    return RecipeInput(stack.name, stack.file, identify(stack), stack.shape, dtype, stack.space, stack.title)


@dataclass(frozen=True)
class Recipe:
    """All that decides the bytes of a run's results.

    inputs: the image, then the mask if there is one, whose hash is that of `images.mask`. classes: of the model, in its
    order. normalization: of the grey values, measured on a sample drawn with `seed`.
    tile: what the network saw at once, in voxels. side, batch: the longest side and the number of tiles at once that
    it was planned with; of a block that is seen in three planes, eights of slices at once. backend, precision, device:
    what computed. notes: what failed on the way and what took over. versions: of what results depend on, with the GPU
    and what drives it. findings: what was found about the image, one sentence each: what its reader decided, what the
    grey-value statistics left out, which slices look wrong.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    request: SegmentRequest
    inputs: tuple[RecipeInput, ...]
    classes: tuple[str, ...]
    normalization: Normalization
    seed: int
    tile: tuple[int, ...]
    side: int
    batch: int
    backend: str
    precision: str
    device: str
    notes: tuple[str, ...]
    versions: dict[str, str]
    findings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        mean, deviation = self.normalization.mean, self.normalization.deviation
        if not math.isfinite(mean) or not 0 < deviation < math.inf:
            raise InputError(f"Grey values of mean {mean} and deviation {deviation} are impossible.")
        _check_name("precision", self.precision, PRECISIONS)
        if self.side < 1 or not 1 <= self.batch <= MOST_AT_ONCE:
            raise InputError(f"{self.batch} tiles of {self.side} voxels at once are impossible.")


_ASKED = tuple(each.name for each in fields(SegmentRequest))


@cache
def _adapter() -> TypeAdapter[Recipe]:
    return TypeAdapter(Recipe)


def choices_of_recipe(recipe: Recipe) -> dict[str, int | str]:
    """Return what was chosen for a run, in the form that a repeated run takes; in the viewer and in a shell alike."""
    return {name: getattr(recipe, name) for name in _CHOSEN}


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return `recipe` as one flat mapping: what was requested and what was chosen side by side."""
    values = asdict(recipe)
    return {**_HEAD, **values.pop("request"), **values}


def dict_to_json(values: Mapping[str, Any]) -> str:
    """Return what `recipe_to_dict` gives as readable JSON that UTF-8 can hold, whatever bytes a file's name is of."""
    text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
    return _NO_LETTERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def read_json(text: str | bytes, place: str = "The recipe") -> object:
    """Return what is in a recipe's `text`, found at `place` (for messages).

    Raises:
        FileError: it is no JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{place} is no JSON ({error}): give a recipe that a run wrote.") from error


def recipe_from_dict(values: object, place: str = "The recipe") -> Recipe:
    """Return the recipe in what JSON held, or in the metadata of a file or layer; strictly.

    place: named in messages.

    Raises:
        FileError: a different format version, an unknown key, a missing or impossible value.
    """
    if not isinstance(values, Mapping) or "operation" not in values:
        raise FileError(f"{place} contains no recipe: give one that a run wrote.")
    check_head(values, place)
    rest = {name: value for name, value in values.items() if name not in (*_HEAD, LAYER)}
    check_keys(rest, {each.name for each in fields(Recipe)} - {"request"} | set(_ASKED), place)
    request = {name: rest.pop(name) for name in _ASKED if name in rest}
    try:
        recipe = _adapter().validate_python({"request": request, **rest})
        _check_name("backend", recipe.backend, BACKENDS)
        _check_name("device that computes", recipe.device, CHOSEN_DEVICES)
        return recipe
    except ValidationError as error:
        raise FileError(f"{place} is not valid: {first_fault(error).replace('request.', '', 1)}.") from error
    except SkipsegError as error:
        raise FileError(f"{place} is not valid: {error}") from error


def _check_name(kind: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise InputError(f"'{name}' is no {kind}: it is one of {', '.join(known)}.")


def check_keys(values: Mapping[str, Any], known: set[str], place: str) -> None:
    """Raise if a recipe has a key that is not `known`.

    Raises:
        FileError: it has.
    """
    unknown = sorted(set(map(str, values)) - known)
    if unknown:
        raise FileError(f"{place} has the unknown key '{unknown[0]}': remove it, or correct its name.")


def check_head(values: Mapping[str, Any], place: str, operation: str = OPERATION) -> None:
    """Raise if a recipe is not one of this `operation`, as this version writes it.

    Raises:
        FileError: it is not.
    """
    if values["operation"] != operation:
        raise FileError(
            f"{place} is of a run that cannot be repeated ('{values['operation']}'): give one of a segmentation."
        )
    version = values.get("format_version")
    if version != _FORMAT_VERSION:
        writer = "an earlier SkipSeg" if version is None else f"a different SkipSeg (format version {version})"
        raise FileError(
            f"{place} was written by {writer}, this one reads format version {_FORMAT_VERSION}: do it again from the "
            "image, or install that version."
        )


def recipe_differences(before: Recipe, now: Recipe) -> list[str]:
    """Return in words how a run differs from an earlier one; names do not count, contents do."""
    found = []
    was, new_inputs = ([each.sha256 for each in recipe.inputs] for recipe in (before, now))
    if was[:1] != new_inputs[:1]:
        found.append("another image")
    if was[1:] != new_inputs[1:]:
        found.append("another mask")
    if before.request.model_sha256 != now.request.model_sha256:
        found.append("another model")
    if before.normalization != now.normalization:
        found.append("grey values normalised otherwise")
    earlier, new = asdict(before), asdict(now)
    pairs = [(name, earlier[name], new[name]) for name in _COMPARED]
    pairs += [(name, value, new["request"]["options"][name]) for name, value in earlier["request"]["options"].items()]
    found += [f"{name} {_in_words(value)} (was {_in_words(old)})" for name, old, value in pairs if old != value]
    return found + version_differences(before.versions, now.versions)


def version_warning(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return a sentence if the versions differ from those before, else nothing."""
    others = version_differences(before, now)
    warning = f"The versions differ from the recipe's, so the bytes may differ: {', '.join(others)}."
    return [warning] if others else []


def version_differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return in words which versions differ from those before."""
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return [f"{name} {now.get(name, 'missing')} (was {before.get(name, 'missing')})" for name in names]


def _in_words(value: object) -> str:
    return " × ".join(map(str, value)) if isinstance(value, tuple) else str(value)


OBJECTS_OPERATION = "objects"
_OBJECTS_HEAD = {"operation": OBJECTS_OPERATION, "format_version": _FORMAT_VERSION}


@dataclass(frozen=True)
class ObjectsRecipe:
    """All that decides the bytes of labels and of their measurements.

    inputs: the probability, or the labels, in which objects were found; then the image whose grey values were measured,
    if there was one. class_names: of the first input's channels, or of its labels 1, 2, …. labels: whether it holds
    these. segmentation: the recipe that the probability came from, where that was known. The rest is as in `Recipe`.
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
def _objects_adapter() -> TypeAdapter[ObjectsRecipe]:
    return TypeAdapter(ObjectsRecipe)


def objects_recipe_to_dict(recipe: ObjectsRecipe) -> dict[str, Any]:
    """Return `recipe` as a mapping for JSON; `objects_recipe_from_dict` gives the same value back."""
    values = asdict(recipe)
    return _OBJECTS_HEAD | {
        name: value for name, value in values.items() if name != "segmentation" or value is not None
    }


def objects_recipe_from_dict(values: Mapping[str, Any], place: str = "The recipe") -> ObjectsRecipe:
    """Return the recipe in what JSON held, or in the metadata of a file or layer, found at `place` (for messages).

    Raises:
        FileError: another format version, an unknown key, a missing or impossible value.
    """
    check_head(values, place, OBJECTS_OPERATION)
    rest = {name: value for name, value in values.items() if name not in (*_OBJECTS_HEAD, LAYER)}
    check_keys(rest, {each.name for each in fields(ObjectsRecipe)}, place)
    try:
        return _objects_adapter().validate_python(rest)
    except ValidationError as error:
        raise FileError(f"{place} is not valid: {first_fault(error)}.") from error
    except SkipsegError as error:
        raise FileError(f"{place} is not valid: {error}") from error


def objects_differences(before: ObjectsRecipe, now: ObjectsRecipe) -> list[str]:
    """Return in words how a search differs from an earlier one; names do not count, contents do."""
    (was, *old_images), (new, *new_images) = before.inputs, now.inputs
    found, options = [], asdict(now.objects)
    if "C" in was.space.axes and "C" not in new.space.axes:
        found.append("only the channel of its class was read")
        options["class_name"] = before.objects.class_name
    elif was.sha256 != new.sha256:
        found.append("other labels" if before.labels else "another probability")
    if (was.space.voxel_size, was.space.unit) != (new.space.voxel_size, new.space.unit):
        found.append(f"voxel size {_size_of(new)} (was {_size_of(was)})")
    if bool(old_images) != bool(new_images):
        found.append("grey values measured too" if new_images else "grey values not measured")
    elif [each.sha256 for each in old_images] != [each.sha256 for each in new_images]:
        found.append("grey values of a different image")
    earlier = asdict(before.objects)
    others = [name for name, old in earlier.items() if options[name] != old]
    found += [
        f"{each.replace('_', ' ')} {_objects_in_words(options[each])} (was {_objects_in_words(earlier[each])})"
        for each in others
    ]
    return found + version_differences(before.versions, now.versions)


def _objects_in_words(value: object) -> str:
    return "none" if value == "" else str(value)


def _size_of(image: RecipeInput) -> str:
    return f"{' × '.join(f'{size:g}' for size in image.space.voxel_size)} {image.space.unit}"
