"""Results into files: which of them, as what and where, asked in one dialog; and the writing beside the window."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qtpy.QtWidgets import (
    QCheckBox,
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QMessageBox,
    QVBoxLayout,
    QWidget,
)

from napari_skipseg.foreign_text import unmarked
from napari_skipseg.images.formats import ENDINGS, Format
from napari_skipseg.inference.outputs import USUAL_DEPTH, Depth, Prediction
from napari_skipseg.inference.recipe import RECIPE_FILE
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.batch_form import DEPTHS, FORMATS
from napari_skipseg.widgets.fields import FreshCombo, PlainLabel
from napari_skipseg.widgets.scratch_form import FolderField

TITLES = {
    "probability": "probability",
    "binary": "binary: labels at the current threshold",
    "uncertainty": "uncertainty",
}
FORM_HINT = "OME-TIFF opens nearly everywhere; OME-Zarr suits large volumes"
DEPTH_HINT = "How probability and attention are stored: as 0-255, or as fractions in four times the space"


@dataclass(frozen=True)
class SaveChoices:
    """What is written: the results by their names, as what, and into which folder."""

    folder: Path
    results: tuple[str, ...]
    form: Format = "tiff"
    depth: Depth = USUAL_DEPTH

    def files(self, name: str) -> list[Path]:
        """Return the files that are written for results of such a name, the recipe last."""
        results = [self.folder / f"{name}_{result}{ENDINGS[self.form]}" for result in self.results]
        return [*results, self.folder / f"{name}_{RECIPE_FILE}"]


class SaveDialog(QDialog):  # type: ignore[misc]
    """Which results, in which format, into which folder."""

    def __init__(self, parent: QWidget, title: str, results: Sequence[str], folder: str) -> None:
        super().__init__(parent)
        self.setWindowTitle("Save results")
        self.ticks = {name: QCheckBox(TITLES.get(name, name.replace("_", " "))) for name in results}
        self.form, self.depth, self.folder = FreshCombo(), FreshCombo(), FolderField("Results")
        self.form.offer(list(FORMATS), "tiff")
        self.depth.offer(list(DEPTHS), USUAL_DEPTH)
        self.form.setToolTip(FORM_HINT)
        self.depth.setToolTip(DEPTH_HINT)
        self.folder.text.setText(folder)
        self.folder.text.setMinimumWidth(320)
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Save | QDialogButtonBox.StandardButton.Cancel)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        self._lay_out(title)
        for tick in self.ticks.values():
            tick.setChecked(True)
            tick.toggled.connect(self._check)
        self.folder.text.textChanged.connect(self._check)
        self._check()

    def _lay_out(self, title: str) -> None:
        column, rows, ticks = QVBoxLayout(self), QFormLayout(), QVBoxLayout()
        column.addWidget(PlainLabel(title))
        for tick in self.ticks.values():
            ticks.addWidget(tick)
        rows.addRow("Write", ticks)
        rows.addRow("Format", self.form)
        rows.addRow("Values", self.depth)
        rows.addRow("Folder", self.folder)
        column.addLayout(rows)
        column.addWidget(PlainLabel("A recipe that tells how the results were made is written beside them."))
        column.addWidget(self.buttons)

    def _check(self) -> None:
        """Save is on when something is ticked and a folder is named."""
        is_right = any(tick.isChecked() for tick in self.ticks.values()) and bool(self.folder.text.text().strip())
        self.buttons.button(QDialogButtonBox.StandardButton.Save).setEnabled(is_right)

    def read(self) -> SaveChoices:
        """Return the choices as they stand."""
        results = tuple(name for name, tick in self.ticks.items() if tick.isChecked())
        folder = Path(self.folder.text.text().strip()).expanduser()
        return SaveChoices(folder, results, self.form.currentData(), self.depth.currentData())


def ask_what_to_save(parent: QWidget, title: str, name: str, results: Sequence[str], folder: str) -> SaveChoices | None:
    """Return what the user chooses of results of such a name; None where nothing is to be written.

    title: of which image and part of it they are. folder: where they go unless the user chooses another one.
    """
    dialog = SaveDialog(parent, title, results, folder)
    if dialog.exec() != QDialog.DialogCode.Accepted:
        return None
    choices = dialog.read()
    there = [file.name for file in choices.files(name) if file.exists()]
    question = f"{', '.join(there)} in this folder will be replaced. Go on?"
    if there and QMessageBox.question(parent, "Replace results?", unmarked(question)) != QMessageBox.StandardButton.Yes:
        return None
    return choices


def results_of(prediction: Prediction) -> list[str]:
    """Return the names of the results that can be written of a prediction."""
    uncertainty = [] if prediction.uncertainty is None else ["uncertainty"]
    return ["probability", "binary", *uncertainty, *(f"attention_{each.level}" for each in prediction.attentions)]


def iter_save(
    prediction: Prediction, choices: SaveChoices, name: str, threshold: float
) -> Generator[Progress, None, list[Path]]:
    """Return the files that a prediction was written into, its recipe last.

    Raises:
        FileError: nothing can be written.
    """
    from napari_skipseg.inference.saving import save_prediction

    yield Progress(0, 1, "writing the results")
    save_prediction(
        prediction, choices.folder, name, threshold, choices.depth, form=choices.form, results=choices.results
    )
    return choices.files(name)
