"""The progress of a job: a bar that is still while nothing can be counted, and a text that repaints only itself."""

from __future__ import annotations

from qtpy.QtCore import QRect, QSize, Qt
from qtpy.QtGui import QBrush, QColor, QPainter, QPaintEvent
from qtpy.QtWidgets import QProgressBar, QSizePolicy, QWidget

from napari_skipseg.progress import Progress

_HEIGHT = 8
STRIPES = QColor(128, 128, 128, 200)


class JobBar(QProgressBar):  # type: ignore[misc]
    """A thin bar without text. It shows stripes that do not move while work has no steps to count."""

    # Qt's own moving bar repaints the whole window 30 times a second, canvas included: without a GPU that takes 40-70 %
    # of a processor core away from the job

    def __init__(self) -> None:
        super().__init__()
        self.setTextVisible(False)
        self.setFixedHeight(_HEIGHT)
        self.is_counting = True
        self.hide()

    def show_progress(self, progress: Progress) -> None:
        """Show the share that is done, or stripes."""
        counts = progress.total > 1
        shown = (progress.done, progress.total) if counts else (0, 1)
        if (counts, *shown) == (self.is_counting, self.value(), self.maximum()):
            return
        self.is_counting = counts
        self.setUpdatesEnabled(False)  # else Qt repaints the bar at once, and the text beside it once more
        self.setRange(0, shown[1])
        self.setValue(shown[0])
        self.setUpdatesEnabled(True)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        """Draw the bar, or stripes."""
        super().paintEvent(event)
        if not self.is_counting:
            painter = QPainter(self)
            painter.fillRect(self.rect(), QBrush(STRIPES, Qt.BrushStyle.BDiagPattern))
            painter.end()


WRAPPED = int(Qt.TextFlag.TextWordWrap) | int(Qt.AlignmentFlag.AlignTop)
_PADDING = 5
TALL = 10**4


class ProgressLine(QWidget):  # type: ignore[misc]
    """Wrapped text that changes often; hidden while it is empty."""

    # a QLabel requests a new layout for every text, which repaints the whole window twice; this one only if the number
    # of its lines changes

    def __init__(self) -> None:
        super().__init__()
        self._text = ""
        policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        self.hide()

    def text(self) -> str:
        """Return the text."""
        return self._text

    def say(self, text: str) -> None:
        """Show `text`; an empty one hides the line."""
        if text == self._text:
            return
        height = self.heightForWidth(self.width())
        self._text = text
        self.setVisible(bool(text))
        if self.heightForWidth(self.width()) != height:
            self.updateGeometry()
        self.update()

    def hasHeightForWidth(self) -> bool:  # noqa: N802
        """Return True."""
        return True

    def heightForWidth(self, width: int) -> int:  # noqa: N802
        """Return the height of the text in a width."""
        room = QRect(0, 0, max(width - 2 * _PADDING, 1), TALL)
        return int(self.fontMetrics().boundingRect(room, WRAPPED, self._text).height()) + 2 * _PADDING

    def sizeHint(self) -> QSize:  # noqa: N802
        """Return the size that a layout starts with."""
        return QSize(200, self.heightForWidth(200))

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """Return the size of one line; the layout asks `heightForWidth` for more."""
        return QSize(50, self.fontMetrics().height() + 2 * _PADDING)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        """Draw the text."""
        painter = QPainter(self)
        painter.setPen(self.palette().windowText().color())
        painter.drawText(self.rect().adjusted(_PADDING, _PADDING, -_PADDING, -_PADDING), WRAPPED, self._text)
        painter.end()
