"""The system report is asked of the engine, shown as plain text, and can be copied."""

from __future__ import annotations

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

from napari_skipseg.errors import EngineError

pytestmark = pytest.mark.gui


def test_the_button_beside_the_device_shows_a_report_to_copy(open_panel, qtbot):
    _, panel = open_panel()
    tab = panel.segment_tab
    qtbot.mouseClick(tab.form.report, Qt.MouseButton.LeftButton)
    dialog = tab.report
    qtbot.waitUntil(lambda: "torch version: 2.13.0+cpu" in dialog.text.toPlainText(), timeout=5_000)
    assert dialog.text.isReadOnly()
    assert dialog.text.toPlainText().splitlines()[0] == "device: cpu (CPU, 2 cores)"
    qtbot.mouseClick(dialog.copy, Qt.MouseButton.LeftButton)
    assert QApplication.clipboard().text() == dialog.text.toPlainText()
    dialog.reject()


def test_a_fault_of_the_engine_is_shown_and_not_copied(open_panel, qtbot, engine):
    engine.report_fault = EngineError("The engine is busy: wait until it is done.")
    _, panel = open_panel()
    panel.segment_tab.show_report()
    dialog = panel.segment_tab.report
    qtbot.waitUntil(lambda: "busy" in dialog.text.toPlainText(), timeout=5_000)
    assert not dialog.copy.isEnabled()
    dialog.reject()
