"""What workers in tests load first: torch alone computes, as in the tests, no tile is too quick to be met, and files
called crash.tif and kill.tif end the process that reads them."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from typing import Any

from napari_skipseg.batch import engine, run_file
from napari_skipseg.images.zarr import writer
from napari_skipseg.inference.backends import choose

PAUSE = 0.05
ENDS = {"crash.tif": lambda: ctypes.string_at(0), "kill.tif": lambda: os.kill(os.getpid(), signal.SIGKILL)}


def slowed(real: Any) -> Any:
    def slowly(self: engine.Turn, compute: Any) -> Any:
        time.sleep(PAUSE)
        return real(self, compute)

    return slowly


def ending(real: Any) -> Any:
    def read_or_end(settings: Any, asked: Any) -> Any:
        if asked.relative in ENDS:
            time.sleep(2 * PAUSE)  # so that its neighbour is at work too
            ENDS[asked.relative]()
        return real(settings, asked)

    return read_or_end


choose.has_openvino = lambda: False
writer.AT_ONCE = 2**14  # so that pyramids of tiny images have several parts
if engine.Turn.run.__name__ != "slowly":  # Dask may load this twice
    engine.Turn.run = slowed(engine.Turn.run)  # type: ignore[method-assign]
    run_file.read_entry = ending(run_file.read_entry)
