"""The form of the Batch tab: which images, where the results go, how they are written; the rest is other tabs' form."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, TypeAdapter
from qtpy.QtCore import QEvent, Qt, Signal
from qtpy.QtWidgets import QCheckBox, QFormLayout, QSpinBox, QWidget

from napari_skipseg.batch.inputs import BatchInputs, find_inputs, read_input
from napari_skipseg.batch.place import write_run_text
from napari_skipseg.batch.settings import BatchSettings, make_settings
from napari_skipseg.batch.truths import check_truth_folder
from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.images.formats import Depth, Format
from napari_skipseg.progress import Progress
from napari_skipseg.user_folders import data_folder
from napari_skipseg.widgets.forms.estimate_line import SettledLine
from napari_skipseg.widgets.forms.fields import Collapsible, FolderField, FreshCombo, Missing, WrappedLine
from napari_skipseg.widgets.layers.files import DEPTHS, FORMATS
from napari_skipseg.widgets.segment.checks import SegmentFormValues, find_faults
from napari_skipseg.wording import counted

if TYPE_CHECKING:
    from napari_skipseg.objects.options import ObjectOptions


CHOICES_VARIABLE = "NAPARI_SKIPSEG_BATCH"
LAST_FILE = "last.json"
_SEGMENT_FIELDS = ("model", "tile", "samples", "dropout")
"""Fields of the Segment tab whose faults are of every image, and not of the one that it shows."""


@dataclass(frozen=True)
class BatchFormValues:
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

    def fault(self, segment: SegmentFormValues) -> str:
        """Return what is wrong, besides what only a look into the folder tells; empty where nothing is."""
        if not self.inputs:
            return Missing("Choose a folder of images, or type a pattern such as /data/*.tif.")
        if not self.output:
            return Missing("Choose a folder for the results.")
        if segment.model is None:
            return segment.model_fault
        faults = find_faults(replace(segment, layer=None))
        told = [faults[field] for field in _SEGMENT_FIELDS if field in faults]
        if not told and self.calibrated and segment.layer is None:
            return "Axes and voxel size are taken from the Segment tab: open an image there, or untick that option."
        return told[0] if told else ""

    def settings(self, segment: SegmentFormValues, objects: ObjectOptions) -> BatchSettings:
        """Return the batch that is asked for.

        segment: of the Segment tab, on whose model and options it rests. objects: how they are found where asked for.

        Raises:
            ModelError: the model is gone or damaged.
            InputError: options exclude each other.
        """
        if segment.model is None:
            raise InputError(segment.model_fault)
        options = replace(segment.options(), attention=self.attention)
        request = make_settings(segment.model.name, options, self.depth, self.form, objects if self.objects else None)
        more = {"axes": segment.axes, "voxel_size": segment.voxel_size, "unit": segment.unit} if self.calibrated else {}
        truth = (self.truth, self.truth_label, self.inside)
        asked = BatchSettings(self.inputs, self.output, request, self.recursive, *truth, **more)  # type: ignore[arg-type]
        return replace(asked, as_stack=self.as_stack)


def describe_request(segment: SegmentFormValues) -> str:
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


def describe_object_options(objects: ObjectOptions) -> str:
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
def _adapter() -> TypeAdapter[BatchFormValues]:
    return TypeAdapter(BatchFormValues)


def choices_file() -> Path:
    """Return where the choices of the last batch lie."""
    return data_folder("batch", CHOICES_VARIABLE) / LAST_FILE


def remember_choices(choices: BatchFormValues) -> None:
    """Keep choices for the next session, where that can be written."""
    with contextlib.suppress(FileError):
        write_run_text(choices_file(), json.dumps(asdict(choices), indent=1) + "\n")


def recall_choices() -> BatchFormValues:
    """Return the choices of the last batch, the plain ones where there are none to be read."""
    try:
        return _adapter().validate_json(choices_file().read_bytes())
    except (OSError, ValueError):
        return BatchFormValues()


_HINTS = {
    "inputs": "A folder, one image, or a pattern such as /data/**/*.tif; TIFF, OME-Zarr (one entry), MRC and pictures",
    "as_stack": "Each folder holds the slices of one stack, one file per slice, and is one image",
    "recursive": "Take the images in subfolders too; the results are stored in the same subfolders",
    "output": "Each recipe gets its own folder in here, named after model and recipe, so nothing is overwritten",
    "objects": "Find and measure the objects of each image: labels and a CSV, as the Objects tab says now",
    "truth": "Optional: labels with the same names as the images; each result is scored against them",
    "form": "File format of the results; OME-Zarr suits large volumes",
    "depth": "How probabilities are stored: as 0-255, or as fractions, which take four times the space",
    "truth_label": "Value of the class in the truth; by default the one that the model was trained with",
    "attention": "Write the attention maps of every image too",
    "calibrated": "Use the axes and voxel size of the Segment tab for all images, instead of those in the files",
    "inside": "Allow the results to be written into the folder of the images, or into a subfolder of it",
}
LINK_COLOR = "#5f86f0"
UNTOLD = -1
"""Stands in the field for no value of the truth's."""


class BatchForm(QWidget):  # type: ignore[misc]
    """`read` gives the choices, `changed` says that they may be others now. wanted: a tab is to be shown, by name."""

    changed = Signal()
    wanted = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.output, self.truth = FolderField("Images"), FolderField("Results"), FolderField("Truth")
        self.recursive, self.objects = QCheckBox("include subfolders"), QCheckBox("find and measure objects")
        self.as_stack = QCheckBox("each folder is one stack of slices")
        self.model, self.way, self.form = WrappedLine(), WrappedLine(), FreshCombo()
        for line in (self.model, self.way):
            line.setTextFormat(Qt.TextFormat.RichText)
            line.linkActivated.connect(self.wanted)
        self.form.offer(list(FORMATS), "tiff")
        fold = self.fold = BatchDetails()
        self._fields: dict[str, Any] = {
            "inputs": self.inputs,
            "recursive": self.recursive,
            "as_stack": self.as_stack,
            "output": self.output,
            "objects": self.objects,
            "truth": self.truth,
            "form": self.form,
            "depth": fold.stored,
            "attention": fold.attention,
            "calibrated": fold.calibrated,
            "inside": fold.inside,
            "truth_label": fold.truth_label,
        }
        self._lay_out()
        self._connect()
        self.show_choices(BatchFormValues())

    def _lay_out(self) -> None:
        form = self._layout = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(7)
        form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Images", self.inputs)
        form.addRow("", self.recursive)
        form.addRow("", self.as_stack)
        form.addRow("Results", self.output)
        form.addRow("Model", self.model)
        form.addRow("Objects", self.objects)
        form.addRow("", self.way)
        form.addRow("Truth", self.truth)
        form.addRow("Written as", self.form)
        form.addRow(self.fold)
        for name, field in self._fields.items():
            field.setToolTip(_HINTS[name])
        self.inputs.text.setPlaceholderText("folder, or pattern such as /data/*.tif")
        self.truth.text.setPlaceholderText("none: no scores")

    def _connect(self) -> None:
        for field in self._fields.values():
            if isinstance(field, FolderField):
                field.text.textChanged.connect(self._tell)
            elif isinstance(field, QCheckBox):
                field.toggled.connect(self._tell)
            elif isinstance(field, QSpinBox):
                field.valueChanged.connect(self._tell)
            else:
                field.activated.connect(self._tell)

    def _tell(self) -> None:
        self.changed.emit()

    def read(self) -> BatchFormValues:
        """Return the choices as they stand."""
        return BatchFormValues(**{name: _value(field) for name, field in self._fields.items()})

    def show_choices(self, choices: BatchFormValues) -> None:
        """Show choices; emits nothing."""
        self.blockSignals(True)
        for name, field in self._fields.items():
            _show(field, getattr(choices, name))
        self.blockSignals(False)

    def show_request(self, model: str, objects: str) -> None:
        """Say with which model and options the images are segmented, and how objects are found."""
        self.model.setText(f"{escape(model)}, {_link('Segment')}")
        self.way.setText(f"{escape(objects)}, {_link('Objects')}")
        self._layout.setRowVisible(self.way, self.objects.isChecked())


class BatchDetails(Collapsible):
    """What few people change."""

    def __init__(self) -> None:
        super().__init__("Details")
        self.stored, self.truth_label = FreshCombo(), QSpinBox()
        self.stored.offer(list(DEPTHS), "uint8")
        self.truth_label.setRange(UNTOLD, 2**31 - 1)
        self.truth_label.setSpecialValueText("as trained")
        self.attention, self.calibrated = QCheckBox("attention maps"), QCheckBox("as in the Segment tab")
        self.inside = QCheckBox("allow results in the image folder")
        inner = QWidget()
        rows = QFormLayout(inner)
        rows.setContentsMargins(12, 0, 0, 0)
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows.addRow("Probability", self.stored)
        rows.addRow("Write too", self.attention)
        rows.addRow("Axes, voxel size", self.calibrated)
        rows.addRow("Results", self.inside)
        rows.addRow("Class in truth", self.truth_label)
        self.fill(inner)


def _link(tab: str) -> str:
    return f"<a href='{tab}' style='color: {LINK_COLOR}'>as in the {tab} tab</a>"


def _value(field: Any) -> Any:
    if isinstance(field, FolderField):
        return field.text.text().strip()
    if isinstance(field, QCheckBox):
        return field.isChecked()
    if isinstance(field, QSpinBox):
        return None if field.value() == UNTOLD else field.value()
    return field.currentData()


def _show(field: Any, value: Any) -> None:
    if isinstance(field, FolderField):
        field.text.setText(value)
    elif isinstance(field, QCheckBox):
        field.setChecked(value)
    elif isinstance(field, QSpinBox):
        field.setValue(UNTOLD if value is None else value)
    else:
        field.setCurrentIndex(max(field.findData(value), 0))


_MOST_LOOKED_AT = 24
"""Images whose voxel size is looked up before the start."""
_SETTLED = 300
"""Milliseconds for which the choices stand before they are looked up."""
MACHINE = (Path("/proc"), Path("/sys"))
"""Folders in which the system shows itself, and makes none that one asks for."""
AMONG = (
    "The results would lie among the images: choose a folder elsewhere, or tick Details › allow results in the image "
    "folder."
)


class InputsLine(SettledLine):
    """What a batch would be of. fault: why it cannot be. `told` is emitted when either is another one."""

    told = Signal()

    def __init__(self) -> None:
        self.fault = self._note = ""
        super().__init__(None, "looking for images…")
        self._timer.setInterval(_SETTLED)
        self.looks = 0

    @property
    def is_right(self) -> bool:
        """Whether it is known that the batch that was looked up last can be."""
        return self._key in self._answers

    def look(self, settings: BatchSettings) -> None:
        """Say what these settings name, unless it was said."""

        def find() -> Generator[Progress, Any, LookedAt]:
            yield Progress(0, 1, "looking for images")
            found = check_batch(settings)
            unknown, looked = yield from _iter_count_unknown(settings, found)
            return LookedAt(found, unknown, looked)

        asked = (
            settings.inputs,
            settings.output,
            settings.recursive,
            settings.inside,
            settings.truth,
            settings.as_stack,
            settings.voxel_size,
            settings.unit,
        )
        self.follow((*asked, self.looks), find)

    def show_answer(self, answer: LookedAt) -> None:
        """Say how many images there are, and what should be known before they are segmented."""
        found = answer.inputs
        count = len(found.entries)
        left = [counted(found.others, "other file")] if found.others else []
        left += [counted(found.ours, "result of SkipSeg", "results of SkipSeg")] if found.ours else []
        self._note = " ".join(note for note in (_unknown_text(answer), found.hint) if note)
        names = "\n".join(entry.relative for entry in found.entries[:20]) + ("\n…" if count > 20 else "")
        told = counted(count, "image")
        self.say(f"{told}; left out: {', '.join(left)}" if left else told, names)

    def event(self, event: QEvent) -> bool:
        """Look again at what is wrong when the user comes back to the window: it may have been mended elsewhere."""
        if event.type() == QEvent.Type.WindowActivate and self.fault:
            self._timer.start()
        return bool(super().event(event))

    def show_fault(self, fault: str) -> None:
        """Keep why there are none, for the tab to say."""
        self.say("", warning=fault)

    def say(self, text: str, hint: str = "", warning: str = "") -> None:
        """Show this in the line and in its tooltip; a warning is a fault, which the tab says."""
        self.fault = warning
        super().say(text, hint, self._note if text and text != self._asking else "")
        self.told.emit()


@dataclass(frozen=True)
class LookedAt:
    """What a batch is of. unknown: how many of the first `looked` images have no known voxel size."""

    inputs: BatchInputs
    unknown: int
    looked: int


def _iter_count_unknown(settings: BatchSettings, found: BatchInputs) -> Generator[Progress, Any, tuple[int, int]]:
    """Yield file by file; return how many of the first images have no known voxel size, and of how many that is.

    A file that cannot be read is none of these: the batch says why.
    """
    unknown, entries = 0, found.entries[:_MOST_LOOKED_AT]
    for number, entry in enumerate(entries):
        yield Progress(number, len(entries), "looking for voxel sizes")
        try:
            unknown += not read_input(settings, entry).space.has_size
        except SkipsegError:
            continue
    return unknown, len(entries)


def _unknown_text(answer: LookedAt) -> str:
    """Return what is said if voxel sizes are not known; "" if all are."""
    if not answer.unknown:
        return ""
    total = len(answer.inputs.entries)
    which = f"{answer.unknown} of the first {answer.looked} images" if answer.looked < total else ""
    which = which or ("all images" if answer.unknown == total else f"{answer.unknown} of {total} images")
    return (
        f"The voxel size is not known of {which}: if all have the same, give it in the Segment tab and tick Details › "
        "as in the Segment tab."
    )


def check_batch(settings: BatchSettings) -> BatchInputs:
    """Return the images of a batch that can be, as far as a look at the folders tells; nothing is made.

    Raises:
        FileError: there is no image or no truth, or the folder of the results cannot be made.
        InputError: the results would lie among the images, unasked, or in one of them; one truth for several images.
    """
    check_place(settings.output)
    try:
        found = find_inputs(settings)
    except InputError as error:
        if settings.inside:
            raise
        find_inputs(replace(settings, inside=True))  # what else may be wrong with it
        raise InputError(AMONG) from error
    check_truth_folder(settings, len(found.entries))
    return found


def check_place(output: str) -> None:
    """Raise where a folder is not there and cannot be made, or nothing can be written into it.

    Raises:
        FileError: it is so.
    """
    place = Path(output).expanduser().absolute()
    nearest = next(folder for folder in (place, *place.parents) if os.path.lexists(folder))
    if not nearest.is_dir():
        raise FileError(
            f"The folder '{output}' cannot be created, because '{nearest}' is not a folder: choose another one."
        )
    is_of_machine = any(nearest.resolve().is_relative_to(each) for each in MACHINE)
    if is_of_machine or not os.access(nearest, os.W_OK | os.X_OK):
        told = "be written into" if nearest == place else "be created there"
        raise FileError(f"The folder '{output}' cannot {told}: choose one where you may write.")
