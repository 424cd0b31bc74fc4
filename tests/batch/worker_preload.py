"""What workers in tests load first: torch alone computes, as in the tests, and no tile is too quick to be met."""

from __future__ import annotations

import time
from typing import Any

from napari_skipseg.batch import engine
from napari_skipseg.inference import backends

PAUSE = 0.05


def slowed(real: Any) -> Any:
    def slowly(self: engine.Turn, compute: Any) -> Any:
        time.sleep(PAUSE)
        return real(self, compute)

    return slowly


backends.has_openvino = lambda: False
if engine.Turn.run.__name__ != "slowly":  # Dask may load this twice
    engine.Turn.run = slowed(engine.Turn.run)  # type: ignore[method-assign]
