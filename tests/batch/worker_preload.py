"""What workers in tests load first: torch alone computes, as in the tests, a test can hold them, and files called
crash.tif and kill.tif end the process that reads them.

A worker that is held waits after each of its steps until the test lets it go, or gives its task up. So a test that does
something in the middle of a run does not depend on how fast anything is.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

from napari_skipseg.batch import dask_worker, engine, run_file
from napari_skipseg.images.zarr import writer
from napari_skipseg.inference.backends import choose

PAUSE = float(os.environ.get("SKIPSEG_TEST_PAUSE", "0"))
"""Seconds for which each tile takes longer."""
HOLDS = os.environ.get("SKIPSEG_TEST_HOLDS", "")
"""The folder in which `cluster_programs.Holds` says what is held; each step that was done leaves a file there."""
ENDS = {"crash.tif": lambda: ctypes.string_at(0), "kill.tif": lambda: os.kill(os.getpid(), signal.SIGKILL)}


def slowed(real: Any) -> Any:
    def slowly(self: engine.DeviceTurn, compute: Any) -> Any:
        time.sleep(PAUSE)
        return real(self, compute)

    return slowly


def held(real: Any) -> Any:
    def tell_and_wait(self: dask_worker.ProgressReporter, progress: Any) -> None:
        real(self, progress)
        if progress.done:
            (Path(HOLDS) / f"{self.kind}-{uuid.uuid4().hex}.step").touch()
        while is_held(self.kind) and self.is_wanted:
            self._last = 0.0  # so that this step is told of, however soon it came after the last one
            real(self, progress)
            time.sleep(0.05)

    return tell_and_wait


def is_held(kind: str) -> bool:
    try:
        asked = json.loads((Path(HOLDS) / "held.json").read_bytes())
    except FileNotFoundError:
        return False
    return asked["kind"] == kind and len(list(Path(HOLDS).glob(f"{kind}-*.step"))) >= asked["steps"]


def with_kind(real: Any) -> Any:
    def begin(self: dask_worker.ProgressReporter, asked: dict[str, Any]) -> None:
        real(self, asked)
        self.kind = asked["task"]

    return begin


def ending(real: Any) -> Any:
    def read_or_end(settings: Any, asked: Any) -> Any:
        if asked.relative in ENDS:
            time.sleep(0.1)  # so that its neighbour is at work too
            ENDS[asked.relative]()
        return real(settings, asked)

    return read_or_end


choose.has_openvino = lambda: False
writer.PYRAMID_VOXELS = 2**14  # so that pyramids of tiny images have several parts
if engine.DeviceTurn.run.__name__ != "slowly":  # Dask may load this twice
    engine.DeviceTurn.run = slowed(engine.DeviceTurn.run)  # type: ignore[method-assign]
    run_file.read_input = ending(run_file.read_input)
    if HOLDS:
        dask_worker.ProgressReporter.send = held(dask_worker.ProgressReporter.send)  # type: ignore[method-assign]
        dask_worker.ProgressReporter.__init__ = with_kind(dask_worker.ProgressReporter.__init__)  # type: ignore[method-assign]
