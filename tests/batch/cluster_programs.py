"""A Dask scheduler and workers as programs of their own, as they run on a cluster."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from napari_skipseg.batch.run import BatchResult

PRELOAD = Path(__file__).with_name("worker_preload.py")
STARTING = 120
ENDING_AMONG_OTHERS = ("a.tif", "crash.tif", "kill.tif", "b.tif", "c.tif")
"""Images of which two end whoever reads them, as `worker_preload` has it."""


class Holds:
    """Holds workers in the middle of a run; they are given `variables` when they start.

    folder: what workers and test tell each other lies there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self.variables = {"SKIPSEG_TEST_HOLDS": str(folder)}

    def hold(self, kind: str, steps: int) -> None:
        """Hold all workers at tasks of this kind as soon as so many of their steps are done together, from now on."""
        for step in self._folder.glob("*.step"):
            step.unlink()
        draft = self._folder / "draft"
        draft.write_text(json.dumps({"kind": kind, "steps": steps}))
        draft.replace(self._folder / "held.json")

    def release(self) -> None:
        """Let all workers go on."""
        (self._folder / "held.json").unlink(missing_ok=True)


@contextlib.contextmanager
def scheduler(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Yield the address of a scheduler and its process."""
    file = folder / "scheduler.json"
    options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--dashboard-address", "127.0.0.1:0")
    with _program(folder, "scheduler", *options, "--scheduler-file", str(file)) as process:
        until = time.monotonic() + STARTING
        while not (file.exists() and file.read_bytes().endswith(b"}")):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        yield json.loads(file.read_bytes())["address"], process


@contextlib.contextmanager
def worker(folder: Path, address: str, nanny: bool = False, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Yield the process of a worker, or with a nanny, which starts another one when it ends, that of the nanny."""
    options = ("--nanny" if nanny else "--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1")
    where = ("--preload", str(PRELOAD), "--local-directory", str(folder))
    with _program(folder, "worker", address, *options, *where, **environment) as process:
        yield process
        if nanny:
            process.terminate()
            process.wait(STARTING)


@contextlib.contextmanager
def _program(folder: Path, name: str, *options: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *options]
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def check_ended(result: BatchResult) -> None:
    """Check that of `ENDING_AMONG_OTHERS` those failed that end their workers, and why, and no other one."""
    reasons = {row.relative: row.reason for row in result.rows if row.state == "failed"}
    assert sorted(reasons) == ["crash.tif", "kill.tif"]
    assert all(row.state == "done" for row in result.rows if row.relative not in reasons)
    assert reasons["crash.tif"].startswith("The process crashed 3 times in a row while this file was opened, so it is")
    assert reasons["kill.tif"].startswith("4 workers ended one after another while processing only it, most likely")


def wait_for_workers(address: str, count: int) -> None:
    """Wait until so many workers are there."""
    from distributed import Client

    with Client(address, timeout=STARTING, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=STARTING)
