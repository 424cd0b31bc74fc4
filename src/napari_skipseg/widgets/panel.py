"""The SkipSeg dock: its tabs, and the engine they share."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFrame, QScrollArea, QTabWidget, QVBoxLayout, QWidget

from napari_skipseg.jobs.client import Engine
from napari_skipseg.widgets.segment import SegmentTab


class SkipSegPanel(QWidget):  # type: ignore[misc]
    """One dock for all that SkipSeg does. The engine lives and ends with it."""

    def __init__(self, napari_viewer, engine=None) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.engine = Engine() if engine is None else engine
        self.segment_tab = SegmentTab(napari_viewer, self.engine)
        self.tabs = QTabWidget()
        self.tabs.addTab(_scrolled(self.segment_tab), "Segment")
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 4, 4, 4)
        column.addWidget(self.tabs)
        self.setMinimumWidth(330)
        # these outlive the window's side of the panel, so that neither events nor the engine do
        close, cut = self.engine.close, self.segment_tab.form.cut_links
        self.destroyed.connect(lambda: (close(), cut()))


def _scrolled(tab: QWidget) -> QScrollArea:
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(tab)
    return area
