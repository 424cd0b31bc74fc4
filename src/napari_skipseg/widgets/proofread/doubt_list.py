"""The ranked list of doubts while objects are edited: it is made again in a thread after every few decisions."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QWidget

from napari_skipseg.progress import Progress
from napari_skipseg.proofread.doubts import Doubt, rank_doubts
from napari_skipseg.proofread.state import Change, ObjectsUnderEdit
from napari_skipseg.widgets.forms.worker import WorkOutcome, start_work

RANK_EVERY = 10
"""Edits until the list is made again; with a list that is not made again, FIB-25 takes more edits."""

MOST_RANKED_AT_ONCE = 20_000
"""Contacts up to which an empty list is made again at once; with more it would stop the window for long."""

NONE_LEFT = "There is no doubt left: all decisions were confirmed or skipped."

_ACTS = {"merge?": "A merges it", "split?": "A splits it", "object?": "K splits it"}


def question_about(doubt: Doubt) -> str:
    """Return why a decision may be wrong, and which keys answer."""
    return f"{doubt.reason} {_ACTS[doubt.kind]}, C leaves it, N skips it."


class DoubtList(QObject):  # type: ignore[misc]
    """Doubts about objects under edit, the one to look at first in front. announced: that an awaited list is there."""

    announced = Signal(str)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._owner = parent
        self._objects: ObjectsUnderEdit | None = None
        self._doubts: list[Doubt] = []
        self._ranked_at = 0
        self._ranked_after: Change | None = None
        self._is_awaited = False
        self._worker: Any = None

    def open(self, objects: ObjectsUnderEdit | None, doubts: list[Doubt]) -> None:
        """Begin with the doubts about some objects, None = there are none."""
        self._objects, self._doubts, self._is_awaited = objects, list(doubts), False
        if objects is not None:
            self._remember_when(objects)

    def forget(self) -> None:
        """Drop the list: the next doubt comes from a new one."""
        self._doubts = []

    def next(self) -> Doubt | None:
        """Return the next doubt that is still open, None if there is none, or none yet."""
        objects = self._objects
        if objects is None:
            return None
        if abs(len(objects.changes) - self._ranked_at) >= RANK_EVERY:
            self._rank(objects)
        found = self._first_open(objects)
        if found is not None:
            return found
        # edits make other doubts
        graph = objects.regions.graph
        if graph is not None and len(graph.edges.one) > MOST_RANKED_AT_ONCE:
            if self._worker is not None or self._last_change(objects) is not self._ranked_after:
                self._is_awaited = True
                self._rank(objects)
            return None
        self._remember_when(objects)
        self._doubts = rank_doubts(objects)
        return self._first_open(objects)

    def why_none(self) -> str:
        """Return in a sentence why there is no next doubt."""
        return "Looking for more doubts…" if self._is_awaited else NONE_LEFT

    def _first_open(self, objects: ObjectsUnderEdit) -> Doubt | None:
        while self._doubts:
            doubt = self._doubts.pop(0)
            if self._is_open(objects, doubt):
                return doubt
        return None

    def _is_open(self, objects: ObjectsUnderEdit, doubt: Doubt) -> bool:
        labels = [objects.object_at(voxel) for voxel in doubt.at]
        regions = {objects.region_at(voxel) for voxel in doubt.at}
        decided = (*objects.confirmed, *objects.skipped)
        if 0 in labels or objects.locked.intersection(labels) or any(regions == set(pair) for pair in decided):
            return False
        return (labels[0] == labels[1]) == (doubt.kind != "merge?")

    @staticmethod
    def _last_change(objects: ObjectsUnderEdit) -> Change | None:
        return objects.changes[-1] if objects.changes else None

    def _remember_when(self, objects: ObjectsUnderEdit) -> None:
        self._ranked_at, self._ranked_after = len(objects.changes), self._last_change(objects)

    def _rank(self, objects: ObjectsUnderEdit) -> None:
        """Rank in a thread; the list on show stays until that has ended."""
        if self._worker is not None:
            return
        self._remember_when(objects)

        def work() -> Generator[Progress, None, list[Doubt]]:
            yield Progress(0, 1, "looking for doubts")
            return rank_doubts(objects)

        def show(outcome: WorkOutcome) -> None:
            # an edit in the middle of the work can make it fail: the old list is good enough then
            if self._objects is objects and not outcome.fault:
                self._doubts = outcome.value

        def end() -> None:
            self._worker = None
            if self._is_awaited:
                self._is_awaited = False
                self.announced.emit("There are more doubts: N goes to the next one." if self._doubts else NONE_LEFT)

        self._worker = start_work(self._owner, work, "Looking for doubts", lambda _: None, show, end, is_quiet=True)
