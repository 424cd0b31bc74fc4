"""No text of the panel is cut off; `QT_SCALE_FACTOR=1.25 pytest …` asks the same of a scaled screen."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QLabel, QLineEdit

from napari_skipseg.widgets.forms.fields import Collapsible, FreshCombo

pytestmark = pytest.mark.gui
ROUNDED = 1
"""Pixels that a scaled screen may round off."""


def cut(tab):
    """The texts in a tab that have less room than they need."""
    for each in tab.findChildren(QLabel):
        lacks = each.sizeHint().width() - each.width()
        if each.wordWrap():
            lacks = each.heightForWidth(each.width()) - each.height()
        if each.isVisible() and lacks > ROUNDED:
            yield each.text()
    for each in tab.findChildren(QAbstractButton):
        if each.isVisible() and each.text() and each.sizeHint().width() > each.width() + ROUNDED:
            yield each.text()
    for each in tab.findChildren(FreshCombo):
        if each.isVisible() and each.fontMetrics().horizontalAdvance(each.shown_text()) > each.width():
            yield each.currentText()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_text_is_cut_off_at_the_least_width_of_the_panel(open_panel, qtbot, theme):
    viewer, panel = open_panel()
    viewer.theme = theme
    viewer.add_image(np.zeros((3, 32, 48), np.uint8), name="em")
    dock = panel.parent()
    dock.parent().resizeDocks([dock], [1], Qt.Orientation.Horizontal)
    found = {}
    for number in range(panel.tabs.count()):
        panel.tabs.setCurrentIndex(number)
        tab = panel.tabs.currentWidget().widget()
        for fold in tab.findChildren(Collapsible):
            fold.expand(animate=False)
        qtbot.wait(200)
        found[panel.tabs.tabText(number)] = list(cut(tab))
    assert {name: texts for name, texts in found.items() if texts} == {}
    assert len(found) == 7
    bar = panel.tabs.tabBar()
    assert all(
        bar.tabRect(n).width() >= bar.fontMetrics().horizontalAdvance(bar.tabText(n)) for n in range(bar.count())
    )


def test_every_text_of_the_panel_grows_with_the_font_size_of_napari(open_panel, qtbot):
    from napari.settings import get_settings

    _, panel = open_panel()
    form, appearance = panel.segment_tab.form, get_settings().appearance
    texts = [each for each in panel.findChildren(QLabel) if each.property("smaller_text")]
    assert form.device_note in texts
    texts += [form.axes, form.voxel_size.findChild(QLineEdit)]
    before, size = [each.fontInfo().pixelSize() for each in texts], appearance.font_size
    try:
        appearance.font_size = 2 * size
        qtbot.wait(50)
        after = [each.fontInfo().pixelSize() for each in texts]
    finally:
        appearance.font_size = size
    assert all(large > 1.5 * small for small, large in zip(before, after, strict=True))
