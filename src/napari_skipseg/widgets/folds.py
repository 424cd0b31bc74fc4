"""A part of a form that is folded away under its title."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtGui import QIcon, QPixmap
from qtpy.QtWidgets import QWidget
from superqt import QCollapsible

FLAT = "QPushButton, QPushButton:checked { text-align: left; border: none; background: transparent; padding: 3px 0px; }"


class Fold(QCollapsible):  # type: ignore[misc]
    """A title that unfolds what is given to `fill`."""

    def __init__(self, title: str) -> None:
        super().__init__(f"▸ {title}", expandedIcon=_no_icon(), collapsedIcon=_no_icon())
        self.layout().setContentsMargins(0, 0, 0, 0)
        self.toggleButton().setStyleSheet(FLAT)
        self.toggled.connect(lambda opened: self.setText(f"{'▾' if opened else '▸'} {title}"))
        self.setDuration(0)

    def fill(self, inner: QWidget) -> None:
        """Fold `inner` away; while it is folded the Tab key passes it by."""
        self.setContent(inner)
        self.toggled.connect(inner.setVisible)
        self.collapse(animate=False)

    def fit(self) -> None:
        """Take the height that the rows have now."""
        if self.isExpanded():
            self.expand(animate=False)


def _no_icon() -> QIcon:
    """Return an icon that shows nothing: superqt's own would keep the colour of the first theme."""
    pixmap = QPixmap(1, 1)
    pixmap.fill(Qt.GlobalColor.transparent)
    return QIcon(pixmap)
