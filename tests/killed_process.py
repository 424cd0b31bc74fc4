"""A process that works until it is killed at a random moment, and prints a line for each thing that it did."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

import numpy as np

PRELOADED = ["napari_skipseg.corrections.store", "napari_skipseg.proofread.session", "pytest"]
"""Imported once, in the process of which every worker is a fork: that takes longer than most workers live."""


def _run(script: str, arguments: Sequence[str], environment: dict[str, str], output: Connection) -> None:
    os.environ.update(environment)
    os.dup2(output.fileno(), sys.stdout.fileno())
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def work_and_kill(script: str, arguments: Sequence[str], seconds: float) -> tuple[list[list[str]], float]:
    """Return the words of each whole line that a script printed, and when it was killed.

    seconds: from the first line to the kill.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(script, arguments, dict(os.environ), writer), daemon=True)
    process.start()
    writer.close()
    lines: list[list[str]] = []

    def listen() -> None:
        with os.fdopen(os.dup(reader.fileno()), encoding="utf-8") as printed:
            lines.extend(line.split() for line in printed if line.endswith("\n"))

    listener = threading.Thread(target=listen)
    listener.start()
    while not lines:
        assert process.is_alive(), "the process ended by itself"
        time.sleep(0.002)
    time.sleep(seconds)
    killed = time.time()
    process.kill()
    process.join()
    listener.join()
    reader.close()
    return lines, killed


def longest_pause(times: Sequence[float], killed: float) -> float:
    """Return three times the longest pause between two things that were done, which does not count as lost.

    Where the machine let the worker wait, it let the thread that writes wait too.
    """
    return 3 * float(max(np.diff([*times, killed]), default=0.0))


def opened_elsewhere(script: str) -> subprocess.Popen[str]:
    """Return a process that holds what the script opens, after it said so; kill it at the end."""
    holder = subprocess.Popen(
        [sys.executable, script, "hold"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    return holder
