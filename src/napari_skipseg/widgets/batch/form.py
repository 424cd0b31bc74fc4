"""The form of the Batch tab: images, results and their format; model and objects come from the forms of other tabs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, TypeAdapter
from qtpy.QtCore import QEvent, Qt, Signal

from napari_skipseg.batch.companions import check_companions
from napari_skipseg.batch.inputs import BatchInputs, find_inputs, read_input
from napari_skipseg.batch.settings import BatchOptions, BatchSettings, make_settings
from napari_skipseg.errors import FileError, InputError, SkipsegError
from napari_skipseg.images.formats import Depth, Format
from napari_skipseg.objects.classes import default_class
from napari_skipseg.objects.options import ObjectOptions
from napari_skipseg.option_fields import Option, option_fields
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.forms.estimate_line import SettledLine
from napari_skipseg.widgets.forms.fields import Collapsible, FolderField, Missing, WrappedLine
from napari_skipseg.widgets.forms.option_rows import OptionEditor, OptionRows
from napari_skipseg.widgets.segment.checks import SegmentFormValues, find_faults
from napari_skipseg.widgets.segment.outcome import DEPTHS, FORMATS
from napari_skipseg.widgets.settings import open_settings
from napari_skipseg.wording import counted

_CHOICES = "batch/choices"
_SEGMENT_FIELDS = ("model", "tile", "samples", "dropout")
"""Fields of the Segment tab whose faults concern every image, not only the one that it shows."""


@dataclass(frozen=True)
class BatchFormValues(BatchOptions):
    """The form of the tab: the options of a batch, and those that settle its request."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    inputs: Annotated[
        str,
        Option(
            "Images",
            "A folder, one image, or a pattern such as /data/**/*.tif; TIFF, OME-Zarr (one entry), MRC and pictures.",
        ),
    ] = ""
    output: Annotated[
        str,
        Option(
            "Results",
            "Each recipe gets its own folder in this one, named after model and recipe, so nothing is overwritten.",
        ),
    ] = ""
    objects: Annotated[
        bool,
        Option(
            "Find and measure objects",
            "Find and measure the objects of each image: labels and a CSV, as the Objects tab says now.",
        ),
    ] = False
    form: Annotated[
        Format,
        Option(
            "Written as",
            "File format of the results; OME-Zarr suits large volumes.",
            labels={value: text for text, value in FORMATS},
        ),
    ] = "tiff"
    depth: Annotated[
        Depth,
        Option(
            "Probability",
            "How probabilities are stored: as 0-255, or as fractions, which take four times the space.",
            labels={value: text for text, value in DEPTHS},
        ),
    ] = "uint8"
    attention: Annotated[bool, Option("Attention maps", "Write the attention maps of every image too.")] = False
    calibrated: Annotated[
        bool,
        Option(
            "Calibration of the Segment tab",
            "Use the axes and the voxel size of the Segment tab for all images, instead of those in the files.",
        ),
    ] = False

    def fault(self, segment: SegmentFormValues) -> str:
        """Return what is wrong without a look into the folders, "" if nothing is."""
        if not self.inputs:
            return Missing("Choose a folder of images, or type a pattern such as /data/*.tif.")
        if not self.output:
            return Missing("Choose a folder for the results.")
        if segment.model is None:
            return segment.model_fault
        faults = find_faults(replace(segment, layer=None))
        wrong = [faults[field] for field in _SEGMENT_FIELDS if field in faults]
        if not wrong and self.calibrated and segment.layer is None:
            return "Axes and voxel size are taken from the Segment tab: open an image there, or untick that option."
        return wrong[0] if wrong else ""

    def settings(self, segment: SegmentFormValues, objects: ObjectOptions) -> BatchSettings:
        """Return the settings of the batch.

        segment: the choices of the Segment tab, for model and options. objects: how objects are found, if they are.

        Raises:
            ModelError: the model was removed or is damaged.
            InputError: options exclude each other.
        """
        if segment.model is None:
            raise InputError(segment.model_fault)
        options = replace(segment.options(), attention=self.attention)
        request = make_settings(segment.model.name, options, self.depth, self.form, objects if self.objects else None)
        shared: dict[str, Any] = {name: getattr(self, name) for name in option_fields(BatchOptions)}
        if self.calibrated:
            shared |= {"axes": segment.axes, "voxel_size": segment.voxel_size, "unit": segment.unit}
        return BatchSettings(self.inputs, self.output, request, **shared)


def describe_request(segment: SegmentFormValues) -> str:
    """Return the model and the options of the Segment tab in a line."""
    options = segment.options()
    parts = [str(segment.model.name if segment.model else "no model"), describe_thresholds(segment.thresholds)]
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


def describe_thresholds(thresholds: Mapping[str, float]) -> str:
    """Return the thresholds of the classes in a few words, as one number if they are all the same."""
    values = set(thresholds.values())
    if len(values) == 1:
        return f"above {values.pop():.2f}"
    return " and ".join(f"{name} above {value:.2f}" for name, value in thresholds.items())


def describe_object_options(objects: ObjectOptions, class_names: Sequence[str] = ()) -> str:
    """Return the options of a search for objects in a line; with the class, if a model has several."""
    method = option_fields(ObjectOptions)["method"].option.labels[objects.method]
    where = "in each slice" if objects.planes == "slices" else "through the volume"
    name = objects.class_name or "".join(class_names[default_class(class_names, objects.method) :][:1])
    of_class = f" of {name}" if len(class_names) > 1 else ""
    parts = [
        f"{method[0].lower()}{method[1:]}{of_class} {where}",
        "above the threshold of the class" if objects.threshold is None else f"above {objects.threshold:.2f}",
    ]
    parts += [f"merged below {objects.merge:.2f}"] if objects.method == "cells" else []
    parts += [f"{counted(objects.smallest, 'voxel')} or more"] if objects.smallest else []
    parts += [f"{counted(objects.largest, 'voxel')} at most"] if objects.largest else []
    parts += ["holes filled"] if objects.fill_holes else []
    parts += ["objects at the border left out"] if objects.border == "remove" else []
    return ", ".join(parts)


def remember_choices(choices: BatchFormValues) -> None:
    """Keep choices for the next session, if the file can be written."""
    settings = open_settings()
    settings.put(_CHOICES, asdict(choices))
    settings.save()


def recall_choices() -> BatchFormValues:
    """Return the choices of the last batch, or the defaults if they are not known or damaged."""
    try:
        return TypeAdapter(BatchFormValues).validate_python(open_settings().get(_CHOICES) or {})
    except ValueError:
        return BatchFormValues()


LINK_COLOR = "#5f86f0"
_IN_SIGHT = ("inputs", "recursive", "as_stack", "output", "model", "objects", "way", "truth", "form")
"""Options that are not folded away, and two lines that are no options."""
_IN_FOLD = ("depth", "attention", "calibrated", "mask", "inside", "truth_label")
"""The first options of the fold; an option that is named nowhere comes last."""


class BatchForm(OptionRows):
    """A row for each option. changed: they may be different now. wanted: the name of a tab that is to be shown."""

    changed = Signal()
    wanted = Signal(str)

    def __init__(self, values: type[BatchFormValues] = BatchFormValues) -> None:
        options = option_fields(values)
        folders = {name: FolderField(options[name].option.title) for name in ("inputs", "output", "truth", "mask")}
        lines = {"model": ("Model", WrappedLine()), "way": ("", WrappedLine())}
        rows = (options[name] if name in options else lines[name] for name in _IN_SIGHT)
        editors = {
            name: OptionEditor(each, each.typed, each.text.setText, each.text.textChanged)
            for name, each in folders.items()
        }
        super().__init__(rows, editors, indent=0)
        self._kind = values
        self.model, self.way = lines["model"][1], lines["way"][1]
        self.inputs, self.output, self.truth, self.mask = folders.values()
        self.inputs.text.setPlaceholderText("folder, or pattern such as /data/*.tif")
        self.truth.text.setPlaceholderText("none: no scores")
        self.mask.text.setPlaceholderText("none: all of each image")
        for line in (self.model, self.way):
            line.setTextFormat(Qt.TextFormat.RichText)
            line.linkActivated.connect(self.wanted)
        rest = [*_IN_FOLD, *(name for name in options if name not in _IN_SIGHT + _IN_FOLD)]
        self.details = OptionRows((options[name] for name in rest), editors)
        self.fold = Collapsible("Details")
        self.fold.fill(self.details)
        self._layout.addRow(self.fold)
        for rows in (self, self.details):
            rows.edited.connect(self.changed)
        self.show_choices(values())

    def read(self) -> BatchFormValues:
        """Return the choices as they stand."""
        return self._kind(**self.values(), **self.details.values())

    def show_choices(self, choices: BatchFormValues) -> None:
        """Show choices; emits nothing."""
        self.blockSignals(True)
        self.show_values(choices)
        self.details.show_values(choices)
        self.blockSignals(False)

    def show_request(self, model: str, objects: str) -> None:
        """Show with which model and options the images are segmented, and how objects are found."""
        self.model.setText(f"{escape(model)}, {_link('Segment')}")
        self.way.setText(f"{escape(objects)}, {_link('Objects')}")
        self.show_row(self.way, bool(self.field("objects").isChecked()))


def _link(tab: str) -> str:
    return f"<a href='{tab}' style='color: {LINK_COLOR}'>as in the {tab} tab</a>"


_MOST_OPENED = 24
"""Images whose voxel size is read before the start."""
_SETTLED = 300
"""Milliseconds without a change of the choices before the folders are read."""
MACHINE = (Path("/proc"), Path("/sys"))
"""Folders of the system, in which nothing can be created."""
AMONG = (
    "The results would lie among the images: choose a folder elsewhere, or tick Details › Allow results in the image "
    "folder."
)


class InputsLine(SettledLine):
    """The number of images of a batch. fault: why it cannot start. changed: one of them is different."""

    changed = Signal()

    def __init__(self) -> None:
        self.fault = self._note = ""
        super().__init__(None, "looking for images…")
        self._timer.setInterval(_SETTLED)
        self.looks = 0

    @property
    def is_right(self) -> bool:
        """Whether the last batch that was looked up can start."""
        return self._key in self._answers

    def look(self, settings: BatchSettings) -> None:
        """Show the images of these settings, unless they are shown."""

        def find() -> Generator[Progress, Any, InputsLookup]:
            yield Progress(0, 1, "looking for images")
            found = check_batch(settings)
            unknown, entries = 0, found.entries[:_MOST_OPENED]
            for number, entry in enumerate(entries):
                yield Progress(number, len(entries), "looking for voxel sizes")
                with contextlib.suppress(SkipsegError):  # the batch says why a file cannot be read
                    unknown += not read_input(settings, entry).space.has_size
            return InputsLookup(found, unknown, len(entries))

        values = (
            settings.inputs,
            settings.output,
            settings.recursive,
            settings.inside,
            settings.truth,
            settings.mask,
            settings.as_stack,
            settings.voxel_size,
            settings.unit,
        )
        self.update_for((*values, self.looks), find)

    def show_answer(self, answer: InputsLookup) -> None:
        """Show the number of images, and what the user should know before the start."""
        found = answer.inputs
        count = len(found.entries)
        left = [counted(found.others, "other file")] if found.others else []
        left += [counted(found.ours, "result of SkipSeg", "results of SkipSeg")] if found.ours else []
        self._note = " ".join(note for note in (describe_unknown_sizes(answer), found.hint) if note)
        names = "\n".join(entry.relative for entry in found.entries[:20]) + ("\n…" if count > 20 else "")
        images = counted(count, "image")
        self.say(f"{images}; left out: {', '.join(left)}" if left else images, names)

    def event(self, event: QEvent) -> bool:
        """Look again if something is wrong when the user returns to the window: it may be right by now."""
        if event.type() == QEvent.Type.WindowActivate and self.fault:
            self._timer.start()
        return bool(super().event(event))

    def show_fault(self, fault: str) -> None:
        """Keep the fault for the tab, which shows it."""
        self.say("", warning=fault)

    def say(self, text: str, hint: str = "", warning: str = "") -> None:
        """Show a text and its tooltip; a warning is a fault, which the tab shows."""
        self.fault = warning
        super().say(text, hint, self._note if text and text != self._asking_text else "")
        self.changed.emit()


@dataclass(frozen=True)
class InputsLookup:
    """The images of a batch. unknown: how many of the first `looked` images have no known voxel size."""

    inputs: BatchInputs
    unknown: int
    looked: int


def describe_unknown_sizes(answer: InputsLookup) -> str:
    """Return a note on images without a known voxel size, "" if all have one."""
    if not answer.unknown:
        return ""
    total = len(answer.inputs.entries)
    which = f"{answer.unknown} of the first {answer.looked} images" if answer.looked < total else ""
    which = which or ("all images" if answer.unknown == total else f"{answer.unknown} of {total} images")
    return (
        f"The voxel size is not known of {which}: if all have the same, give it in the Segment tab and tick Details › "
        "Calibration of the Segment tab."
    )


def check_batch(settings: BatchSettings) -> BatchInputs:
    """Return the images of a batch after a check of the folders; create nothing.

    Raises:
        FileError: there is no image, no truth or no mask, or the folder of the results cannot be created.
        InputError: the results would lie among the images without permission, or in one of them; one truth for several
            images.
    """
    check_place(settings.output)
    try:
        found = find_inputs(settings)
    except InputError as error:
        if settings.inside:
            raise
        find_inputs(replace(settings, inside=True))  # raises if something else is wrong, which is said first
        raise InputError(AMONG) from error
    check_companions(settings, len(found.entries))
    return found


def check_place(output: str) -> None:
    """Check that a folder exists or can be created, and that files can be written into it.

    Raises:
        FileError: it cannot.
    """
    place = Path(output).expanduser().absolute()
    nearest = next(folder for folder in (place, *place.parents) if os.path.lexists(folder))
    if not nearest.is_dir():
        raise FileError(
            f"The folder '{output}' cannot be created, because '{nearest}' is not a folder: choose a different one."
        )
    is_of_machine = any(nearest.resolve().is_relative_to(each) for each in MACHINE)
    if is_of_machine or not os.access(nearest, os.W_OK | os.X_OK):
        what = "be written into" if nearest == place else "be created there"
        raise FileError(f"The folder '{output}' cannot {what}: choose one where you may write.")
