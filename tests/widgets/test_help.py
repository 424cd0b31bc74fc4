"""The help button opens the page that explains the tab in front."""

from __future__ import annotations

from pathlib import Path

import pytest
from qtpy.QtCore import Qt
from qtpy.QtGui import QDesktopServices

from napari_skipseg.widgets.panel import SITE, page_of

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.gui
def test_help_opens_the_page_of_each_tab(open_panel, qtbot, monkeypatch):
    opened = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: opened.append(url.toString()))
    _, panel = open_panel()
    names = [panel.tabs.tabText(number) for number in range(panel.tabs.count())]
    assert len(names) >= 6
    for name in names:
        assert (DOCS / f"{page_of(name).removeprefix(SITE).rstrip('/')}.md").is_file(), name
    for name in ("Correct", "Segment"):  # the others begin to work when they are shown
        panel.show_tab(name)
        qtbot.mouseClick(panel.help_button, Qt.MouseButton.LeftButton)
        assert opened.pop() == page_of(name)
    qtbot.wait(1_000)  # what began when the tabs were shown must end before the window closes
