"""The settings of a batch: one frozen value, stored in the run's folder. Loads without torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.formats import Depth, Format
from napari_skipseg.inference.options import SegmentOptions, SegmentRequest, request_hash
from napari_skipseg.models.catalog import find_models, locate_model
from napari_skipseg.models.folder import read_description
from napari_skipseg.networks.specs import first_fault
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.option_fields import Option, check_options

_FORMAT_VERSION = 1
SHOWN_OF_HASH = 8
"""Digits of a recipe's hash in the name of its run's folder."""


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """The options of a batch that the panel offers too."""

    recursive: Annotated[
        bool,
        Option("Include subfolders", "Take the images in subfolders too; their results go into the same subfolders."),
    ] = False
    as_stack: Annotated[
        bool,
        Option(
            "Each folder is one stack of slices",
            "Each folder contains the slices of one stack, one file each, and is one image.",
        ),
    ] = False
    truth: Annotated[
        str,
        Option(
            "Truth",
            "Labels with the same names as the images, in a folder (for one image: a file). Each result is scored "
            "against them.",
        ),
    ] = ""
    truth_label: Annotated[
        int | None,
        Option(
            "Class in truth",
            "Value of the class in the truth; by default the one that the model was trained with.",
            unset="as trained",
        ),
    ] = None
    mask: Annotated[
        str,
        Option(
            "Masks",
            "Label images with the same names as the images, in a folder, or one file for all images: only where a "
            "mask is not 0, its image is segmented.",
        ),
    ] = ""
    inside: Annotated[
        bool,
        Option(
            "Allow results in the image folder",
            "Allow the folder of the results to be that of the images, or inside it.",
        ),
    ] = False


@dataclass(frozen=True)
class BatchSettings(BatchOptions):
    """A folder of images, and what is done with each image; the options are described beside their fields.

    inputs: a folder, an image, or a pattern with *, ? and **. output: a folder that gets a subfolder for each recipe.
    request: the segmentation, the same for all inputs.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    inputs: str
    output: str
    request: SegmentRequest
    axes: Annotated[
        str,
        Option(
            "Axes",
            "Names of the axes in the file's order, such as ZYX or XYZ; files with a different number of axes keep "
            "theirs.",
        ),
    ] = ""
    voxel_size: tuple[float, float, float] | None = None
    unit: Annotated[str, Option("Unit", "Unit of the voxel size: nm, µm, …")] = ""
    workers: Annotated[int, Option("Workers", "Processes of this machine; 0 = this one alone.", least=0)] = 0
    scheduler: Annotated[str, Option("Scheduler", "Address of a Dask scheduler, such as tcp://host:8786.")] = ""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise InputError("A batch needs inputs: give a folder, an image, or a pattern such as 'data/*.tif'.")
        if not self.output:
            raise InputError("A batch needs a folder for its results: give one.")
        if self.voxel_size and not self.unit:
            raise InputError("A voxel size needs its unit: give it too (in a shell with --unit, such as nm).")
        check_options(self, InputError)
        objects = self.request.objects
        if self.request.options.mask or (objects is not None and objects.mask):
            raise InputError("A batch has masks of its own: give their folder to the batch, not to the segmentation.")
        if self.workers and self.scheduler:
            raise InputError("Workers on this machine and a scheduler exclude each other: give one of them.")

    def run_name(self, versions: Mapping[str, str]) -> str:
        """Return the name of the folder of a run with these settings: the model, and the beginning of a hash.

        The hash is of all that decides the results: the request, how files are read, where masks are, and the
        `versions` of packages.
        """
        sha256 = request_hash(self.request, versions)
        if self.axes or self.voxel_size or self.unit:
            with_space = json.dumps([sha256, self.axes, self.voxel_size, self.unit])
            sha256 = hashlib.sha256(with_space.encode()).hexdigest()
        if self.mask:
            masked = json.dumps([sha256, str(Path(self.mask).expanduser().absolute())])
            sha256 = hashlib.sha256(masked.encode()).hexdigest()
        model = re.sub(r"[^\w.+-]", "_", Path(self.request.model).name).strip(".") or "model"
        return f"{model}-{sha256[:SHOWN_OF_HASH]}"


def make_settings(
    model: str,
    options: SegmentOptions,
    depth: Depth = "uint8",
    form: Format = "tiff",
    objects: ObjectOptions | None = None,
) -> SegmentRequest:
    """Return a request for a model as it is now. model: its name or folder.

    Raises:
        ModelError: there is no such model, or it is damaged.
    """
    folder = locate_model(model)
    name = model if model in find_models() else str(folder.absolute())
    return SegmentRequest(name, read_description(folder).weights_sha256, options, depth, form, objects)


@cache
def _adapter() -> TypeAdapter[BatchSettings]:
    return TypeAdapter(BatchSettings)


def batch_settings_to_json(settings: BatchSettings) -> str:
    """Return `settings` as readable JSON; `batch_settings_from_json` gives the same value back."""
    return json.dumps({"format_version": _FORMAT_VERSION, **asdict(settings)}, indent=1, ensure_ascii=True) + "\n"


def batch_settings_from_json(text: str | bytes) -> BatchSettings:
    """Return the settings in `text`.

    Raises:
        FileError: no JSON, a different format version, an unknown key, a missing or impossible value.
    """
    try:
        values: Any = json.loads(text)
    except ValueError as error:
        raise FileError(f"The settings are no JSON ({error}): give the batch.json that a run wrote.") from error
    if not isinstance(values, dict) or values.pop("format_version", None) != _FORMAT_VERSION:
        raise FileError(
            f"The settings are not those of a batch of format version {_FORMAT_VERSION}: start the batch again."
        )
    try:
        return _adapter().validate_python(values)
    except ValidationError as error:
        raise FileError(f"The settings are not valid: {first_fault(error)}.") from error
    except InputError as error:
        raise FileError(f"The settings are not valid: {error}") from error
