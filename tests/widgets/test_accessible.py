"""Every control of the panel has a name that a screen reader can say, and the Tab key goes down the form."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QLineEdit, QPushButton, QVBoxLayout, QWidget

from napari_skipseg.widgets.finetune.training_images import TrainingSourceList
from napari_skipseg.widgets.forms.accessible import CONTROLS, name_controls, name_of
from napari_skipseg.widgets.segment.outcome import SaveDialog

pytestmark = pytest.mark.gui


def find_controls(root: QWidget) -> list[QWidget]:
    """Return the controls in a widget that take the keyboard focus, without the parts of other controls."""

    def is_part(control: QWidget) -> bool:
        """Whether a control is inside another one, such as the line of a spin box or the heads of a table."""
        above = control.parentWidget()
        while above is not None and above is not root and not isinstance(above, CONTROLS):
            above = above.parentWidget()
        return isinstance(above, CONTROLS) and above is not root

    found = [each for each in root.findChildren(QWidget) if isinstance(each, CONTROLS)]
    return [each for each in found if each.focusPolicy() != Qt.FocusPolicy.NoFocus and not is_part(each)]


def test_a_control_takes_the_name_of_its_label_or_of_its_tooltip(qtbot):
    root, form, inner = QWidget(), QFormLayout(), QWidget()
    qtbot.addWidget(root)
    column, line, combo, bare, hidden = QVBoxLayout(root), QLineEdit(), QComboBox(), QPushButton("…"), QComboBox()
    QVBoxLayout(inner).addWidget(combo)
    form.addRow("Axes", line)
    form.addRow("Model", inner)
    column.addLayout(form)
    for each in (QCheckBox("Live"), bare, hidden):
        column.addWidget(each)
    bare.setToolTip("Choose a folder: any. Then go on.")
    hidden.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    name_controls(root)
    assert [name_of(each) for each in find_controls(root)] == ["Axes", "Model", "Live", "Choose a folder"]
    assert name_of(hidden) == ""


def test_no_control_of_the_panel_is_without_a_name(open_panel, qtbot):
    viewer, panel = open_panel()
    viewer.add_image(np.zeros((3, 32, 48), np.uint8), name="em")
    counts, unnamed = {}, []
    for number in range(panel.tabs.count()):
        panel.tabs.setCurrentIndex(number)
        qtbot.wait(150)
        controls = find_controls(panel.tabs.currentWidget().widget())
        unnamed += [(panel.tabs.tabText(number), type(each).__name__) for each in controls if not name_of(each)]
        counts[panel.tabs.tabText(number)] = len(controls)
    assert unnamed == []
    assert (counts["Segment"], counts["Batch"]) > (20, 10)
    assert name_of(panel.help_button) == "Help"
    dialog = SaveDialog(panel, "Save", ["probability"], "")
    assert [name_of(each) for each in find_controls(dialog)][:4] == ["probability", "Format", "Values", "Folder"]
    qtbot.wait(500)


def test_the_tab_key_goes_down_the_segment_form(open_panel):
    viewer, panel = open_panel()
    viewer.add_image(np.zeros((3, 32, 48), np.uint8), name="em")
    form = panel.segment_tab.form
    form.options.expand(animate=False)
    first, last, seen = form.image, panel.segment_tab.segment_button, []
    at = first
    while at is not last and len(seen) < 500:
        seen.append(at)
        at = at.nextInFocusChain()
    assert at is last
    order = [seen.index(each) for each in (form.axes, form.model, form.device, form.extent, form.options.tile)]
    assert order == sorted(order)
    assert TrainingSourceList().focusPolicy() == Qt.FocusPolicy.TabFocus
