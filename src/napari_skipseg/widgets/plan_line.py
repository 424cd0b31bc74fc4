"""What a run will take, measured beside the window while the choices stand, and said in a quiet line."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_skipseg.inference.run_plan import RunPlan
from napari_skipseg.progress import Progress
from napari_skipseg.widgets.engine import BusyEngine
from napari_skipseg.widgets.fields import WARNING_COLOR, Message
from napari_skipseg.widgets.work import Outcome, start_work

SETTLED = 800
"""Milliseconds for which the choices stand before they are planned for."""
MOST_KEPT = 64
MEASURING = "measuring what a run takes…"
QUIET = "QLabel { font-size: 8pt; }"


Planning = Callable[[], Generator[Progress, Any, RunPlan]]
"""What is asked of the engine to plan; called when the choices have settled."""


class PlanLine(QWidget):  # type: ignore[misc]
    """The plan for the choices in one line, how it comes about in its tooltip, and a warning where something is short.

    Faults of planning are not told: the run itself will tell them.
    """

    def __init__(self, engine: BusyEngine) -> None:
        super().__init__()
        self._engine = engine
        self._plans: dict[Hashable, RunPlan] = {}
        self._key: Hashable = None
        self._work: Planning | None = None
        self._worker: Any = None
        self.summary, self.warning = Message(), Message()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.summary)
        column.addWidget(self.warning)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SETTLED)
        self._timer.timeout.connect(self._measure)

    def follow(self, key: Hashable, work: Planning) -> None:
        """Show the plan for the choices that `key` stands for: at once where it is known, else when it is measured."""
        if key == self._key:
            return
        self.stop()
        self._key, self._work = key, work
        if key in self._plans:
            self._show(self._plans[key])
        else:
            self._say(MEASURING)
            self._timer.start()

    def keep(self, key: Hashable) -> None:
        """Show the plan for these choices on, and none for others; measure nothing."""
        if key != self._key:
            self.clear()

    def clear(self) -> None:
        """Show no plan, and measure none."""
        self.stop()
        self._key = None
        self._say("")

    def stop(self) -> None:
        """Measure no longer; the engine is free soon."""
        self._timer.stop()
        if self._worker is not None:
            self._worker.quit()
            self._worker = None
        if self._key not in self._plans:
            self._key = None
            self._say("")

    def _measure(self) -> None:
        if self._work is None:
            return
        if self._engine.is_busy:
            self._timer.start()
            return
        key = self._key

        def take(outcome: Outcome) -> None:
            if isinstance(outcome.value, RunPlan):
                self._remember(key, outcome.value)
            if key == self._key:
                self._show(self._plans.get(key))

        def end() -> None:
            if self._worker is worker:
                self._worker = None

        worker = start_work(self, self._work, "Planning", lambda _: None, take, end, is_quiet=True)
        self._worker = worker

    def _remember(self, key: Hashable, plan: RunPlan) -> None:
        while len(self._plans) >= MOST_KEPT:
            del self._plans[next(iter(self._plans))]
        self._plans[key] = plan

    def _show(self, plan: RunPlan | None) -> None:
        if plan is None:
            self._say("")
            return
        self._say(plan.summary, "\n".join(f"{name}: {said}" for name, said in plan.describe().items()))
        self.warning.say(plan.warnings[0] if plan.warnings else "", WARNING_COLOR)

    def _say(self, text: str, hint: str = "") -> None:
        self.summary.say(text)
        self.summary.setStyleSheet(QUIET)
        self.summary.setToolTip(hint)
        self.warning.say("")
