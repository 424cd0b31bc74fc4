"""Folders of the user: for data (trained models, corrections), settings, and what can be made again (caches)."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path, user_config_path, user_data_path

APP = "napari-skipseg"


def data_folder(name: str, variable: str) -> Path:
    """Return the user's folder `name` for data, or that of the environment's `variable`; it may not exist."""
    return Path(os.environ[variable]) if variable in os.environ else user_data_path(APP, appauthor=False) / name


def cache_folder(name: str, variable: str) -> Path:
    """Return the user's folder `name` for what can be made again, likewise. It need not exist."""
    return Path(os.environ[variable]) if variable in os.environ else user_cache_path(APP, appauthor=False) / name


def config_folder(variable: str) -> Path:
    """Return the user's folder for settings, or that of the environment's `variable`. It need not exist."""
    return Path(os.environ[variable]) if variable in os.environ else user_config_path(APP, appauthor=False)
