"""After a segmentation: the line with its duration and the share of each class, and the files that it is saved to."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from qtpy.QtWidgets import QCheckBox, QDialog, QDialogButtonBox, QFormLayout, QMessageBox, QVBoxLayout, QWidget

from napari_skipseg.foreign_text import without_bidi_marks
from napari_skipseg.images.formats import FORMAT_ENDINGS, USUAL_DEPTH, Depth, Format
from napari_skipseg.inference.prediction import Binary, Focus, Prediction, Threshold
from napari_skipseg.inference.recipes.recipe import RECIPE_FILE
from napari_skipseg.objects.classes import records_padding
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.forms.accessible import name_controls
from napari_skipseg.widgets.forms.dialogs import remember_folder
from napari_skipseg.widgets.forms.fields import FolderField, FreshCombo, PlainLabel
from napari_skipseg.widgets.layers.results import ShownResult
from napari_skipseg.widgets.settings import open_settings
from napari_skipseg.wording import counted, in_words, percent

PLANES, SIDE = 32, 512
"""Most planes, and most pixels along each side of one, that are counted: a large result is sampled evenly."""


LONG_START = 2.0
"""Seconds from which on the line names the start of the engine."""
WHOLE_IS_KEPT = " The result of the whole image is kept; its layers are hidden."


class DoneRun(NamedTuple):
    """A prediction, and the share of its voxels that each class has at a threshold, by name.

    of_tissue: the shares leave out areas without tissue, such as a black frame.
    """

    prediction: Prediction
    shares: dict[str, float]
    of_tissue: bool = False


def with_shares(
    work: Callable[[], Generator[Progress, Focus | None, Prediction]], threshold: Threshold
) -> Generator[Progress, Focus | None, DoneRun]:
    """Run a segmentation; return its prediction with the shares of the classes."""
    prediction = yield from work()
    return DoneRun(prediction, class_shares(prediction, threshold), has_padding(prediction))


def has_padding(prediction: Prediction) -> bool:
    """Return whether constant areas of the image were left out."""
    return bool(prediction.recipe.get("normalization", {}).get("padding"))


def class_shares(prediction: Prediction, threshold: Threshold) -> dict[str, float]:
    """Return the share of tissue, or of the mask, that each class has, in [0, 1], by name; large ones are sampled."""
    names, leaves_out = prediction.class_names, records_padding(prediction.recipe)
    labels = Binary(prediction.probability, prediction.thresholds_at(threshold), len(names) > 1)
    planes = math.prod(labels.shape[:-2])
    chosen = np.unique(np.linspace(0, planes - 1, min(planes, PLANES)).astype(int))
    steps = [slice(None, None, -(-length // SIDE)) for length in labels.shape[-2:]]
    counts: Any = np.zeros(len(names) + 1, np.int64)
    for plane in chosen:
        place = tuple(int(part) for part in np.unravel_index(plane, labels.shape[:-2])) if labels.ndim > 2 else ()
        found = np.asarray(labels[place])[*steps]
        if leaves_out:
            classes: Any = (slice(None), *place) if len(names) > 1 else place
            probability: Any = np.asarray(prediction.probability[classes])
            # voxels that were left out have exactly 0 in all classes
            is_set = probability[..., *steps] != 0
            found = found[is_set if is_set.ndim == 2 else is_set.any(axis=0)]
        counts += np.bincount(found.ravel(), minlength=len(names) + 1)
    return {name: float(counts[number]) / max(1, counts.sum()) for number, name in enumerate(names, start=1)}


def describe_done(what: str, seconds: float, done: DoneRun, threshold: Threshold, started: float = 0.0) -> str:
    """Return the line, such as "6 slices segmented in 12 s: 23 % of the tissue is membrane (above 0.50).".

    started: how many of the seconds the start of the engine took.
    """
    of = " of the tissue" if done.of_tissue else ""
    each = done.prediction.thresholds_at(threshold)
    same = f" (above {each[0]:.2f})" if len(set(each)) == 1 else ""
    above = ["" if same else f" (above {value:.2f})" for value in each]
    shares = zip(done.shares.items(), above, strict=True)
    parts = ", ".join(f"{percent(share)}{of} is {name}{note}" for (name, share), note in shares)
    start = f" ({in_words(started)} of it to start the engine)" if started >= LONG_START else ""
    return f"{what} segmented in {in_words(seconds)}{start}: {parts}{same}."


def name_part(shown: ShownResult, spanned: str) -> str:
    """Return the subject of the line: "6 slices", "Slice z 3", "The view was". spanned: the axes segmented together."""
    if shown.positions:
        place = shown.prefix.strip()
        if shown.source.endswith(" preview"):
            return "The view was"
        return f"Slice {place}" if spanned == "YX" and not place.startswith(("Box ", "Mask ")) else place
    axes = shown.prediction.space.axes.replace("C", "")
    if axes == spanned:
        return "The image was" if spanned == "YX" else "The volume was"
    lengths = shown.prediction.probability.shape[-len(axes) :]
    count = math.prod(length for axis, length in zip(axes, lengths, strict=True) if axis not in spanned)
    return counted(count, "slice" if spanned == "YX" else "volume")


TITLES = {
    "probability": "probability",
    "binary": "binary: labels at the current threshold",
    "uncertainty": "uncertainty",
}

FORMATS = (("OME-TIFF", "tiff"), ("OME-Zarr", "ome-zarr"))

DEPTHS = (("8-bit", "uint8"), ("float", "float32"))

FORM_HINT = "OME-TIFF opens nearly everywhere; OME-Zarr suits large volumes"

DEPTH_HINT = "How probability and attention are stored: as 0-255, or as fractions in four times the space"

_FORM, _DEPTH = "save/format", "save/values"

SAVED_RESULTS = "saved results"
"""The purpose of the folder into which results are saved."""


@dataclass(frozen=True)
class SaveChoices:
    """Which results are written, in which format, and into which folder."""

    folder: Path
    results: tuple[str, ...]
    form: Format = "tiff"
    depth: Depth = USUAL_DEPTH

    def files(self, name: str) -> list[Path]:
        """Return the files that are written, the recipe last. name: the beginning of their names."""
        results = [self.folder / f"{name}_{result}{FORMAT_ENDINGS[self.form]}" for result in self.results]
        return [*results, self.folder / f"{name}_{RECIPE_FILE}"]


class SaveDialog(QDialog):  # type: ignore[misc]
    """Which results, in which format, into which folder."""

    def __init__(self, parent: QWidget, title: str, results: Sequence[str], folder: str) -> None:
        super().__init__(parent)
        self.setWindowTitle("Save results")
        self.ticks = {name: QCheckBox(TITLES.get(name, name.replace("_", " "))) for name in results}
        self.form, self.depth, self.folder = FreshCombo(), FreshCombo(), FolderField("Results")
        self.form.offer(list(FORMATS), open_settings().get(_FORM) or "tiff")
        self.depth.offer(list(DEPTHS), open_settings().get(_DEPTH) or USUAL_DEPTH)
        self.form.setToolTip(FORM_HINT)
        self.depth.setToolTip(DEPTH_HINT)
        self.folder.text.setText(folder)
        self.folder.text.setMinimumWidth(320)
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Save | QDialogButtonBox.StandardButton.Cancel)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        for tick in self.ticks.values():
            tick.setChecked(True)
            tick.toggled.connect(self._check)
        self.folder.text.textChanged.connect(self._check)
        column, rows, ticks = QVBoxLayout(self), QFormLayout(), QVBoxLayout()
        column.addWidget(PlainLabel(title))
        for tick in self.ticks.values():
            ticks.addWidget(tick)
        rows.addRow("Write", ticks)
        rows.addRow("Format", self.form)
        rows.addRow("Values", self.depth)
        rows.addRow("Folder", self.folder)
        column.addLayout(rows)
        column.addWidget(PlainLabel("A recipe that says how the results were made is written beside them."))
        column.addWidget(self.buttons)
        name_controls(self)
        self._check()

    def _check(self) -> None:
        """Enable Save if something is ticked and a folder is given."""
        is_right = any(tick.isChecked() for tick in self.ticks.values()) and bool(self.folder.typed())
        self.buttons.button(QDialogButtonBox.StandardButton.Save).setEnabled(is_right)

    def read(self) -> SaveChoices:
        """Return the choices as they stand."""
        results = tuple(name for name, tick in self.ticks.items() if tick.isChecked())
        folder = Path(self.folder.typed()).expanduser()
        return SaveChoices(folder, results, self.form.currentData(), self.depth.currentData())


def ask_what_to_save(parent: QWidget, title: str, name: str, results: Sequence[str], folder: str) -> SaveChoices | None:
    """Return the choices of the user, None if the dialog was cancelled.

    title: the image and its part. name: the beginning of the names of the files. folder: the proposed folder.
    """
    dialog = SaveDialog(parent, title, results, folder)
    if dialog.exec() != QDialog.DialogCode.Accepted:
        return None
    choices = dialog.read()
    open_settings().put(_FORM, choices.form)
    open_settings().put(_DEPTH, choices.depth)
    remember_folder(SAVED_RESULTS, choices.folder)
    there = [file.name for file in choices.files(name) if file.exists()]
    question = f"{', '.join(there)} in this folder will be replaced. Go on?"
    if (
        there
        and QMessageBox.question(parent, "Replace results?", without_bidi_marks(question))
        != QMessageBox.StandardButton.Yes
    ):
        return None
    return choices


def results_to_save(prediction: Prediction) -> list[str]:
    """Return the names of the results of a prediction that can be written."""
    uncertainty = [] if prediction.uncertainty is None else ["uncertainty"]
    return ["probability", "binary", *uncertainty, *(f"attention_{each.level}" for each in prediction.attentions)]


def save_results(prediction: Prediction, choices: SaveChoices, name: str, threshold: Threshold) -> list[Path]:
    """Write a prediction and return its files, the recipe last.

    Raises:
        FileError: the files cannot be written.
    """
    from napari_skipseg.inference.saving import save_prediction

    save_prediction(
        prediction, choices.folder, name, threshold, choices.depth, form=choices.form, results=choices.results
    )
    return choices.files(name)
