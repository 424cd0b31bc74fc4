"""The form of the Batch tab: which images, where the results go, how they are written; the rest is other tabs' form."""

from __future__ import annotations

from html import escape
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QFormLayout, QSpinBox, QWidget

from napari_skipseg.widgets.batch_choices import BatchChoices
from napari_skipseg.widgets.fields import FreshCombo, WrappedLine
from napari_skipseg.widgets.folds import Fold
from napari_skipseg.widgets.scratch_form import FolderField

HINTS = {
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
FORMATS = (("OME-TIFF", "tiff"), ("OME-Zarr", "ome-zarr"))
DEPTHS = (("8-bit", "uint8"), ("float", "float32"))
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
        fold = self.fold = DetailsFold()
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
        self.show_choices(BatchChoices())

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
            field.setToolTip(HINTS[name])
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

    def read(self) -> BatchChoices:
        """Return the choices as they stand."""
        return BatchChoices(**{name: _value(field) for name, field in self._fields.items()})

    def show_choices(self, choices: BatchChoices) -> None:
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


class DetailsFold(Fold):
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
