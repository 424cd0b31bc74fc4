"""What comes often is shown now and then: whatever changes in it, napari's window takes 20 ms to draw itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, QTimer

PAUSE = 1.0
"""Seconds between two drawings: of a processor core that is 2 % where the window is drawn without a GPU."""


class Paced(QObject):  # type: ignore[misc]
    """Gathers what it hears, and hands it on together: the first at once, the rest after pauses of `pause` seconds."""

    def __init__(self, owner: QObject, hand_on: Callable[[list[Any]], None]) -> None:
        super().__init__(owner)
        self._hand_on = hand_on
        self._heard: list[Any] = []
        self.pause = PAUSE
        self._handed_on = 0.0
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.flush)

    def hear(self, value: Any) -> None:
        """Hand this on, at once or soon."""
        self._heard.append(value)
        if not self._timer.isActive():
            rest = self.pause - (time.monotonic() - self._handed_on)
            self._timer.start(max(0, round(1000 * rest)))

    def flush(self) -> None:
        """Hand on now what was heard."""
        self._timer.stop()
        heard, self._heard = self._heard, []
        if heard:
            self._handed_on = time.monotonic()
            self._hand_on(heard)
