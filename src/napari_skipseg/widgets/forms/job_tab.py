"""A tab that runs one long job at a time: Cancel, how far it is, and one line of what is wrong or how it went."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QPushButton, QWidget

from napari_skipseg.foreign_text import without_bidi_marks
from napari_skipseg.progress import ImageFindings, Progress, TimeLeft
from napari_skipseg.widgets.forms.engine_line import EngineLine, EngineTurn
from napari_skipseg.widgets.forms.fields import FAULT_COLOR, WARNING_COLOR, MessageLine, color_of
from napari_skipseg.widgets.forms.progress_bar import JobBar, ProgressLine
from napari_skipseg.widgets.forms.worker import PacedSignal, Work, WorkOutcome, start_work
from napari_skipseg.wording import in_words

FITS = 40
"""Letters of the line."""
_LEAST = 12
"""Letters that say something by themselves."""
_PAUSE = re.compile(r"[.:;,](?=\s|$)|\s\(")


def pop_up(text: str, head: str = "") -> None:
    """Show something to be known. head: its first line, which says what matters in few letters; "" = its beginning."""
    show_info(without_bidi_marks(f"{head if len(head) <= FITS else head_of(head)}\n{text}" if head else headed(text)))


def pop_up_fault(text: str) -> None:
    """Show what went wrong."""
    show_error(without_bidi_marks(headed(text)))


def headed(text: str) -> str:
    """Return a text as it is where it fits into the line, else below its beginning, which does."""
    return text if len(text) <= FITS else f"{head_of(text)}\n{text}"


def head_of(text: str) -> str:
    """Return the beginning of a text: up to the last pause that fits, never within brackets; else its first words."""
    for pause in reversed(list(_PAUSE.finditer(text, 0, FITS + 2))):
        head = text[: pause.start()]
        if _LEAST <= len(head) <= FITS and head.count("(") == head.count(")"):
            return head
    return text[: FITS - 1].rsplit(" ", 1)[0].rstrip(" .:;,(") + "…"


UNCHANGED = "Cancelled. Nothing was changed."
LONG = 10
"""Seconds of work without steps to count from which on its duration is shown."""


class JobTab(QWidget):  # type: ignore[misc]
    """The part that all tabs with a job share. A subclass lays out the widgets and says in `check` what is on.

    finished: a job ended; True = with a result. moved: the text of the progress changed.
    """

    finished = Signal(bool)
    moved = Signal()

    def __init__(self, line: EngineLine) -> None:
        super().__init__()
        self._line = line
        self._line.moved.connect(self._tell_awaited)
        self._worker: Any = None
        self._turn: EngineTurn | None = None
        self._heard = False
        self._told = ("", "")
        self._words, self._phase, self._launched = "", ("", 0.0), 0.0
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setMinimumHeight(30)
        self.cancel_button.hide()
        self.cancel_button.clicked.connect(self.cancel)
        self.progress, self.progress_text, self.message = JobBar(), ProgressLine(), MessageLine()
        self.pace = PacedSignal(self, self.draw)

    @property
    def is_running(self) -> bool:
        """Whether a job is under way, or waits for the engine."""
        return self._worker is not None or self._turn is not None

    @property
    def seconds(self) -> float:
        """How long the job has gone on since its turn came."""
        return time.monotonic() - self._launched

    def check(self) -> None:
        """Switch on and off what the job and the choices allow, and say why."""
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
        waiting: str = "",
    ) -> None:
        """Start a job.

        on_value: called with what it returns. on_stop: called where it was cancelled or failed; returns what became of
        it, empty where nothing was changed. waiting: of a job that needs the engine, what others say that they wait
        for, such as "waits for the fine-tuning"; it begins when those before it are done. Empty = it needs no engine.
        """
        self._succeeded = self._is_over = self._heard = False
        self._left = TimeLeft()
        self._on_value, self._on_progress, self._on_stop = on_value, on_progress, on_stop
        self._told = ("", "")
        if waiting:
            turn = self._turn = self._line.join(waiting)
            turn.call(partial(self._launch, self._line.when_free(work), description))
        else:
            self._launch(work, description)
        self.check()
        self._tell_awaited()

    def _launch(self, work: Work, description: str) -> None:
        self._launched = time.monotonic()
        self._worker = start_work(self, work, description, self._hear, self._end, self._release)

    def _tell_awaited(self) -> None:
        """Say at once what a job waits for, or that it starts."""
        if self.is_running and not self._heard:
            awaited = "" if self._turn is None else self._turn.awaited()
            self._hear_soon(Progress(0, 1, awaited or "starting"))
            self.pace.flush()

    def send(self, value: object) -> None:
        """Send `value` to the job that runs, once it has begun."""
        if self._worker is not None and self._heard:
            self._worker.send(value)

    def cancel(self) -> None:
        """Cancel what runs; take back what waits."""
        if self._worker is None and self._turn is not None:
            self._release()
        elif self._worker is not None:
            self._worker.quit()
            self.cancel_button.setEnabled(False)
            self._say("cancelling…")

    def _hear(self, progress: Progress) -> None:
        self._heard = True
        if self._worker is None or not self.cancel_button.isEnabled():
            return
        self._hear_soon(progress)
        if isinstance(progress, ImageFindings):
            self.show_findings(progress.findings, progress.seems_inverted)
        self._on_progress(progress)

    def show_findings(self, findings: Sequence[str], seems_inverted: bool = False) -> None:
        """Say what was found about an image, until the job ends."""
        self.tell(" ".join(findings), WARNING_COLOR)

    def _hear_soon(self, progress: Progress) -> None:
        """Have it drawn with the others that come soon; how fast the work goes is taken from all of them."""
        self._words = self.describe(progress)
        self.pace.hear(progress)

    def draw(self, heard: list[Progress]) -> None:
        """Show how far the job is, from what was heard since the last drawing."""
        if self.is_running and self.cancel_button.isEnabled():
            self._say(self._words)
            self.progress.show_progress(heard[-1])

    def describe(self, progress: Progress) -> str:
        """Return the progress in words; of work without steps also for how long it has gone on."""
        now = time.monotonic()
        if self._phase[0] != progress.message:
            self._phase = (progress.message, now)
        seconds = int(now - self._phase[1]) // LONG * LONG
        if progress.total > 1 or seconds < LONG:
            return self._left.describe(progress)
        return f"{progress.message} ({in_words(seconds)})"

    def _say(self, text: str) -> None:
        self.progress_text.say(text)
        self.moved.emit()

    def _end(self, outcome: WorkOutcome) -> None:
        self._is_over = True
        if outcome.fault:
            self.fail(f"{outcome.fault} {self._on_stop()}".strip())
        else:
            self._on_value(outcome.value)
            self._succeeded = True

    def _release(self) -> None:
        turn, self._worker, self._turn = self._turn, None, None
        if turn is not None:
            turn.leave()
        self.pace.flush()
        self._say("")
        if not self._is_over:
            stopped = self._on_stop()
            self.tell(f"Stopped: {stopped}" if stopped else UNCHANGED)
        self.check()
        self.finished.emit(self._succeeded)

    def fail(self, fault: str) -> None:
        """Say what went wrong, in the line and in a notification."""
        self.tell(fault, FAULT_COLOR)
        pop_up_fault(fault)

    def tell(self, text: str, color: str = "transparent") -> None:
        """Say something that stays in the line until the choices change."""
        self._told = (text, color)
        self.check()

    def explain(self, fault: str) -> None:
        """Show what was said last, and where that is nothing, why nothing can be started."""
        self.message.say(*(self._told if self._told[0] or not fault else (fault, color_of(fault))))

    def forget_and_check(self) -> None:
        """Say no longer how it went: the choices are others now."""
        self._told = ("", "")
        self.check()
