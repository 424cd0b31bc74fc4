"""Dialogs for files and folders, each of which opens in the folder that was chosen last; and the system report."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from qtpy.QtWidgets import QApplication, QDialog, QDialogButtonBox, QFileDialog, QPlainTextEdit, QVBoxLayout, QWidget

from napari_skipseg.jobs.messages import ReportSystem
from napari_skipseg.widgets.forms.worker import EngineLike, WorkOutcome, start_work
from napari_skipseg.widgets.settings import open_settings

_KEY = "folder/{}"


def last_folder(purpose: str) -> str:
    """Return the folder that was chosen last for a purpose, "" if there is none or it was removed."""
    found = open_settings().get(_KEY.format(purpose))
    return found if isinstance(found, str) and Path(found).is_dir() else ""


def remember_folder(purpose: str, folder: Path) -> None:
    """Remember the folder that was chosen for a purpose."""
    settings = open_settings()
    settings.put(_KEY.format(purpose), str(folder.absolute()))
    settings.save()


def ask_new_file(parent: QWidget, title: str, name: str, kinds: str, purpose: str) -> tuple[Path | None, str]:
    """Return the file to write that the user chooses, None if none, and the chosen kind. name: the proposed one."""
    start = str(Path(last_folder(purpose), name))
    chosen, kind = QFileDialog.getSaveFileName(parent, title, start, kinds)
    return _taken(chosen, purpose), kind


def ask_file(parent: QWidget, title: str, kinds: str, purpose: str) -> Path | None:
    """Return the file to read that the user chooses, None if none."""
    return _taken(QFileDialog.getOpenFileName(parent, title, last_folder(purpose), kinds)[0], purpose)


def ask_folder(parent: QWidget, title: str, purpose: str, is_file: bool = False) -> Path | None:
    """Return the folder that the user chooses, None if none. is_file: it is one image, such as an OME-Zarr."""
    chosen = QFileDialog.getExistingDirectory(parent, title, last_folder(purpose))
    return _taken(chosen, purpose, is_place=not is_file)


def _taken(chosen: str, purpose: str, is_place: bool = False) -> Path | None:
    if not chosen:
        return None
    path = Path(chosen)
    remember_folder(purpose, path if is_place else path.parent)
    return path


_ASKING = "Trying a small network and asking for versions…"


class SystemReportDialog(QDialog):  # type: ignore[misc]
    """The report, requested when the dialog opens. *Copy* takes the whole `text`."""

    def __init__(self, parent: QWidget, engine: EngineLike) -> None:
        super().__init__(parent)
        self.setWindowTitle("System report")
        self.resize(680, 520)
        self.text = QPlainTextEdit(_ASKING)
        self.text.setReadOnly(True)
        self.text.setLineWrapMode(QPlainTextEdit.LineWrapMode.WidgetWidth)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        self.copy = buttons.addButton("Copy", QDialogButtonBox.ButtonRole.ActionRole)
        self.copy.setEnabled(False)
        self.copy.clicked.connect(lambda: QApplication.clipboard().setText(self.text.toPlainText()))
        buttons.rejected.connect(self.reject)
        column = QVBoxLayout(self)
        column.addWidget(self.text)
        column.addWidget(buttons)
        work = partial(engine.run, ReportSystem())
        start_work(self, work, "Reporting", on_outcome=self._show, is_quiet=True)

    def _show(self, outcome: WorkOutcome) -> None:
        self.text.setPlainText(outcome.fault or report_text(outcome.value.facts))
        self.copy.setEnabled(not outcome.fault)


def report_text(facts: dict[str, str]) -> str:
    """Return the report, a line for each fact."""
    return "\n".join(f"{name}: {value}" for name, value in facts.items())
