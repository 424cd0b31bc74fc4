"""Learn from edits: the button, what would change, and its preview; accepted, it is one edit."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_skipseg.progress import Progress
from napari_skipseg.proofread.edits import Reweigh
from napari_skipseg.proofread.learn import LearnedChanges, learn, preview_learned
from napari_skipseg.proofread.state import ObjectsUnderEdit
from napari_skipseg.widgets.forms.fields import FAULT_COLOR, MessageLine, set_hint
from napari_skipseg.widgets.forms.worker import WorkOutcome, start_work
from napari_skipseg.widgets.proofread.actions import LEARN
from napari_skipseg.wording import counted

ReadPreview = Callable[[tuple[int | slice, ...]], NDArray[Any]]


class LearningRow(QWidget):  # type: ignore[misc]
    """What the edits teach. previewed: a function that reads what would change, None = nothing. accepted: the edit."""

    previewed = Signal(object)
    accepted = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.learn_button, self.accept_button = QPushButton(f"{LEARN.text} ({LEARN.key})"), QPushButton("Accept")
        self.discard_button, self.message = QPushButton("Discard"), MessageLine()
        set_hint(self.learn_button, f"{LEARN.hint} (key: {LEARN.key})")
        set_hint(self.accept_button, "Change the outlined objects: one edit, which can be undone")
        set_hint(self.discard_button, "Change nothing")
        column, row = QVBoxLayout(self), QHBoxLayout()
        column.setContentsMargins(0, 0, 0, 0)
        for button in (self.learn_button, self.accept_button, self.discard_button):
            row.addWidget(button, 1)
        column.addLayout(row)
        column.addWidget(self.message)
        self.learn_button.clicked.connect(self.learn)
        self.accept_button.clicked.connect(self.accept)
        self.discard_button.clicked.connect(self.discard)
        self.found: LearnedChanges | None = None
        self._objects: ObjectsUnderEdit | None = None
        self._worker: Any = None
        self._check()

    @property
    def is_at_work(self) -> bool:
        """Whether it is learning now."""
        return self._worker is not None

    def open(self, objects: ObjectsUnderEdit | None) -> None:
        """Learn from the edits of other objects, None = of none."""
        self._objects, self.found = objects, None
        self.message.say("")
        self._check()

    def learn(self) -> None:
        """Learn in a thread, then show what would change."""
        objects = self._objects
        if objects is None or self.is_at_work:
            return
        count = len(objects.changes)

        def work() -> Generator[Progress, None, LearnedChanges]:
            yield Progress(0, 1, "learning")
            return preview_learned(objects, learn(objects))

        def show(outcome: WorkOutcome) -> None:
            if self._objects is not objects:
                return
            if outcome.fault:
                self.message.say(outcome.fault, FAULT_COLOR)
            elif len(objects.changes) != count:
                self.message.say("You edited meanwhile: press it again.")
            else:
                self._show(objects, outcome.value)

        def end() -> None:
            self._worker = None
            self._check()

        self.discard()
        self.message.say("Learning…")
        self._worker = start_work(self, work, "Learning from edits", lambda _: None, show, end, is_quiet=True)
        self._check()

    def _show(self, objects: ObjectsUnderEdit, found: LearnedChanges) -> None:
        taught = found.classifier.learned_from
        learnt = f"Learnt from {taught['same']} decisions for one object and {taught['different']} for two"
        if not found.merged and not found.split:
            self.message.say(f"{learnt}: nothing would change.")
            return
        self.found = found
        values = np.zeros(objects.region_count + 1, np.uint32)
        old = objects.object_of[: objects.region_count + 1]
        values[found.object_of != old] = 1
        values[found.object_of >= objects.next_object] = 2
        shown = objects.labels(values)
        self.message.say(
            f"{learnt}. {counted(found.merged, 'merge')} and {counted(found.split, 'split')} would follow, outlined: "
            "Accept makes them one edit."
        )
        self.previewed.emit(lambda index: np.asarray(shown[index]))
        self._check()

    def accept(self) -> None:
        """Make the edit of what is shown."""
        if self.found is not None:
            weights, self.found = self.found.classifier.weights, None
            self.message.say("")
            self._check()
            self.accepted.emit(Reweigh(weights))

    def discard(self) -> None:
        """Drop what is shown."""
        if self.found is not None:
            self.found = None
            self.message.say("")
            self.previewed.emit(None)
        self._check()

    def _check(self) -> None:
        self.learn_button.setEnabled(self._objects is not None and not self.is_at_work)
        for button in (self.accept_button, self.discard_button):
            button.setVisible(self.found is not None)
