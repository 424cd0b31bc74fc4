"""How far a job is: a bar that stands still while nothing can be counted, and a line of text that draws only itself."""

from __future__ import annotations

from qtpy.QtCore import QRect, QSize, Qt
from qtpy.QtGui import QBrush, QColor, QPainter, QPaintEvent
from qtpy.QtWidgets import QProgressBar, QSizePolicy, QWidget

from napari_skipseg.progress import Progress

_HEIGHT = 8
STRIPES = QColor(128, 128, 128, 200)


class JobBar(QProgressBar):  # type: ignore[misc]
    """A thin bar without text. Where work is not counted in steps it shows stripes that do not move.

    Qt's own moving bar has the whole window drawn 30 times a second, canvas included: without a GPU that takes 40-70 %
    of a processor core away from the work that is waited for.
    """

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
        self.setUpdatesEnabled(False)  # Qt's bar draws at once, and so apart from the text beside it
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
    """Text that changes often, wrapped, hidden while it is empty.

    A QLabel asks for a new layout with every text, which has the whole window drawn two times more; this one asks only
    where the number of its lines changes.
    """

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
        """Return that it does."""
        return True

    def heightForWidth(self, width: int) -> int:  # noqa: N802
        """Return how high the text is in such a width."""
        room = QRect(0, 0, max(width - 2 * _PADDING, 1), TALL)
        return int(self.fontMetrics().boundingRect(room, WRAPPED, self._text).height()) + 2 * _PADDING

    def sizeHint(self) -> QSize:  # noqa: N802
        """Return the size that the layout begins with."""
        return QSize(200, self.heightForWidth(200))

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """Return the size of one line: the height for the width counts."""
        return QSize(50, self.fontMetrics().height() + 2 * _PADDING)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        """Draw the text."""
        painter = QPainter(self)
        painter.setPen(self.palette().windowText().color())
        painter.drawText(self.rect().adjusted(_PADDING, _PADDING, -_PADDING, -_PADDING), WRAPPED, self._text)
        painter.end()
