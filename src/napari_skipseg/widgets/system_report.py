"""A dialog with facts about this machine for a bug report; the engine collects them."""

from __future__ import annotations

from functools import partial

from qtpy.QtWidgets import QApplication, QDialog, QDialogButtonBox, QPlainTextEdit, QVBoxLayout, QWidget

from napari_skipseg.jobs.messages import ReportSystem
from napari_skipseg.widgets.forms.engine_queue import EngineLike
from napari_skipseg.widgets.forms.worker import WorkOutcome, start_work

_ASKING = "Trying a small network and asking for versions…"
_SIZE = (680, 520)


class SystemReportDialog(QDialog):  # type: ignore[misc]
    """The report, requested when the dialog opens. *Copy* takes the whole `text`."""

    def __init__(self, parent: QWidget, engine: EngineLike) -> None:
        super().__init__(parent)
        self.setWindowTitle("System report")
        self.resize(*_SIZE)
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
        start_work(self, work, "Reporting", lambda _: None, self._show, lambda: None, is_quiet=True)

    def _show(self, outcome: WorkOutcome) -> None:
        self.text.setPlainText(outcome.fault or report_text(outcome.value.facts))
        self.copy.setEnabled(not outcome.fault)


def report_text(facts: dict[str, str]) -> str:
    """Return the report, a line for each fact."""
    return "\n".join(f"{name}: {value}" for name, value in facts.items())
