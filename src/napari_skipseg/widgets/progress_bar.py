"""The bar of a job: how much of it is done; still while that cannot be counted."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtGui import QBrush, QColor, QPainter, QPaintEvent
from qtpy.QtWidgets import QProgressBar

from napari_skipseg.progress import Progress

HEIGHT = 8
STRIPES = QColor(128, 128, 128, 200)


class JobBar(QProgressBar):  # type: ignore[misc]
    """A thin bar without text. Where work is not counted in steps it shows stripes that do not move.

    Qt's own moving bar has the whole window drawn 30 times a second, canvas included: without a GPU that takes 40-70 %
    of a processor core away from the work that is waited for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setTextVisible(False)
        self.setFixedHeight(HEIGHT)
        self.is_counting = True
        self.hide()

    def show_progress(self, progress: Progress) -> None:
        """Show the share that is done, or stripes."""
        counts = progress.total > 1
        if counts != self.is_counting:
            self.is_counting = counts
            self.update()
        self.setRange(0, progress.total if counts else 1)
        self.setValue(progress.done if counts else 0)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        """Draw the bar, or stripes."""
        super().paintEvent(event)
        if not self.is_counting:
            painter = QPainter(self)
            painter.fillRect(self.rect(), QBrush(STRIPES, Qt.BrushStyle.BDiagPattern))
            painter.end()
