"""A tab that runs one long job at a time: Cancel, how far it is, and one line of what is wrong or how it went."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QPushButton, QWidget

from napari_skipseg.progress import Found, Progress, TimeLeft
from napari_skipseg.widgets.engine import BusyEngine
from napari_skipseg.widgets.fields import FAULT_COLOR, WARNING_COLOR, Message, color_of
from napari_skipseg.widgets.popups import pop_up_fault
from napari_skipseg.widgets.work import Outcome, Work, start_work

UNCHANGED = "Cancelled. Nothing was changed."


class JobTab(QWidget):  # type: ignore[misc]
    """The part that all tabs with a job share. A subclass lays out the widgets and says in `check` what is on."""

    finished = Signal(bool)

    def __init__(self, engine: BusyEngine) -> None:
        super().__init__()
        self._engine_at_work = engine
        self._worker: Any = None
        self._heard = False
        self._told = ("", "")
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setMinimumHeight(30)
        self.cancel_button.hide()
        self.cancel_button.clicked.connect(self.cancel)
        self.progress_text, self.message = Message(), Message()

    @property
    def is_running(self) -> bool:
        """Whether a job is under way."""
        return self._worker is not None

    def check(self) -> None:
        """Switch on and off what the job and the choices allow, and say why."""
        self.cancel_button.setVisible(self.is_running)
        self.cancel_button.setEnabled(self.is_running)

    def start(
        self,
        work: Work,
        description: str,
        on_value: Callable[[Any], None],
        on_progress: Callable[[Progress], None] = lambda _: None,
        on_stop: Callable[[], str] = lambda: "",
    ) -> None:
        """Start a job.

        on_value: called with what it returns. on_stop: called where it was cancelled or failed; returns what became of
        it, empty where nothing was changed.
        """
        self._succeeded = self._is_over = self._heard = False
        self._left = TimeLeft()
        self._on_value, self._on_progress, self._on_stop = on_value, on_progress, on_stop
        self._told = ("", "")
        self._worker = start_work(self, work, description, self._hear, self._end, self._release)
        self.show_progress(Progress(0, 1, "starting"))
        self.check()

    def send(self, value: object) -> None:
        """Send `value` to the job that runs, once it has begun."""
        if self._worker is not None and self._heard:
            self._worker.send(value)

    def cancel(self) -> None:
        """Cancel what runs."""
        if self._worker is not None:
            self._worker.quit()
            self.cancel_button.setEnabled(False)
            self.progress_text.say("cancelling…")

    def is_engine_taken(self) -> bool:
        """Return whether the engine would refuse a call; asked from the job's thread."""
        return self._engine_at_work.is_busy

    def when_free(self, work: Work) -> Work:
        """Return `work` such that it begins as soon as the engine is free."""

        def wait_and_work() -> Generator[Progress, Any, Any]:
            while self.is_engine_taken():
                yield Progress(0, 1, "starting the engine")
                time.sleep(0.02)
            return (yield from work())

        return wait_and_work

    def _hear(self, progress: Progress) -> None:
        self._heard = True
        if self._worker is None or not self.cancel_button.isEnabled():
            return
        self.show_progress(progress)
        if isinstance(progress, Found):
            self.show_findings(progress.findings, progress.seems_inverted)
        self._on_progress(progress)

    def show_findings(self, findings: Sequence[str], seems_inverted: bool = False) -> None:
        """Say what was found about an image, until the job ends."""
        self.tell(" ".join(findings), WARNING_COLOR)

    def show_progress(self, progress: Progress) -> None:
        """Say how far the job is."""
        self.progress_text.say(self._left.describe(progress))

    def _end(self, outcome: Outcome) -> None:
        self._is_over = True
        if outcome.fault:
            self.fail(f"{outcome.fault} {self._on_stop()}".strip())
        else:
            self._on_value(outcome.value)
            self._succeeded = True

    def _release(self) -> None:
        self._worker = None
        self.progress_text.say("")
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
