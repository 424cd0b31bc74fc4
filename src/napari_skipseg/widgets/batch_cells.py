"""Cells of the table of a batch: a name over what is said of it, and a bar."""

from __future__ import annotations

from qtpy.QtCore import QModelIndex, QRect, QRectF, Qt
from qtpy.QtGui import QColor, QPainter
from qtpy.QtWidgets import QStyle, QStyledItemDelegate, QStyleOptionViewItem

from napari_skipseg.batch.rows import Row

PICTURE_SIDE = 40
ROW_ROLE = Qt.ItemDataRole.UserRole + 1
FAILED = QColor("#e8663c")
BAR, GROOVE = QColor("#3f66c8"), QColor(128, 128, 128, 70)
FAINT = 150
"""Of 255: how strong what is said stands below a name."""
BAR_HEIGHT = 6


class FileCell(QStyledItemDelegate):  # type: ignore[misc]
    """The name of a file, cut in the middle where it is long; below it why it failed, or what is being done."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        """Draw the cell."""
        row: Row = index.data(ROW_ROLE)
        _draw_ground(painter, option, index, self)
        told = _without_file(row) or (row.message if row.state == "running" else row.note)
        box = option.rect.adjusted(4, 3, -4, -3)
        upper = QRect(box.left(), box.top(), box.width(), box.height() // 2 if told else box.height())
        painter.save()
        painter.setFont(option.font)
        color = option.palette.text().color()
        _write(painter, upper, str(index.data()), color, Qt.TextElideMode.ElideMiddle)
        if told:
            faint = FAILED if row.reason else QColor(color.red(), color.green(), color.blue(), FAINT)
            font = option.font
            font.setPointSizeF(font.pointSizeF() * 0.85)
            painter.setFont(font)
            lower = QRect(box.left(), upper.bottom() + 1, box.width(), box.height() - upper.height())
            _write(painter, lower, told, faint, Qt.TextElideMode.ElideRight)
        painter.restore()


class ProgressCell(QStyledItemDelegate):  # type: ignore[misc]
    """How many tiles are done over a bar; an empty cell where the file is not at work."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        """Draw the cell."""
        row: Row = index.data(ROW_ROLE)
        _draw_ground(painter, option, index, self)
        if row.state != "running":
            return
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
