"""The table of a batch: a row a file, with the thumbnail of its result; thousands of rows, sorted as one likes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSize, QSortFilterProxyModel, Qt, Signal
from qtpy.QtGui import QPixmap, QResizeEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from napari_skipseg.batch.rows import Row
from napari_skipseg.batch.truths import OF_OBJECTS
from napari_skipseg.foreign_text import unmarked
from napari_skipseg.widgets.batch_cells import PICTURE_SIDE, ROW_HEIGHT, ROW_ROLE, FileCell, StateCell
from napari_skipseg.widgets.batch_wording import describe_row, describe_state, describe_time, plain

STATES = ("running", "failed", "waiting", "done", "skipped")
"""In the order in which they are sorted: what one looks for first."""
SORT_ROLE = Qt.ItemDataRole.UserRole

PICTURE, FILE, STATE, TIME, SIZE = range(5)
HEADS = ("", "File", "State", "Time", "Size")
WIDTHS = {PICTURE: PICTURE_SIDE + 6, STATE: 64, TIME: 76, SIZE: 100}
SCORE_WIDTH = 76
NARROWEST, NARROW = 90, 140
"""Pixels of the column of names: where picture, state and first score leave no more, and else at the least."""
LOWEST = 198
"""Pixels of the table: three rows, so that the line below it is on a small screen too."""
TELLING = ("average_precision", "dice")
"""Scores that stand beside the state, the first one that there is."""
SHORT = {"adapted_rand_error": "Rand error", "average_precision": "precision (AP)"}
MOST_PICTURES = 400
"""Kept in memory: of the rows that are looked at."""


class BatchRows(QAbstractTableModel):  # type: ignore[misc]
    """The rows of a batch as they are now, behind the fixed columns one for each score. class_names: of its model."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self.scores: list[str] = []
        self.class_names: Sequence[str] = ()
        self._places: dict[str, int] = {}
        self._pictures: dict[str, QPixmap] = {}

    def show_rows(self, rows: Iterable[Row]) -> None:
        """Show these rows in place of all others."""
        self.beginResetModel()
        self.rows = list(rows)
        self.scores = list(dict.fromkeys(name for row in self.rows for name in row.scores))
        self._places = {row.relative: place for place, row in enumerate(self.rows)}
        self._pictures.clear()
        self.endResetModel()

    def change(self, rows: Sequence[Row]) -> None:
        """Show what is new of some rows."""
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
        return HEADS[section] if section < len(HEADS) else self._title(self.scores[section - len(HEADS)])

    def _title(self, score: str) -> str:
        """Return the name of a score below that of its class."""
        class_name, _, name = score.rpartition(" ")
        if not class_name and name not in OF_OBJECTS and len(self.class_names) == 1:
            class_name = self.class_names[0]
        return f"{class_name or 'objects'}\n{SHORT.get(name, name)}"

    def first_score(self) -> int | None:
        """Return the column of the score that tells most, None where there is none."""
        for name in TELLING:
            for place, score in enumerate(self.scores):
                if score.rpartition(" ")[2] == name:
                    return len(HEADS) + place
        return len(HEADS) if self.scores else None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a cell shows, sorts by, or tells."""
        row, column = self.rows[index.row()], index.column()
        if role == ROW_ROLE:
            return row
        if role == Qt.ItemDataRole.DisplayRole:
            return "" if column == PICTURE else self._text(row, column)
        if role == SORT_ROLE:
            return self._sorted_by(row, column)
        if role == Qt.ItemDataRole.ToolTipRole:
            return unmarked(describe_row(row))
        if role == Qt.ItemDataRole.DecorationRole and column == PICTURE:
            return self._picture(row)
        if role == Qt.ItemDataRole.TextAlignmentRole and column > FILE:
            return Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft
        return None

    def _text(self, row: Row, column: int) -> str:
        if column >= len(HEADS):
            score = row.scores.get(self.scores[column - len(HEADS)])
            return "" if score is None else f"{score:.3f}"
        texts: dict[int, Callable[[], str]] = {
            FILE: lambda: plain(row.relative),
            STATE: lambda: describe_state(row),
            TIME: lambda: describe_time(row),
            SIZE: lambda: row.size,
        }
        return texts[column]()

    def _sorted_by(self, row: Row, column: int) -> Any:
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

    def _picture(self, row: Row) -> QPixmap | None:
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
    """The rows, sortable by each column. opened: a file is to be shown in the viewer. chosen: the selection changed."""

    opened = Signal(object)
    chosen = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.rows, self._sorted = BatchRows(), QSortFilterProxyModel(self)
        self._sorted.setSourceModel(self.rows)
        self._sorted.setSortRole(SORT_ROLE)
        self.setModel(self._sorted)
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
        self.setMinimumHeight(LOWEST)
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

    def selected(self) -> Row | None:
        """Return the row that is selected, as it is now."""
        rows = self.selectionModel().selectedRows()
        return rows[0].data(ROW_ROLE) if rows else None

    def _fit(self, *_: object) -> None:
        """Have the most telling score follow the state; give the names what the columns leave that fit wholly."""
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
        return [str(order.index(row, FILE).data()) for row in range(order.rowCount())]

    def place_of(self, relative: str) -> QModelIndex:
        """Return the index of a file's name."""
        return self._sorted.index(self.shown_names().index(relative), FILE)
