"""The ranked list of doubts while objects are edited: it is made again in a thread after every few decisions."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QWidget

from napari_skipseg.progress import Progress
from napari_skipseg.proofread.doubts import Doubt, rank_doubts
from napari_skipseg.proofread.state import ObjectsUnderEdit
from napari_skipseg.widgets.forms.worker import WorkOutcome, start_work

RANK_EVERY = 10
"""Edits until the list is made again; with a list that is not made again, FIB-25 takes more edits."""


class DoubtList(QObject):  # type: ignore[misc]
    """Doubts about objects under edit, the one to look at first in front."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._owner = parent
        self._objects: ObjectsUnderEdit | None = None
        self._doubts: list[Doubt] = []
        self._ranked_at = 0
        self._worker: Any = None

    def open(self, objects: ObjectsUnderEdit | None, doubts: list[Doubt]) -> None:
        """Begin with the doubts about some objects, None = there are none."""
        self._objects, self._doubts = objects, list(doubts)
        self._ranked_at = 0 if objects is None else len(objects.changes)

    def forget(self) -> None:
        """Drop the list: the next doubt comes from a new one."""
        self._doubts = []

    def next(self) -> Doubt | None:
        """Return the next doubt that is still open, None if there is none."""
        if self._objects is None:
            return None
        self._rank_soon()
        for is_fresh in (False, True):
            if is_fresh:  # edits make other doubts
                self._doubts, self._ranked_at = rank_doubts(self._objects), len(self._objects.changes)
            while self._doubts:
                doubt = self._doubts.pop(0)
                if self._is_open(self._objects, doubt):
                    return doubt
        return None

    def _is_open(self, objects: ObjectsUnderEdit, doubt: Doubt) -> bool:
        labels = [objects.object_at(voxel) for voxel in doubt.at]
        regions = {objects.region_at(voxel) for voxel in doubt.at}
        decided = (*objects.confirmed, *objects.skipped)
        if 0 in labels or objects.locked.intersection(labels) or any(regions == set(pair) for pair in decided):
            return False
        return (labels[0] == labels[1]) == (doubt.kind != "merge?")

    def _rank_soon(self) -> None:
        """Rank in a thread if there were some edits since; the list on show stays until that has ended."""
        objects = self._objects
        if objects is None or self._worker is not None or abs(len(objects.changes) - self._ranked_at) < RANK_EVERY:
            return
        self._ranked_at = len(objects.changes)

        def work() -> Generator[Progress, None, list[Doubt]]:
            yield Progress(0, 1, "looking for doubts")
            return rank_doubts(objects)

        def show(outcome: WorkOutcome) -> None:
            # an edit in the middle of the work can make it fail: the old list is good enough then
            if self._objects is objects and not outcome.fault:
                self._doubts = outcome.value

        def end() -> None:
            self._worker = None

        self._worker = start_work(self._owner, work, "Looking for doubts", lambda _: None, show, end, is_quiet=True)
