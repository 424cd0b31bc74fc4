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

PRELOAD = Path(__file__).with_name("worker_preload.py")
STARTING = 120


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
def worker(folder: Path, address: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Yield the process of a worker; it is restarted by none when it is killed."""
    options = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", "--preload", str(PRELOAD))
    with _program(folder, "worker", address, *options, "--local-directory", str(folder), **environment) as process:
        yield process


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


def wait_for_workers(address: str, count: int) -> None:
    """Wait until so many workers are there."""
    from distributed import Client

    with Client(address, timeout=STARTING, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=STARTING)
