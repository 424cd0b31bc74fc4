"""A tab that runs one long job at a time, with Cancel, a progress bar, and a line for the last message or fault."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QRect, QSize, Qt, Signal
from qtpy.QtGui import QBrush, QColor, QPainter, QPaintEvent
from qtpy.QtWidgets import QLayout, QProgressBar, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from napari_skipseg.foreign_text import without_bidi_marks
from napari_skipseg.progress import ImageFindings, Progress, TimeLeft
from napari_skipseg.widgets.forms.fields import (
    BUTTON_HEIGHT,
    FAULT_COLOR,
    WARNING_COLOR,
    MessageLine,
    color_of,
    fill_column,
)
from napari_skipseg.widgets.forms.worker import EngineQueue, EngineTask, PacedSignal, Work, WorkOutcome
from napari_skipseg.wording import in_words

_HEIGHT = 8
STRIPES = QColor(128, 128, 128, 200)


class JobBar(QProgressBar):  # type: ignore[misc]
    """A thin bar without text. It shows stripes that do not move while work has no steps to count."""

    # Qt's own moving bar repaints the whole window 30 times a second, canvas included: without a GPU that takes 40-70 %
    # of a processor core away from the job

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
        self.setUpdatesEnabled(False)  # else Qt repaints the bar at once, and the text beside it once more
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
    """Wrapped text that changes often; hidden while it is empty."""

    # a QLabel requests a new layout for every text, which repaints the whole window twice; this one only if the number
    # of its lines changes

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
        """Return True."""
        return True

    def heightForWidth(self, width: int) -> int:  # noqa: N802
        """Return the height of the text in a width."""
        room = QRect(0, 0, max(width - 2 * _PADDING, 1), TALL)
        return int(self.fontMetrics().boundingRect(room, WRAPPED, self._text).height()) + 2 * _PADDING

    def sizeHint(self) -> QSize:  # noqa: N802
        """Return the size that a layout starts with."""
        return QSize(200, self.heightForWidth(200))

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """Return the size of one line; the layout calls `heightForWidth` for more."""
        return QSize(50, self.fontMetrics().height() + 2 * _PADDING)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        """Draw the text."""
        painter = QPainter(self)
        painter.setPen(self.palette().windowText().color())
        painter.drawText(self.rect().adjusted(_PADDING, _PADDING, -_PADDING, -_PADDING), WRAPPED, self._text)
        painter.end()


FITS = 40
"""Characters in the first line of a notification."""
_LEAST = 12
"""Characters of the shortest head: fewer say nothing by themselves."""
_PAUSE = re.compile(r"[.:;,](?=\s|$)|\s\(")


def pop_up(text: str, head: str = "") -> None:
    """Show a notification. head: its first line, with what matters most; "" = the beginning of the text."""
    show_info(without_bidi_marks(f"{head if len(head) <= FITS else head_of(head)}\n{text}" if head else headed(text)))


def pop_up_fault(text: str) -> None:
    """Show a fault as a notification."""
    show_error(without_bidi_marks(headed(text)))


def headed(text: str) -> str:
    """Return a text that fits into one line, or else the text below a head that fits."""
    return text if len(text) <= FITS else f"{head_of(text)}\n{text}"


def head_of(text: str) -> str:
    """Return the beginning of a text: up to the last pause that fits, not inside brackets, or else its first words."""
    for pause in reversed(list(_PAUSE.finditer(text, 0, FITS + 2))):
        head = text[: pause.start()]
        if _LEAST <= len(head) <= FITS and head.count("(") == head.count(")"):
            return head
    return text[: FITS - 1].rsplit(" ", 1)[0].rstrip(" .:;,(") + "…"


UNCHANGED = "Cancelled. Nothing was changed."
LONG = 10
"""Seconds after which the duration of work without countable steps is shown."""


class JobTab(QWidget):  # type: ignore[misc]
    """The part that all tabs with a job share. A subclass lays out the widgets, and enables them in `check`.

    finished: a job ended; True = with a result. progress_changed: the text of the progress is different now.
    """

    finished = Signal(bool)
    progress_changed = Signal()

    def __init__(self, queue: EngineQueue) -> None:
        super().__init__()
        self._queue = queue
        self._queue.task_removed.connect(self._show_waiting)
        self._task: EngineTask | None = None
        self._has_begun = False
        self._last_message = ("", "")
        self._progress_words, self._phase = "", ("", 0.0)
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setMinimumHeight(BUTTON_HEIGHT)
        self.cancel_button.hide()
        self.cancel_button.clicked.connect(self.cancel)
        self.progress, self.progress_text, self.message = JobBar(), ProgressLine(), MessageLine()
        self.paced_progress = PacedSignal(self, self.show_progress)

    def add_column(self, *items: QWidget | QLayout, stretched: QWidget | None = None) -> QVBoxLayout:
        """Put widgets and layouts below each other; `stretched` takes the space that is left, else it stays empty."""
        column = fill_column(self, *items, spacing=8, margin=10)
        if stretched is not None:
            column.setStretchFactor(stretched, 1)
        column.addStretch(0 if stretched is not None else 1)
        return column

    @property
    def is_running(self) -> bool:
        """Whether a job runs, or waits for the engine."""
        return self._task is not None and not self._task.is_over

    @property
    def seconds(self) -> float:
        """The time since the job got the engine."""
        started = None if self._task is None else self._task.start_time
        return 0.0 if started is None else time.monotonic() - started

    def check(self) -> None:
        """Enable what the job and the choices allow, and show why the rest is disabled."""
        self.cancel_button.setVisible(self.is_running)
        self.cancel_button.setEnabled(self.is_running)
        self.progress.setVisible(self.is_running)

    def start(
        self,
        work: Work,
        description: str,
        on_value: Callable[[Any], None],
        on_progress: Callable[[Progress], None] = lambda _: None,
        on_stop: Callable[[], str] = lambda: "",
        waiting_text: str = "",
    ) -> None:
        """Start a job.

        on_value: called with its value. on_stop: called if it was cancelled or failed; describes the partial result, ""
        if there is none. waiting_text: shown by tabs that wait for this job to release the engine, such as "waits for
        the fine-tuning"; "" = the job needs no engine and starts at once.
        """
        self._succeeded = self._has_outcome = self._has_begun = False
        self._time_left = TimeLeft()
        self._on_value, self._on_progress, self._on_stop = on_value, on_progress, on_stop
        self._last_message = ("", "")
        self._task = EngineTask(
            self,
            work,
            description,
            queue=self._queue if waiting_text else None,
            waiting_text=waiting_text,
            is_job=True,
            is_quiet=False,
            on_progress=self._on_job_progress,
            on_outcome=self._on_outcome,
            on_end=self._on_end,
        )
        self.check()
        self._show_waiting()

    def _show_waiting(self) -> None:
        """Show at once which job this one waits for, or that it starts."""
        if self._task is not None and self.is_running and not self._has_begun:
            awaited = self._queue.describe_wait(self._task) if not self._task.has_worker else ""
            self._take_progress(Progress(0, 1, awaited or "starting"))
            self.paced_progress.flush()

    def send(self, value: object) -> None:
        """Send `value` to the job that runs, once it has begun."""
        if self._task is not None and self._has_begun:
            self._task.send(value)

    def cancel(self) -> None:
        """Cancel the job that runs or waits."""
        if self._task is None or self._task.is_over:
            return
        if self._task.has_worker:
            self.cancel_button.setEnabled(False)
            self._show_progress_text("cancelling…")
        self._task.cancel()

    def _on_job_progress(self, progress: Progress) -> None:
        self._has_begun = True
        if not self.cancel_button.isEnabled():
            return
        self._take_progress(progress)
        if isinstance(progress, ImageFindings):
            self.show_findings(progress.findings, progress.seems_inverted)
        self._on_progress(progress)

    def show_findings(self, findings: Sequence[str], seems_inverted: bool = False) -> None:
        """Show findings about an image until the job ends."""
        self.show_message(" ".join(findings), WARNING_COLOR)

    def _take_progress(self, progress: Progress) -> None:
        # each one is described, not only those that are shown: the time left is estimated from all
        self._progress_words = self.describe_progress(progress)
        self.paced_progress.put(progress)

    def show_progress(self, messages: list[Progress]) -> None:
        """Show the last of the progress messages since the last call."""
        if self.is_running and self.cancel_button.isEnabled():
            self._show_progress_text(self._progress_words)
            self.progress.show_progress(messages[-1])

    def describe_progress(self, progress: Progress) -> str:
        """Return the progress in words, with the duration if the work has no steps to count."""
        now = time.monotonic()
        if self._phase[0] != progress.message:
            self._phase = (progress.message, now)
        seconds = int(now - self._phase[1]) // LONG * LONG
        if progress.total > 1 or seconds < LONG:
            return self._time_left.describe(progress)
        return f"{progress.message} ({in_words(seconds)})"

    def _show_progress_text(self, text: str) -> None:
        self.progress_text.say(text)
        self.progress_changed.emit()

    def _on_outcome(self, outcome: WorkOutcome) -> None:
        self._has_outcome = True
        if outcome.fault:
            self.fail(f"{outcome.fault} {self._on_stop()}".strip())
        else:
            self._on_value(outcome.value)
            self._succeeded = True

    def _on_end(self) -> None:
        self.paced_progress.flush()
        self._show_progress_text("")
        if not self._has_outcome:
            stopped = self._on_stop()
            self.show_message(f"Stopped: {stopped}" if stopped else UNCHANGED)
        self.check()
        self.finished.emit(self._succeeded)

    def fail(self, fault: str) -> None:
        """Show a fault in the line and in a notification."""
        self.show_message(fault, FAULT_COLOR)
        pop_up_fault(fault)

    def show_message(self, text: str, color: str = "transparent") -> None:
        """Show a message in the line until the choices change."""
        self._last_message = (text, color)
        self.check()

    def explain(self, fault: str) -> None:
        """Show the last message; if there is none, show why no job can be started."""
        self.message.say(*(self._last_message if self._last_message[0] or not fault else (fault, color_of(fault))))

    def forget_and_check(self) -> None:
        """Remove the last message, because the choices have changed."""
        self._last_message = ("", "")
        self.check()
