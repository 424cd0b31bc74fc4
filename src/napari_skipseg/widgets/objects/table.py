"""The table of objects: a row for each, sortable by every measurement, fast with hundreds of thousands of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt, Signal
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from napari_skipseg.objects.table import ObjectTable

_LOWEST = 190
"""Least height of the table in pixels; it takes the height that the tab has left."""
_PADDING = 36
"""Pixels beside the name of a column, for the arrow of the sorted one."""
SELECTED = "QTableView::item:selected { background-color: #3f66c8; color: white; }"
"""The selected row stands out also while the image has the focus."""
NOT_SHOWN = "bounding box"
"""The first words of columns that only the file and the layer's features have."""
_NO_PLACE = QModelIndex()


class ObjectsModel(QAbstractTableModel):  # type: ignore[misc]
    """Measurements in sorted order. A row is one of the table of objects, a place one on screen."""

    def __init__(self) -> None:
        super().__init__()
        self.show_table(None)

    def show_table(self, table: ObjectTable | None) -> None:
        """Show another table, in its own order."""
        self.beginResetModel()
        self._table = table if table is not None else ObjectTable((), ())
        self._shown = [n for n, name in enumerate(self._table.names) if not name.startswith(NOT_SHOWN)]
        self._sorted: tuple[int, Qt.SortOrder] | None = None
        self._put_in_order(np.arange(len(self._table)))
        self.endResetModel()

    def _put_in_order(self, order: NDArray[np.intp]) -> None:
        self._order = order
        self._place = np.empty_like(order)
        self._place[order] = np.arange(len(order))

    def rowCount(self, parent: QModelIndex = _NO_PLACE) -> int:  # noqa: N802
        """Return the number of objects."""
        return 0 if parent.isValid() else len(self._table)

    def columnCount(self, parent: QModelIndex = _NO_PLACE) -> int:  # noqa: N802
        """Return the number of columns on show."""
        return 0 if parent.isValid() else len(self._shown)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return the text of a cell."""
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role != Qt.ItemDataRole.DisplayRole or not index.isValid():
            return None
        value = self._table.columns[self._shown[index.column()]][self._order[index.row()]]
        if isinstance(value, np.floating):
            return "" if np.isnan(value) else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
        return f"{value:,}"

    def headerData(  # noqa: N802
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Return the name of a column."""
        is_name = orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole
        return self._table.names[self._shown[section]] if is_name and section < len(self._shown) else None

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; objects without a value there come last."""
        if not 0 <= column < len(self._shown) or (column, order) == self._sorted:  # Qt asks twice for one click
            return
        self._sorted = column, order
        self.layoutAboutToBeChanged.emit()
        before = self.persistentIndexList()
        rows = [self._order[index.row()] for index in before]
        self._put_in_order(_stable_order(self._table.columns[self._shown[column]], order))
        after = [self.index(int(self._place[row]), index.column()) for row, index in zip(rows, before, strict=True)]
        self.changePersistentIndexList(before, after)
        self.layoutChanged.emit()

    def row_at(self, place: int) -> int:
        """Return the row of the table of objects at a place on screen."""
        return int(self._order[place])

    def label_at(self, place: int) -> int:
        """Return the label of the object at a place on screen."""
        return int(self._table.column("label")[self._order[place]])

    def place_of(self, label: int) -> int | None:
        """Return the place of an object on screen, None if there is no such label."""
        labels = self._table.column("label") if "label" in self._table.names else np.empty(0, np.int64)
        row = int(np.searchsorted(labels, label))
        return int(self._place[row]) if row < len(labels) and labels[row] == label else None


def _stable_order(values: NDArray[Any], order: Qt.SortOrder) -> NDArray[np.intp]:
    """Return the places of values in sorted order, NaN last; of equal values the first one comes first.

    NumPy's stable sort takes 150 ms of processor for a million, its quick one 30, that of whole numbers 10. So values
    are sorted quickly, and equal ones by their places, which are sorted as one number with that of the value.
    """
    count, is_falling = len(values), order == Qt.SortOrder.DescendingOrder
    if values.dtype.kind == "f":
        places = np.argsort(-values if is_falling else values)
        found = values[places]
        is_new = found[1:] != found[:-1]
        is_new[np.isnan(found[:-1])] = False
        if is_new.all():
            return places
        number = np.concatenate([[0], np.cumsum(is_new)]) * count + places
    else:
        whole = values.astype(np.int64)
        number = (whole.max(initial=0) - whole if is_falling else whole - whole.min(initial=0)) * count
        number += np.arange(count)
    number.sort()
    number %= max(1, count)
    return np.asarray(number)


class ObjectsTable(QTableView):  # type: ignore[misc]
    """The rows on screen. chosen: the user went to this row of the table of objects."""

    chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.rows = ObjectsModel()
        self.setModel(self.rows)
        self.setAccessibleName("Measurements of the objects")
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setMinimumHeight(_LOWEST)
        self.setMinimumWidth(120)
        self.setWordWrap(False)
        side = self.verticalHeader()
        side.hide()
        side.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        side.setDefaultSectionSize(20)
        self.horizontalHeader().setDefaultAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setStyleSheet(SELECTED)
        self.setSortingEnabled(True)
        self.clicked.connect(self._emit_chosen)

    def show_table(self, table: ObjectTable | None) -> None:
        """Show another table, sorted by label."""
        self.rows.show_table(table)
        self.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        text = self.horizontalHeader().fontMetrics()
        for column in range(self.rows.columnCount()):
            name = str(self.rows.headerData(column, Qt.Orientation.Horizontal))
            self.setColumnWidth(column, text.horizontalAdvance(name) + _PADDING)

    def renew(self, table: ObjectTable) -> None:
        """Show other rows of the same columns; order, selected object, widths and the place on screen stay."""
        selected = self.selectionModel().selectedRows()
        label = self.rows.label_at(selected[0].row()) if selected else 0
        head, place = self.horizontalHeader(), self.verticalScrollBar().value()
        self.rows.show_table(table)
        self.sortByColumn(head.sortIndicatorSection(), head.sortIndicatorOrder())
        self.select_label(label)
        self.verticalScrollBar().setValue(place)

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802
        """Go to the object that an arrow key selects."""
        # only keys count: Qt makes the first row the current one when the table gets the focus by itself, for example
        # from a button that was disabled
        before = self.currentIndex().row()
        super().keyPressEvent(event)
        current = self.currentIndex()
        if current.isValid() and current.row() != before:
            self._emit_chosen(current)

    def select_label(self, label: int) -> None:
        """Select the row of an object and show it; emits nothing."""
        place = self.rows.place_of(label)
        if place is None:
            self.clearSelection()
            return
        if place == self.currentIndex().row() and self.selectionModel().hasSelection():
            return
        self.selectRow(place)
        self.scrollTo(self.rows.index(place, 0), QAbstractItemView.ScrollHint.PositionAtCenter)
        self.horizontalScrollBar().setValue(0)

    def _emit_chosen(self, index: QModelIndex) -> None:
        self.chosen.emit(self.rows.row_at(index.row()))
