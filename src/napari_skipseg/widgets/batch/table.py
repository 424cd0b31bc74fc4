"""The table of a batch: a row for each file, with a thumbnail of its result; it sorts thousands of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QRect, QRectF, QSize, QSortFilterProxyModel, Qt, Signal
from qtpy.QtGui import QColor, QFont, QFontMetrics, QPainter, QPixmap, QResizeEvent, QTextLayout, QTextOption
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QStyle, QStyledItemDelegate, QStyleOptionViewItem, QTableView

from napari_skipseg.batch.table import BatchRow
from napari_skipseg.batch.truths import OF_OBJECTS
from napari_skipseg.foreign_text import without_bidi_marks
from napari_skipseg.wording import counted, in_words


def count_states(rows: Sequence[BatchRow]) -> str:
    """Return how many files are done, failed, done before and to go, without zeros, such as "0 done, 2 failed"."""
    counts = {state: sum(row.state == state for row in rows) for state in ("done", "failed", "skipped")}
    others = [
        (counts["failed"], "failed"),
        (counts["skipped"], "done before"),
        (len(rows) - sum(counts.values()), "to go"),
    ]
    return ", ".join([f"{counts['done']} done", *(f"{count} {what}" for count, what in others if count)])


def mark_stopped(row: BatchRow) -> BatchRow:
    """Return the row of a file that was being processed as one that waits, with a note on what is done."""
    note = f"stopped at {row.done} of {row.total}" if row.done and row.total > 1 else ""
    return replace(row, state="waiting", message="", note=note, seconds_left=None)


def describe_state(row: BatchRow) -> str:
    """Return the state, or how much of a running file is done."""
    return f"{row.done} of {row.total}" if row.state == "running" and row.total > 1 else row.state


def describe_time(row: BatchRow) -> str:
    """Return the time that a file took, or still takes."""
    if row.state == "running":
        return f"{in_words(row.seconds_left)} left" if row.seconds_left else ""
    return f"{row.seconds:.1f} s" if 0 < row.seconds < 10 else in_words(row.seconds) if row.seconds else ""


def describe_end(row: BatchRow) -> str:
    """Return why a file failed, or else its message, note, objects and scores, in a line."""
    shared = (row.note, describe_row_objects(row), _scores(row))
    parts = (plain_text(row.reason), *shared) if row.reason else (row.message, *shared)
    text = "; ".join(part for part in parts if part)
    return text if row.reason or not text else f"{plain_text(row.full_name)}: {text}"


def describe_row(row: BatchRow) -> str:
    """Return all that is known of a file, a line each."""
    voxels = row.voxel_size or "of unknown size"
    size = f"{row.size} voxels ({voxels}), {row.bytes / 2**20:.3g} MiB" if row.size else ""
    lines = (plain_text(row.file), size, row.reason or row.message, row.note, describe_row_objects(row), _scores(row))
    return "\n".join(line for line in lines if line)


def describe_row_objects(row: BatchRow) -> str:
    """Return the number of objects and their mean size, "" if objects were not searched."""
    if row.objects is None:
        return ""
    mean = "" if row.mean_size is None else f", {row.mean_size:,.4g} {row.size_unit} on average"
    return f"{counted(row.objects, 'object')}{mean}"


def _scores(row: BatchRow) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in row.scores.items())


def plain_text(text: str) -> str:
    """Return a text without characters that cannot be shown: names of files may have any."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


PICTURE_SIDE = 40
ROW_HEIGHT = PICTURE_SIDE + 10
"""Room for a name and two lines below it."""
ROW_ROLE = Qt.ItemDataRole.UserRole + 1
FAILED = QColor("#e8663c")
BAR, GROOVE = QColor("#3f66c8"), QColor(128, 128, 128, 70)
FAINT = 150
"""Opacity of the lines below a name, of 255."""
BAR_HEIGHT = 6
LINES = 2
"""Lines below a name."""


class FileCell(QStyledItemDelegate):  # type: ignore[misc]
    """The name of a file, cut in the middle if it is long; below it why it failed, or what is being done."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        """Draw the cell."""
        row: BatchRow = index.data(ROW_ROLE)
        _draw_ground(painter, option, index, self)
        reason = row.reason.removeprefix(f"'{row.file}' ")  # the name stands above it
        below = reason or (row.message if row.state == "running" else row.note)
        small = QFont(option.font)
        small.setPointSizeF(option.font.pointSizeF() * 0.85)
        box, line = option.rect.adjusted(4, 1, -4, -1), QFontMetrics(small).height()
        lines = cut_into_lines(below, small, box.width())
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
    """Return a text in `LINES` lines at most; the last one holds the rest, and is cut when drawn."""
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
    """The state, above a bar if a part of a file is done."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        """Draw the cell."""
        row: BatchRow = index.data(ROW_ROLE)
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


def has_bar(row: BatchRow) -> bool:
    """Return whether a row has a bar: a part of its file is done."""
    return row.state == "running" or (row.state == "waiting" and row.done > 0)


def _draw_ground(
    painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex, delegate: QStyledItemDelegate
) -> None:
    """Draw the background of a cell, which shows whether it is selected."""
    drawn = QStyleOptionViewItem(option)
    delegate.initStyleOption(drawn, index)
    drawn.text = ""
    style = drawn.widget.style()
    style.drawControl(QStyle.ControlElement.CE_ItemViewItem, drawn, painter, drawn.widget)


def _write(painter: QPainter, box: QRect, text: str, color: QColor, elide: Qt.TextElideMode) -> None:
    painter.setPen(color)
    cut = painter.fontMetrics().elidedText(text, elide, box.width())
    painter.drawText(box, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, cut)


STATES = ("running", "failed", "waiting", "done", "skipped")
"""States in their order in the sorted table."""
SORT_ROLE = Qt.ItemDataRole.UserRole

PICTURE, FILE, STATE, TIME, SIZE = range(5)
HEADS = ("", "File", "State", "Time", "Size")
WIDTHS = {PICTURE: PICTURE_SIDE + 6, STATE: 64, TIME: 76, SIZE: 100}
SCORE_WIDTH = 76
NARROWEST, NARROW = 90, 140
"""Least width of the column of names, in pixels, beside picture, state and first score, and beside more columns."""
_LOWEST = 198
"""Least height of the table in pixels: three rows, so that a small screen shows the line below it too."""
MAIN_SCORES = ("average_precision", "dice")
"""Scores, the first of which stands beside the state."""
_SHORT = {"adapted_rand_error": "Rand error", "average_precision": "precision (AP)"}
MOST_PICTURES = 400
"""Thumbnails that are kept in memory."""


class BatchRows(QAbstractTableModel):  # type: ignore[misc]
    """The rows of a batch; after the fixed columns, one for each score. class_names: of its model."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[BatchRow] = []
        self.scores: list[str] = []
        self.class_names: Sequence[str] = ()
        self._places: dict[str, int] = {}
        self._pictures: dict[str, QPixmap] = {}

    def show_rows(self, rows: Iterable[BatchRow]) -> None:
        """Replace all rows."""
        self.beginResetModel()
        self.rows = list(rows)
        self.scores = list(dict.fromkeys(name for row in self.rows for name in row.scores))
        self._places = {row.relative: place for place, row in enumerate(self.rows)}
        self._pictures.clear()
        self.endResetModel()

    def change(self, rows: Sequence[BatchRow]) -> None:
        """Update some rows."""
        new = [name for name in dict.fromkeys(name for row in rows for name in row.scores) if name not in self.scores]
        if new:
            first = len(HEADS) + len(self.scores)
            self.beginInsertColumns(QModelIndex(), first, first + len(new) - 1)
            self.scores += new
            self.endInsertColumns()
        for row in {row.relative: row for row in rows}.values():
            place = self._places.get(row.relative)
            if place is None:
                continue
            if row.state != self.rows[place].state:
                self._pictures.pop(row.thumbnail, None)
            self.rows[place] = row
            self.dataChanged.emit(self.index(place, 0), self.index(place, self.columnCount() - 1))

    def count(self, state: str) -> int:
        """Return how many files are in that state."""
        return sum(row.state == state for row in self.rows)

    def rowCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: B008, N802
        """Return the number of files."""
        return 0 if parent.isValid() else len(self.rows)

    def columnCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: B008, N802
        """Return the number of columns."""
        return 0 if parent.isValid() else len(HEADS) + len(self.scores)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int) -> Any:  # noqa: N802
        """Return the title of a column."""
        if orientation != Qt.Orientation.Horizontal or role != Qt.ItemDataRole.DisplayRole:
            return None
        if section < len(HEADS):
            return HEADS[section]
        class_name, _, name = self.scores[section - len(HEADS)].rpartition(" ")
        if not class_name and name not in OF_OBJECTS and len(self.class_names) == 1:
            class_name = self.class_names[0]
        return f"{class_name or 'objects'}\n{_SHORT.get(name, name)}"

    def first_score(self) -> int | None:
        """Return the column of the main score, None without scores."""
        for name in MAIN_SCORES:
            for place, score in enumerate(self.scores):
                if score.rpartition(" ")[2] == name:
                    return len(HEADS) + place
        return len(HEADS) if self.scores else None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return the text, sort key, tooltip, picture or alignment of a cell."""
        row, column = self.rows[index.row()], index.column()
        if role == ROW_ROLE:
            return row
        if role == Qt.ItemDataRole.DisplayRole:
            return "" if column == PICTURE else self._text(row, column)
        if role == SORT_ROLE:
            return self._sorted_by(row, column)
        if role == Qt.ItemDataRole.ToolTipRole:
            return without_bidi_marks(describe_row(row))
        if role == Qt.ItemDataRole.DecorationRole and column == PICTURE:
            return self._picture(row)
        if role == Qt.ItemDataRole.TextAlignmentRole and column > FILE:
            return Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft
        return None

    def _text(self, row: BatchRow, column: int) -> str:
        if column >= len(HEADS):
            score = row.scores.get(self.scores[column - len(HEADS)])
            return "" if score is None else f"{score:.3f}"
        texts: dict[int, Callable[[], str]] = {
            FILE: lambda: plain_text(row.full_name),
            STATE: lambda: describe_state(row),
            TIME: lambda: describe_time(row),
            SIZE: lambda: row.size,
        }
        return texts[column]()

    def _sorted_by(self, row: BatchRow, column: int) -> Any:
        if column >= len(HEADS):
            return row.scores.get(self.scores[column - len(HEADS)], -1.0)
        if column == TIME:
            return row.seconds if row.seconds_left is None else row.seconds_left
        return {
            PICTURE: not row.thumbnail,
            FILE: row.relative.casefold(),
            STATE: STATES.index(row.state) - row.fraction / 2,
            SIZE: row.bytes,
        }[column]

    def _picture(self, row: BatchRow) -> QPixmap | None:
        if not row.thumbnail:
            return None
        if row.thumbnail not in self._pictures:
            while len(self._pictures) >= MOST_PICTURES:
                del self._pictures[next(iter(self._pictures))]
            picture = QPixmap(row.thumbnail)
            if not picture.isNull():
                size = QSize(PICTURE_SIDE, PICTURE_SIDE)
                kept, way = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
                picture = picture.scaled(size, kept, way)
            self._pictures[row.thumbnail] = picture
        return self._pictures[row.thumbnail]


class BatchTable(QTableView):  # type: ignore[misc]
    """The rows, sortable by each column. opened: the user wants a file in the viewer. chosen: the selection changed."""

    opened = Signal(object)
    chosen = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.rows, self._sorted = BatchRows(), QSortFilterProxyModel(self)
        self._sorted.setSourceModel(self.rows)
        self._sorted.setSortRole(SORT_ROLE)
        self.setModel(self._sorted)
        self.setAccessibleName("Images of the batch")
        self.setSortingEnabled(True)
        self._sorted.sort(-1)
        self.setItemDelegateForColumn(FILE, FileCell(self))
        self.setItemDelegateForColumn(STATE, StateCell(self))
        self.setIconSize(QSize(PICTURE_SIDE, PICTURE_SIDE))
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setMinimumHeight(_LOWEST)
        self.verticalHeader().hide()
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
        self.horizontalHeader().setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self.horizontalHeader().setHighlightSections(False)
        self.rows.columnsInserted.connect(self._fit)
        self.rows.modelReset.connect(self._fit)
        self.doubleClicked.connect(lambda index: self.opened.emit(index.data(ROW_ROLE)))
        self.selectionModel().selectionChanged.connect(lambda *_: self.chosen.emit())
        self._fit()

    def selected(self) -> BatchRow | None:
        """Return the selected row, None if none is."""
        rows = self.selectionModel().selectedRows()
        return rows[0].data(ROW_ROLE) if rows else None

    def _fit(self, *_: object) -> None:
        """Put the main score beside the state, and give the names the width that whole columns leave."""
        score = self.rows.first_score()
        first = [PICTURE, FILE, STATE] if score is None else [PICTURE, FILE, STATE, score]
        order = first + [column for column in range(self.rows.columnCount()) if column not in first]
        header = self.horizontalHeader()
        for place, column in enumerate(order):
            header.moveSection(header.visualIndex(column), place)
        widths = {column: WIDTHS.get(column, SCORE_WIDTH) for column in order if column != FILE}
        for column, width in widths.items():
            self.setColumnWidth(column, width)
        free = self.viewport().width() - sum(widths[column] for column in first if column != FILE)
        for column in order[len(first) :]:
            if free - widths[column] < NARROW:
                break
            free -= widths[column]
        self.setColumnWidth(FILE, max(free, NARROWEST))

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802
        """Fit the column of names."""
        super().resizeEvent(event)
        self._fit()

    def shown_names(self) -> list[str]:
        """Return the files in the order of the rows on screen."""
        order = self._sorted
        return [plain_text(order.index(row, FILE).data(ROW_ROLE).relative) for row in range(order.rowCount())]

    def place_of(self, relative: str) -> QModelIndex:
        """Return the index of a file's name."""
        return self._sorted.index(self.shown_names().index(relative), FILE)
