"""Cells of the table of a batch: a name over what is said of it, a state over a bar."""

from __future__ import annotations

from qtpy.QtCore import QModelIndex, QRect, QRectF, Qt
from qtpy.QtGui import QColor, QFont, QFontMetrics, QPainter, QTextLayout, QTextOption
from qtpy.QtWidgets import QStyle, QStyledItemDelegate, QStyleOptionViewItem

from napari_skipseg.batch.rows import Row

PICTURE_SIDE = 40
ROW_HEIGHT = PICTURE_SIDE + 10
"""That a name and two lines below it have room."""
ROW_ROLE = Qt.ItemDataRole.UserRole + 1
FAILED = QColor("#e8663c")
BAR, GROOVE = QColor("#3f66c8"), QColor(128, 128, 128, 70)
FAINT = 150
"""Of 255: how strong what is said stands below a name."""
BAR_HEIGHT = 6
LINES = 2
"""Below a name."""


class FileCell(QStyledItemDelegate):  # type: ignore[misc]
    """The name of a file, cut in the middle where it is long; below it why it failed, or what is being done."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        """Draw the cell."""
        row: Row = index.data(ROW_ROLE)
        _draw_ground(painter, option, index, self)
        told = _without_file(row) or (row.message if row.state == "running" else row.note)
        small = QFont(option.font)
        small.setPointSizeF(option.font.pointSizeF() * 0.85)
        box, line = option.rect.adjusted(4, 1, -4, -1), QFontMetrics(small).height()
        lines = cut_into_lines(told, small, box.width())
        name = min(option.fontMetrics.height(), box.height() - len(lines) * line) if lines else box.height()
        top = box.top() + max(box.height() - name - len(lines) * line, 0) // 2
        color = option.palette.text().color()
        painter.save()
        painter.setFont(option.font)
        _write(
            painter, QRect(box.left(), top, box.width(), name), str(index.data()), color, Qt.TextElideMode.ElideMiddle
        )
        painter.setFont(small)
        faint = FAILED if row.reason else QColor(color.red(), color.green(), color.blue(), FAINT)
        for number, text in enumerate(lines):
            place = QRect(box.left(), top + name + number * line, box.width(), line)
            _write(painter, place, text, faint, Qt.TextElideMode.ElideRight)
        painter.restore()


def cut_into_lines(text: str, font: QFont, width: int) -> list[str]:
    """Return a text in so many lines as are below a name; the last one holds all the rest, and is cut when drawn."""
    layout = QTextLayout(text, font)
    layout.setTextOption(QTextOption(Qt.AlignmentFlag.AlignLeft))
    starts: list[int] = []
    layout.beginLayout()
    while text and len(starts) < LINES and (line := layout.createLine()).isValid():
        line.setLineWidth(width)
        starts.append(line.textStart())
    layout.endLayout()
    ends = [*starts[1:], len(text)] if starts else []
    return [text[start:end].strip() for start, end in zip(starts, ends, strict=True)]


class StateCell(QStyledItemDelegate):  # type: ignore[misc]
    """The state; over a bar where a part of a file is done: how much, or that it waits to be gone on with."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        """Draw the cell."""
        row: Row = index.data(ROW_ROLE)
        if not has_bar(row):
            super().paint(painter, option, index)
            return
        _draw_ground(painter, option, index, self)
        box = option.rect.adjusted(4, 3, -4, -3)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        groove = QRectF(box.left(), box.center().y() + 4, box.width(), BAR_HEIGHT)
        for color, share in ((GROOVE, 1.0), (BAR, row.fraction)):
            painter.setBrush(color)
            painter.drawRoundedRect(
                QRectF(groove.left(), groove.top(), groove.width() * share, BAR_HEIGHT), BAR_HEIGHT / 2, BAR_HEIGHT / 2
            )
        painter.setFont(option.font)
        above = QRect(box.left(), box.top(), box.width(), box.height() // 2 + 2)
        _write(painter, above, str(index.data()), option.palette.text().color(), Qt.TextElideMode.ElideRight)
        painter.restore()


def has_bar(row: Row) -> bool:
    """Return whether a bar says how much of a file is done."""
    return row.state == "running" or (row.state == "waiting" and row.done > 0)


def _without_file(row: Row) -> str:
    """Return why a file failed without its name, which stands above it."""
    return row.reason.removeprefix(f"'{row.file}' ")


def _draw_ground(
    painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex, delegate: QStyledItemDelegate
) -> None:
    """Draw what lies below the cell's text: whether it is selected."""
    drawn = QStyleOptionViewItem(option)
    delegate.initStyleOption(drawn, index)
    drawn.text = ""
    style = drawn.widget.style()
    style.drawControl(QStyle.ControlElement.CE_ItemViewItem, drawn, painter, drawn.widget)


def _write(painter: QPainter, box: QRect, text: str, color: QColor, elide: Qt.TextElideMode) -> None:
    painter.setPen(color)
    cut = painter.fontMetrics().elidedText(text, elide, box.width())
    painter.drawText(box, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, cut)
