"""The table of the objects that are proofread: rows of changed objects are measured again, in a thread."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

from qtpy.QtCore import QTimer

from napari_skipseg.objects.table import ObjectTable
from napari_skipseg.progress import Progress
from napari_skipseg.proofread.measure import measure_changed
from napari_skipseg.widgets.forms.worker import WorkOutcome, start_work
from napari_skipseg.widgets.objects.table import ObjectsTable
from napari_skipseg.widgets.proofread.opening import OpenedObjects

_QUIET = 400
"""Milliseconds without an edit before changed objects are measured."""


class EditedObjectsTable(ObjectsTable):
    """The table of objects under edit. data: the measurements on show."""

    def __init__(self) -> None:
        super().__init__()
        self.data = ObjectTable((), ())
        self._opened: OpenedObjects | None = None
        self._changed: set[int] = set()
        self._worker: Any = None
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_QUIET)
        self._soon.timeout.connect(self._measure)

    def open(self, opened: OpenedObjects | None) -> None:
        """Show the table of other objects, None = of none."""
        self._soon.stop()
        self._changed.clear()
        self._opened = opened
        self.data = ObjectTable((), ()) if opened is None else opened.table
        self.show_table(None if opened is None else opened.table)

    def update_objects(self, changed: Iterable[int]) -> None:
        """Measure changed objects soon."""
        self._changed |= set(changed)
        self._soon.start()

    def measure_now(self) -> ObjectTable:
        """Return the table with all edits in it."""
        if self._opened is not None and self._changed:
            changed, self._changed = self._changed, set()
            self._show(measure_changed(self._opened.session.objects, self.data, changed, self._opened.measured))
        return self.data

    def _show(self, table: ObjectTable) -> None:
        self.data = table
        self.renew(table)

    def _measure(self) -> None:
        opened = self._opened
        if opened is None or not self._changed:
            return
        if self._worker is not None:
            self._soon.start()
            return
        table, changed, self._changed = self.data, self._changed, set()

        def work() -> Generator[Progress, None, ObjectTable]:
            yield Progress(0, 1, "measuring")
            return measure_changed(opened.session.objects, table, changed, opened.measured)

        def show(outcome: WorkOutcome) -> None:
            # if `measure_now` was quicker, its table has more in it
            if self._opened is opened and self.data is table and not outcome.fault:
                self._show(outcome.value)
            else:
                self._changed |= changed

        def end() -> None:
            self._worker = None
            if self._changed:
                self._soon.start()

        self._worker = start_work(self, work, "Measuring", lambda _: None, show, end, is_quiet=True)
