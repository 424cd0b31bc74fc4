"""Lines with an answer of the engine to the choices, such as time and memory of a run."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from functools import partial
from typing import Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

from napari_skipseg.inference.estimate import RunPlan
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.forms.engine_line import EngineLine, EngineTurn
from napari_skipseg.widgets.forms.fields import WARNING_COLOR, MessageLine, set_hint
from napari_skipseg.widgets.forms.worker import WorkOutcome, start_work

_SETTLED = 800
"""Milliseconds without a change of the choices before the engine is asked."""
MOST_KEPT = 64
MOST_FINDINGS = 6
"""Sentences about the image that are shown; the tooltip has all."""
_MEASURING = "estimating time and memory… Segment can be pressed already."
_QUIET = "QLabel { font-size: 8pt; }"


Question = Callable[[], Generator[Progress, Any, Any]]
"""A request to the engine; called when the choices have settled."""


class SettledLine(QWidget):  # type: ignore[misc]
    """An answer of the engine to the choices, asked for when these have settled, in one line; and a warning below.

    A subclass shows the answers; it shows no faults unless it overrides `show_fault`. line: the engine's line, None if
    the answer needs no engine. asking: shown until the answer comes. waiting: the text of jobs that wait for it.
    """

    def __init__(self, line: EngineLine | None, asking: str, waiting: str = "") -> None:
        super().__init__()
        self._line, self._asking, self._waiting = line, asking, waiting
        self._answers: dict[Hashable, Any] = {}
        self._key: Hashable = None
        self._work: Question | None = None
        self._worker: Any = None
        self._turn: EngineTurn | None = None
        self.summary, self.warning = MessageLine(), MessageLine()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.summary)
        column.addWidget(self.warning)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_SETTLED)
        self._timer.timeout.connect(self._on_settled)

    def update_for(self, key: Hashable, work: Question) -> None:
        """Show the answer for the choices that `key` stands for: at once if it is known, else when it comes."""
        if key == self._key:
            return
        self.stop()
        self._key, self._work = key, work
        if key in self._answers:
            self.show_answer(self._answers[key])
        else:
            self.say(self._asking)
            self._timer.start()

    def keep(self, key: Hashable) -> None:
        """Keep showing the answer for these choices, and none for different ones; ask for nothing."""
        if key != self._key:
            self.clear()

    def clear(self) -> None:
        """Remove the answer, and ask for none."""
        self.stop()
        self._key = None
        self.say("")

    def stop(self) -> None:
        """Stop asking, which releases the engine soon."""
        self._timer.stop()
        if self._turn is not None:
            self._turn.leave()
            self._turn = None
        if self._worker is not None:
            self._worker.quit()
            self._worker = None
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
        self.summary.setStyleSheet(_QUIET)
        set_hint(self.summary, hint)
        self.warning.say(warning, WARNING_COLOR)

    def _on_settled(self) -> None:
        if self._line is not None and not self._line.is_empty:
            self._timer.start()
        else:
            self._request()

    def request_now(self) -> None:
        """Ask at once, before the choices have settled, or as soon as the engine is free."""
        if self._timer.isActive():
            self._timer.stop()
            self._request()

    def _request(self) -> None:
        key, work = self._key, self._work
        if work is None:
            return
        if self._line is None:
            self._launch(key, work, lambda: None)
            return
        turn = self._turn = self._line.join(self._waiting, is_job=False)
        turn.call(partial(self._launch, key, self._line.when_free(work), turn.leave))

    def _launch(self, key: Hashable, work: Question, leave: Callable[[], None]) -> None:
        def on_outcome(outcome: WorkOutcome) -> None:
            if not outcome.fault:
                while len(self._answers) >= MOST_KEPT:
                    del self._answers[next(iter(self._answers))]
                self._answers[key] = outcome.value
            if key == self._key and outcome.fault:
                self.show_fault(outcome.fault)
            elif key == self._key:
                self.show_answer(outcome.value)

        def on_end() -> None:
            if self._worker is worker:
                self._worker = None
            leave()

        self._turn = None
        worker = start_work(self, work, "Planning", lambda _: None, on_outcome, on_end, is_quiet=True)
        self._worker = worker


class PlanLine(SettledLine):
    """Time, memory and disk of a run, with details in the tooltip; a warning if something is short; findings about the
    image. If its contrast seems inverted, a button offers to invert it: `invert_asked`.

    Faults of the estimate are not shown: the run itself will show them.
    """

    invert_asked = Signal()

    def __init__(self, line: EngineLine) -> None:
        super().__init__(line, _MEASURING, "waits until time and memory are estimated")
        self.findings, self.invert = MessageLine(), QPushButton("Invert")
        self.invert.setToolTip("Feed the negative of the image to the model, or the image itself again")
        self.invert.clicked.connect(self.invert_asked)
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
