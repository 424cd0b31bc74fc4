"""When a run was at work, on which machine, and how long each part took: beside its recipe, which holds no times."""

from __future__ import annotations

import platform
import time
from datetime import UTC, datetime
from typing import Any

from napari_skipseg.devices import cpu_title
from napari_skipseg.inference.recipe import dict_to_json


class RunTimes:
    """Counts the seconds of each part of a run, the first from now on; of a run that goes on, of what is left of it."""

    def __init__(self, part: str) -> None:
        self._begin = datetime.now(UTC)
        self._seconds: dict[str, float] = {}
        self._entered: tuple[str, float] | None = part, time.perf_counter()

    def enter(self, part: str) -> None:
        """Leave the part before, and enter this one."""
        self._leave()
        self._entered = part, time.perf_counter()

    def _leave(self) -> None:
        if self._entered is not None:
            part, since = self._entered
            self._seconds[part] = self._seconds.get(part, 0.0) + time.perf_counter() - since
            self._entered = None

    def to_json(self, continued: bool) -> str:
        """Return begin, end, seconds of each part, and machine as readable JSON.

        continued: some of the tiles, or of the blocks, were there already.
        """
        self._leave()
        told: dict[str, Any] = {
            "begin": self._begin.isoformat(timespec="seconds"),
            "end": datetime.now(UTC).isoformat(timespec="seconds"),
            "continued": continued,
            "seconds": {part: round(seconds, 3) for part, seconds in self._seconds.items()},
            "machine": {"name": platform.node(), "system": platform.platform(), "processor": cpu_title()},
        }
        return dict_to_json(told)
