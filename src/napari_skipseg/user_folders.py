"""Where what belongs to the user lies: models that were trained, corrections that were painted."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def data_folder(name: str, variable: str) -> Path:
    """Return the user's folder `name` of this package: what the environment's `variable` says, else the system's place
    for data (XDG_DATA_HOME, ~/Library/Application Support, LOCALAPPDATA). It need not exist.
    """
    if variable in os.environ:
        return Path(os.environ[variable])
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    return base / "napari-skipseg" / name


def cache_folder(name: str, variable: str) -> Path:
    """Return the user's folder `name` of what can be had again, likewise (XDG_CACHE_HOME, ~/Library/Caches,
    LOCALAPPDATA). It need not exist.
    """
    if variable in os.environ:
        return Path(os.environ[variable])
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "napari-skipseg" / name
