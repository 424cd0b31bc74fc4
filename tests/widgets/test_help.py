"""The help button opens the page that explains the tab in front."""

from __future__ import annotations

from pathlib import Path

import pytest
from qtpy.QtCore import Qt
from qtpy.QtGui import QDesktopServices

from napari_skipseg.widgets.forms.help import SITE, page_of
from napari_skipseg.widgets.panel import SkipSegPanel

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.gui
def test_help_opens_the_page_of_each_tab(make_napari_viewer, engine, qtbot, monkeypatch):
    opened = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: opened.append(url.toString()))
    panel = SkipSegPanel(make_napari_viewer(show=False), engine)
    qtbot.addWidget(panel)
    names = [panel.tabs.tabText(number) for number in range(panel.tabs.count())]
    for number, name in enumerate(names):
        panel.tabs.setCurrentIndex(number)
        qtbot.mouseClick(panel.help_button, Qt.MouseButton.LeftButton)
        assert opened[-1] == page_of(name)
        assert (DOCS / f"{opened[-1].removeprefix(SITE).rstrip('/')}.md").is_file(), name
    assert len(opened) == len(names) >= 6
