"""What a batch is asked for: one frozen value, kept in the run's folder. Loads without torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.files import Format
from napari_skipseg.inference.options import SegmentOptions
from napari_skipseg.inference.prediction import Depth
from napari_skipseg.inference.recipes.recipe import SegmentRequest, request_hash
from napari_skipseg.models.catalog import find_models, locate_model
from napari_skipseg.models.folder import read_description
from napari_skipseg.networks.specs import first_fault
from napari_skipseg.objects.options import ObjectOptions

FORMAT_VERSION = 1
SHOWN_OF_HASH = 8
"""Digits of a recipe's hash in the name of its run's folder."""


@dataclass(frozen=True)
class BatchSettings:
    """A folder of images and what is done with each of them.

    inputs: a folder, an image, or a pattern with *, ? and **. output: the folder that holds a run's folder for each
    recipe. request: what is asked for, whatever the input. recursive: look into folders within the folder too. truth: a
    folder (of one image: a file) with the labels of the same names; "" = no scores. truth_label: the value in them of
    the class of a model that has one; None = as the model was trained. inside: the output may lie among
    the inputs. axes, voxel_size, unit: in place of what the files say, as for `read_stack`. workers: processes of this
    machine, 0 = this one alone. scheduler: the address of a Dask cluster. as_stack: each folder is a stack of one file
    per slice, and these folders are the images.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    inputs: str
    output: str
    request: SegmentRequest
    recursive: bool = False
    truth: str = ""
    truth_label: int | None = None
    inside: bool = False
    axes: str = ""
    voxel_size: tuple[float, float, float] | None = None
    unit: str = ""
    workers: int = 0
    scheduler: str = ""
    as_stack: bool = False

    def __post_init__(self) -> None:
        if not self.inputs:
            raise InputError("A batch needs inputs: give a folder, an image, or a pattern such as 'data/*.tif'.")
        if not self.output:
            raise InputError("A batch needs a folder for its results: give one.")
        if self.voxel_size and not self.unit:
            raise InputError("A voxel size needs its unit: give it too (in a shell with --unit, such as nm).")
        if self.workers < 0:
            raise InputError(f"{self.workers} workers are impossible: give 0 (this process) or more.")
        if self.workers and self.scheduler:
            raise InputError("Workers of this machine and those of a scheduler exclude each other: give one of them.")

    def run_name(self, versions: Mapping[str, str]) -> str:
        """Return the name of the folder of a run with these settings: the model's, and the beginning of a hash.

        What decides the results counts: the request, how the files are taken, and the `versions` that answer it.
        """
        told = request_hash(self.request, versions)
        if self.axes or self.voxel_size or self.unit:
            taken = json.dumps([told, self.axes, self.voxel_size, self.unit])
            told = hashlib.sha256(taken.encode()).hexdigest()
        model = re.sub(r"[^\w.+-]", "_", Path(self.request.model).name).strip(".") or "model"
        return f"{model}-{told[:SHOWN_OF_HASH]}"


def ask(
    model: str,
    options: SegmentOptions,
    depth: Depth = "uint8",
    form: Format = "tiff",
    objects: ObjectOptions | None = None,
) -> SegmentRequest:
    """Return what is asked for of the model called `model`, or in that folder, as it is now.

    Raises:
        ModelError: there is no such model, or it is damaged.
    """
    folder = locate_model(model)
    name = model if model in find_models() else str(folder.absolute())
    return SegmentRequest(name, read_description(folder).weights_sha256, options, depth, form, objects)


@cache
def _adapter() -> TypeAdapter[BatchSettings]:
    return TypeAdapter(BatchSettings)


def settings_to_json(settings: BatchSettings) -> str:
    """Return `settings` as readable JSON; `settings_from_json` gives the same value back."""
    return json.dumps({"format_version": FORMAT_VERSION, **asdict(settings)}, indent=1, ensure_ascii=True) + "\n"


def settings_from_json(text: str | bytes, place: str = "The settings") -> BatchSettings:
    """Return the settings in `text`, found at `place` (for messages).

    Raises:
        FileError: no JSON, another format version, an unknown key, a missing or impossible value.
    """
    try:
        values: Any = json.loads(text)
    except ValueError as error:
        raise FileError(f"{place} is no JSON ({error}): give the batch.json that a run wrote.") from error
    if not isinstance(values, dict) or values.pop("format_version", None) != FORMAT_VERSION:
        raise FileError(f"{place} holds no batch of format version {FORMAT_VERSION}: start the batch anew.")
    try:
        return _adapter().validate_python(values)
    except ValidationError as error:
        raise FileError(f"{place} is not valid: {first_fault(error)}.") from error
    except InputError as error:
        raise FileError(f"{place} is not valid: {error}") from error
