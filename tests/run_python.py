"""Python code in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap


def run_python(source: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `source` with arguments and changes of the environment; return its exit code and what it printed."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
