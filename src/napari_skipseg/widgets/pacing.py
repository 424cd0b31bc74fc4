"""What comes often is shown now and then: whatever changes in it, napari's window takes 20 ms to draw itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, QTimer

PAUSE = 500
"""Milliseconds between two drawings."""


class Paced(QObject):  # type: ignore[misc]
    """Gathers what it hears, and hands it on together after a pause."""

    def __init__(self, owner: QObject, hand_on: Callable[[list[Any]], None]) -> None:
        super().__init__(owner)
        self._hand_on = hand_on
        self._heard: list[Any] = []
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(PAUSE)
        self._timer.timeout.connect(self.flush)

    def hear(self, value: Any) -> None:
        """Hand this on, soon."""
        self._heard.append(value)
        if not self._timer.isActive():
            self._timer.start()

    def flush(self) -> None:
        """Hand on now what was heard."""
        self._timer.stop()
        heard, self._heard = self._heard, []
        if heard:
            self._hand_on(heard)
