"""A process that works until it is killed at a random moment, and prints a line for each thing that it did."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import numpy as np


def work_and_kill(script: str, arguments: Sequence[str], seconds: float) -> tuple[list[list[str]], float]:
    """Return the words of each whole line that a script printed, and when it was killed.

    seconds: from the first line to the kill.
    """
    process = subprocess.Popen(
        [sys.executable, script, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    assert process.stdout is not None
    lines: list[list[str]] = []

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith("\n"):
                lines.append(line.split())

    listener = threading.Thread(target=listen)
    listener.start()
    while not lines:
        assert process.poll() is None, "the process ended by itself"
        time.sleep(0.002)
    time.sleep(seconds)
    killed = time.time()
    process.kill()
    process.wait()
    listener.join()
    process.stdout.close()
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
