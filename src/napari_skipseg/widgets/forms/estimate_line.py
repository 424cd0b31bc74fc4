"""Lines with an answer of the engine to the choices, such as time and memory of a run."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QPushButton, QWidget

from napari_skipseg.inference.estimate import RunPlan
from napari_skipseg.widgets.forms.fields import WARNING_COLOR, MessageLine, as_note, fill_column, set_hint
from napari_skipseg.widgets.forms.worker import EngineQueue, EngineTask, Work, WorkOutcome

_SETTLED = 800
"""Milliseconds without a change of the choices before the request is sent to the engine."""
MOST_KEPT = 64
MOST_FINDINGS = 6
"""Sentences about the image that are shown; the tooltip has all."""
_MEASURING = "estimating time and memory… Segment can be pressed already."


class SettledLine(QWidget):  # type: ignore[misc]
    """The engine's answer to the choices in one line, requested once these no longer change; and a warning below.

    A subclass shows the answers. It shows no faults unless it overrides `show_fault`. queue: None if no engine is
    needed. asking_text: shown until the answer comes, but not while
    the engine works on something else. waiting_text: shown by jobs that wait for the answer.
    """

    def __init__(self, queue: EngineQueue | None, asking_text: str, waiting_text: str = "") -> None:
        super().__init__()
        self._queue, self._asking_text, self._waiting_text = queue, asking_text, waiting_text
        self._answers: dict[Hashable, Any] = {}
        self._key: Hashable = None
        self._work: Work | None = None
        self._task: EngineTask | None = None
        self.summary, self.warning = MessageLine(), MessageLine()
        fill_column(self, self.summary, self.warning)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_SETTLED)
        self._timer.timeout.connect(self._on_settled)

    def update_for(self, key: Hashable, work: Work) -> None:
        """Show the answer to the choices with this key: at once if it is known, else when it comes.

        work: sends the request to the engine, once the choices no longer change.
        """
        if key == self._key:
            return
        self.stop()
        self._key, self._work = key, work
        if key in self._answers:
            self.show_answer(self._answers[key])
        else:
            self._wait()

    def keep(self, key: Hashable) -> None:
        """Keep the answer if it is one to these choices, else remove it; send no request."""
        if key != self._key:
            self.clear()

    def clear(self) -> None:
        """Remove the answer, and request none."""
        self.stop()
        self._key = None
        self.say("")

    def stop(self) -> None:
        """Cancel the request, which releases the engine soon."""
        self._timer.stop()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._key not in self._answers:
            self._key = None
            self.say("")

    def show_answer(self, answer: Any) -> None:
        """Show an answer of the engine."""
        self.say(str(answer))

    def show_fault(self, fault: str) -> None:
        """Show why there is no answer."""
        self.say("")

    def say(self, text: str, hint: str = "", warning: str = "") -> None:
        """Show a text, its tooltip, and a warning below it."""
        self.summary.say(text)
        as_note(self.summary)
        set_hint(self.summary, hint)
        self.warning.say(warning, WARNING_COLOR)

    @property
    def _is_free(self) -> bool:
        return self._queue is None or self._queue.is_empty

    def _wait(self) -> None:
        # nothing is measured while the engine works on something else, which may take minutes
        self.say(self._asking_text if self._is_free else "")
        self._timer.start()

    def _on_settled(self) -> None:
        if self._is_free:
            self._request()
        else:
            self._wait()

    def request_now(self) -> None:
        """Send the request at once, or as soon as the engine is free, without waiting for more changes."""
        if self._timer.isActive():
            self._timer.stop()
            self._request()

    def _request(self) -> None:
        key = self._key
        if self._work is None:
            return
        self.say(self._asking_text)

        def on_outcome(outcome: WorkOutcome) -> None:
            if not outcome.fault:
                while len(self._answers) >= MOST_KEPT:
                    del self._answers[next(iter(self._answers))]
                self._answers[key] = outcome.value
            if key != self._key:
                return
            self._timer.stop()  # of a request that was cancelled too late: the next one would ask the same
            if outcome.fault:
                self.show_fault(outcome.fault)
            else:
                self.show_answer(outcome.value)

        self._task = EngineTask(
            self, self._work, "Planning", queue=self._queue, waiting_text=self._waiting_text, on_outcome=on_outcome
        )


class PlanLine(SettledLine):
    """Time, memory and disk of a run, with details in the tooltip; a warning if something is short; findings about the
    image. If its contrast seems inverted, a button offers to invert it: `invert_requested`.

    Faults of the estimate are not shown: the run itself will show them.
    """

    invert_requested = Signal()

    def __init__(self, queue: EngineQueue) -> None:
        super().__init__(queue, _MEASURING, "waits until time and memory are estimated")
        self.findings, self.invert = MessageLine(), QPushButton("Invert")
        self.invert.setToolTip("Feed the negative of the image to the model, or the image itself again")
        self.invert.clicked.connect(self.invert_requested)
        self.invert.hide()
        self._image: Hashable = None
        self.layout().addWidget(self.findings)
        self.layout().addWidget(self.invert)

    def show_findings(self, findings: Sequence[str], seems_inverted: bool = False) -> None:
        """Show the first findings about the image; all of them are in the tooltip."""
        more = len(findings) - MOST_FINDINGS
        shown = [*findings[:MOST_FINDINGS], *([f"… and {more} more."] if more > 0 else [])]
        self.findings.say("\n".join(shown), WARNING_COLOR)
        set_hint(self.findings, "\n".join(findings) if more > 0 else "")
        self.invert.setVisible(seems_inverted)

    def show_image(self, image: Hashable) -> None:
        """Remove the findings about a different image."""
        if image != self._image:
            self._image = image
            self.show_findings(())

    def show_answer(self, answer: RunPlan) -> None:
        """Show the estimate of a run and the findings about the image."""
        self.show_findings(answer.findings, answer.seems_inverted)
        hint = "\n".join(f"{name}: {text}" for name, text in answer.describe().items())
        self.say(answer.summary, hint, answer.warnings[0] if answer.warnings else "")
