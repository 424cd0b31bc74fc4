"""Shared by all benchmarks of the engine: processes with their time and memory, tables, facts on the machine."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import psutil

from napari_skipseg.devices import cpu_title, versions

OURS = (str(Path(sys.executable).with_name("napari-skipseg")),)
"""Command that starts the package's own command line."""

SAMPLED_EVERY = 0.2
"""Seconds between two measurements of a process's memory."""


class Peak(NamedTuple):
    """Most bytes of a process and its children: their own pages (USS), all resident ones (RSS), and VmHWM.

    The high-water mark is the kernel's, of the process alone, and misses no moment between two measurements.
    """

    own: int = 0
    resident: int = 0
    high_water: int = 0


class Finished(NamedTuple):
    """A process that succeeded: its wall time, its memory (zeros if it was not watched), its output."""

    seconds: float
    peak: Peak
    output: str


class FailedError(Exception):
    """A process ended with an error; the text is the last line that it wrote."""


class MemoryWatch(threading.Thread):
    """Measures the memory of a process and its children until it ends; `peak` is the highest value."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self.peak = pid, Peak()

    def run(self) -> None:
        while True:
            try:
                self._look(psutil.Process(self._pid))
            except psutil.Error:
                return
            time.sleep(SAMPLED_EVERY)

    def _look(self, process: psutil.Process) -> None:
        own = resident = 0
        for each in (process, *process.children(recursive=True)):
            memory = each.memory_full_info()
            own, resident = own + memory.uss, resident + memory.rss
        self.peak = Peak(*map(max, self.peak, (own, resident, _high_water(self._pid))))


def _high_water(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def run_process(command: Sequence[str | Path], watch: bool = False, **environment: str) -> Finished:
    """Return the outcome of a command, started with `environment` besides the present variables.

    Raises:
        FailedError: it ended with an error.
    """
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command], stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
        watcher = MemoryWatch(process.pid)
        if watch:
            watcher.start()
        code = process.wait()
        seconds = time.perf_counter() - start
        if watch:
            watcher.join()
        output.seek(0)
        text = output.read().strip()
    if code:
        raise FailedError(text.splitlines()[-1] if text else f"exit code {code}")
    return Finished(seconds, watcher.peak, text)


def print_place(*more: str) -> None:
    """Print date, machine and versions, and whether the machine had other work."""
    packages = versions()
    for name in ("monai", "zarr"):
        packages[name] = metadata.version(name)
    listed = ", ".join(f"{name} {version}" for name, version in packages.items())
    load = os.getloadavg()[0]
    print(f"\n{datetime.date.today()}, {cpu_name()} ({cpu_title()}, {platform.machine()}); {listed}", *more, sep="; ")
    if load > 0.5:
        print(f"\nThe machine was not idle (load {load:.1f}): take no figures from this run.")
    print()


def cpu_name() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table; `print_row` adds rows."""
    for row in (heads, ["---"] * len(heads), *rows):
        print_row(row)


def print_row(cells: Sequence[str]) -> None:
    """Print a line of a Markdown table, at once."""
    print(f"| {' | '.join(cells)} |", flush=True)


def mebibytes(count: int) -> str:
    """Return a number of bytes in MiB."""
    return f"{count / 2**20:,.0f}"
