"""What is chosen in the Batch tab, remembered from one session to the next; and the batch that comes of it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import ConfigDict, TypeAdapter

from napari_skipseg.batch.place import write_text
from napari_skipseg.batch.settings import BatchSettings, ask
from napari_skipseg.batch.wording import counted
from napari_skipseg.errors import FileError, InputError
from napari_skipseg.images.formats import Format
from napari_skipseg.inference.outputs import Depth
from napari_skipseg.user_folders import data_folder
from napari_skipseg.widgets.checks import Choices, find_faults
from napari_skipseg.widgets.fields import Missing

if TYPE_CHECKING:
    from napari_skipseg.objects.options import ObjectOptions

FOLDER_VARIABLE = "NAPARI_SKIPSEG_BATCH"
LAST_FILE = "last.json"
SEGMENT_FIELDS = ("model", "tile", "samples", "dropout")
"""Fields of the Segment tab whose faults are of every image, and not of the one that it shows."""


@dataclass(frozen=True)
class BatchChoices:
    """The form of the tab. objects: find them too. calibrated: axes and voxel size are those of the Segment tab. The
    rest is as in `BatchSettings` and `SegmentRequest`."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    inputs: str = ""
    recursive: bool = False
    output: str = ""
    objects: bool = False
    truth: str = ""
    form: Format = "tiff"
    depth: Depth = "uint8"
    attention: bool = False
    calibrated: bool = False
    inside: bool = False
    truth_label: int | None = None
    as_stack: bool = False

    def fault(self, segment: Choices) -> str:
        """Return what is wrong, besides what only a look into the folder tells; empty where nothing is."""
        if not self.inputs:
            return Missing("Choose a folder of images, or type a pattern such as /data/*.tif.")
        if not self.output:
            return Missing("Choose a folder for the results.")
        if segment.model is None:
            return segment.model_fault
        faults = find_faults(replace(segment, layer=None))
        told = [faults[field] for field in SEGMENT_FIELDS if field in faults]
        if not told and self.calibrated and segment.layer is None:
            return "Axes and voxel size are taken from the Segment tab: open an image there, or untick that option."
        return told[0] if told else ""

    def settings(self, segment: Choices, objects: ObjectOptions) -> BatchSettings:
        """Return the batch that is asked for.

        segment: of the Segment tab, on whose model and options it rests. objects: how they are found where asked for.

        Raises:
            ModelError: the model is gone or damaged.
            InputError: options exclude each other.
        """
        if segment.model is None:
            raise InputError(segment.model_fault)
        options = replace(segment.options(), attention=self.attention)
        request = ask(segment.model.name, options, self.depth, self.form, objects if self.objects else None)
        more = {"axes": segment.axes, "voxel_size": segment.voxel_size, "unit": segment.unit} if self.calibrated else {}
        truth = (self.truth, self.truth_label, self.inside)
        asked = BatchSettings(self.inputs, self.output, request, self.recursive, *truth, **more)  # type: ignore[arg-type]
        return replace(asked, as_stack=self.as_stack)


def describe_request(segment: Choices) -> str:
    """Return in a line with which model and options the Segment tab would segment."""
    options = segment.options()
    parts = [str(segment.model.name if segment.model else "no model"), f"above {options.threshold:.2f}"]
    parts += [options.device] if options.device != "auto" else []
    parts += [f"channel {options.channel}"] if options.channel is not None else []
    parts += [f"tiles of {options.tile}"] if options.tile else []
    parts += [f"{options.average} copies"] if options.average > 1 else []
    parts += ["all three axes"] if options.planes == "xyz" else []
    parts += ["constant areas kept"] if options.padding == "none" else []
    parts += ["contrast inverted"] if options.invert else []
    parts += ["rescaled to the model's voxels"] if options.rescale else []
    parts += [f"{options.samples} samples"] if options.samples else []
    return ", ".join(parts)


def describe_objects(objects: ObjectOptions) -> str:
    """Return in a line how objects would be found, what differs most first."""
    names = {"components": "connected components", "watershed": "watershed", "cells": "cells between membranes"}
    of = "in each slice" if objects.planes == "slices" else "through the volume"
    parts = [f"{names[objects.method]} {of}", f"above {objects.threshold:.2f}"]
    parts += [f"merged below {objects.merge:.2f}"] if objects.method == "cells" else []
    parts += [f"{counted(objects.smallest, 'voxel')} or more"] if objects.smallest else []
    parts += [f"{counted(objects.largest, 'voxel')} at most"] if objects.largest else []
    parts += ["holes filled"] if objects.fill_holes else []
    parts += ["objects at the border left out"] if objects.border == "remove" else []
    return ", ".join(parts)


@cache
def _adapter() -> TypeAdapter[BatchChoices]:
    return TypeAdapter(BatchChoices)


def last_file() -> Path:
    """Return where the choices of the last batch lie."""
    return data_folder("batch", FOLDER_VARIABLE) / LAST_FILE


def remember(choices: BatchChoices) -> None:
    """Keep choices for the next session, where that can be written."""
    with contextlib.suppress(FileError):
        write_text(last_file(), json.dumps(asdict(choices), indent=1) + "\n")


def recall() -> BatchChoices:
    """Return the choices of the last batch, the plain ones where there are none to be read."""
    try:
        return _adapter().validate_json(last_file().read_bytes())
    except (OSError, ValueError):
        return BatchChoices()
