"""Facts on this machine for the set-up scripts: the checkout, the environment, the display."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / os.environ.get("VENV", ".venv")
PROGRAMS = VENV / ("Scripts" if os.name == "nt" else "bin")
SCREEN = "-screen 0 1600x1000x24"


def say(line: str) -> None:
    """Write one line and show it at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def stop(sentence: str) -> NoReturn:
    """End with exit code 1 and one sentence."""
    sys.stdout.flush()
    sys.exit(sentence)


def program(name: str) -> str:
    """Return the path of a program of the environment."""
    return str(PROGRAMS / name)


def has_display() -> bool:
    """Return whether a window can be shown: always on macOS and Windows, on Linux if a display is named."""
    if os.environ.get("HEADLESS"):
        return False
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def has_virtual_screen() -> bool:
    """Return whether `xvfb-run` can replace a display."""
    return shutil.which("xvfb-run") is not None and shutil.which("xauth") is not None


def on_screen(command: Sequence[str]) -> list[str]:
    """Return the command that shows its windows: unchanged on a display, else in a virtual screen."""
    if has_display() or not has_virtual_screen():
        return list(command)
    return ["xvfb-run", "-a", "-s", SCREEN, *command]


def screen_environment() -> dict[str, str]:
    """Return the environment variables for a program with windows: one Qt for napari and for pytest-qt."""
    environment = dict(os.environ, PYTHONUNBUFFERED="1", NO_MKDOCS_2_WARNING="1")
    environment.setdefault("QT_API", "pyqt6")
    environment.setdefault("PYTEST_QT_API", environment["QT_API"])
    if not has_display():
        environment.pop("WAYLAND_DISPLAY", None)
        if has_virtual_screen():
            environment["QT_QPA_PLATFORM"] = "xcb"
    return environment
